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
import warnings
import xml.dom.minidom
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from unittest import mock

import numpy as np

import baselines
import icl
from tasks import ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, sample_prompts

try:
    import resource
except ImportError:  # on Windows
    resource = None

HERE = Path(__file__).resolve().parent
SLOW = bool(os.environ.get("ICL_SLOW"))  # more kills, in minutes
LINE, WAVE = DenseLinear(1), Sinusoid()
CLASSES = [DenseLinear(4), SparseLinear(4, 1), SparseLinear(4, 3), WAVE, Sinusoid(frequency=3.0),
           Mixture((DenseLinear(4), SparseLinear(4, 2))), Mixture((LINE, WAVE), (0.2, 0.8)),
           Mixture((ConvexCombination(DenseLinear(4), SparseLinear(4, 1), 1.0), DenseLinear(4)))]
NOTES = []  # of the test that runs

def note(figure):
    """Have the figure that was checked printed beside the test's name."""
    NOTES.append(figure)

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

def raises(kind, f, *words):
    """f() must raise `kind` with a message of one line that holds all the words."""
    try:
        f()
    except kind as e:
        assert "\n" not in str(e) and all(w in str(e) for w in words), f"{words} not in: {e}"
    else:
        raise AssertionError(f"accepted, though wrong: {words}")

@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)

# ------------------------------------------------------------------------------- the transformer

def test_gradient_of_linear():
    assert_operation(icl.linear, *normal((7, 3), (3, 4), 4))

def test_gradient_of_layernorm_and_its_mean_and_variance():
    assert_operation(icl.layernorm, *normal((5, 6), 6, 6))
    n, _ = icl.layernorm(5 + 3 * normal((9, 64))[0], np.ones(64), np.zeros(64))
    assert np.allclose(n.mean(1), 0, atol=1e-12) and np.allclose(n.var(1), 1, atol=1e-4)

def test_gradient_of_gelu_and_its_values_far_out():
    assert_operation(icl.gelu, 3 * normal((6, 5))[0])
    x = np.array([[-200.0, -30, -3, -1, 0, 0.5, 2, 30, 200]])
    y, backward = icl.gelu(x)
    assert np.allclose(y, gelu_formula(x), atol=1e-12)
    assert np.allclose(backward(np.ones_like(x))[0, [0, 1, 4, 7, 8]], [0, 0, 0.5, 1, 1])

def test_gradient_of_attention():
    assert_operation(lambda qkv: icl.attention(qkv, 2), *normal((2, 5, 12)))

def test_attention_is_its_formula_written_as_loops_and_finite_far_out():
    qkv, = normal((2, 5, 12))
    difference = abs(icl.attention(3 * qkv, 2)[0] - attention_in_loops(3 * qkv, 2)).max()
    note(f"difference {difference:.0e}")
    assert difference < 1e-13
    y, backward = icl.attention(np.float32(1e4 * qkv), 2)  # e to the power of such scores is inf
    assert np.isfinite(y).all() and np.isfinite(backward(np.ones_like(y))).all()

def test_gradient_of_every_block_and_the_whole_model_in_two_chunks_weighted_or_not():
    params, config, xs, ys = small_model()
    before = copy.deepcopy((params, xs, ys))
    for weights in (None, icl.loss_weights(xs, ys)):
        w = 1 if weights is None else weights
        f = lambda *arrays: np.mean(
            w * (icl.predict(dict(zip(params, arrays)), config, xs, ys) - ys) ** 2)
        loss, grads = icl.loss_and_grads(params, config, xs, ys, weights)
        assert np.isclose(loss, f(*params.values())) and grads.keys() == params.keys()
        assert_gradients(f, [grads[name] for name in params], list(params.values()))
    np.testing.assert_equal((params, xs, ys), before)

def attention_in_loops(qkv, n_head):
    (B, T, _), C = qkv.shape, qkv.shape[2] // 3
    y, D = np.zeros((B, T, C)), C // n_head
    for b, t, h in np.ndindex(B, T, n_head):
        q, k, v = (qkv[b, :, i + h * D:i + h * D + D] for i in (0, C, 2 * C))
        p = np.exp([q[t] @ k[j] / math.sqrt(D) for j in range(t + 1)])
        y[b, t, h * D:h * D + D] = sum(p[j] * v[j] for j in range(t + 1)) / p.sum()
    return y

