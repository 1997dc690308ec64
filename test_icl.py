# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy"]
# ///
"""What must hold, each checked against something independent.

    python test_icl.py                       all tests
    python test_icl.py attention gradient    those whose names hold one of these words

A line says ok or FAILED, the seconds, what must hold and, where there is one, the figure that was
checked. So: blank a function of icl.py, write it again, and see. `pytest test_icl.py` works, too.
"""
import train  # before NumPy: it holds the BLAS to one thread

import contextlib
import copy
import html
import io
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.dom.minidom
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from unittest import mock

import numpy as np

import baselines
import icl
from tasks import ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, sample_prompts

HERE = Path(__file__).resolve().parent
if not __debug__:
    sys.exit("test_icl.py: asserts are what it consists of, and python -O leaves them out")
for module in (train, icl, baselines):
    if Path(module.__file__).resolve().parent != HERE:
        sys.exit(f"test_icl.py: it should test {HERE}, and {module.__file__} was imported")
sys.path.insert(0, str(HERE / "results"))
import claims

SLOW = bool(os.environ.get("ICL_SLOW"))  # also the lab's and the scripts'
LINE, WAVE = DenseLinear(1), Sinusoid()
CLASSES = [DenseLinear(4), SparseLinear(4, 1), SparseLinear(4, 3), WAVE, Sinusoid(frequency=3.0),
           Mixture((DenseLinear(4), SparseLinear(4, 2))), Mixture((LINE, WAVE), (0.2, 0.8)),
           Mixture((ConvexCombination(DenseLinear(4), SparseLinear(4, 1), 1.0), DenseLinear(4)))]
NOTES = []  # the figures that the test which runs has checked, to be printed beside its name
note = NOTES.append

def rng(seed=0):
    return np.random.default_rng(seed)

def normal(*shapes, seed=0):
    """A list of standard normal float64 arrays of these shapes."""
    r = rng(seed)
    return [r.standard_normal(shape) for shape in shapes]

def small_model(dtype=np.float64):
    """A model, no parameter at its initial value, and 113 prompts: three unequal chunks."""
    config = icl.Config(n_dims=3, n_points=5, n_layer=2, n_head=2, n_embd=4)
    params = {name: (p + 0.1 * rng(1).standard_normal(p.shape)).astype(dtype)
              for name, p in icl.init_params(config, rng()).items()}
    xs, ys = sample_prompts(DenseLinear(3), rng(2), 113, 5)
    return params, config, xs.astype(dtype), ys.astype(dtype)

def assert_gradients(f, gradients, inputs):
    """Each analytic gradient of the scalar f(*inputs) against central differences, in float64."""
    relative = []
    for i, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        assert gradient.shape == x.shape, f"input {i}: shape {gradient.shape}, not {x.shape}"
        numeric, h = np.zeros_like(x), np.zeros_like(x)
        for place in np.ndindex(x.shape):
            h[place] = 1e-5
            above, below = (f(*inputs[:i], x + step, *inputs[i + 1:]) for step in (h, -h))
            numeric[place], h[place] = (above - below) / 2e-5, 0
        relative.append(np.linalg.norm(gradient - numeric) / max(np.linalg.norm(numeric), 1e-8))
        assert relative[i] < 1e-6, f"input {i}: {relative[i]:.2g} off"
    note(f"relative error {max(relative):.0e}")

def assert_operation(op, *inputs):
    """Backward against finite differences along a random dy; and nothing may be overwritten."""
    before = copy.deepcopy(inputs)
    y, backward = op(*inputs)
    dy, = normal(y.shape, seed=5)
    kept = y.copy(), dy.copy()
    gradients = backward(dy) if len(inputs) > 1 else (backward(dy),)
    np.testing.assert_equal((inputs, y, dy), (before, *kept), "it overwrote what it was given")
    assert_gradients(lambda *a: np.sum(op(*a)[0] * dy), gradients, inputs)

def errors(predictor, xs, ys):
    return (predictor(xs, ys) - ys) ** 2

def same(got, expected, margin, what):
    """All of `got` must be within the margin of what is expected."""
    got, expected = np.broadcast_arrays(got, expected)
    off = np.abs(got - expected)
    place = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    where = f" at {tuple(map(int, place))}" if place else ""
    assert np.all(off <= margin), f"{what}{where}: expected {expected[place]}, got {got[place]}"

def raises(kind, f, *words):
    """f() must raise `kind` with a message of one line that holds all the words."""
    try:
        f()
    except kind as e:
        assert "\n" not in str(e) and all(w in str(e) for w in words), f"{words} not in: {e}"
    else:
        raise AssertionError(f"accepted, though wrong: {words}")

# ------------------------------------------------------------------------------- the transformer

def test_gradient_of_linear():
    assert_operation(icl.linear, *normal((7, 3), (3, 4), 4))

def test_gradient_of_layernorm_and_its_mean_and_variance():
    assert_operation(icl.layernorm, *normal((5, 6), 6, 6))
    n, _ = icl.layernorm(5 + 3 * normal((9, 64))[0], np.ones(64), np.zeros(64))
    same(n.mean(1), 0, 1e-12, "means of rows")
    same(n.var(1), 1, 1e-4, "variances of rows")

def test_gradient_of_gelu_and_its_slopes_far_out():
    assert_operation(icl.gelu, 3 * normal((6, 5))[0])
    _, backward = icl.gelu(np.array([-200.0, -30, 0, 30, 200]))
    same(backward(np.ones(5)), [0, 0, 0.5, 1, 1], 1e-6, "slopes at -200, -30, 0, 30, 200")

def test_gradient_of_attention():
    assert_operation(lambda qkv: icl.attention(qkv, 2), *normal((2, 5, 12)))

def test_attention_is_its_formula_written_as_loops_and_finite_far_out():
    qkv, = normal((2, 5, 12))
    difference = abs(icl.attention(3 * qkv, 2)[0] - attention_in_loops(3 * qkv, 2)).max()
    note(f"difference {difference:.0e}")
    assert difference < 1e-13
    y, backward = icl.attention(np.float32(1e4 * qkv), 2)  # e to the power of such scores is inf
    assert np.isfinite(y).all() and np.isfinite(backward(np.ones_like(y))).all()

def test_gradient_of_every_block_and_the_model_in_chunks_weighted_or_not():
    params, config, xs, ys = small_model()
    weights = icl.loss_weights(xs, ys)
    f = lambda *arrays: np.mean(
        weights * (icl.predict(dict(zip(params, arrays)), config, xs, ys) - ys) ** 2)
    loss, grads = icl.loss_and_grads(params, config, xs, ys, weights)
    assert np.isclose(loss, f(*params.values())) and grads.keys() == params.keys()
    assert_gradients(f, [grads[name] for name in params], list(params.values()))
    unweighted = icl.loss_and_grads(params, config, xs, ys)
    np.testing.assert_equal(unweighted, icl.loss_and_grads(params, config, xs, ys, 1 + 0 * ys))

def attention_in_loops(qkv, n_head):
    (B, T, _), C = qkv.shape, qkv.shape[2] // 3
    y, D = np.zeros((B, T, C)), C // n_head
    for b, t, h in np.ndindex(B, T, n_head):
        q, k, v = (qkv[b, :, i + h * D:i + h * D + D] for i in (0, C, 2 * C))
        p = np.exp([q[t] @ k[j] / math.sqrt(D) for j in range(t + 1)])
        y[b, t, h * D:h * D + D] = sum(p[j] * v[j] for j in range(t + 1)) / p.sum()
    return y

