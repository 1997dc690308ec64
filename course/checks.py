"""What is right in each exercise: the checks that grade.py runs, here against the program itself.

A check gets the student's file: student("linear", x, weight, bias) calls its `linear` in a process
of its own. The check returns what it measured, or raises AssertionError.
"""
import functools
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
    show = lambda a: np.array2string(np.asarray(a), precision=4, threshold=12, edgeitems=2)
    assert same, f"{what}: expected: {show(expected)}; got: {show(got)}".replace("\n", "")


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
                except Exception as error:
                    line = traceback.extract_tb(error.__traceback__)[-1].line  # of a bare assert
                    said = " ".join(str(error).split()) or f"not {line.removeprefix('assert ')}"
                    raise AssertionError(f"expected: {what}; got: {said}") from error
        return ", ".join(test_icl.NOTES)

    return module, f"{function}, test_icl.py {word}", check


def tokens(student):
    xs, ys = np.array([[[1.0, 2], [0, -1], [2, 2]]]), np.array([[3.0, 5, 4]])
    equal("the five tokens", student("interleave", xs, ys),
          [[[1, 2], [3, 0], [0, -1], [5, 0], [2, 2]]])


def neighbours(student):
    for seed, n_dims in enumerate((1, 3, 8)):
        xs, ys = tasks.sample_prompts(tasks.DenseLinear(n_dims), np.random.default_rng(seed), 20, 7)
        expected = [[y[np.argmin([sum((x[k] - x[j]) ** 2) for j in range(k)])] if k else 0
                     for k in range(7)] for x, y in zip(xs, ys)]
        equal(f"predictions for {n_dims} inputs", student("nearest_neighbour", xs, ys), expected)


def last_arrays(seed, C=32):
    """A model's last four arrays; and two bounds, without and with the fact that n has mean 0."""
    shapes = {"ln_f.weight": C, "ln_f.bias": C, "read_out.weight": (C, 1), "read_out.bias": 1}
    r = np.random.default_rng(seed)
    params = {name: np.float32(0.3 + r.standard_normal(shape)) for name, shape in shapes.items()}
    w = params["ln_f.weight"] * params["read_out.weight"][:, 0]
    shift = abs(params["ln_f.bias"] @ params["read_out.weight"] + params["read_out.bias"])[0]
    return params, *(C**0.5 * np.linalg.norm(v) + shift for v in (w, w - w.mean()))


def bounded(student):
    for seed in range(5):
        params, loose, tight = last_arrays(seed)
        got = float(student("bound", params))
        assert 0.9999 * tight < got < 1.0001 * loose, (
            f"expected: from {tight:.4f} to {loose:.4f}; got: {got:.4f}")


def bounded_tightly(student):
    for seed in range(5):
        params, _, tight = last_arrays(seed)
        equal("the bound", np.ravel(student("bound", params)), [tight], 1e-3)


def affine_functions(student):
    at = np.tile(np.array([[0.0], [1], [2]]), (20_000, 1, 1))
    y = student("lambda seed, x: Affine().sample(__import__('numpy').random.default_rng(seed), "
                "len(x))(x)", 3, at)
    b, w, bend = y[:, 0], y[:, 1] - y[:, 0], y[:, 2] - 2 * y[:, 1] + y[:, 0]
    equal("the bend of f", bend, 0 * bend)
    equal("the covariance of slope and intercept", np.cov(w, b), np.eye(2) / 2, 0.02)