def gelu_formula(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

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
        x = x + linear(gelu_formula(fc), f"{h}.mlp.c_proj")
    return linear(norm(x, "ln_f"), "read_out")[:, ::2, 0]

def test_predictions_are_those_of_gpt2_written_plainly_for_shorter_prompts_too():
    params, config, xs, ys = small_model()
    expected = gpt2(params, config, xs, ys)
    for n in (1, 3, 5):
        difference = abs(icl.predict(params, config, xs[:, :n], ys[:, :n]) - expected[:, :n]).max()
        assert difference < 1e-13, f"{n} points: {difference:.0e} off"
    note(f"difference {difference:.0e}")

def test_parameters_have_gpt2s_names_and_initial_values_of_the_right_deviations():
    fan_in = {"ln_1": 0, "attn.c_attn": 64, "attn.c_proj": 64 * 4, "ln_2": 0, "mlp.c_fc": 64,
              "mlp.c_proj": 256 * 4}  # 4 = 2 n_layer: the projections' deviations are smaller
    fan_in = {f"h.{i}.{name}": n for i in range(2) for name, n in fan_in.items()}
    fan_in |= {"wpe": 4, "read_in": 8, "ln_f": 0, "read_out": 64}
    params = icl.init_params(icl.Config(8, 40, n_layer=2, n_head=1, n_embd=64), rng())
    assert params.keys() | {"wpe.bias"} == {f"{n}.{s}" for n in fan_in for s in ("weight", "bias")}
    for name, p in params.items():
        n, margin = fan_in[name.rpartition(".")[0]], 4 / math.sqrt(p.size)
        if p.ndim == 1:
            assert (p == (n == 0 and name.endswith("weight"))).all(), name  # gains are 1, biases 0
        else:
            assert abs(p.std() * math.sqrt(n) - 1) < margin > abs(p.mean()), name
    assert not np.array_equal(params["h.0.mlp.c_fc.weight"], params["h.1.mlp.c_fc.weight"])
    correlation = np.corrcoef([part.ravel() for part in np.split(
        params["h.1.attn.c_attn.weight"], 3, axis=1)])  # of query, key, value
    assert np.allclose(correlation, [[1, -0.5, 0], [-0.5, 1, 0], [0, 0, 1]], atol=0.06)

def test_mask_changing_an_example_changes_no_prediction_before_it():
    params, config, xs, ys = small_model()
    before = icl.predict(params, config, xs, ys)
    for k in range(5):  # prediction k may use x_k, but neither y_k nor anything later
        later_xs, later_ys = xs + (np.arange(5) > k)[:, None], ys + (np.arange(5) >= k)
        same = icl.predict(params, config, later_xs, later_ys) == before
        assert same[:, :k + 1].all() and not same[:, k + 1:].any()

def test_interleave_lays_a_prompt_out_as_tokens_and_chunks_split_a_batch_in_order():
    xs, ys = np.array([[[1.0, 2], [3, 4], [5, 6]]]), np.array([[7.0, 8, 9]])
    assert np.array_equal(icl.interleave(xs, ys), [[[1, 2], [7, 0], [3, 4], [8, 0], [5, 6]]])
    for B, N, expected in ((111, 5, 2), (112, 5, 3), (1, 500, 1), (3, 500, 3), (64, 41, 11)):
        numbers = np.arange(B * N).reshape(B, N)
        parts = list(icl.chunks(numbers[..., None], numbers))
        assert len(parts) == expected and all(len(part[0]) == len(part[1]) for part in parts)
        assert np.array_equal(np.concatenate([part[1] for part in parts]), numbers)

def test_float32_in_float32_out():
    params, config, xs, ys = small_model(np.float32)
    predictions, backward = icl.transformer(params, config, xs, ys)
    outputs = [predictions, *backward(predictions).values(), icl.loss_weights(xs, ys)]
    assert {a.dtype for a in outputs} == {np.dtype(np.float32)}

def test_wrong_arrays_and_configs_are_refused_by_name_and_what_was_wrong():
    params, config, xs, ys = small_model()
    predictors = [lambda *p: icl.predict(params, config, *p), baselines.bayes(DenseLinear(3)),
                  lambda *p: icl.loss_and_grads(params, config, *p),
                  lambda *p: baselines.lasso(*p, 0.1), baselines.least_squares]
    cases = [(xs[0], ys, "xs must be (B, N", "(5, 3)"), (xs, ys[:, :3], "ys (B, N)", "(113, 3)"),
             (xs.astype("int64"), ys, "xs", "int64"), (xs.tolist(), ys, "xs", "list"),
             (xs, ys - math.inf, "ys", "finite", "inf"), (xs * math.nan, ys, "xs", "nan"),
             (xs[:0], ys[:0], "xs", "(0, 5, 3)"), (xs[:, :, :2], ys, "(B, N, 3)", "(113, 5, 2)")]
    for i, f in enumerate(predictors):
        for x, y, *words in cases if i < 3 else cases[:-1]:  # the last two take any dimension
            raises(ValueError, lambda: f(x, y), *words)
    longer = np.tile(xs, (1, 2, 1)), np.tile(ys, (1, 2))
    raises(ValueError, lambda: predictors[0](*longer), "xs", "at most 5", "(113, 10, 3)")
    raises(ValueError, lambda: icl.loss_and_grads(params, config, xs, ys, ys[0]), "weights", "(5,)")
    for bad in (dict(n_layer=0), dict(n_head=3), dict(n_embd=2.0), dict(n_head=True)):
        raises(ValueError, lambda: icl.Config(3, 5, **bad), *bad, repr(*bad.values()))

def test_importing_icl_changes_no_environment_variable_and_starts_no_thread():
    code = ("import os, threading, numpy; before = dict(os.environ); import icl; "
            "assert dict(os.environ) == before and threading.active_count() == 1")
    bare = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", code], cwd=HERE, env=bare, check=True)

# ------------------------------------------------------------------------------------- training

def test_loss_weights_are_their_formula_which_sees_only_what_the_prediction_may():
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
    s = np.linalg.svd(icl.orthogonalise(*normal((48, 16))))[1]
    assert 0.35 < s.min() and s.max() < 1.5

def test_gradients_that_are_not_finite_change_nothing():
    params, config, xs, ys = small_model(np.float32)
    for optimizer in (icl.Adam(params, 0.01), icl.Muon(params, 0.01, 0.01)):
        icl.train_step(params, config, optimizer, xs, ys)
        before = copy.deepcopy((params, optimizer.state))
        for name in ("h.0.mlp.c_fc.weight", "read_in.bias"):
            grads = {n: np.full_like(p, np.nan if n == name else 1) for n, p in params.items()}
            raises(FloatingPointError, lambda: optimizer.update(params, grads), "nan")
        nan = np.full_like(ys, np.nan)  # as weights
        raises(FloatingPointError, lambda: icl.train_step(params, config, optimizer, xs, ys, nan))
        np.testing.assert_equal((params, optimizer.state), before)

def test_a_short_training_clearly_beats_predicting_zero():
    config = icl.Config(n_dims=2, n_points=6, n_layer=2, n_head=2, n_embd=32)
    params, r = icl.init_params(config, rng()), rng(1)
    optimizer = icl.Muon(params, 3e-3, 1e-2, clip=1.0)
    for _ in range(250):
        icl.train_step(params, config, optimizer, *sample_prompts(DenseLinear(2), r, 64, 6))
    xs, ys = sample_prompts(DenseLinear(2), rng(2), 1000, 6)
    error = errors(lambda *prompt: icl.predict(params, config, *prompt), xs, ys)[:, -1].mean()
    note(f"error {error:.2f} after 5 examples")
    assert error < 0.5 * np.mean(ys[:, -1] ** 2)

# for the section on the transformer, and on training

def test_gradient_of_a_block_at_every_token_and_at_every_second():
    params, config, _, _ = small_model()
    for stride in (1, 2):
        def block(x):
            y, backward = icl.block(x, params, "h.1", config, stride)
            return y, lambda dy: backward(dy, {})
        assert_operation(block, *normal((2, 5, 4)))

def test_no_prediction_exceeds_what_the_final_layernorm_allows():
    params, config, xs, ys = small_model()
    w = params["ln_f.weight"] * params["read_out.weight"][:, 0]  # meets a vector of mean 0 and
    shift = params["ln_f.bias"] @ params["read_out.weight"] + params["read_out.bias"]  # length 2
    bound = 2 * np.linalg.norm(w - w.mean()) + abs(shift[0])
    largest = max(abs(icl.predict(params, config, u * xs, u * ys)).max() for u in (1, 30, 1000))
    note(f"{largest:.3f} of {bound:.3f}")
    assert 0.5 * bound < largest < bound

# ------------------------------------------------------------------------------------- the tasks

def test_inputs_are_normal_and_functions_have_variance_one_the_same_for_the_same_seed():
    combinations = [ConvexCombination(LINE, WAVE, w) for w in (0.0, 0.3, 1.0)]
    for c in [*CLASSES[:-1], Sinusoid(9.0, 0.1), SparseLinear(20, 2), *combinations]:
        (xs, ys), again, other = (sample_prompts(c, rng(seed), 20_000, 3) for seed in (0, 0, 1))
        np.testing.assert_equal(again, (xs, ys))
        assert xs.dtype == ys.dtype == np.float32 and not np.array_equal(other[1], ys)
        flat = xs.reshape(20_000, 3 * c.n_dims)
        assert abs(flat.mean(0)).max() < 0.04
        assert np.allclose(np.cov(flat.T), np.eye(3 * c.n_dims), atol=0.06)
        variance = c.weight**2 + (1 - c.weight) ** 2 if c in combinations else 1
        squares = (ys**2).mean(1)
        assert abs(ys.mean()) < 0.02, c
        assert abs(squares.mean() - variance) < 4 * squares.std() / math.sqrt(20_000), c

def test_sparse_functions_have_nnz_coefficients_anywhere_and_mixtures_their_shares():
    units = np.tile(np.eye(6), (5000, 1, 1))  # f of the unit vectors is w
    w = SparseLinear(6, 2).sample(rng(), 5000)(units)
    assert np.all((w != 0).sum(1) == 2) and np.allclose((w != 0).mean(0), 2 / 6, atol=0.04)
    w = Mixture((DenseLinear(6), SparseLinear(6, 1)), (0.2, 0.8)).sample(rng(), 5000)(units)
    counts = (w != 0).sum(1)
    assert set(counts) == {1, 6} and abs(np.mean(counts == 1) - 0.8) < 0.03

def test_sinusoids_have_frequencies_of_their_law():
    omega = np.linspace(0.005, 40, 8000)
    share = WAVE.density(omega) * 0.005
    assert abs(share.sum() - 1) < 1e-3 and abs((omega * share).sum() - 1.5) < 1e-2
    for w, above in ((3, 0.02), (5, 7e-5), (8, 4e-9)):  # as Sinusoid says it
        assert abs(share[omega > w].sum() / above - 1) < 0.1
    # The slope of f at x = 0 is omega a: its mean square is E[omega^2] = 6 * 7 / 16.
    left, right = WAVE.sample(rng(), 50_000)(np.tile([[-1e-3], [1e-3]], (50_000, 1, 1))).T
    assert abs(np.mean(((right - left) / 2e-3) ** 2) / (6 * 7 / 16) - 1) < 0.05

def test_impossible_classes_are_refused_by_name():
    for code, words in {
            "DenseLinear(0)": "n_dims 0", "DenseLinear(2.5)": "n_dims 2.5",
            "SparseLinear(5, 0)": "nnz 1 5 0", "SparseLinear(5, 6)": "nnz 1 5 6",
            "Sinusoid(scale=-1.0)": "scale -1", "Sinusoid(frequency=0.0)": "frequency 0",
            "Mixture(())": "components", "Mixture((LINE, DenseLinear(2)))": "dimension [1, 2]",
            "Mixture((LINE, WAVE), (0.5, 0.6))": "weights 0.6",
            "Mixture((LINE, WAVE), (1.5, -0.5))": "weights -0.5",
            "Mixture((LINE, WAVE), (1.0,))": "weights 2",
            "Mixture((LINE, WAVE), (math.nan, 1.0))": "weights nan",
            "ConvexCombination(LINE, WAVE, 1.1)": "weight [0, 1] 1.1",
            "ConvexCombination(LINE, DenseLinear(2), 0.5)": "dimension [1, 2]",
            "sample_prompts(LINE, rng(), 0, 3)": "batch_size 0",
            "SparseLinear(40, 20).hypotheses()": "supports"}.items():
        raises(ValueError, lambda: eval(code), *words.split())

# ----------------------------------------------------------------------------------- checkpoints

def saved(path):
    """A small model after a training step, its optimiser and prompts; its checkpoint is in path."""
    params, config, xs, ys = small_model(np.float32)
    optimizer = icl.Muon(params, 0.01, 0.01)
    icl.train_step(params, config, optimizer, xs, ys)
    icl.save_checkpoint(path, params, config, optimizer, rng=rng(7).bit_generator.state, log=[1.5])
    return params, config, optimizer, xs, ys

def test_a_checkpoint_brings_back_every_bit_and_training_goes_on_the_same():
    with scratch() as folder:
        params, config, optimizer, xs, ys = saved(folder / "a.npz")
        fresh = icl.Muon(params, 0.01, 0.01)
        loaded, loaded_config, extra = icl.load_checkpoint(folder / "a.npz", fresh)
        assert loaded_config == config and os.listdir(folder) == ["a.npz"]
        assert extra == {"rng": rng(7).bit_generator.state, "log": [1.5]}
        for p, o in ((params, optimizer), (loaded, fresh)):
            icl.train_step(p, config, o, xs, ys)
        np.testing.assert_equal((loaded, fresh.state), (params, optimizer.state))
        assert fresh.state["t"] == 2

def damaged(good):
    """Pairs: what is wrong with a checkpoint, and the contents of such a file."""
    def packed(changes, save=np.savez):
        file = io.BytesIO()
        save(file, **{name: a for name, a in (arrays | changes).items() if a is not None})
        return file.getvalue()

    arrays, some, npy = dict(np.load(io.BytesIO(good))), "params/read_in.weight", io.BytesIO()
    np.save(npy, np.ones(3))
    code = type("Code", (), {"__reduce__": lambda self: (sys.exit, ("a pickle ran code",))})()
    bomb = packed({"more": np.zeros(10**6)}, np.savez_compressed)
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7\nsize 9\n"
    for content in [b"some text", b"<!DOCTYPE html>\n<html></html>", lfs, b"", npy.getvalue(), bomb,
                    good[:len(good) // 2], b"<!DOCTYPE html>" + good]:
        yield content[:30], content
    for old, new in [("1.5", "NaN"), ("1.5", "Infinity"), ("1.5", "1e999"), ("{", ""),
                     ('"format": 1', '"format": 2'), ('"extra": ', '"extra": 0, "more": '),
                     ('"n_layer": 2', '"n_layer": -2'), ('"n_layer": 2', '"n_layer": 1000000000')]:
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

def test_a_checkpoint_with_any_damage_is_refused_whole_in_one_line_or_holds_the_same_numbers():
    with scratch() as folder:
        path, refused = folder / "a.npz", []
        params, config, optimizer, _, _ = saved(path)
        for what, content in damaged(path.read_bytes()):
            path.write_bytes(content)
            fresh = icl.Muon(params, 0.01, 0.01)
            try:
                loaded = icl.load_checkpoint(path, fresh)[:2]
            except icl.Refused as e:
                refused.append(what)
                assert f"{path} is not a checkpoint" in str(e), f"{what}: {e}"
                assert "\n" not in str(e) and "unsafe" not in str(e), f"{what}: {e}"
                np.testing.assert_equal(fresh.state, icl.Muon(params, 0.01, 0.01).state)
            else:
                assert what == "one bit", f"accepted: {what}"
                np.testing.assert_equal((loaded, fresh.state), ((params, config), optimizer.state))
        note(f"{len(refused)} refused, {refused.count('one bit')} of them for one bit of 60")
        assert refused.count("one bit") > 20

def test_save_checkpoint_refuses_what_load_checkpoint_would_and_writes_all_or_nothing():
    with scratch() as folder:
        params, config, *_ = saved(folder / "old.npz")
        before, p = (folder / "old.npz").read_bytes(), params["read_in.weight"]
        wrong = [p * np.float32(np.nan), p.T, p.astype(np.float64)]
        wrong = [params | {"read_in.weight": bad} for bad in wrong] + [{"read_in.weight": p}]
        for path in (folder / "old.npz", folder / "new.npz"):
            save = lambda params=params, **extra: icl.save_checkpoint(path, params, config, **extra)
            for bad in wrong:
                raises((ValueError, KeyError), lambda: save(bad))
            for bad in (math.nan, {1, 2}):
                raises((ValueError, TypeError), lambda: save(log=bad))
            for step in ("fsync", "replace"):
                for error in (OSError(28, "No space left"), KeyboardInterrupt(f"{path}: No space")):
                    with mock.patch.object(os, step, side_effect=error):
                        raises(type(error), save, str(path), "No space")
        assert os.listdir(folder) == ["old.npz"] and (folder / "old.npz").read_bytes() == before

def test_the_committed_models_are_finished_runs_of_the_small_size_and_predict_well():
    for name in ("sparse", "sine"):
        e = train.make_experiment(name, train.SIZES["small"])
        assert all(run.finished() for run in train.runs_of(e, HERE / "results/small"))
    dense, sparse = DenseLinear(8), SparseLinear(8, 1)
    for name, f in {"sparse/dense": dense, "sparse/sparse": sparse, "sparse/mixture": sparse,
                    "sine/linear": LINE, "sine/sinusoid": WAVE, "sine/mixture": WAVE}.items():
        params, config, _ = icl.load_checkpoint(HERE / "results" / "small" / f"{name}.npz")
        xs, ys = sample_prompts(f, rng(), 200, config.n_points)
        error = errors(lambda *prompt: icl.predict(params, config, *prompt), xs, ys)[:, -1].mean()
        note(f"{name} {error:.3f}")
        assert error < 0.1, name

# ---------------------------------------------------------------------------------- the baselines

def test_least_squares_is_numpys_lstsq_on_every_prefix():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 20, 9)
    xs, ys = xs.astype(float), ys + rng(1).standard_normal(ys.shape)  # with noise: no w fits
    predictions = baselines.least_squares(xs, ys)
    for b in range(20):
        for k in range(1, 9):
            w = np.linalg.lstsq(xs[b, :k], ys[b, :k], rcond=None)[0]
            assert np.isclose(predictions[b, k], xs[b, k] @ w, atol=1e-6)

def lasso_weights(xs, ys, alpha):
    """The Lasso's w after all examples, read off its predictions at the unit vectors: (B, d)."""
    (B, k, d), unit = xs.shape, np.eye(xs.shape[2])
    prompts = [np.concatenate([xs, np.tile(e, (B, 1, 1))], axis=1) for e in unit]
    labels = np.tile(np.pad(ys, ((0, 0), (0, 1))), (d, 1))
    return baselines.lasso(np.concatenate(prompts), labels, alpha)[:, k].reshape(d, B).T

def test_lasso_meets_its_optimality_conditions_at_the_papers_dimension():
    xs, ys = map(np.float64, sample_prompts(SparseLinear(20, 2), rng(), 6, 40))
    ys += 0.1 * rng(1).standard_normal(ys.shape)
    for alpha in (0.03, 0.3):
        for k in (1, 10, 40):
            w = lasso_weights(xs[:, :k], ys[:, :k], alpha)
            residual = ys[:, :k] - np.einsum("bnd,bd->bn", xs[:, :k], w)
            pull = np.einsum("bnd,bn->bd", xs[:, :k], residual) / k
            zero = np.abs(w) < 1e-9
            assert np.all(np.abs(pull)[zero] <= alpha + 1e-4)  # |X^T e| / n <= alpha
            assert np.allclose(pull[~zero], alpha * np.sign(w[~zero]), atol=1e-4)

def test_lasso_gives_all_the_weight_to_the_slightly_larger_of_two_inputs():
    for larger in (1.01, 1.0001):  # plain sweeps would take some 10,000 to get there
        w = lasso_weights(np.array([[[1, larger]]]), np.array([[2.0]]), 0.03)
        assert np.allclose(w, [0, (2 * larger - 0.03) / larger**2], atol=1e-4), w

def test_lasso_of_orthogonal_inputs_is_soft_thresholding():
    xs, ys = 2.0 * np.eye(4)[None], np.array([[4.0, -1.0, 0.2, 0.0]])
    w = lasso_weights(xs, ys, 0.25)  # G = I, X^T y / n = y / 2
    assert np.allclose(w, np.sign(ys) * np.maximum(np.abs(ys / 2) - 0.25, 0), atol=1e-6)

def test_lasso_predicts_the_same_in_any_unit_of_the_inputs():
    xs, ys = sample_prompts(SparseLinear(4, 1), rng(), 50, 7)
    at_home = baselines.lasso(xs, ys, 0.1)
    for unit in (1e-6, 1e-3, 1e3):
        assert np.allclose(baselines.lasso(unit * xs, ys, 0.1 * unit), at_home, atol=1e-5)

def test_lasso_takes_an_alpha_for_each_number_of_examples():
    xs, ys = sample_prompts(SparseLinear(5, 1), rng(), 30, 8)
    alphas = np.geomspace(0.03, 1, 8)
    each = baselines.lasso(xs, ys, alphas)
    for k in (2, 5, 7):
        assert np.allclose(each[:, k], baselines.lasso(xs, ys, alphas[k])[:, k], atol=1e-5)
    for bad in (-1.0, 0.0, math.nan, math.inf, alphas[:7], -alphas):
        raises(ValueError, lambda: baselines.lasso(xs, ys, bad), "alpha", "8 of them")

def test_lasso_is_tuned_to_the_best_of_its_alphas():
    alphas = baselines.tune_lasso(SparseLinear(5, 1), rng(), 9, alphas=(0.03, 3.0))
    assert np.all(alphas[2:] == 0.03)  # 3 shrinks nearly all weights to zero
    xs, ys = sample_prompts(DenseLinear(5), rng(), 40, 9)
    grid = (0.03, 0.1, 0.3, 1.0, 3.0)
    means = [errors(lambda xs, ys: baselines.lasso(xs, ys, a), xs, ys).mean(0) for a in grid]
    tuned = baselines.tune_lasso(DenseLinear(5), rng(), 9, 40)
    assert np.array_equal(tuned, np.array(grid)[np.argmin(means, axis=0)])

def test_bayes_of_the_dense_class_is_least_squares():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 200, 10)
    a, b = baselines.bayes(DenseLinear(4))(xs, ys), baselines.least_squares(xs, ys)
    # but for the few X that are nearly singular beside the noise floor
    agree = np.abs(a - b) < 1e-3
    assert agree.mean() > 0.98 and agree[:, 6:].all()

def brute_force(hypotheses, xs, ys, noise):
    """Posterior mean by one Gaussian solve per hypothesis, prefix and prompt.

    hypotheses: (prior, features of x (N, d) -> (N, F)) pairs with unit prior covariance.
    """
    predictions = np.zeros(ys.shape)
    for b in range(len(xs)):
        for k in range(ys.shape[1]):
            scores, means = [], []
            for prior, features in hypotheses:
                phi, y = features(xs[b, :k + 1]), ys[b, :k]
                K = phi @ phi.T
                S = K[:k, :k] + noise * np.eye(k)
                means.append(K[k, :k] @ np.linalg.solve(S, y))
                misfit = y @ np.linalg.solve(S, y) + np.linalg.slogdet(S)[1]
                scores.append(math.log(prior) - misfit / 2)
            weights = np.exp(np.array(scores) - max(scores))
            predictions[b, k] = weights @ means / weights.sum()
    return predictions

def sparse_hypotheses(d, nnz, share=1.0):
    supports = list(combinations(range(d), nnz))
    return [(share / len(supports), lambda x, s=s: x[:, s] / math.sqrt(nnz)) for s in supports]

def test_bayes_is_brute_force_over_hypotheses_whatever_label_noise_it_believes_in():
    mixture = Mixture((DenseLinear(4), SparseLinear(4, 1)), (0.3, 0.7))
    union = [(0.3, lambda x: x / 2)] + sparse_hypotheses(4, 1, 0.7)
    waves = WAVE.hypotheses()[0]  # with a noise of their own, to which the labels' is added
    wavy = [(p, lambda x, i=i: waves.features(x)[:, i].T) for i, p in enumerate(waves.prior)
            if p > 1e-12]
    for c, hypotheses, floor in ((SparseLinear(5, 2), sparse_hypotheses(5, 2), 1e-10),
                                 (mixture, union, 1e-10), (WAVE, wavy, waves.noise)):
        for s in (0, 0.02, 0.3):
            xs, ys = map(np.float64, sample_prompts(c, rng(), 5, 7))
            ys += s * rng(1).standard_normal(ys.shape)
            slow, close = brute_force(hypotheses, xs, ys, floor + s * s), 1e-6 if s else 1e-4
            assert np.allclose(baselines.bayes(c, s)(xs, ys), slow, atol=close), (c, s)

def test_bayes_of_a_combination_is_brute_force_over_the_pairs():
    c = ConvexCombination(DenseLinear(3), SparseLinear(3, 1), 0.4)
    xs, ys = map(np.float64, sample_prompts(c, rng(), 12, 7))
    pairs = [(p, lambda x, f=f: np.concatenate([0.4 * x / math.sqrt(3), 0.6 * f(x)], axis=1))
             for p, f in sparse_hypotheses(3, 1)]
    assert np.allclose(baselines.bayes(c)(xs, ys), brute_force(pairs, xs, ys, 0.52e-10), atol=1e-4)

def test_no_predictor_beats_bayes_on_its_own_class_beyond_noise():
    for c in (DenseLinear(4), SparseLinear(4, 1), CLASSES[5]):
        xs, ys = sample_prompts(c, rng(), 1000, 9)
        optimum = errors(baselines.bayes(c), xs, ys)
        others = [baselines.least_squares, lambda xs, ys: baselines.lasso(xs, ys, 0.05),
                  baselines.bayes(DenseLinear(4)), baselines.bayes(SparseLinear(4, 1)),
                  baselines.bayes(SparseLinear(4, 2)), lambda xs, ys: 0 * ys]
        for other in others:
            gain = optimum - errors(other, xs, ys)
            assert np.all(gain.mean(0) < 4 * gain.std(0) / math.sqrt(1000) + 1e-4), c
    for c in (WAVE, Mixture((LINE, WAVE)), ConvexCombination(LINE, WAVE, 0.5)):
        xs, ys = sample_prompts(c, rng(), 500, 12)
        optimum = errors(baselines.bayes(c), xs, ys)
        for other in (baselines.least_squares, baselines.bayes(LINE), baselines.bayes(WAVE)):
            gain = optimum - errors(other, xs, ys)
            assert np.all(gain.mean(0) < 4 * gain.std(0) / math.sqrt(500) + 1e-3), c

def test_class_probabilities_start_at_the_weights_and_find_the_class():
    classes = (DenseLinear(4), SparseLinear(4, 1))
    mixture = Mixture(classes, (0.3, 0.7))
    for i, c in enumerate(classes):
        p = baselines.class_probabilities(mixture)(*sample_prompts(c, rng(), 200, 8))
        assert np.allclose(p.sum(2), 1) and np.allclose(p[:, 0], [0.3, 0.7])
        assert p[:, -1, i].mean() > 0.999

def test_bayes_that_believes_in_label_noise_is_ridge_regression_on_dense_functions():
    xs, ys = map(np.float64, sample_prompts(DenseLinear(4), rng(), 20, 7))
    ys += rng(1).standard_normal(ys.shape) / 2
    predictions = baselines.bayes(DenseLinear(4), 0.3)(xs, ys)
    for k in range(1, 7):
        X, y = xs[:, :k], ys[:, :k, None]  # penalty: 0.3^2 over the prior variance 1/4
        w = np.linalg.solve(X.swapaxes(1, 2) @ X + 0.36 * np.eye(4), X.swapaxes(1, 2) @ y)
        assert np.allclose(predictions[:, k], (xs[:, k, None] @ w)[:, 0, 0], atol=1e-6)

def test_an_impossible_label_noise_is_refused_by_name():
    for s in (-0.1, math.nan, math.inf, -math.inf, 1e200):  # 1e200 squared is infinite
        for f in (baselines.bayes, baselines.class_probabilities):
            raises(ValueError, lambda: f(Mixture((LINE, WAVE)), s), "label_noise", f"not {s}")

def test_predictions_are_finite_in_any_unit():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for c in (CLASSES[1], CLASSES[5], CLASSES[6], DenseLinear(20)):
            xs, ys = sample_prompts(c, rng(), 8, 12)
            predictors = [baselines.bayes(c), baselines.bayes(c, 0.05), baselines.least_squares]
            if c == CLASSES[1]:  # after two examples: any more, and tiny alphas take seconds
                predictors.append(lambda xs, ys: baselines.lasso(xs[:, :3], ys[:, :3], 0.1))
            if isinstance(c, Mixture):
                predictors.append(baselines.class_probabilities(c))
            for unit in np.float32([1e-30, 1e-6, 1e15, 1e30]):
                for prompts in ((unit * xs, ys), (xs, unit * ys), (unit * xs, unit * ys)):
                    assert all(np.isfinite(p(*prompts)).all() for p in predictors), (c, unit)

def test_every_baseline_is_causal():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 5, 7)
    x2, y2 = xs.copy(), ys.copy()
    x2[:, 4:] += 1
    y2[:, 3:] += 1
    for p in (baselines.least_squares, lambda xs, ys: baselines.lasso(xs, ys, 0.1),
              *(baselines.bayes(c, s) for c in CLASSES if c.n_dims == 4 for s in (0, 0.1))):
        assert np.allclose(p(xs, ys)[:, :4], p(x2, y2)[:, :4])