def gpt2(params, config, xs, ys):
    """GPT-2 as it is usually written, which also reads the last y: predictions (B, N)."""
    linear = lambda x, name: x @ params[f"{name}.weight"] + params[f"{name}.bias"]

    def norm(x, name):
        n = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return n * params[f"{name}.weight"] + params[f"{name}.bias"]

    tokens = np.stack([xs, ys[..., None] * np.eye(config.n_dims)[0]], axis=2)  # (B, N, 2, d)
    x = linear(tokens.reshape(len(xs), -1, config.n_dims), "read_in") + params["wpe.weight"]
    for h in (f"h.{i}" for i in range(config.n_layer)):
        qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")
        x = x + linear(attention_in_loops(qkv, config.n_head), f"{h}.attn.c_proj")
        fc = linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        gelu = fc / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (fc + 0.044715 * fc**3)))
        x = x + linear(gelu, f"{h}.mlp.c_proj")
    return linear(norm(x, "ln_f"), "read_out")[:, ::2, 0]

def test_predictions_are_those_of_gpt2_written_plainly_at_any_length():
    params, config, xs, ys = small_model()
    for B, N, sizes in ((113, 5, [38, 38, 37]), (2, 500, [1, 1])):  # their seams count, too
        assert [len(part) for part, in icl.chunks(np.ones((B, N, 3)))] == sizes
    expected = gpt2(params, config, xs, ys)
    for n in (1, 3, 5):
        difference = abs(icl.predict(params, config, xs[:, :n], ys[:, :n]) - expected[:, :n]).max()
        assert difference < 1e-13, f"{n} points: {difference:.0e} off"
    note(f"difference {difference:.0e}")

def test_parameters_are_those_of_gpt2_with_the_right_deviations():
    fan_in = {"wpe": 4, "read_in": 8, "ln_": 0, "attn.c_proj": 64 * 4, "mlp.c_proj": 256 * 4,
              "": 64}  # 4 = 2 n_layer: the projections' deviations are smaller
    params = icl.init_params(icl.Config(8, 40, n_layer=2, n_head=1, n_embd=64), rng())
    assert len(params) == 1 + 2 * (3 + 2 * 6)  # none but those that gpt2 reads
    for name, p in params.items():
        n = next(n for part, n in fan_in.items() if part in name)
        if p.ndim == 1:
            assert (p == (n == 0 and name.endswith("weight"))).all(), name  # gains are 1, biases 0
        else:
            margin = 4 / math.sqrt(p.size)
            assert abs(p.std() * math.sqrt(n) - 1) < margin > abs(p.mean()), name
    assert not np.array_equal(params["h.0.mlp.c_fc.weight"], params["h.1.mlp.c_fc.weight"])
    correlation = np.corrcoef([part.ravel() for part in np.split(
        params["h.1.attn.c_attn.weight"], 3, axis=1)])  # of query, key, value
    assert np.allclose(correlation, [[1, -0.5, 0], [-0.5, 1, 0], [0, 0, 1]], atol=0.06)

def test_mask_keeps_an_example_from_every_prediction_before_it():
    params, config, xs, ys = small_model()
    before = icl.predict(params, config, xs, ys)
    for k in range(5):  # prediction k may use x_k, but neither y_k nor anything later
        later_xs, later_ys = xs + (np.arange(5) > k)[:, None], ys + (np.arange(5) >= k)
        changed = (icl.predict(params, config, later_xs, later_ys) != before).any(0)
        expected = np.arange(5) > k
        assert np.array_equal(changed, expected), (
            f"y of example {k + 1} and all later: expected a change of predictions "
            f"{expected.nonzero()[0] + 1}, got one of {changed.nonzero()[0] + 1}")

def test_no_prediction_exceeds_what_the_final_layernorm_allows():
    params, config, xs, ys = small_model()
    w = params["ln_f.weight"] * params["read_out.weight"][:, 0]  # meets a vector of mean 0 and
    shift = params["ln_f.bias"] @ params["read_out.weight"] + params["read_out.bias"]  # length 2
    bound = 2 * np.linalg.norm(w - w.mean()) + abs(shift[0])
    largest = max(abs(icl.predict(params, config, u * xs, u * ys)).max() for u in (1, 30, 1000))
    note(f"{largest:.3f} of {bound:.3f}")
    assert 0.5 * bound < largest < bound

def test_float32_in_float32_out():
    params, config, xs, ys = small_model(np.float32)
    predictions, backward = icl.transformer(params, config, xs, ys)
    outputs = [predictions, *backward(predictions).values(), icl.loss_weights(xs, ys)]
    assert {a.dtype for a in outputs} == {np.dtype(np.float32)}

def test_wrong_arrays_and_configs_are_refused_by_name():
    params, config, xs, ys = small_model()
    predictors = [lambda *p: icl.predict(params, config, *p), baselines.bayes(DenseLinear(3)),
                  lambda *p: icl.loss_and_grads(params, config, *p),
                  lambda *p: baselines.lasso(*p, 0.1), baselines.least_squares]
    cases = [(xs[0], ys, "xs must be (B, N", "(5, 3)"), (xs, ys[:, :3], "ys (B, N)", "(113, 3)"),
             (xs.astype("int64"), ys, "xs", "int64"), (xs.tolist(), ys, "xs", "list"),
             (xs, ys - math.inf, "ys", "finite", "inf"), (xs * math.nan, ys, "xs", "nan"),
             (xs[:0], ys[:0], "xs", "(0, 5, 3)"), (xs[:, :, :2], ys, "(B, N, 3)", "(113, 5, 2)"),
             (xs.repeat(2, 1), ys.repeat(2, 1), "at most 5", "(113, 10, 3)")]
    for f, n in zip(predictors, (9, 8, 9, 7, 7)):  # bayes takes any N, the last two any d as well
        for x, y, *words in cases[:n]:
            raises(ValueError, lambda: f(x, y), *words)
    raises(ValueError, lambda: icl.loss_and_grads(params, config, xs, ys, ys[0]), "weights", "(5,)")
    for bad in (dict(n_layer=0), dict(n_head=3), dict(n_embd=2.0), dict(n_head=True)):
        raises(ValueError, lambda: icl.Config(3, 5, **bad), *bad, repr(*bad.values()))

def test_importing_icl_changes_no_environment_variable():
    code = "import numpy, os; before = dict(os.environ); import icl; assert before == os.environ"
    bare = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", code], cwd=HERE, env=bare, check=True)

# ------------------------------------------------------------------------------------- training

def test_loss_weights_are_their_formula_of_what_the_prediction_may_see():
    xs, ys = sample_prompts(SparseLinear(4, 1), rng(), 6, 5)
    weights = icl.loss_weights(xs, ys)
    for b, k in np.ndindex(6, 5):
        v = (1 + sum(y * y for y in ys[b, :k])) / (k + 1)
        q = (1 + sum(x * x for x in xs[b, k])) / 5
        assert np.isclose(weights[b, k], 1 / (v * q))

def test_adam_takes_the_steps_of_its_formula_and_clips_long_gradients():
    p, m, v = np.float64([1, -2, 3]), 0, 0
    params = {"a": np.float32(p[:1]), "b": np.float32(p[1:])}
    optimizer = icl.Adam(params, lr=0.1, betas=(0.9, 0.99), eps=0.1, clip=2.0)
    for t, length in enumerate((5, 1, 0.1, 20), start=1):
        g = length * np.float64([2, -1, 2]) / 3
        scale = optimizer.update(params, {"a": np.float32(g[:1]), "b": np.float32(g[1:])})
        assert np.isclose(scale, min(1, 2 / length))
        m, v = 0.9 * m + 0.1 * scale * g, 0.99 * v + 0.01 * (scale * g) ** 2
        p = p - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 0.1)
        assert np.allclose([*params["a"], *params["b"]], p, atol=1e-6)