def affine_optimum(student):
    groups = student("lambda: [(h.features, h.prior, h.noise) for h in Affine().hypotheses()]")
    theirs = types.SimpleNamespace(n_dims=1, hypotheses=lambda: [
        tasks.Hypotheses(*group) for group in groups])
    line = tasks.DenseLinear(1)
    xs, ys = tasks.sample_prompts(line, np.random.default_rng(0), 50, 4)
    ys += 1
    x, u = xs[:, 0, 0], xs[:, 1, 0]
    optimum = baselines.bayes(theirs)(xs, ys)
    equal("the optimum after 1 example", optimum[:, 1], (1 + u * x) / (1 + x * x) * ys[:, 0], 1e-3)
    equal("the optimum after 3 examples", optimum[:, 3], ys[:, 3], 1e-3)
    p = baselines.class_probabilities(tasks.Mixture((line, theirs)))
    density = lambda s: np.exp(-ys[:, 0] ** 2 / (2 * s)) / np.sqrt(s)
    affine, through_0 = density((1 + x * x) / 2), density(x * x)
    equal("p(Affine) after 1 example", p(xs, ys)[:, 1, 1], affine / (affine + through_0), 1e-3)


def three_errors(student):
    path = str(ROOT / "results/small/sine/mixture.npz")
    params, config, _ = icl.load_checkpoint(path)
    for law, frequency in (((6.0, 0.25), 1.0), ((2.0, 2.0), 7.0)):
        truth = tasks.Sinusoid(frequency=frequency)
        xs, ys = tasks.sample_prompts(truth, np.random.default_rng(1), 300, config.n_points)
        mixture = tasks.Mixture((tasks.DenseLinear(1), tasks.Sinusoid(*law)))
        predictors = (functools.partial(icl.predict, params, config), baselines.bayes(mixture),
                      baselines.bayes(truth))
        expected = [((p(xs, ys) - ys)[:, -5:] ** 2).mean() for p in predictors]
        equal(f"the errors at frequency {frequency:g}",
              student("three_errors", path, law, frequency, 1, 300), expected, 1e-4)


def verdicts(student):
    for errors, expected in (((0.4, 0.3), "data"), ((0.4, 0.001), "learning"),
                             ((0.02, 0.001), "none"), ((0.09, 0.0), "none"), ((2, 2), "data")):
        got = student("verdict", *errors)
        assert got == expected, f"errors {errors}: expected: {expected}; got: {got}"
    law = tasks.Sinusoid(*student("lambda: LAW"))
    assert law.density(10.0) > 0.002, f"expected: a law where 10 is not rare; got: {law}"


def selection_weights(student):
    r = np.random.default_rng(0)
    a, b, noise = r.standard_normal((3, 500, 4))
    a *= r.exponential(1, (500, 1))
    mixed = a + np.array([0, 0.3, 0.8, 1.2]) * (b - a)
    weight = functools.partial(student, "selection_weight")
    equal("the weights of a mix", weight(mixed, a, b), [0, 0.3, 0.8, 1.2])
    step, m = b - a, mixed + noise
    expected = ((m - a) * step).sum(0) / (step**2).sum(0)
    equal("the weights of a noisy mix", weight(m, a, b), expected)


CHECKS = {  # exercise -> (module, name, check)
    1: [("icl", "interleave, by hand", tokens), tests("icl.interleave", "gpt2")],
    2: [("neighbour", "nearest_neighbour", neighbours)],
    3: [tests("baselines.least_squares", "lstsq")],
    4: [tests("icl.linear", "gradient_of_linear"), tests("icl.layernorm", "gradient_of_layernorm")],
    5: [tests("icl.attention", "mask"), tests("icl.attention", "gpt2")],
    6: [tests("icl.attention", "attention"), tests("icl.block", "block")],
    7: [tests("baselines._recursion", "ridge", "baselines._posterior"),
        tests("baselines._recursion", "brute", "baselines._posterior")],
    8: [("bound", "bound, that holds", bounded), ("bound", "bound, that is tight",
                                                  bounded_tightly)],
    9: [("affine", "Affine.sample", affine_functions), ("affine", "Affine.hypotheses",
                                                        affine_optimum)],
    10: [("frequencies", "three_errors", three_errors), ("frequencies", "verdict and LAW",
                                                         verdicts)],
    11: [("selection", "selection_weight", selection_weights)],
}