# ------------------------------------------------------------------------- effective label noise

def noisy_learner(c, s, seed=99):
    """The ideal learner as a predictor, which reads labels with noise that it draws itself."""
    return lambda xs, ys: baselines.bayes(c, s)(xs, ys + s * rng(seed).standard_normal(ys.shape))

def test_effective_noise_of_a_noisy_learner_is_its_noise():
    dense, sparse = DenseLinear(8), SparseLinear(8, 1)
    linear = [(c, 11, 1000, s) for c in (dense, sparse, Mixture((dense, sparse)))
              for s in (0.01, 0.05, 0.2, 0.5)]
    missed = []
    wavy = [(Mixture((LINE, WAVE)), 11, 150, s) for s in (0.01, 0.05, 0.2, 0.5)]
    for c, n_points, n_prompts, s in linear + wavy:
        value, (low, high), curve = baselines.effective_noise(
            noisy_learner(c, s), c, rng(), n_points, n_prompts)
        assert low <= value <= high and curve.shape == (n_points,)
        assert c.n_dims == 1 or abs(value / s - 1) < 0.5, (c, s, value)
        if not low <= s <= high:
            missed.append((c, s, low, high))
    assert len(missed) <= 1, missed  # 95% of intervals hold s

def test_effective_noise_of_the_optimum_is_zero_and_of_a_useless_predictor_beyond_the_grid():
    for c, n_prompts in ((DenseLinear(8), 1000), (WAVE, 60)):  # on these waves, noise helps a bit
        optimum = baselines.bayes(c)
        value, (low, high), curve = baselines.effective_noise(optimum, c, rng(6), 11, n_prompts)
        xs, ys = sample_prompts(c, rng(6), n_prompts, 11)
        assert value == low == 0 and np.allclose(curve, errors(optimum, xs, ys).mean(0))
    value, interval, _ = baselines.effective_noise(baselines.least_squares, DenseLinear(8), rng(),
                                                   11)
    assert value <= interval[1] <= 0.002
    value, interval, curve = baselines.effective_noise(lambda xs, ys: 0 * ys, DenseLinear(4),
                                                       rng(), 9, 300)
    assert value == interval[0] == interval[1] == math.inf and np.isfinite(curve).all()