def test_muon_orthogonalises_by_its_formula_and_leaves_all_else_to_adam():
    shapes = {"h.0.mlp.c_fc.weight": (8, 24), "h.1.mlp.c_fc.weight": (8, 24),
              "h.0.mlp.c_proj.weight": (24, 8), "read_in.weight": (3, 8), "h.0.ln_1.weight": (8,)}
    params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    rest, expected, M = (copy.deepcopy(params) for _ in range(3))
    muon, adam = icl.Muon(params, 0.01, 0.1, momentum=0.8, clip=9.0), icl.Adam(rest, 0.01, clip=9.0)
    for i, size in enumerate((1, 0.1, 3)):  # the first and the last gradients are clipped
        grads = dict(zip(shapes, (np.float32(size * g) for g in normal(*shapes.values(), seed=i))))
        scale = muon.update(params, grads)
        assert scale == adam.update(rest, grads) and (scale < 1) == (size >= 1)
        for name, g in list(grads.items())[:3]:
            M[name] = 0.8 * M[name] + scale * g
            u, s, vt = np.linalg.svd(scale * g + 0.8 * M[name], full_matrices=False)
            s = s / np.linalg.norm(s)
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            expected[name] -= 0.1 * (u * s @ vt)
            assert np.allclose(params[name], expected[name], atol=1e-5), (name, i)
    np.testing.assert_equal(list(params.values())[3:], list(rest.values())[3:])

def test_gradients_that_are_not_finite_change_nothing():
    params = small_model(np.float32)[0]
    optimizer = icl.Muon(params, 0.01, 0.01)  # which leaves the check to Adam
    before = copy.deepcopy((params, optimizer.state))
    for name in ("h.0.mlp.c_fc.weight", "read_in.bias"):
        grads = {n: np.full_like(p, np.nan if n == name else 1) for n, p in params.items()}
        raises(FloatingPointError, lambda: optimizer.update(params, grads), "nan")
    np.testing.assert_equal((params, optimizer.state), before)

def test_a_short_training_clearly_beats_predicting_zero():
    config = icl.Config(n_dims=2, n_points=6, n_layer=2, n_head=2, n_embd=32)
    params, r = icl.init_params(config, rng()), rng(1)
    optimizer = icl.Muon(params, 3e-3, 1e-2, clip=1.0)
    batches = (sample_prompts(DenseLinear(2), r, 64, 6) for _ in range(250))
    loss = np.mean([icl.train_step(params, config, optimizer, *batch) for batch in batches][-20:])
    note(f"loss {loss:.2f}")
    assert loss < 0.7  # to predict zero costs 1

# ------------------------------------------------------------------------------------- the tasks

def test_inputs_are_normal_and_functions_have_variance_one():
    blends = [ConvexCombination(LINE, WAVE, w) for w in (0.0, 0.3, 1.0)]
    for c in [*CLASSES[:-1], Sinusoid(9.0, 0.1), SparseLinear(20, 2), *blends]:
        (xs, ys), again, other = (sample_prompts(c, rng(seed), 20_000, 3) for seed in (0, 0, 1))
        np.testing.assert_equal(again, (xs, ys))
        assert xs.dtype == ys.dtype == np.float32 and not np.array_equal(other[1], ys)
        flat = xs.reshape(20_000, 3 * c.n_dims)
        assert abs(flat.mean(0)).max() < 0.04
        assert np.allclose(np.cov(flat.T), np.eye(3 * c.n_dims), atol=0.06)
        variance = c.weight**2 + (1 - c.weight) ** 2 if c in blends else 1
        squares = (ys**2).mean(1)
        assert abs(ys.mean()) < 0.02, c
        assert abs(squares.mean() - variance) < 4 * squares.std() / math.sqrt(20_000), c

def test_sparse_functions_have_nnz_coefficients_and_mixtures_their_shares():
    units = np.tile(np.eye(6), (5000, 1, 1))  # f of the unit vectors is w
    w = SparseLinear(6, 2).sample(rng(), 5000)(units)
    assert np.all((w != 0).sum(1) == 2) and np.allclose((w != 0).mean(0), 2 / 6, atol=0.04)
    w = Mixture((DenseLinear(6), SparseLinear(6, 1)), (0.2, 0.8)).sample(rng(), 5000)(units)
    counts = (w != 0).sum(1)
    assert set(counts) == {1, 6} and abs(np.mean(counts == 1) - 0.8) < 0.03

def test_sinusoids_have_frequencies_of_their_law():
    omega = np.linspace(0.005, 40, 8000)
    moments = [(omega**n * WAVE.density(omega)).sum() * 0.005 for n in range(3)]
    assert np.allclose(moments, [1, 6 / 4, 6 * 7 / 16], rtol=1e-3)  # those of Gamma(6, 1/4)
    # The slope of f at x = 0 is omega a: its mean square is E[omega^2].
    left, right = WAVE.sample(rng(), 50_000)(np.tile([[-1e-3], [1e-3]], (50_000, 1, 1))).T
    assert abs(np.mean(((right - left) / 2e-3) ** 2) / moments[2] - 1) < 0.05

def test_impossible_classes_and_label_noises_are_refused_by_name():
    for code, words in {
            "DenseLinear(0)": "n_dims 0", "DenseLinear(2.5)": "n_dims 2.5",
            "SparseLinear(5, 6)": "nnz 1 5 6", "Mixture(())": "components",
            "Sinusoid(scale=-1.0)": "scale -1", "Sinusoid(frequency=0.0)": "frequency 0",
            "Mixture((LINE, DenseLinear(2)))": "dimension [1, 2]",
            "Mixture((LINE, WAVE), (0.5, 0.6))": "weights 0.6",
            "Mixture((LINE, WAVE), (1.0,))": "weights 2",
            "Mixture((LINE, WAVE), (math.nan, 1.0))": "weights nan",
            "ConvexCombination(LINE, WAVE, 1.1)": "weight [0, 1] 1.1",
            "ConvexCombination(LINE, DenseLinear(2), 0.5)": "dimension [1, 2]",
            "sample_prompts(LINE, rng(), 0, 3)": "batch_size 0",
            "baselines.bayes(LINE, math.nan)": "label_noise nan",
            "baselines.bayes(LINE, 1e200)": "label_noise 1e+200",  # its square is infinite
            "baselines.class_probabilities(CLASSES[5], -0.1)": "label_noise -0.1",
            "SparseLinear(40, 20).hypotheses()": "supports"}.items():
        raises(ValueError, lambda: eval(code), *words.split())

# ----------------------------------------------------------------------------------- checkpoints

def saved(path):
    """A small model after a training step and its optimiser; their checkpoint is in path."""
    params, config, xs, ys = small_model(np.float32)
    optimizer = icl.Muon(params, 0.01, 0.01)
    icl.train_step(params, config, optimizer, xs, ys)
    icl.save_checkpoint(path, params, config, optimizer, rng=rng(7).bit_generator.state, log=[1.5])
    return params, config, optimizer

