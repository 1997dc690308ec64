"""What is right in each exercise: the checks that grade.py runs, here against the program itself.

A check gets the student's file: student("linear", x, weight, bias) calls its `linear` in a process
of its own. The check returns what it measured, or raises AssertionError.
"""
import functools
import runpy
import sys
import traceback
import types
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import train  # first: it holds NumPy to one core
import numpy as np
import baselines
import icl
import tasks
import test_icl  # the repository's, not the student's copy


def equal(what, got, expected, within=1e-6):
    """AssertionError, which says what was expected and what came, unless both are nearly equal."""
    same = np.shape(got) == np.shape(expected) and np.allclose(got, expected, 0, within)
    show = functools.partial(np.array2string, precision=4, threshold=12, edgeitems=2)
    assert same, f"{what}: expected: {show(np.array(expected))}; got: {show(np.array(got))}"


def tests(function, word, by_way_of=None):
    """The tests whose names hold the word, with the student's function in the program's place."""
    module, name = (by_way_of or function).split(".")

    def check(student):
        chosen = {key[5:].replace("_", " "): test for key, test in vars(test_icl).items()
                  if key.startswith("test_") and word in key and not test.__code__.co_argcount}
        assert chosen, f"test_icl.py has no test for {word}"
        test_icl.NOTES.clear()
        with mock.patch.object(sys.modules[module], name, functools.partial(student, name)):
            for what, test in chosen.items():
                try:
                    test()
                except Exception as error:  # a bare assert says nothing, so quote it
                    said = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
                    raise AssertionError(f"expected: {what}; got: {said}") from error
        return ", ".join(test_icl.NOTES)

    return module, f"{function}, test_icl.py {word}", check


def tokens(student):
    """Exercise 1: the tokens of one prompt."""
    xs, ys = np.array([[[1.0, 2], [0, -1], [2, 2]]]), np.array([[3.0, 5, 4]])
    equal("the five tokens", student("interleave", xs, ys),
          [[[1, 2], [3, 0], [0, -1], [5, 0], [2, 2]]])


def answer(exercise, module, name):
    """The instructor's own, from course/answers: a lecturer may take that folder away."""
    path = ROOT / f"course/answers/{exercise}/{module}.py"
    return runpy.run_path(str(path))[name]


def like_the_answer(exercise, module, name, questions):
    """The student's function must give what the instructor's gives, for each of the arguments."""
    def check(student):
        for arguments in questions:
            expected = answer(exercise, module, name)(*arguments)
            equal("its values", student(name, *arguments), expected, 1e-4)

    return module, name, check


def prompts(n_dims):
    """20 prompts of 7 points of dense functions."""
    return tasks.sample_prompts(tasks.DenseLinear(n_dims), np.random.default_rng(n_dims), 20, 7)


def last_arrays(C):
    """Random arrays under the names and shapes of a model's last four."""
    shapes = {"ln_f.weight": C, "ln_f.bias": C, "read_out.weight": (C, 1), "read_out.bias": 1}
    r = np.random.default_rng(C)
    return {name: np.float32(0.3 + r.standard_normal(shape)) for name, shape in shapes.items()}


def affine_functions(student):
    """Exercise 9: the functions have the law that the lab gives."""
    at = np.tile(np.array([[0.0], [1], [2]]), (20_000, 1, 1))
    y = student("lambda seed, x: Affine().sample(__import__('numpy').random.default_rng(seed), "
                "len(x))(x)", 3, at)
    b, w, bend = y[:, 0], y[:, 1] - y[:, 0], y[:, 2] - 2 * y[:, 1] + y[:, 0]
    equal("the bend of f", bend, 0 * bend)
    equal("the covariance of slope and intercept", np.cov(w, b), np.eye(2) / 2, 0.02)


def affine_optimum(student):
    """Exercise 9: the hypotheses give the exact optimum."""
    groups = student("lambda: [(h.features, h.prior, h.noise) for h in Affine().hypotheses()]")
    theirs, line = answer(9, "affine", "Affine")(), tasks.DenseLinear(1)
    mine = types.SimpleNamespace(
        n_dims=1, hypotheses=lambda: [tasks.Hypotheses(*group) for group in groups])
    xs, ys = tasks.sample_prompts(line, np.random.default_rng(0), 50, 4)
    for what, predict in (("optimum", baselines.bayes),
                          ("p(Affine) beside lines", lambda affine: baselines.class_probabilities(
                              tasks.Mixture((line, affine))))):
        equal(what, predict(mine)(xs, ys + 1), predict(theirs)(xs, ys + 1), 1e-3)


def verdicts(student):
    """Exercise 10: data or learning, told from errors."""
    for errors, expected in (((0.4, 0.3), "data"), ((0.4, 0.001), "learning"),
                             ((0.02, 0.001), "none"), ((0.09, 0.0), "none"), ((2, 2), "data")):
        got = student("verdict", *errors)
        assert got == expected, f"errors {errors}: expected: {expected}; got: {got}"
    density = tasks.Sinusoid(*student("lambda: LAW")).density(10.0)
    assert density > 0.002, f"expected: a law where 10 is not rare; got: density {density:.2g}"


CHECKS = {  # exercise -> (module, name, check)
    1: [("icl", "interleave, by hand", tokens), tests("icl.interleave", "gpt2")],
    2: [like_the_answer(2, "neighbour", "nearest_neighbour", [prompts(d) for d in (1, 3, 8)])],
    3: [tests("baselines.least_squares", "lstsq")],
    4: [tests("icl.linear", "gradient_of_linear"), tests("icl.layernorm", "gradient_of_layernorm"),
        tests("icl.linear", "gpt2"), tests("icl.layernorm", "gpt2")],
    5: [tests("icl.attention", word) for word in ("mask", "gpt2", "far_out")],
    6: [tests("icl.attention", "attention"), tests("icl.block", "block"),
        tests("icl.block", "gpt2")],
    7: [tests("baselines._recursion", word, "baselines._posterior")
        for word in ("ridge", "explains")],
    8: [like_the_answer(8, "bound", "bound", [[last_arrays(C)] for C in (8, 32)])],
    9: [("affine", "Affine.sample", affine_functions),
        ("affine", "Affine.hypotheses", affine_optimum)],
    10: [like_the_answer(10, "frequencies", "three_errors", [
            (str(ROOT / "results/small/sine/mixture.npz"), law, frequency, 1, 300)
            for law, frequency in (((6.0, 0.25), 1.0), ((2.0, 2.0), 7.0))]),
         ("frequencies", "verdict and LAW", verdicts)],
    11: [like_the_answer(11, "selection", "selection_weight",
                         [np.random.default_rng(0).standard_normal((3, 500, 4))])],
}