# ------------------------------------------------------------------- what a claim is made of

def test_a_measure_holds_only_where_its_whole_interval_is_within_the_bound():
    verdict = lambda value, **bound: train.Measure("", value, 0.1, **bound).verdict
    assert verdict(1.0, at_most=1.2) == verdict(1.0, at_least=0.8) == "holds"
    assert verdict(1.0, at_most=1.05) == verdict(1.0, at_least=0.95) == "undecided"
    assert verdict(1.0, at_most=0.8) == verdict(1.0, at_least=1.2) == "does not hold"
    assert verdict(1.0) == "measured" and verdict(math.nan, at_most=1) == "undecided"

def test_a_claim_is_as_good_as_its_worst_measure_and_not_yet_only_where_small_shows_it():
    holds, fails = train.Measure("a", 1, 0.1, at_most=2), train.Measure("b", 1, 0.1, at_least=2)
    noted = train.Measure("c", 1, 0.1)
    assert train.Claim("", [noted, holds]).verdict(False) == "holds"
    claim = train.Claim("", [noted, holds, fails])
    assert claim.decisive is fails and claim.verdict(True) == "does not hold"
    assert train.Claim("", [fails], True).verdict(True) == "not yet"
    assert train.Claim("", [fails], True).verdict(False) == "does not hold"