def damaged(good):
    """Pairs: what is wrong with a checkpoint, and the contents of such a file."""
    def packed(changes, save=np.savez):
        file = io.BytesIO()
        save(file, **{name: a for name, a in (arrays | changes).items() if a is not None})
        return file.getvalue()

    arrays, some = dict(np.load(io.BytesIO(good))), "params/read_in.weight"
    code = type("Code", (), {"__reduce__": lambda self: (sys.exit, ("a pickle ran code",))})()
    bomb = packed({"more": np.zeros(10**6)}, np.savez_compressed)
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7\nsize 9\n"
    for content in [lfs, b"", bomb, good[:len(good) // 2], b"<!DOCTYPE html>" + good]:
        yield content[:30], content
    for old, new in [("1.5", "NaN"), ("1.5", "1e999"), ("{", ""), ('"format": 1', '"format": 2'),
                     ('"extra": ', '"extra": 0, "more": '), ('"n_layer": 2', '"n_layer": -2'),
                     ('"n_layer": 2', '"n_layer": 1000000000')]:
        yield new, packed({"header": np.array(str(arrays["header"]).replace(old, new))})
    for name, bad in [("header", None), (some, None), (some, arrays[some].T),
                      (some, np.float64(arrays[some])), (some, arrays[some] * np.float32(np.nan)),
                      (some, np.array([code], object)), ("optimizer/t", None),
                      ("optimizer/m.read_in.bias", np.ones(1, np.float32))]:
        yield f"{name} {bad}", packed({name: bad})
    for place in rng().integers(8 * len(good), size=60):
        flipped = bytearray(good)
        flipped[place // 8] ^= 1 << place % 8
        yield "one bit", flipped

def test_a_checkpoint_brings_back_every_bit_or_is_refused_if_damaged(tmp_path):
    path, refused = tmp_path / "a.npz", []
    params, config, optimizer = saved(path)
    whole = params, config, {"rng": rng(7).bit_generator.state, "log": [1.5]}, optimizer.state
    good = path.read_bytes()
    for what, content in [("nothing", good), *damaged(good)]:
        path.write_bytes(content)
        fresh = icl.Muon(params, 0.01, 0.01)
        try:
            loaded = icl.load_checkpoint(path, fresh)
        except icl.Refused as e:
            refused.append(what)
            assert f"{path} is not a checkpoint" in str(e), f"{what}: {e}"
            assert "\n" not in str(e) and "unsafe" not in str(e), f"{what}: {e}"
            np.testing.assert_equal(fresh.state, icl.Muon(params, 0.01, 0.01).state)
        else:
            assert what in ("nothing", "one bit"), f"accepted: {what}"
            np.testing.assert_equal((*loaded, fresh.state), whole)
    note(f"{len(refused)} refused, {refused.count('one bit')} of them for one bit of 60")
    assert "nothing" not in refused and refused.count("one bit") > 20

def test_save_checkpoint_writes_what_can_be_loaded_or_nothing(tmp_path):
    params, config, _ = saved(tmp_path / "old.npz")
    before = (tmp_path / "old.npz").read_bytes()
    for path in (tmp_path / "old.npz", tmp_path / "new.npz"):
        save = lambda params=params, **extra: icl.save_checkpoint(path, params, config, **extra)
        raises(ValueError, lambda: save(log=math.nan))
        for step in ("fsync", "replace"):
            for error in (OSError(28, "No space left"), KeyboardInterrupt(f"{path}: No space")):
                with mock.patch.object(os, step, side_effect=error):
                    raises(type(error), save, str(path), "No space")
    assert os.listdir(tmp_path) == ["old.npz"] and (tmp_path / "old.npz").read_bytes() == before

def test_the_committed_models_are_finished_small_ones_and_predict_well():
    for name in train.EXPERIMENTS:
        e = train.make_experiment(name, train.SIZES["small"])
        shown = e.classes | {"mixture": list(e.classes.values())[1]}
        for model in train.predictors_of(e, HERE / "results/small"):
            if model.steps:
                assert model.finished(), f"{model.path}: step {model.reached()}"
                xs, ys = sample_prompts(shown[model.name], rng(), 200, e.n_points)
                error = np.mean((icl.predict(model.load()[0], e.config, xs, ys) - ys)[:, -1] ** 2)
                note(f"{model.label} {error:.3f}")
                assert error < 0.1, f"{model.label}: expected less than 0.1, got {error:.3f}"

# ---------------------------------------------------------------------------------- the baselines

def test_least_squares_is_numpys_lstsq_on_every_prefix():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 20, 9)
    xs, ys = xs.astype(float), ys + rng(1).standard_normal(ys.shape)  # with noise: no w fits
    predictions = baselines.least_squares(xs, ys)
    for b in range(20):
        for k in range(9):  # from no example, w is 0
            w = np.linalg.lstsq(xs[b, :k], ys[b, :k], rcond=None)[0] if k else np.zeros(4)
            same(predictions[b, k], xs[b, k] @ w, 1e-6, f"prompt {b}, after {k} examples")

def lasso_weights(xs, ys, alpha):
    """The Lasso's w after all examples, read off its predictions at the unit vectors: (B, d)."""
    (B, k, d), unit = xs.shape, np.eye(xs.shape[2])
    prompts = [np.concatenate([xs, np.tile(e, (B, 1, 1))], axis=1) for e in unit]
    labels = np.tile(np.pad(ys, ((0, 0), (0, 1))), (d, 1))
    return baselines.lasso(np.concatenate(prompts), labels, alpha)[:, k].reshape(d, B).T

def test_lasso_meets_its_optimality_conditions_in_any_units():
    xs, ys = map(np.float64, sample_prompts(SparseLinear(20, 2), rng(), 6, 40))
    xs[..., 0] = 0  # an input that says nothing
    ys += 0.1 * rng(1).standard_normal(ys.shape)
    for alpha, u, v in ((0.03, 1, 1), (0.3, 1, 1), (0.1, 1e-6, 1), (0.1, 1e3, 1), (0.1, 1, 1e-4)):
        for k in (1, 10, 40):
            X, y = xs[:, :k], ys[:, :k]
            w = u / v * lasso_weights(u * X, v * y, u * v * alpha)
            residual = y - np.einsum("bnd,bd->bn", X, w)
            pull = np.einsum("bnd,bn->bd", X, residual) / k
            zero = np.abs(w) < 1e-9
            assert np.all(np.abs(pull)[zero] <= alpha + 1e-4)  # |X^T e| / n <= alpha
            assert np.allclose(pull[~zero], alpha * np.sign(w[~zero]), atol=1e-4)

def test_lasso_gives_all_weight_to_the_slightly_larger_of_two_inputs():
    for larger in (1.01, 1.0001):  # plain sweeps would take some 10,000 to get there
        w = lasso_weights(np.array([[[1, larger]]]), np.array([[2.0]]), 0.03)
        assert np.allclose(w, [0, (2 * larger - 0.03) / larger**2], atol=1e-4), w

def test_lasso_takes_the_best_alpha_for_each_number_of_examples():
    xs, ys = sample_prompts(SparseLinear(5, 1), rng(), 30, 8)
    alphas = np.geomspace(0.03, 1, 8)
    each = baselines.lasso(xs, ys, alphas)
    for k in (2, 5, 7):
        seen = np.pad(ys[:, :k], ((0, 0), (0, 1)))
        alone = baselines.lasso(xs[:, :k + 1], seen, alphas[k])
        assert np.allclose(each[:, k], alone[:, k], atol=1e-5)
    for bad in (-1.0, 0.0, math.nan, math.inf, alphas[:7], -alphas):
        raises(ValueError, lambda: baselines.lasso(xs, ys, bad), "alpha", "8 of them")
    means = [errors(lambda xs, ys: baselines.lasso(xs, ys, a), xs, ys).mean(0) for a in alphas]
    tuned = baselines.tune_lasso(SparseLinear(5, 1), rng(), 8, 30, alphas)
    assert np.array_equal(tuned, alphas[np.argmin(means, axis=0)]) and len(set(tuned)) > 2

def brute_force(hypotheses, xs, ys, noise):
    """Posterior mean, and probability of the first hypothesis, by one Gaussian solve for each.

    hypotheses: (prior, features of x (N, d) -> (N, F)) pairs with unit prior covariance. noise: one
    number, or one a hypothesis.
    """
    predictions, first = np.zeros((2, *ys.shape))
    noises = np.broadcast_to(noise, len(hypotheses))
    for b, k in np.ndindex(ys.shape):
        scores, means = [], []
        for (prior, features), noise in zip(hypotheses, noises):
            phi, y = features(xs[b, :k + 1]), ys[b, :k]
            K = phi @ phi.T
            S = K[:k, :k] + noise * np.eye(k)
            means.append(K[k, :k] @ np.linalg.solve(S, y))
            misfit = y @ np.linalg.solve(S, y) + np.linalg.slogdet(S)[1]
            scores.append(math.log(prior) - misfit / 2)
        weights = np.exp(np.array(scores) - max(scores))
        weights /= weights.sum()
        predictions[b, k], first[b, k] = weights @ means, weights[0]
    return predictions, first

def test_bayes_and_class_probabilities_are_brute_force_at_any_label_noise():
    dense, sparse = DenseLinear(4), SparseLinear(4, 2)
    mixture, blend = Mixture((dense, sparse), (0.3, 0.7)), ConvexCombination(dense, sparse, 0.4)
    pairs = [lambda x, s=s: x[:, s] / math.sqrt(2) for s in combinations(range(4), 2)]  # six
    either = [(0.3, lambda x: x / 2), *((0.7 / 6, phi) for phi in pairs)]
    both = [(1 / 6, lambda x, phi=phi: np.hstack([0.4 * x / 2, 0.6 * phi(x)])) for phi in pairs]
    waves = WAVE.hypotheses()[0]  # with a noise of their own, to which the labels' is added
    wavy = [(p, lambda x, i=i: waves.features(x)[:, i].T) for i, p in enumerate(waves.prior)
            if p > 1e-12]
    for c, hypotheses, floor in ((sparse, [(1 / 6, phi) for phi in pairs], 1e-10),
                                 (mixture, either, 1e-10), (blend, both, 0.52e-10),
                                 (WAVE, wavy, waves.noise)):
        for s in (0, 0.02, 0.3):
            xs, ys = map(np.float64, sample_prompts(c, rng(), 5, 7))
            ys += s * rng(1).standard_normal(ys.shape)
            close = 1e-6 if s else 1e-4
            slow, first = brute_force(hypotheses, xs, ys, floor + s * s)
            same(baselines.bayes(c, s)(xs, ys), slow, close, f"{c}, label noise {s}")
            if c == mixture:
                p = baselines.class_probabilities(c, s)(xs, ys)
                same(p, np.stack([first, 1 - first], axis=2), close, f"probabilities, noise {s}")

def test_no_predictor_is_better_than_bayes_on_its_own_class():
    for c in (*CLASSES, ConvexCombination(LINE, WAVE, 0.3)):
        xs, ys = sample_prompts(c, rng(), 1000, 9)
        error = baselines.bayes(c)(xs, ys) - ys
        others = [c, DenseLinear(c.n_dims), WAVE if c.n_dims == 1 else SparseLinear(4, 1)]
        for predict in (baselines.least_squares, *map(baselines.bayes, others)):
            product = error * predict(xs, ys)
            assert np.all(abs(product.mean(0)) < 4 * product.std(0) / math.sqrt(1000) + 1e-3), c

def test_bayes_with_label_noise_is_ridge_regression_on_dense_functions():
    xs, ys = map(np.float64, sample_prompts(DenseLinear(4), rng(), 20, 7))
    ys += rng(1).standard_normal(ys.shape) / 2
    predictions = baselines.bayes(DenseLinear(4), 0.3)(xs, ys)
    for k in range(1, 7):
        X, y = xs[:, :k], ys[:, :k, None]  # penalty: 0.3^2 over the prior variance 1/4
        w = np.linalg.solve(X.swapaxes(1, 2) @ X + 0.36 * np.eye(4), X.swapaxes(1, 2) @ y)
        same(predictions[:, k], (xs[:, k, None] @ w)[:, 0, 0], 1e-6, f"after {k} examples")

def test_predictions_are_finite_in_any_unit():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for c in (CLASSES[1], CLASSES[5], CLASSES[6], DenseLinear(20)):
            xs, ys = sample_prompts(c, rng(), 8, 12)
            predictors = [baselines.bayes(c), baselines.bayes(c, 0.05), baselines.least_squares,
                          lambda xs, ys: baselines.lasso(xs[:, :3], ys[:, :3], 0.1)]  # more: slow
            for unit in np.float32([1e-30, 1e-6, 1e15, 1e30]):
                for prompts in ((unit * xs, ys), (xs, unit * ys), (unit * xs, unit * ys)):
                    assert all(np.isfinite(p(*prompts)).all() for p in predictors), (c, unit)
        dense, sparse = DenseLinear(4), SparseLinear(4, 1)  # but for its last term, s would be < 0
        xs, ys = sample_prompts(ConvexCombination(dense, sparse, 0.5), rng(3), 100, 40)
        predictions = baselines.bayes(Mixture((dense, sparse)))(np.float32(1e4) * xs, ys)
        assert np.isfinite(predictions).all(), f"expected numbers, got {predictions}"

def test_effective_noise_of_a_noisy_learner_is_its_noise():
    dense, sparse, missed = DenseLinear(8), SparseLinear(8, 1), []
    for c in (dense, sparse, Mixture((dense, sparse)), Mixture((LINE, WAVE))):
        for s in (0.01, 0.05, 0.2, 0.5):
            learner = lambda xs, ys: baselines.bayes(c, s)(
                xs, ys + s * rng(99).standard_normal(ys.shape))
            value, (low, high), curve = baselines.effective_noise(
                learner, c, rng(), 11, 150 if c.n_dims == 1 else 1000)
            assert low <= value <= high and curve.shape == (11,)
            assert c.n_dims == 1 or abs(value / s - 1) < 0.5, (c, s, value)
            if not low <= s <= high:
                missed.append((c, s, low, high))
    assert len(missed) <= 1, missed  # 95% of intervals hold s

def test_effective_noise_is_zero_for_the_optimum_and_inf_for_the_useless():
    dense = DenseLinear(8)
    for c, n_prompts in ((dense, 1000), (WAVE, 60)):  # on these waves, noise helps a bit
        optimum = baselines.bayes(c)
        value, (low, high), curve = baselines.effective_noise(optimum, c, rng(6), 11, n_prompts)
        xs, ys = sample_prompts(c, rng(6), n_prompts, 11)
        assert value == low == 0 and np.allclose(curve, errors(optimum, xs, ys).mean(0))
    value, (low, high), _ = baselines.effective_noise(baselines.least_squares, dense, rng(), 11)
    assert value <= high <= 0.002
    zero = lambda xs, ys: 0 * ys
    value, (low, high), curve = baselines.effective_noise(zero, dense, rng(), 11, 300)
    assert value == low == high == math.inf and np.isfinite(curve).all()

def test_bayes_is_brute_force_where_no_hypothesis_explains_the_examples():
    half = ConvexCombination(LINE, WAVE, 0.5)  # that of the mixture has to choose, and cannot
    xs, ys = map(np.float64, sample_prompts(half, rng(3), 1, 40))
    waves = WAVE.hypotheses()[0]
    either = [(0.5, lambda x: x), *((p / 2, lambda x, i=i: waves.features(x)[:, i].T)
                                    for i, p in enumerate(waves.prior) if p > 1e-12)]
    slow, first = brute_force(either, xs, ys, [1e-10] + [waves.noise] * (len(either) - 1))
    c = Mixture((LINE, WAVE))
    same(baselines.bayes(c)(xs, ys), slow, 1e-3, "predictions")
    same(baselines.class_probabilities(c)(xs, ys)[..., 0], first, 1e-3, "probability of a line")

# ------------------------------------------------------------------- measuring, figures and claims

def answers(name, learn, size="tiny", prompts=500):
    """An experiment, and what `arrange` makes of predictors; learn(class) stands for each model."""
    e = train.make_experiment(name, replace(train.SIZES[size], prompts=prompts))
    models = {m: learn(c) for m, c in e.pretraining.items()}
    with mock.patch.object(baselines, "effective_noise", lambda *a: (0.0, (0.0, 0.0), None)):
        measured = {p.name: train.measure(e, p.name, models.get(p.name))
                    for p in train.predictors_of(e, Path())}
    return e, measured, *train.arrange(e, measured)

def test_a_number_holds_with_its_whole_interval_and_a_claim_as_its_worst():
    got = [claims.verdict((1.0, 0.1), **{side: at}) for side, at in (
        ("at_most", 1.2), ("at_least", 0.8), ("at_most", 1.05), ("at_least", 0.95),
        ("at_least", 1.2), ("at_most", 0.8))]
    expected = ["holds"] * 2 + ["undecided"] * 2 + ["does not hold"] * 2
    assert got == expected, f"expected {expected}, got {got}"
    rows = [("a", (1.0, 0.1), {"at_most": 1.2}), ("b", (1.0, 0.1), {"at_most": 1.05}),
            ("c", (1.0, 0.1), {})]
    lines = claims.table({"one": {"a claim": rows}, "two": {"a claim": rows[:1]}})
    assert lines[2] == "| **a claim** |  | undecided | holds |", lines
    assert lines[4] == "| b | at most 1.05 | 1 ± 0.1, undecided |  |", lines
    assert lines[-1] == "two, 1 claims: 1 holds, 0 undecided, 0 does not hold", lines

def test_intervals_of_ratios_and_of_the_farthest_are_right_in_95_of_100():
    r, hits, alarms = rng(), [], []
    for _ in range(400):
        z = r.exponential(1, 400)
        value, margin = claims.ratio(9 * z + r.exponential(1, 400), 4 * z + r.exponential(1, 400))
        hits.append(abs(value - 2) < margin)
        value, margin = claims.farthest(r.standard_normal((100, 10)))
        alarms.append(value > margin)
    note(f"{np.mean(hits):.1%}, {np.mean(alarms):.1%} false alarms")
    assert 0.92 < np.mean(hits) < 0.98, f"expected 95%, got {np.mean(hits):.1%}"
    assert 0.02 < np.mean(alarms) < 0.09, f"expected 2.5% to 5%, got {np.mean(alarms):.1%}"

def test_the_selection_weight_of_a_perfect_learner_is_the_posterior():
    e, _, on, _ = answers("sparse", baselines.bayes)
    for shown in e.classes:
        at = on[f"selection-{shown}"]
        weight = {p: train.selection_weight(at, e.classes, p).mean(0) for p in at}
        for p, expected in (("mixture model", weight[train.MIXED]), ("dense model", 0),
                            ("sparse model", 1)):
            known = ~np.isnan(weight[p])
            same(weight[p][known], (expected + 0 * weight[p])[known], 1e-6, f"{p} on {shown}")
    assert weight[train.MIXED][1] > 0.99, "on sparse functions, 2 examples tell"

def test_claims_on_perfect_learners_hold_and_on_predicting_zero_do_not():
    found = {}
    for name, prompts in (("sparse", 600), ("sine", 40)):
        e, measured, *_ = answers(name, baselines.bayes, "small", prompts)
        found |= claims.claims_of(e, measured)
        if name == "sparse":
            verdicts = {claims.verdict(n, **bound) for rows in found.values()
                        for _, n, bound in rows if bound}
            assert verdicts == {"holds"}, found
            fewer = claims.claims_of(e, {n: m for n, m in measured.items() if n != "dense"})
            left = {what for rows in fewer.values() for what, *_ in rows if "dense model" in what}
            assert not left, f"without the dense model, expected no row on it, got {left}"
    assert len(found) == 24, f"expected 24 claims, got {list(found)}"
    e, measured, *_ = answers("sparse", lambda c: lambda xs, ys: 0 * ys, "small", 100)
    _, number, bound = claims.claims_of(e, measured)["sparse: near-optimal on sparse functions"][1]
    assert claims.verdict(number, **bound) == "does not hold", (number, bound)

def write(e, measured, out):
    """Predictions files, as a run would write them."""
    for p in train.predictors_of(e, out):
        facts, arrays = measured[p.name]
        with mock.patch.object(train, "measure", lambda *a: (facts, arrays)), \
             mock.patch.object(train.Predictor, "load", lambda self: (
                 {}, {"seconds": 0.0, "step": self.steps})):
            train.measure_job(p)

def test_a_predictions_file_of_something_else_is_refused_or_made_anew(tmp_path):
    e, measured, *_ = answers("sparse", baselines.bayes, prompts=4)
    write(e, measured, tmp_path)
    sheets = train.sheets_of(e)
    models = {p.name: p for p in train.predictors_of(e, tmp_path)}
    due = {name: train.is_due(p, sheets) for name, p in models.items()}
    assert not any(due.values()), f"expected none to be measured again, got {due}"
    dense, sparse, lasso = models["dense"], models["sparse"], models["Lasso"]
    other = train.sheets_of(replace(e, size=replace(e.size, prompts=5)))
    assert train.is_due(lasso, other) and not train.is_due(dense, other)  # its model is gone
    raises(icl.Refused, lambda: train.is_due(replace(dense, steps=7), sheets), "steps = 3000"[:8])
    os.replace(dense.predictions, sparse.predictions)
    raises(icl.Refused, lambda: train.is_due(sparse, sheets), str(sparse.predictions), "dense")
    for content in (b"", b"nothing", lasso.predictions.read_bytes()[:900]):
        lasso.predictions.write_bytes(content)
        raises(icl.Refused, lambda: train.is_due(lasso, sheets), str(lasso.predictions))

def test_figures_show_what_is_there_and_no_line_of_a_model_that_is_not():
    e, measured, on, noise = answers("sine", baselines.bayes, prompts=4)
    sheets = train.sheets_of(e)
    figures = train.figures_of(e, on, sheets)
    names = [f.name for f in figures]
    assert names[:3] == ["functions-1", "functions-2", "functions-3"] and len(names) == 11, names
    assert len({f.title for f in figures}) == len(figures)
    for gone in ("mixture", "linear"):
        fewer = {name: found for name, found in measured.items() if name != gone}
        on, noise = train.arrange(e, fewer)
        shown = {p for f in train.figures_of(e, on, sheets) for p in f.lines}
        assert f"{gone} model" not in shown and "sinusoid model" in shown, shown
        text = "\n".join(train.tables(e, on, noise))
        assert text.isascii() and f"{gone} model" not in text and "sinusoid model" in text

# -------------------------------------------------------------------------------------- the runs

TINIER = replace(train.SIZES["tiny"], n_layer=1, n_head=1, n_embd=8, batch=8, sparse_points=5,
                 sparse_steps=40, prompts=8)
SMALL = ("size = train.SIZES['tiny']; train.SIZES['tiny'] = dataclasses.replace(size, n_layer=1, "
         "n_head=1, n_embd=8, batch=8, sparse_points=5, prompts=8); ")

def start(*arguments, before="pass", save_seconds=30, experiment="sparse", **options):
    """train.py at a size that takes seconds, in a process group of its own."""
    code = (f"import dataclasses, sys, train\nif __name__ == '__main__':\n {SMALL}"
            f"train.SAVE_SECONDS = {save_seconds}; {before}; sys.exit(train.main())")
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | options
    return subprocess.Popen([sys.executable, "-u", "-c", code, "--tiny", "--experiment", experiment,
                             *map(str, arguments)], cwd=HERE, start_new_session=True, **options)

def command(*arguments, **options):
    """The same, waited for: (exit status, stdout, stderr)."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err

def assert_refused(result, *words):
    """Exit status 2, and one line on stderr, not a traceback, that holds all the words."""
    status, _, err = result
    assert status == 2 and len(err.strip().splitlines()) == 1 and all(w in err for w in words), err

def contents(folder):
    """Name -> bytes of what a run writes that may not depend on how it went."""
    def bits(path):
        with np.load(path) as npz:
            return {name: npz[name].tobytes() for name in npz.files if name != "header"}

    read = {".csv": Path.read_bytes, ".svg": Path.read_bytes, ".npz": bits}
    return {p.relative_to(folder): read[p.suffix](p) for p in folder.rglob("*") if p.suffix in read}

def test_the_command_trains_measures_shows_and_again_changes_nothing(tmp_path):
    arguments = "--steps", 5, "--out", tmp_path
    status, out, err = command(*arguments)
    assert status == 0 and not err, err
    before = contents(tmp_path)
    drawn = [xml.dom.minidom.parse(str(path)) for path in tmp_path.glob("*.svg")]
    page = html.unescape((tmp_path / "report.html").read_text())
    assert len(drawn) == page.count("<figure>") == 8, page.count("<figure>")
    assert "http" not in page.replace("http://www.w3.org/2000", "")
    rows = (tmp_path / "results.csv").read_text().splitlines()[1:]
    assert {row.split(",")[2] for row in rows} >= {
        "dense model", "mixture model", "least squares", "Lasso", train.MIXED, train.OWN}
    lines = out[out.index("dense functions"):].splitlines()
    assert out.isascii() and len(lines) <= 22 and "report.html shows" in lines[-1], lines
    assert sum(line.startswith("mixture model") for line in lines) == 2, lines
    status, out, _ = command(*arguments)
    assert status == 0 and "training" not in out and contents(tmp_path) == before
    for path in tmp_path.glob("sparse/dense.npz"):
        path.unlink()  # its predictions remain, and are enough
    assert command(*arguments)[0] == 0 and not (tmp_path / "sparse/dense.npz").exists()
    found = claims.claims_in(tmp_path)
    assert len(found) == 12, f"expected 12 claims, got {list(found)}"

def press_ctrl_c(p):
    """Twice and, as a terminal does, to every process of p."""
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGINT)
        time.sleep(0.01)

def test_however_a_run_ends_it_goes_on_to_the_same_bits(tmp_path):
    calm, storm = tmp_path / "calm", tmp_path / "storm"
    arguments = "--steps", 1000, "--seed", 1
    assert command(*arguments, "--processes", 6, "--out", calm)[0] == 0
    trained_first, reached, r = storm / "sparse/mixture.npz", 0, rng()
    step = lambda: icl.load_checkpoint(trained_first)[2]["step"]
    stopped = "stopped; the same command goes on from the last checkpoints"
    ends = [(subprocess.Popen.kill, -9, ""), (press_ctrl_c, 130, stopped)]  # status, last words
    for end, status, words in ends * 2:
        p, begin = start(*arguments, "--processes", 2, "--out", storm, save_seconds=0), time.time()
        while not trained_first.exists() or trained_first.stat().st_mtime < begin:
            assert p.poll() is None
            time.sleep(0.01)
        assert (first := step()) >= reached, "it began anew"
        while (seen := step()) == first:
            time.sleep(0.01)
        time.sleep(r.uniform(0, 0.3))
        end(p)
        err = p.communicate(timeout=30)[1].strip()  # at its last child's end, too: none is left
        assert (p.returncode, err) == (status, words)
        reached = step()
    assert 0 < reached < 2000
    arguments += "--out", storm
    err = command(*arguments, "--processes", 1, before="train.show = lambda *a: 1 / 0")[2]
    assert "by zero" in err and not (storm / "results.csv").exists()  # measured, then gone
    assert command(*arguments)[0] == 0
    assert contents(calm) == contents(storm)

def test_a_killed_job_is_told_in_one_line_and_ends_the_others():
    killed, endless = (signal.raise_signal, signal.SIGKILL), (time.sleep, 9)
    raises(ChildProcessError, lambda: train.side_by_side([endless, killed], 2, lambda *_: ""),
           "exit code -9", "the same command goes on")

def test_a_run_never_replaces_a_checkpoint_that_is_further_along(tmp_path):
    e = train.make_experiment("sparse", TINIER)
    model = train.predictors_of(e, tmp_path)[0]
    train.train(model, report=lambda step, *_: step < 5)
    behind = model.path.read_bytes()

    def report(step, *_):
        if step == 8:  # meanwhile another run has finished the model
            path = model.path.with_name("kept.npz")
            os.replace(model.path, path)
            train.train(model)
            finished.append(model.path.read_bytes())
        return step < 20

    finished = []
    raises(icl.Refused, lambda: train.train(model, report=report), str(model.path), "another run")
    assert model.path.read_bytes() == finished[0] != behind and model.finished()

def test_the_time_left_does_not_jump_when_a_model_ends(tmp_path):
    e, lines = train.make_experiment("sparse", TINIER), []

    def side_by_side(jobs, processes, status):
        (_, _, _, path, _), *_ = jobs
        progress = np.memmap(path, np.float64, "r+").reshape(-1, 3)
        lines.append(status(0, [0, 1]))
        for step in (10, 20, 40, 41, 60, 80):  # two processes at one pace, the longest model first
            progress[0] = min(step, 80), 0.5, min(step, 80) / 2
            progress[1] = min(step, 40), 0.5, min(step, 40) / 2
            progress[2] = max(0, step - 40), 0.5, max(0, step - 40) / 2
            lines.append(status(0, [0, 1] if step < 40 else [0, 2]))

    with mock.patch.object(train, "side_by_side", side_by_side):
        train.train_all([p for p in train.predictors_of(e, tmp_path) if p.steps], 2)
    assert lines[0] == "0/3 done: sparse/mixture starts, sparse/dense starts", lines[0]
    seconds = [int(line.split(":")[2][:2]) for line in lines[1:]]
    assert seconds == [35, 30, 20, 20, 10, 0], seconds
    assert all(len(line) < 80 for line in lines), lines

def test_a_closed_stdout_ends_a_run_in_one_line_and_the_next_goes_on(tmp_path):
    arguments = "--steps", 300, "--out", tmp_path
    p = start(*arguments, save_seconds=0)
    p.stdout.readline()
    p.stdout.close()  # as `| head -1` does
    err = p.stderr.read()
    assert p.wait(timeout=60) in (0, 2) and len(err.splitlines()) <= 1, err
    status, _, err = command(*arguments, stdout=None, preexec_fn=lambda: os.close(1))
    assert status == 0 and not err, err
    status, out, err = command(*arguments, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert status == 0 and not err and "report.html shows" in out.splitlines()[-1], err

def test_one_model_is_trained_and_shown_alone_and_other_settings_are_refused(tmp_path):
    alone = "--steps", 2, "--out", tmp_path
    status, out, err = command("--only", "sparse", *alone)
    assert status == 0 and "sparse/dense, sparse/mixture" in out.splitlines()[-1], err
    assert "sparse model" in out and "dense model" not in out and "mixture model" not in out, out
    path = tmp_path / "sparse/sparse.npz"
    assert sorted(p.name for p in tmp_path.glob("sparse/*.csv")) == ["sparse.csv"]
    assert_refused(command("--steps", 3, "--out", tmp_path), "steps = 2, not 3", path.name)
    assert_refused(command("--seed", 1, *alone), "seed", path.name)
    damage = path.read_bytes()[:1000]
    path.write_bytes(damage)
    assert_refused(command(*alone), str(path), "not a checkpoint")
    assert path.read_bytes() == damage

def test_a_second_experiment_in_a_folder_is_shown_beside_the_first(tmp_path):
    arguments = "--steps", 1, "--out", tmp_path, "--only"
    assert command(*arguments, "sparse/dense")[0] == 0
    status, out, err = command(*arguments, "sine/linear", experiment="sine")
    assert status == 0 and out.index("linear model") < out.index("dense model"), err
    assert {p.name.split("-")[0] for p in tmp_path.glob("*.svg")} == {"sine", "sparse"}

def test_main_works_from_a_thread_and_puts_the_handler_of_ctrl_c_back(tmp_path):
    code = (SMALL + "import threading, signal; before = signal.getsignal(signal.SIGINT); "
            "f = lambda: got.append(train.main(['--tiny', "
            f"'--steps', '1', '--only', 'sparse/dense', '--out', {str(tmp_path)!r}])); got = []; "
            "t = threading.Thread(target=f); t.start(); t.join(); f(); print(got, "
            "signal.getsignal(signal.SIGINT) is before)")
    out = subprocess.run([sys.executable, "-c", "import dataclasses, train; " + code], cwd=HERE,
                         capture_output=True, text=True, timeout=120)
    assert out.stdout.splitlines()[-1:] == ["[0, 0] True"], out.stdout + out.stderr

def test_divergence_a_full_disk_or_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_refused(command("--out", tmp_path / "file"), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    assert command("--steps", 2, "--only", "dense", "--out", tmp_path)[0] == 0
    before = contents(tmp_path / "sparse")
    wild = "train.SIZES['tiny'] = dataclasses.replace(train.SIZES['tiny'], lr=1e30, warmup=1)"
    diverging = command("--steps", 50, "--seed", 7, "--out", tmp_path / "wild", before=wild)
    assert_refused(diverging, "diverged at step", "seed 7", "learning rates")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))"
    full = command("--steps", 2, "--only", "sparse", "--out", tmp_path, before=limit)
    assert_refused(full, "sparse.npz", "large")
    assert contents(tmp_path / "sparse") == before | {Path("sparse.csv"): b"step,loss\n"}

def test_a_size_that_cannot_be_is_refused_before_training(tmp_path):
    def rehearse(name, **edit):
        size = replace(train.SIZES["tiny"], **dict(n_layer=1, n_head=1, n_embd=8, prompts=8) | edit)
        train.rehearse(train.make_experiment(name, size), tmp_path)

    for edit in (dict(nnz=2), dict(nnz=3), dict(n_dims=1), dict(n_dims=2), dict(n_dims=14),
                 dict(n_dims=20, nnz=3), dict(n_dims=8, curriculum=0.3)):
        rehearse("sparse", **edit)
    for name in train.EXPERIMENTS:
        rehearse(name, prompts=2)
        for n in (2, 3, 8):
            rehearse(name, sparse_points=n, sine_points=n)
    for edit in (dict(n_head=3), dict(nnz=4), dict(n_dims=0), dict(sparse_points=1),
                 dict(prompts=1), dict(prompts=0), dict(batch=0), dict(n_layer=1.5)):
        raises(ValueError, lambda: rehearse("sparse", **edit))
    wide = "train.SIZES['tiny'] = dataclasses.replace(size, n_embd=50)"
    assert_refused(command("--out", tmp_path / "new", before=wide), "n_embd (50)", "n_head (4)")
    broken = "train.draw = lambda f: 1 / 0"
    assert_refused(command("--out", tmp_path / "new", before=broken), "sparse", "line", "zero")
    assert not (tmp_path / "new").exists()

if SLOW:
    def test_the_scripts_in_results_run_for_a_few_steps():
        scripts = ["recipe.main(2, ('the recipe', 'earlier: both'))",
                   "road.main([(c, n, 4, 2, show) for c, n, _, _, show in road.ROADS[:2]])",
                   "speed.main(1, ('tiny',))"]
        for call in scripts:
            code = f"import {call.split('.')[0]}\nif __name__ == '__main__':\n {call}"
            out = subprocess.run([sys.executable, "-c", code], cwd=HERE / "results", text=True,
                                 capture_output=True, timeout=120)
            assert out.returncode == 0 and len(out.stdout.splitlines()) >= 3, out.stderr

    def test_exercises_of_the_lab_that_name_tests_fail_blanked_and_pass_whole(tmp_path):
        lab = (HERE / "course/lab.md").read_text(encoding="utf-8")
        blanked = {name: functions for functions, name in
                   re.findall(r"blank.py ([a-z_. ]+) --out blank/(\w+)\n", lab)}
        tests = dict(re.findall(r"python blank/(\w+)/test_icl.py (.+)\n", lab))
        tests["whole"] = " ".join(tests.values())
        run = lambda *arguments: subprocess.run([sys.executable, *map(str, arguments)], cwd=HERE,
                                                capture_output=True, text=True, timeout=120)
        for name, functions in [*blanked.items(), ("whole", "")]:
            to = tmp_path / name
            assert run("course/blank.py", *functions.split(), "--out", to).returncode == 0
            result = run(to / "test_icl.py", *tests[name].split())
            assert result.returncode == bool(functions) == ("again" in result.stdout), name

def test_bad_command_lines_are_refused_before_anything_is_written():
    bad = [["--steps", "0"], ["--steps", "1.5"], ["--seed", "-1"], ["--processes", "0"], ["--ti"],
           ["--tiny", "--small"], ["--experiment", "cubic"]]
    for arguments in bad:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            main = lambda: sys.exit(train.main([*arguments, "--out", "nowhere"]))
            raises(SystemExit, main, "2")
        assert "error:" in err.getvalue().splitlines()[-1], arguments
    for arguments in (["--only", "nobody"], ["--experiment", "sine", "--only", "dense"]):
        with contextlib.redirect_stderr(io.StringIO()) as err:
            assert train.main(["--tiny", *arguments, "--out", "nowhere"]) == 2
        assert "no model" in err.getvalue(), err.getvalue()
    assert not Path("nowhere").exists()

def test_every_purpose_has_a_random_stream_of_its_own():
    make = lambda seed, name="sine": train.make_experiment(name, train.SIZES["tiny"], seed)
    first = [e.stream(*purpose).random(3).tobytes() for e, purpose in
             [(make(0), "a"), (make(1), "a"), (make(0, "sparse"), "a"), (make(0), "b"),
              (make(0), ("a", "b")), (make(0), ("a", "b", 1))]]
    assert len(set(first)) == 6

def run(words):
    """Run all tests, or those whose names hold one of the words; returns the exit status."""
    chosen = [word.lower().replace(" ", "_") for word in words or [""]]
    tests = {name[5:].replace("_", " "): test for name, test in globals().items()
             if name.startswith("test_") and any(word in name for word in chosen)}
    if not tests:
        sys.exit(f"no test's name holds {' or '.join(words)}")
    failed = 0
    for name, test in tests.items():
        NOTES.clear()
        verdict, begin = "ok", time.perf_counter()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                test(*[Path(folder)] * test.__code__.co_argcount)  # tmp_path, as pytest has it
            except (Exception, SystemExit):
                verdict, failed = "FAILED", failed + 1
                traceback.print_exc(limit=-2, file=sys.stdout, chain=False)
        seconds, figures = time.perf_counter() - begin, ", ".join(NOTES)
        print(f"{verdict:6} {seconds:5.2f} s  {name}{figures and ': ' + figures}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return int(failed > 0)

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