def test_the_interval_of_a_ratio_covers_the_truth_in_95_of_100_samples():
    r, hits = rng(), []
    for _ in range(400):
        z = r.exponential(1, 400)
        m = train.ratio("", 2 * z + r.exponential(1, 400), z + r.exponential(1, 400))
        hits.append(abs(m.value - 1.5) < m.margin)
    note(f"{np.mean(hits):.1%}")
    assert 0.92 < np.mean(hits) < 0.98

def test_the_interval_of_the_farthest_of_ten_holds_for_all_ten_at_once():
    r = rng()
    alarms = [train.farthest("", r.standard_normal((100, 10)), at_most=0).verdict == "does not hold"
              for _ in range(400)]
    note(f"{np.mean(alarms):.1%} false alarms")
    assert 0.02 < np.mean(alarms) < 0.09  # 5% on either side, of which one is looked at twice

def experiment(name, models, size=train.SIZES["tiny"], prompts=500):
    """An experiment as if these predictors were its trained models."""
    e = train.make_experiment(name, replace(size, prompts=prompts))
    models = models(e) if callable(models) else models
    return replace(e, models=models, noise={m: (0.0, (0, 0)) for m in e.pretraining})

def test_the_selection_weight_of_a_perfect_learner_is_the_posterior_and_of_a_specialist_0_or_1():
    e = experiment("sparse", {})
    for learner, weight in ((e.mixture, None), (e.classes["dense"], 0), (e.classes["sparse"], 1)):
        e.models["mixture"] = baselines.bayes(learner)
        figure, = train.selection(e, "dense", "sparse")
        for label in e.classes:
            ours = figure.mean(("mixture model", f"{label} functions"))
            exact = figure.mean(("mixture posterior", f"{label} functions"))
            assert np.allclose(ours, exact if weight is None else weight + 0 * exact, atol=1e-6,
                               equal_nan=True)
    assert exact[0] > 0.5 and exact[1] > 0.99  # on sparse functions, after 1 and 2 examples

def test_claims_read_off_figures_of_perfect_learners_hold_and_of_a_constant_do_not():
    perfect = lambda e: {m: baselines.bayes(c) for m, c in e.pretraining.items()}
    for name, job, prompts in (("sparse", (train.icl_curve, "sparse", "dense"), 1000),
                               ("sine", (train.weights,), 200)):
        e = experiment(name, perfect, train.SIZES["small"], prompts)
        for figure in job[0](e, *job[1:]):
            verdicts = {c.text: c.verdict(False) for c in figure.claims}
            assert set(verdicts.values()) == {"holds"}, verdicts
    zero = {m: lambda xs, ys: 0 * ys for m in ("dense", "sparse", "mixture")}
    figure, = train.icl_curve(experiment("sparse", zero), "sparse", "dense")
    assert figure.claims[0].verdict(False) == "does not hold"
    assert abs(figure.mean(("mixture model", "sparse"))[-1] - 1) < 0.3

# -------------------------------------------------------------------------------------- the runs

SMALL = ("size = train.SIZES['tiny']; train.SIZES['tiny'] = dataclasses.replace(size, n_layer=1, "
         "n_head=1, n_embd=8, batch=8, sparse_points=5, prompts=8); ")

def start(*arguments, before="pass", save_seconds=30, **options):
    """train.py at a size that takes seconds, in a process group of its own."""
    code = (f"import dataclasses, sys, train\nif __name__ == '__main__':\n {SMALL}"
            f"train.SAVE_SECONDS = {save_seconds}; {before}; sys.exit(train.main())")
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | options
    return subprocess.Popen([sys.executable, "-u", "-c", code, "--tiny", "--experiment", "sparse",
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
    files = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*")
             if p.suffix in (".csv", ".svg")}
    for path in folder.rglob("*.npz"):
        params = icl.load_checkpoint(path)[0]
        files[path.relative_to(folder)] = b"".join(p.tobytes() for p in params.values())
    return files

def test_the_command_trains_evaluates_and_shows_and_the_same_command_again_changes_nothing():
    with scratch() as folder:
        arguments = "--steps", 5, "--out", folder / "a"
        status, out, err = command(*arguments)
        assert status == 0 and not err, err
        names = {str(name) for name in contents(folder / "a")}
        assert {"results.csv", "sparse-icl-dense.svg", "sparse-nnz.svg", "sparse/dense.csv",
                "sparse-nnz-distance.svg", "sparse-selection.svg", "sparse/mixture.npz"} <= names
        for path in (folder / "a").glob("*.svg"):
            xml.dom.minidom.parse(str(path))
        page = html.unescape((folder / "a/report.html").read_text())
        rows = (folder / "a/results.csv").read_text()
        assert page.count("<svg") == 5 and "http" not in page.replace("http://www.w3.org/2000", "")
        claims = re.findall(r"^\[(.+?)\] sparse: (.+)$", (folder / "a/run.txt").read_text(), re.M)
        assert len(claims) == 12 and all(text in page and text in out for _, text in claims), out
        assert {row.split(",")[2] for row in rows.splitlines()[1:]} >= {
            "dense model", "mixture model", "least squares", "Lasso", train.MIXED, train.OWN}
        before = contents(folder / "a")
        status, out, _ = command(*arguments)
        assert status == 0 and "training" not in out and contents(folder / "a") == before

def wait_for(process, words):
    """Read what it prints until a line holds the words."""
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(process.stderr.read())

def test_killed_in_training_and_in_evaluation_or_not_on_1_2_or_6_processes_the_bits_are_the_same():
    with scratch() as folder:
        arguments = "--steps", 5000 if SLOW else 600, "--seed", 1  # more than the kills allow
        assert command(*arguments, "--processes", 6, "--out", folder / "calm")[0] == 0
        for i, seconds in enumerate(rng().uniform(0.3, 1.5, 12 if SLOW else 3)):
            p = start(*arguments, "--processes", 1 + i % 2, "--out", folder / "storm",
                      save_seconds=0)
            wait_for(p, "training")
            time.sleep(seconds)
            p.kill()
            p.communicate()  # its pipes close once its last child is gone: none is left behind
            assert not (folder / "storm/report.html").exists()
        p = start(*arguments, "--out", folder / "storm", before="train.show = lambda *a: 1 / 0")
        p.communicate()  # evaluated, but gone before anything was written of it
        assert not (folder / "storm/results.csv").exists()
        assert command(*arguments, "--out", folder / "storm")[0] == 0
        assert contents(folder / "calm") == contents(folder / "storm")

def test_ctrl_c_ends_all_processes_says_how_to_go_on_in_one_line_and_keeps_the_checkpoints():
    with scratch() as folder:
        p = start("--steps", 10**5, "--out", folder, save_seconds=0)
        wait_for(p, "training")
        while not all((folder / f"sparse/{m}.npz").exists() for m in ("mixture", "dense")):
            time.sleep(0.05)
        time.sleep(0.5)
        for _ in range(2):  # as a terminal does: to every process of it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(p.pid, signal.SIGINT)
            time.sleep(0.01)
        _, err = p.communicate(timeout=30)
        assert p.returncode == 130 and len(err.strip().splitlines()) == 1, err
        assert "the same command goes on" in err
        for m in ("mixture", "dense"):
            assert icl.load_checkpoint(folder / f"sparse/{m}.npz")[2]["step"] > 0

def test_when_one_training_process_is_killed_the_others_end_and_the_exit_status_is_2():
    if not Path("/proc/self/task").exists():
        return  # no way to find the processes there
    with scratch() as folder:
        p = start("--steps", 10**5, "--out", folder)
        wait_for(p, "training")
        while not (folder / "sparse/dense.npz").exists():
            time.sleep(0.05)
        born = Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()
        os.kill(int(born[-1]), signal.SIGKILL)
        out, err = p.communicate(timeout=30)
        assert_refused((p.returncode, out, err), "exit code -9", "the same command goes on")

def test_a_closed_or_broken_stdout_neither_stops_nor_hangs_a_run_nor_shows_a_traceback():
    with scratch() as folder:
        for name in ("broken", "closed"):
            arguments = "--only", "dense", "--steps", 300, "--out", folder / name
            if name == "broken":
                p = start(*arguments)
                p.stdout.readline()
                p.stdout.close()  # as `| head -1` does
                err = p.stderr.read()
            else:
                p = start(*arguments, stdout=None, preexec_fn=lambda: os.close(1))
                err = p.communicate(timeout=60)[1]
            assert p.wait(timeout=60) == 0 and not err, err
            assert icl.load_checkpoint(folder / name / "sparse/dense.npz")[2]["step"] == 300
        status, out, err = command("--steps", 300, "--out", folder / "closed",
                                   env=os.environ | {"PYTHONIOENCODING": "ascii"})
        assert status == 0 and not err and "training sparse/sparse, sparse/mixture" in out

def test_one_model_alone_is_trained_and_the_rest_is_named():
    with scratch() as folder:
        status, out, err = command("--only", "sparse", "--steps", 2, "--out", folder)
        assert status == 0 and "sparse/dense, sparse/mixture" in out.splitlines()[-1], err
        assert [p.name for p in (folder / "sparse").glob("*.npz")] == ["sparse.npz"]

def test_other_settings_and_damaged_or_foreign_checkpoints_are_refused_before_training():
    with scratch() as folder:
        assert command("--steps", 2, "--only", "sparse", "--out", folder)[0] == 0
        path = folder / "sparse/sparse.npz"
        assert_refused(command("--steps", 3, "--out", folder), "steps = 2, not 3", path.name)
        assert_refused(command("--steps", 2, "--seed", 1, "--out", folder), "seed", path.name)
        good = path.read_bytes()
        for bad in (good[:1000], b"version https://git-lfs.github.com/spec/v1\n"):
            path.write_bytes(bad)
            result = command("--steps", 2, "--out", folder)
            assert_refused(result, str(path), "not a checkpoint")
            assert "pickle" not in result[2] and path.read_bytes() == bad
        path.write_bytes(good)
        params, config, _ = icl.load_checkpoint(path)
        icl.save_checkpoint(path, params, config)
        assert_refused(command("--steps", 2, "--out", folder), "experiment = None, not sparse")

def test_a_full_disk_or_a_file_in_the_way_is_one_clear_line_and_leaves_the_checkpoint_whole():
    with scratch() as folder:
        (folder / "file").write_text("mine")
        assert_refused(command("--out", folder / "file"), str(folder / "file"))
        assert (folder / "file").read_text() == "mine"
        assert command("--steps", 2, "--only", "dense", "--out", folder)[0] == 0
        before = contents(folder)

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

        if resource:  # on Unix
            full = command("--steps", 2, "--only", "sparse", "--out", folder, preexec_fn=limit)
            assert_refused(full, "sparse.npz", "large")
            assert contents(folder) == before | {Path("sparse/sparse.csv"): b"step,loss\n"}

def test_training_that_diverges_stops_with_step_seed_and_a_hint():
    with scratch() as folder:
        result = command("--steps", 50, "--seed", 7, "--out", folder, before=(
            "train.SIZES['tiny'] = dataclasses.replace(train.SIZES['tiny'], lr=1e30, warmup=1)"))
        assert_refused(result, "diverged at step", "seed 7", "lower the learning rates")

def test_a_size_that_cannot_be_is_refused_in_one_line_before_training_and_all_others_run():
    tiny = replace(train.SIZES["tiny"], n_layer=1, n_head=1, n_embd=8, prompts=8)
    edits = [dict(nnz=2), dict(nnz=3), dict(n_dims=1), dict(n_dims=2), dict(n_dims=14),
             dict(n_dims=20, nnz=3), *(dict(sparse_points=n, sine_points=n) for n in (2, 3, 8)),
             dict(prompts=2)]
    for edit in edits:
        for name in ("sparse",) if "n_dims" in edit or "nnz" in edit else train.EVALUATION:
            e = train.make_experiment(name, replace(tiny, **edit))
            train.rehearse(e, Path("nowhere"))
    impossible = [dict(n_head=3), dict(nnz=4), dict(n_dims=0), dict(sparse_points=1),
                  dict(prompts=1), dict(prompts=0), dict(batch=0), dict(n_layer=1.5)]
    for edit in impossible:
        def attempt():
            e = train.make_experiment("sparse", replace(tiny, **edit))
            train.rehearse(e, Path("nowhere"))
        raises(ValueError, attempt)
    with scratch() as folder:
        wide = "train.SIZES['tiny'] = dataclasses.replace(size, n_embd=50)"
        assert_refused(command("--out", folder / "new", before=wide), "n_embd (50)", "n_head (4)")
        third = ("make = train.make_experiment; train.make_experiment = lambda *a: (lambda e: "
                 "e.classes.update(third=e.mixture) or e)(make(*a))")
        assert_refused(command("--out", folder / "new", before=third), "sparse", "line", "train.py")
        assert not (folder / "new").exists()

def test_the_scripts_in_results_run_for_a_few_steps():
    scripts = {"recipe": "recipe.main(2, ('the recipe', 'earlier: both'))",
               "road": "road.main([(c, n, 4, 2, shown) for c, n, _, _, shown in road.ROADS[:2]])",
               "speed": "speed.main(1, ('tiny',))"}
    for name, call in scripts.items() if SLOW else ():
        code = f"import {name}\nif __name__ == '__main__':\n {call}"
        out = subprocess.run([sys.executable, "-c", code], cwd=HERE / "results", text=True,
                             capture_output=True, timeout=120)
        assert out.returncode == 0 and len(out.stdout.splitlines()) >= 3, out.stderr

def test_exercises_of_the_lab_that_name_tests_fail_blanked_and_pass_whole():
    if not SLOW:
        return
    lab = (HERE / "course/lab.md").read_text(encoding="utf-8")
    blanked = {name: functions for functions, name in
               re.findall(r"blank.py ([a-z_. ]+) --out blank/(\w+)\n", lab)}
    tests = dict(re.findall(r"python blank/(\w+)/test_icl.py (.+)\n", lab))
    run = lambda *arguments: subprocess.run([sys.executable, *map(str, arguments)], cwd=HERE,
                                            capture_output=True, text=True, timeout=120)
    with scratch() as folder:
        assert run("course/blank.py", "--out", folder / "whole").returncode == 0
        for name, functions in blanked.items():
            copy, words = folder / name, tests[name].split()
            assert run("course/blank.py", *functions.split(), "--out", copy).returncode == 0
            assert "again" in run(copy / "test_icl.py", *words).stdout, name
            whole = run(folder / "whole/test_icl.py", *words)
            assert whole.returncode == 0, whole.stdout
    note(f"{len(blanked)} exercises")

def test_bad_command_lines_are_refused_with_status_2_before_anything_is_written():
    bad = [["--steps", "0"], ["--steps", "x"], ["--seed", "-1"], ["--processes", "0"], ["--bogus"],
           ["--experiment", "cubic"], ["--only", "nobody"], ["--tiny", "--small"], ["extra"],
           ["--experiment", "sine", "--only", "dense"], ["--ti"], ["--steps"], ["--steps", "1.5"],
           ["--seed", ""], ["--processes", "nan"]]
    for arguments in bad:
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = train.main([*arguments, "--out", "nowhere"])
            except SystemExit as e:
                status = e.code
        assert status == 2 and "error:" in err.getvalue().splitlines()[-1], arguments
    assert not Path("nowhere").exists()

def test_every_purpose_has_a_random_stream_of_its_own():
    make = lambda seed, name="sine": train.make_experiment(name, train.SIZES["tiny"], seed)
    first = [e.stream(*purpose).random(3).tobytes() for e, purpose in
             [(make(0), "a"), (make(1), "a"), (make(0, "shares"), "a"), (make(0), "b"),
              (make(0), ("a", "b")), (make(0), ("a", "b", 1))]]
    assert len(set(first)) == 6

def run(words):
    """Run all tests, or those whose names hold one of the words; returns the exit status."""
    tests = {name[5:].replace("_", " "): test for name, test in globals().items()
             if name.startswith("test_") and any(word.lower() in name for word in words or [""])}
    if not tests:
        print(f"no test's name holds {' or '.join(words)}")
        return 2
    failed = 0
    for name, test in tests.items():
        NOTES.clear()
        verdict, begin = "ok", time.perf_counter()
        try:
            test()
        except (Exception, SystemExit):
            verdict, failed = "FAILED", failed + 1
            traceback.print_exc(limit=-2, file=sys.stdout, chain=False)
        seconds, figures = time.perf_counter() - begin, ", ".join(NOTES)
        print(f"{verdict:6} {seconds:5.2f} s  {name}{figures and ': ' + figures}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return int(failed > 0)

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
