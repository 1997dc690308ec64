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
import io
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.dom.minidom
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

import baselines
import icl
from tasks import (ConvexCombination, DenseLinear, Hypotheses, Mixture, Sinusoid, SparseLinear,
                   sample_prompts)

HERE = Path(__file__).resolve().parent
if not __debug__:
    sys.exit("test_icl.py: asserts are what it consists of, and python -O leaves them out")
for module in (train, icl, baselines):
    if Path(module.__file__).resolve().parent != HERE:
        sys.exit(f"test_icl.py: it should test {HERE}, and {module.__file__} was imported")
from results import claims, experiments, files, report

LINE, WAVE = DenseLinear(1), Sinusoid()
TINIER = experiments.Size(1, 1, 8, n_dims=3, nnz=1, sparse_points=5, sparse_steps=40, sine_points=6,
                    sine_steps=40, batch=8, prompts=8, curriculum=0.5, first_dims=1)
NOTES = []  # the figures that the test which runs has checked, to be printed beside its name
note = NOTES.append
equal = np.testing.assert_equal  # equal(got, expected, what): every bit, and nan equals nan

def rng(seed=0):
    return np.random.default_rng(seed)

def normal(*shapes, seed=0):
    """A list of standard normal float64 arrays of these shapes."""
    r = rng(seed)
    return [r.standard_normal(shape) for shape in shapes]

def small_model(dtype=np.float64):
    """A model, no parameter at its initial value, and 59 prompts: two unequal chunks."""
    config = icl.Config(n_dims=3, n_points=5, n_layer=2, n_head=2, n_embd=4)
    params = {name: (p + 0.1 * rng(1).standard_normal(p.shape)).astype(dtype)
              for name, p in icl.init_params(config, rng()).items()}
    xs, ys = sample_prompts(DenseLinear(3), rng(2), 59, 5)
    return params, config, xs.astype(dtype), ys.astype(dtype)

def near(got, expected, margin, what):
    """All of `got` must be within the margin of what is expected."""
    expected = np.broadcast_to(expected, np.shape(got))
    off = np.abs(got - expected)
    place = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    where = f" at {tuple(map(int, place))}" if place else ""
    assert np.all(off <= margin), (
        f"{what}{where}: expected {expected[place]}, got {np.asarray(got)[place]}")

def below(got, bound, what):
    """Every number of `got` must be below the bound; nan is not."""
    assert np.all(got < bound), f"{what}: expected less than {bound:.3g}, got {np.max(got):.3g}"

def raises(kind, f, *words):
    """f() must raise `kind` with a message of one line that holds all the words."""
    try:
        f()
    except kind as e:
        assert "\n" not in str(e) and all(w in str(e) for w in words), (
            f"expected one line with {words}, got: {e}")
    else:
        raise AssertionError(f"expected {kind.__name__} with {words}, got no error")

def assert_gradients(f, gradients, inputs):
    """Each analytic gradient of the scalar f(*inputs) against central differences, in float64."""
    relative = []
    for i, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        equal(gradient.shape, x.shape, f"shape of the gradient of input {i}")
        numeric, h = np.zeros_like(x), np.zeros_like(x)
        for place in np.ndindex(x.shape):
            h[place] = 1e-5
            up, down = (f(*inputs[:i], x + step, *inputs[i + 1:]) for step in (h, -h))
            numeric[place], h[place] = (up - down) / 2e-5, 0
        relative.append(np.linalg.norm(gradient - numeric) / max(np.linalg.norm(numeric), 1e-8))
        below(relative[i], 1e-6, f"relative error of the gradient of input {i}")
    note(f"relative error {max(relative):.0e}")

def assert_operation(op, *inputs):
    """Backward against finite differences along a random dy; and nothing may be overwritten."""
    before = copy.deepcopy(inputs)
    y, backward = op(*inputs)
    dy, = normal(y.shape, seed=5)
    kept = y.copy(), dy.copy()
    gradients = backward(dy) if len(inputs) > 1 else (backward(dy),)
    equal((inputs, y, dy), (before, *kept), "it overwrote what it was given")
    assert_gradients(lambda *a: np.sum(op(*a)[0] * dy), gradients, inputs)

# ------------------------------------------------------------------------------- the transformer

def test_gradient_of_linear():
    assert_operation(icl.linear, *normal((7, 3), (3, 4), 4))

def test_gradient_of_layernorm_and_its_mean_and_variance():
    assert_operation(icl.layernorm, *normal((5, 6), 6, 6))
    n, _ = icl.layernorm(5 + 3 * normal((9, 64))[0], np.ones(64), np.zeros(64))
    near(n.mean(1), 0, 1e-12, "means of rows")
    near(n.var(1), 1, 1e-4, "variances of rows")

def test_gradient_of_gelu():
    assert_operation(icl.gelu, 3 * normal((6, 5))[0])

def test_gradient_of_attention():
    assert_operation(lambda qkv: icl.attention(qkv, 2), *normal((2, 5, 12)))

def test_attention_is_its_formula_written_as_loops_and_finite_far_out():
    qkv, = normal((2, 5, 12))
    near(icl.attention(3 * qkv, 2)[0], attention_in_loops(3 * qkv, 2), 1e-13, "attention")
    y, _ = icl.attention(np.float32(1e4 * qkv), 2)  # e to the power of such scores is inf
    below(abs(y), math.inf, "|y| of scores far out")

def test_gradient_of_every_block_and_the_model_in_chunks():
    params, config, xs, ys = small_model()
    weights = icl.loss_weights(xs, ys)
    def f(*arrays):
        predictions = icl.predict(dict(zip(params, arrays)), config, xs, ys)
        return np.mean(weights * (predictions - ys) ** 2)

    loss, grads = icl.loss_and_grads(params, config, xs, ys, weights)
    near(loss, f(*params.values()), 1e-12, "loss")
    copied = copy.deepcopy(params)
    step_loss = icl.train_step(copied, config, icl.Adam(copied, 0.1), xs, ys, weights)
    equal(step_loss, loss, "loss that a step returns")
    assert_gradients(f, [grads[name] for name in params], list(params.values()))

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
    def linear(x, name):
        return x @ params[f"{name}.weight"] + params[f"{name}.bias"]

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
    equal([len(part) for part, in icl.chunks(xs)], [30, 29], "prompts in each chunk")
    equal(icl.predict(*small_model(np.float32)).dtype, np.float32, "type from float32 arrays")
    expected = gpt2(params, config, xs, ys)
    for n in (1, 3, 5):
        got = icl.predict(params, config, xs[:, :n], ys[:, :n])
        near(got, expected[:, :n], 1e-13, f"prediction from {n} points")
    note(f"difference {abs(got - expected).max():.0e}")

def test_parameters_are_those_of_gpt2_with_the_right_deviations():
    params = icl.init_params(icl.Config(8, 40, n_layer=2, n_head=1, n_embd=64), rng())
    equal(len(params), 1 + 2 * (3 + 2 * 6), "number of arrays: no more than gpt2 reads")
    variances = {"wpe": 1 / 4, "read_in": 1 / 8, "attn.c_proj": 1 / 256, "mlp.c_proj": 1 / 1024}
    for name, p in params.items():  # 256 and 1024: 2 n_layer times the inputs
        if p.ndim == 1:
            near(p, 1.0 if "ln_" in name and "weight" in name else 0.0, 0, name)
        else:
            variance = next((v for part, v in variances.items() if part in name), 1 / 64)
            near(p.mean(), 0, 4 * (variance / p.size) ** 0.5, f"mean of {name}")
            near(p.var() / variance, 1, 8 * p.size**-0.5, f"variance of {name} / {variance}")
    parts = np.split(params["h.1.attn.c_attn.weight"], 3, axis=1)
    near(np.corrcoef([part.ravel() for part in parts]), [[1, -0.5, 0], [-0.5, 1, 0], [0, 0, 1]],
         0.06, "correlation of query, key and value")

def test_mask_keeps_an_example_from_every_prediction_before_it():
    params, config, xs, ys = small_model()
    before = icl.predict(params, config, xs, ys)
    for k in range(5):  # prediction k may use x_k, but neither y_k nor anything later
        later_xs, later_ys = xs + (np.arange(5) > k)[:, None], ys + (np.arange(5) >= k)
        changed = (icl.predict(params, config, later_xs, later_ys) != before).any(0)
        equal(list(changed.nonzero()[0] + 1), list(range(k + 2, 6)),
              f"predictions that change with y of example {k + 1} and all later")

def test_wrong_arrays_are_refused_by_name():
    params, config, xs, ys = small_model()
    predict, step = (partial(f, params, config) for f in (icl.predict, icl.loss_and_grads))
    for f, arrays, *words in [
            (baselines.least_squares, (xs, ys[:, :3]), "ys (B, N)", "(59, 3)"),
            (predict, (xs.repeat(2, 1), ys.repeat(2, 1)), "at most 5", "(59, 10, 3)"),
            (step, (xs, ys - math.inf), "finite"), (step, (xs, ys, ys[0]), "weights", "(5,)"),
            (baselines.bayes(DenseLinear(3)), (xs[:, :, :2], ys), "(B, N, 3)", "(59, 5, 2)"),
            (baselines.lasso, (xs.astype("int64"), ys, 0.1), "int64"),
            (baselines.lasso, (xs, ys, 0.0), "alpha", "5 of them")]:
        raises(ValueError, lambda: f(*arrays), *words)

# ------------------------------------------------------------------------------------- training

def test_loss_weights_are_their_formula_of_what_the_prediction_may_see():
    xs, ys = sample_prompts(SparseLinear(4, 1), rng(), 6, 5)
    weights = icl.loss_weights(xs, ys)
    for b, k in np.ndindex(6, 5):
        v = (1 + sum(y * y for y in ys[b, :k])) / (k + 1)
        q = (1 + sum(x * x for x in xs[b, k])) / 5
        near(weights[b, k] * v * q, 1, 1e-5, f"weight of prompt {b}, point {k}, times v q")

def test_adam_takes_the_steps_of_its_formula_and_clips_long_gradients():
    p, m, v = np.float64([1, -2, 3]), 0, 0
    params = {"a": np.float32(p[:1]), "b": np.float32(p[1:])}
    optimizer = icl.Adam(params, lr=0.1, betas=(0.9, 0.99), eps=0.1, clip=2.0)
    for t, length in enumerate((5, 1, 0.1, 20), start=1):
        g = length * np.float64([2, -1, 2]) / 3
        optimizer.update(params, {"a": np.float32(g[:1]), "b": np.float32(g[1:])})
        g *= min(1, 2 / length)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        p = p - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 0.1)
        near(np.hstack([params["a"], params["b"]]), p, 1e-6, f"parameters after step {t}")

def test_muon_orthogonalises_by_its_formula_and_leaves_all_else_to_adam():
    shapes = {"h.0.mlp.c_fc.weight": (8, 24), "h.0.mlp.c_proj.weight": (24, 8),
              "read_in.weight": (3, 8), "h.0.ln_1.weight": (8,)}
    params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    rest, expected, M = (copy.deepcopy(params) for _ in range(3))
    muon, adam = icl.Muon(params, 0.01, 0.1, momentum=0.8, clip=9.0), icl.Adam(rest, 0.01, clip=9.0)
    for i, size in enumerate((1, 0.1, 3)):  # the first and the last gradients are clipped
        grads = dict(zip(shapes, (np.float32(size * g) for g in normal(*shapes.values(), seed=i))))
        muon.update(params, grads)
        adam.update(rest, grads)
        scale = min(1, 9 / np.linalg.norm(np.concatenate([g.ravel() for g in grads.values()])))
        for name, g in list(grads.items())[:2]:
            M[name] = 0.8 * M[name] + scale * g
            u, s, vt = np.linalg.svd(scale * g + 0.8 * M[name], full_matrices=False)
            s = s / np.linalg.norm(s)
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            expected[name] -= 0.1 * (u * s @ vt)
            near(params[name], expected[name], 1e-5, f"{name} after step {i + 1}")
    equal(list(params.values())[2:], list(rest.values())[2:], "what Adam trains")

def test_a_short_training_clearly_beats_predicting_zero():
    config = icl.Config(n_dims=2, n_points=6, n_layer=2, n_head=2, n_embd=32)
    params, r = icl.init_params(config, rng()), rng(1)
    optimizer = icl.Muon(params, 3e-3, 1e-2, clip=1.0)
    for _ in range(250):
        icl.train_step(params, config, optimizer, *sample_prompts(DenseLinear(2), r, 64, 6))
    xs, ys = sample_prompts(DenseLinear(2), r, 1000, 6)
    below(np.mean((icl.predict(params, config, xs, ys) - ys) ** 2), 0.7, "error; of zero it is 1")

# ------------------------------------------------------------------------------------- the tasks

def test_inputs_are_normal_and_functions_have_variance_one():
    blend = ConvexCombination(LINE, WAVE, 0.3)
    for c in (DenseLinear(4), SparseLinear(4, 1), SparseLinear(20, 2), WAVE,
              Sinusoid(frequency=3.0), Mixture((LINE, WAVE), (0.2, 0.8)), blend):
        xs, ys = sample_prompts(c, rng(), 20_000, 3)
        equal((xs.dtype, ys.dtype), (np.float32, np.float32), f"types, {c}")
        equal(sample_prompts(c, rng(), 20_000, 3), (xs, ys), f"the same seed again, {c}")
        flat = xs.reshape(20_000, 3 * c.n_dims)
        near(flat.mean(0), 0, 0.04, "means of inputs")
        near(np.cov(flat.T), np.eye(3 * c.n_dims), 0.06, "covariances of inputs")
        variance, squares = 0.3**2 + 0.7**2 if c == blend else 1, (ys**2).mean(1)
        near(ys.mean(), 0, 0.02, f"mean of {c}")
        near(squares.mean(), variance, 4 * squares.std() / math.sqrt(20_000), f"variance of {c}")

def test_sparse_functions_have_nnz_coefficients_and_mixtures_their_shares():
    mixture = Mixture((DenseLinear(6), SparseLinear(6, 2)), (0.2, 0.8))
    w = mixture.sample(rng(), 5000)(np.tile(np.eye(6), (5000, 1, 1)))  # f of the unit vectors
    counts = (w != 0).sum(1)
    equal(set(counts), {2, 6}, "numbers of non-zeros")
    near(np.mean(counts == 2), 0.8, 0.03, "share of sparse functions")
    near((w[counts == 2] != 0).mean(0), 2 / 6, 0.04, "share of these where a coefficient is not 0")

def test_sinusoids_have_frequencies_of_their_law():
    # f(-x) + f(x) = 2 f(0) cos(omega x), and omega is Gamma(6, 1/4): mean 6/4, variance 6/16.
    left, at, right = WAVE.sample(rng(), 50_000)(np.tile([[-0.3], [0], [0.3]], (50_000, 1, 1))).T
    omega = np.arccos(np.clip((left + right) / (2 * at), -1, 1)) / 0.3
    near([omega.mean(), omega.var()], [6 / 4, 6 / 16], 0.02, "mean and variance of frequencies")

def test_impossible_classes_and_label_noises_are_refused_by_name():
    for make, *words in [
            (lambda: DenseLinear(2.5), "2.5"), (lambda: Sinusoid(scale=-1.0), "scale", "-1"),
            (lambda: DenseLinear(True), "n_dims", "True"),
            (lambda: Mixture((LINE, DenseLinear(2))), "dimension", "[1, 2]"),
            (lambda: Mixture((LINE, WAVE), (0.5, 0.6)), "weights", "0.6"),
            (lambda: baselines.bayes(LINE, -0.1), "label_noise", "-0.1"),
            (lambda: SparseLinear(40, 20).hypotheses(), "supports"),
            (lambda: SparseLinear(40, 37).hypotheses(), "fewer of many coefficients")]:
        raises(ValueError, make, *words)

def test_what_a_class_of_ones_own_returns_is_checked():
    xs, ys = sample_prompts(DenseLinear(2), rng(), 8, 3)
    own = SimpleNamespace(n_dims=2, sample=lambda rng, batch_size: lambda xs: xs)
    raises(ValueError, lambda: sample_prompts(own, rng(), 8, 3), "(8, 3) real", "(8, 3, 2)")
    for number, prior, words in [(1, 0.5, "sum to 1"), (math.nan, 1.0, "finite"),
                                 (1j, 1.0, "real")]:
        group = Hypotheses(lambda x: number * x.T[:, None], np.array([prior]), noise=1e-10)
        own = SimpleNamespace(n_dims=2, hypotheses=lambda: [group])
        raises(ValueError, lambda: baselines.bayes(own)(xs, ys), words)
    in_place = lambda x: np.multiply(x, 0.5**0.5, out=x).T[:, None]
    own.hypotheses = lambda: [Hypotheses(in_place, np.ones(1), noise=1e-10)]
    near(baselines.bayes(own)(xs, ys), baselines.bayes(DenseLinear(2))(xs, ys), 1e-9, "predictions")
    own.sample = lambda rng, batch_size: lambda xs: np.multiply(xs, 0, out=xs)[..., 0]
    half = sample_prompts(ConvexCombination(own, DenseLinear(2), 0.5), rng(), 8, 3)[1]
    near(half, 0.5 * ys, 1e-6, "half a line, beside a class that puts zeros into xs")

# ----------------------------------------------------------------------------------- checkpoints

def saved(path):
    """A small model and its optimiser after a step; their checkpoint is in path."""
    params, config, xs, ys = small_model(np.float32)
    optimizer = icl.Muon(params, 0.01, 0.01)
    extra = {"rng": rng(7).bit_generator.state, "x": 1.5, "n": np.int64(3)}
    icl.train_step(params, config, optimizer, xs, ys)
    icl.save_checkpoint(path, params, config, optimizer, **extra)
    return params, config, extra, optimizer.state

def test_a_checkpoint_brings_back_every_bit(tmp_path):
    params, *others = saved(tmp_path / "a.npz")
    fresh = icl.Muon(params, 0.01, 0.01)
    loaded = icl.load_checkpoint(tmp_path / "a.npz", fresh)
    equal((*loaded, fresh.state), (params, *others), "all that it holds")

def test_a_damaged_checkpoint_is_refused_by_name_and_restores_nothing(tmp_path):
    class Code:  # in a pickle, it makes a folder when it is loaded
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "code ran"),)

    path, weight = tmp_path / "a.npz", "params/read_in.weight"
    params, *_ = saved(path)
    good, arrays = path.read_bytes(), dict(np.load(path))
    header, w = str(arrays["header"]), arrays[weight]
    at = good.index(w.tobytes())  # where the weights are
    files = [good[:at], good[:at] + bytes([good[at] ^ 1]) + good[at + 1:],
             b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7\n"]
    for name, wrong in [
            ("header", header.replace('"format": 1', '"format": 2')),
            (weight, w.T), (weight, w * np.float32(np.nan)), ("optimizer/m.read_in.bias", w),
            (weight, np.array([Code()], object))]:
        np.savez(path, **arrays | {name: wrong})
        files.append(path.read_bytes())
    optimizer = icl.Muon(params, 0.01, 0.01)
    before = copy.deepcopy(optimizer.state)
    for content in files:
        path.write_bytes(content)
        raises(icl.Refused, lambda: icl.load_checkpoint(path, optimizer), f"{path} is not a check")
        equal(optimizer.state, before, "the optimiser's state")
    equal(os.listdir(tmp_path), ["a.npz"], "files; no code ran")

def test_a_full_disk_or_nan_leaves_the_checkpoint_that_is_there(tmp_path):
    path = tmp_path / "old.npz"
    params, config, *_ = saved(path)
    before = path.read_bytes()
    for step in ("fsync", "replace"):
        with mock.patch.object(os, step, side_effect=OSError(28, "No space left")):
            raises(OSError, lambda: icl.save_checkpoint(path, params, config), str(path))
    wrong = params | {"ln_f.bias": params["ln_f.bias"] * np.nan}
    raises(ValueError, lambda: icl.save_checkpoint(path, wrong, config), "ln_f.bias", "finite")
    equal((os.listdir(tmp_path), path.read_bytes()), (["old.npz"], before), "the folder")

def test_the_committed_models_are_finished_small_ones_and_predict_well():
    for name in experiments.EXPERIMENTS:
        e = experiments.make_experiment(name, train.SIZES["small"])
        for model in files.entries_of(e, HERE / "results/small")[:3]:
            equal(model.reached(), model.steps, f"steps of {model.path}")
            xs, ys = sample_prompts(e.pretraining[model.name], rng(), 200, e.n_points)
            last = icl.predict(files.load_model(model)[0], e.config, xs, ys)[:, -1]
            below(np.mean((last - ys[:, -1]) ** 2), 0.1, f"mean error of {model.label}")

# ---------------------------------------------------------------------------------- the baselines

def test_least_squares_is_numpys_lstsq_on_every_prefix():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 20, 9)
    xs, ys = xs.astype(float), ys + rng(1).standard_normal(ys.shape)  # with noise: no w fits
    predictions = baselines.least_squares(xs, ys)
    for b, k in np.ndindex(20, 9):  # from no example, w is 0
        w = np.linalg.lstsq(xs[b, :k], ys[b, :k], rcond=None)[0] if k else np.zeros(4)
        near(predictions[b, k], xs[b, k] @ w, 1e-6, f"prompt {b}, after {k} examples")

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
    # In other units, inputs u X and labels v y, w is v / u times as large, and so alpha u v.
    for alpha, u, v in ((0.03, 1, 1), (0.1, 1e-6, 1), (0.1, 1, 1e-4)):
        for X, y in ((xs[:, :k], ys[:, :k]) for k in (1, 10, 40)):
            w = u / v * lasso_weights(u * X, v * y, u * v * alpha)
            e = y - np.einsum("bnd,bd->bn", X, w)
            pull = np.einsum("bnd,bn->bd", X, e) / X.shape[1]  # X^T e / n
            zero = np.abs(w) < 1e-9
            below(np.abs(pull[zero]), alpha + 1e-4, f"|pull| at weights of 0, alpha {alpha}")
            near(pull[~zero], alpha * np.sign(w[~zero]), 1e-4, f"pull at others, alpha {alpha}")

def test_lasso_gives_all_weight_to_the_slightly_larger_of_two_inputs():
    for larger in (1.01, 1.0001):  # plain sweeps would take some 10,000 to get there
        w = lasso_weights(np.array([[[1, larger]]]), np.array([[2.0]]), 0.03)
        near(w, [[0, (2 * larger - 0.03) / larger**2]], 1e-4, f"w of inputs 1 and {larger}")

def test_lasso_takes_the_best_alpha_for_each_number_of_examples():
    xs, ys = sample_prompts(SparseLinear(5, 1), rng(), 30, 8)
    alphas = np.geomspace(0.03, 1, 8)
    alone = np.array([baselines.lasso(xs, ys, alpha) for alpha in alphas])  # (alpha, B, N)
    each = baselines.lasso(xs, ys, alphas)
    for n in range(1, 8):
        near(each[:, n], alone[n, :, n], 1e-5, f"predictions after {n} examples, with alpha[{n}]")
    best = alphas[np.argmin(((alone - ys) ** 2).mean(1), axis=0)]
    equal(baselines.tune_lasso(SparseLinear(5, 1), rng(), 8, 30, alphas), best, "best alphas")

def brute_force(hypotheses, xs, ys):
    """Posterior mean, and probability of the first hypothesis, by one Gaussian solve for each of
    hypotheses: (prior, features of x (N, d) -> (N, F), noise) with unit prior covariance."""
    predictions, first = np.zeros((2, *ys.shape))
    for b, k in np.ndindex(ys.shape):
        scores, means = [], []
        for prior, features, noise in hypotheses:
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

def test_bayes_and_class_probabilities_are_brute_force_ridge_regressions():
    dense, sparse = DenseLinear(4), SparseLinear(4, 2)
    mixture, blend = Mixture((dense, sparse), (0.3, 0.7)), ConvexCombination(dense, sparse, 0.4)
    pairs = [lambda x, s=s: x[:, s] / math.sqrt(2) for s in combinations(range(4), 2)]  # six
    for s in (0, 0.3):
        noise = 1e-10 + s * s
        either = [(0.3, lambda x: x / 2, noise), *((0.7 / 6, phi, noise) for phi in pairs)]
        both = [(1 / 6, lambda x, phi=phi: np.hstack([0.4 * x / 2, 0.6 * phi(x)]),
                 0.52e-10 + s * s) for phi in pairs]  # 0.4^2 + 0.6^2 = 0.52
        for c, hypotheses in ((dense, [(1, lambda x: x / 2, noise)]), (mixture, either),
                              (blend, both)):
            xs, ys = map(np.float64, sample_prompts(c, rng(), 5, 7))
            ys += s * rng(1).standard_normal(ys.shape)
            expected, first = brute_force(hypotheses, xs, ys)
            margin = 1e-6 if s else 1e-4
            near(baselines.bayes(c, s)(xs, ys), expected, margin, f"{c}, label noise {s}")
            if c == mixture:
                p = baselines.class_probabilities(c, s)(xs, ys)
                near(p, np.stack([first, 1 - first], 2), margin, f"probabilities, noise {s}")

def test_the_gaussian_process_is_that_of_its_covariance():
    xs, ys = map(np.float64, sample_prompts(WAVE, rng(), 5, 7))
    # root root^T is the covariance of f(x)
    root = lambda x: np.linalg.cholesky(np.exp(-((x - x.T) ** 2) / 2) + 1e-9 * np.eye(len(x)))
    expected, _ = brute_force([(1, root, 1e-3)], xs, ys)
    near(baselines.gaussian_process(xs, ys), expected, 1e-4, "predictions")

def test_bayes_is_brute_force_where_no_hypothesis_explains_the_examples():
    omega = 1.5 / 40 * np.arange(0.5, 320)  # Sinusoid's grid, written again
    prior = omega**5 * np.exp(-4 * omega)  # Gamma(6, 1/4)
    waves = [(p, lambda x, w=w: np.hstack([np.sin(w * x), np.cos(w * x)]), (1.5 / 40) ** 2 / 12)
             for w, p in zip(omega, prior / prior.sum() / 2) if p > 1e-12]
    for c, n in ((WAVE, 7), (ConvexCombination(LINE, WAVE, 0.5), 40)):  # no wave explains the half
        xs, ys = map(np.float64, sample_prompts(c, rng(3), 1, n))
        expected, _ = brute_force([(0.5, lambda x: x, 1e-10), *waves], xs, ys)
        near(baselines.bayes(Mixture((LINE, WAVE)))(xs, ys), expected, 1e-3, f"predictions, {c}")

def test_predictions_are_finite_in_any_unit():
    dense, sparse = DenseLinear(4), SparseLinear(4, 1)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for c in (DenseLinear(20), Mixture((dense, sparse)), Mixture((LINE, WAVE))):
            xs, ys = sample_prompts(c, rng(), 8, 12)
            predictors = [baselines.bayes(c), baselines.least_squares,
                          lambda xs, ys: baselines.lasso(xs[:, :3], ys[:, :3], 0.1)]  # more: slow
            for p, u, v in product(predictors, *2 * [np.float32([1e-30, 1, 1e30])]):
                below(abs(p(u * xs, v * ys)), math.inf, f"|predictions|, units {u}, {v}, {c}")
            for p in predictors:
                equal(p(xs[:1, :1], ys[:1, :1]).shape, (1, 1), "shape from one prompt of one point")
    xs, ys = sample_prompts(ConvexCombination(dense, sparse, 0.5), rng(3), 100, 40)
    predictions = baselines.bayes(Mixture((dense, sparse)))(np.float32(1e4) * xs, ys)
    below(abs(predictions), math.inf, "|predictions|, where only 1e-13 |phi|^2 keeps s above 0")

def test_effective_noise_of_an_ideal_learner_is_its_noise():
    dense = DenseLinear(8)
    for c, n, margin in ((dense, 1000, 0.5), (Mixture((LINE, WAVE)), 100, 2)):
        for s in (0, 0.05, 0.5):
            learner = lambda xs, ys: baselines.bayes(c, s)(
                xs, ys + s * rng(99).standard_normal(ys.shape))
            value, (low, high), _ = baselines.effective_noise(learner, c, rng(), 11, n)
            near(value, s, margin * s, f"noise, {c}")
            assert low <= s <= high, f"noise {s}, {c}: got the interval from {low} to {high}"
    value, interval, _ = baselines.effective_noise(lambda xs, ys: 0 * ys, dense, rng(), 11, 300)
    equal((value, *interval), (math.inf,) * 3, "noise of predicting zero")

# ------------------------------------------------------------------------------------- the claims

def test_intervals_of_ratios_and_of_the_farthest_are_right_in_95_of_100():
    r, hits, alarms = rng(), [], []
    for _ in range(400):
        z = r.exponential(1, 400)
        value, margin = claims.ratio(9 * z + r.exponential(1, 400), 4 * z + r.exponential(1, 400))
        hits.append(abs(value - 2) < margin)
        value, margin = claims.farthest(r.standard_normal((100, 10)))
        alarms.append(value > margin)
    near(claims.farthest(r.standard_normal((100, 3)) - [0, 5, 1])[0], 5, 0.4, "the farthest: -5")
    near(np.mean(hits), 0.95, 0.03, "share of intervals that hold the ratio")
    near(np.mean(alarms), 0.05, 0.035, "share of false alarms")
    open_end = claims.ratio(np.arange(3.0), np.array([1, -2, 0.5]))
    equal(open_end[1], math.inf, "half an interval, where the denominator may be zero")

def test_a_number_holds_with_its_whole_interval():
    got = [claims.Row("", (1.0, 0.1), at_most=x).verdict for x in (1.2, 1.05, 0.8)]
    equal(got, ["holds", "undecided", "does not hold"], "1 ± 0.1, at most 1.2, 1.05, 0.8")

def test_the_selection_weight_of_the_optimum_is_the_posterior():
    dense, sparse = DenseLinear(5), SparseLinear(5, 1)
    mixture, (xs, ys) = Mixture((dense, sparse)), sample_prompts(sparse, rng(), 300, 5)
    a, b, m = (baselines.bayes(c)(xs, ys) for c in (dense, sparse, mixture))
    at = {"optimum of dense": a, "optimum of sparse": b, "mixture model": m}
    got = report.selection_weight(at, ["dense", "sparse"], "mixture model").mean(0)
    p = baselines.class_probabilities(mixture)(xs, ys)[..., 1]
    expected = (p * (b - a) ** 2).sum(0) / np.maximum(((b - a) ** 2).sum(0), 1e-9)
    near(got, expected[1:], 1e-6, "weight on the sparse class")

def claims_on(name, learn, size, prompts):
    """The claims of an experiment, with the predictor learn(class) in the place of each model."""
    e = experiments.make_experiment(name, replace(size, prompts=prompts))
    models = {m: learn(c) for m, c in e.pretraining.items()}
    # The effective label noise takes long, and has a test of its own.
    with mock.patch.object(baselines, "effective_noise", return_value=(0.0, (0.0, 0.0), None)):
        measured = {entry.name: train.measure(entry, models.get(entry.name))
                    for entry in files.entries_of(e, Path())}
    files_hold = {name: ({"noise": noise}, answers) for name, (noise, answers) in measured.items()}
    return claims.claims_of(report.arrange(e, files_hold))

def test_claims_on_perfect_learners_hold_and_on_predicting_zero_do_not():
    perfect = claims_on("sparse", baselines.bayes, train.SIZES["small"], 400)
    last = claims.table({"perfect": perfect})[-1]
    equal(last, "perfect, 14 claims: 14 holds, 0 undecided, 0 does not hold", "counts of verdicts")
    zero = claims_on("sparse", lambda c: lambda xs, ys: 0 * ys, TINIER, 100)
    near_optimal = [v for claim, v in claims.verdicts(zero).items() if "near-optimal on" in claim]
    equal(near_optimal, 2 * ["does not hold"], "whether predicting zero is near-optimal")
    # None of the claims on sine lacks a number.
    waves = claims.verdicts(claims_on("sine", baselines.bayes, TINIER, 20))
    equal(len(waves), 14, "number of claims on sine")

def test_a_figure_has_means_where_its_axes_say():
    values = np.array([[0.0, 1], [0, 3]])  # two prompts at the places 0 and 10: means 0 and 2
    figure = report.Figure("", "", "", "x", np.array([0, 10]), {"p": values})
    left, right, bottom, top = 92, 92 + 374, 42 + 250, 42  # of the frame; y runs from -0.1 to 2
    line = f'points="{left}.0,{bottom - 250 / 21:.1f} {right}.0,{top}.0" fill="none"'
    assert line in report.draw(figure), f"expected {line} in {report.draw(figure)}"

# -------------------------------------------------------------------------------------- the runs

FORK = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
FAST = mock.patch.object(multiprocessing, "get_context", lambda kind: FORK)  # starts sooner

def program(*arguments, size=TINIER, experiment="sparse"):
    """train.main at a size that takes seconds: (exit status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(train.SIZES, tiny=size), FAST, contextlib.redirect_stdout(out), \
         contextlib.redirect_stderr(err):
        try:
            status = train.main(["--tiny", "--experiment", experiment, *map(str, arguments)])
        except SystemExit as e:  # argparse's
            status = e.code
    return status, out.getvalue(), err.getvalue()

def start(*arguments, save_seconds=30):
    """The same in a process group of its own, for whatever ends it."""
    code = (f"import sys, train\nfrom results.experiments import Size\n"
            f"if __name__ == '__main__':\n train.SIZES['tiny'] = {TINIER}\n "
            f"train.SAVE_SECONDS = {save_seconds}\n sys.exit(train.main(sys.argv[1:]))")
    words = "--tiny", "--experiment", "sparse", *map(str, arguments)
    return subprocess.Popen([sys.executable, "-c", code, *words], cwd=HERE, text=True,
                            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def assert_refused(result, *words):
    """Exit status 2, and an error of one line that holds all the words."""
    status, _, err = result
    last = err.splitlines()[-1:]
    assert status == 2 and last and all(w in last[0] for w in words) and "Traceback" not in err, (
        f"expected status 2 and {words}, got status {status} and {err}")

def contents(folder):
    """Name -> bytes of what a run writes that may not depend on how it went."""
    def bits(path):
        return {name: a.tobytes() for name, a in np.load(path).items() if name != "header"}

    read = {".csv": Path.read_bytes, ".svg": Path.read_bytes, ".npz": bits}
    return {p.relative_to(folder): read[p.suffix](p) for p in folder.rglob("*") if p.suffix in read}

def model_in(folder, name="sparse", **size):
    e = experiments.make_experiment("sparse", replace(TINIER, **size))
    return next(p for p in files.entries_of(e, folder) if p.name == name)

def train_to(last, model):
    """Train a model up to that step, and stop it there as a closed pipe would."""
    def send(progress):
        if progress.step == last:
            raise BrokenPipeError

    train.train(model, send=send)

def test_the_curriculum_is_its_definition():
    for name, narrowed in (
            ("sparse", lambda d: SparseLinear(d, 1)),
            ("mixture", lambda d: Mixture((DenseLinear(d), SparseLinear(d, 1))))):
        model = model_in(Path(), name, n_dims=8, first_dims=3, sparse_points=14)
        for dims, share in ((3, 0), (3, 0.099), (4, 0.1), (7, 0.499), (8, 0.5), (8, 0.99)):
            there = f"{name} at {share} of the steps"
            equal(train.lesson(model, share)[0], narrowed(dims), f"class, {there}")
            xs, ys, weights = train.training_batch(model, share, rng(1))
            equal(xs.shape, (8, min(2 * dims + 1, 14), 8), f"shape, {there}")
            equal((xs != 0).any((0, 1)), np.arange(8) < dims, f"inputs that are not 0, {there}")
            equal(weights, icl.loss_weights(xs[:, :, :dims], ys), f"weights, {there}")

def test_learning_rates_rise_to_their_full_value_and_fall_to_zero(tmp_path):
    rates = []
    def train_step(params, config, optimizer, xs, ys, weights):
        rates.append([optimizer.lr, optimizer.matrix_lr])
        return 1.0

    with mock.patch.object(icl, "train_step", train_step):
        train_to(40, model_in(tmp_path, warmup=4, lr=0.01, matrix_lr=0.03))
    fade = np.array([[min(1, (step + 1) / 4) * (1 - step / 40)] for step in range(40)])
    near(rates, fade * [0.01, 0.03], 1e-12, "rates of Adam and Muon, step by step")

def test_the_status_line_counts_the_time_of_this_run_alone():
    model, sent = model_in(Path()), {0: train.Progress(30, excess=0.5, seconds=1010.0)}
    at_start = [train.Progress(20, excess=math.nan, seconds=1000.0)]  # so 10 of 40 steps, 10 s
    got = train.training_status([model], at_start, 1, [0], sent)
    equal(got, "0/1 done, 0:00:10 left: sparse/sparse 75% +0.500", "status")

def test_a_run_never_replaces_a_checkpoint_that_is_further_along(tmp_path):
    model, other = model_in(tmp_path / "one"), model_in(tmp_path / "other")
    train_to(40, other)
    train_to(20, model)
    state = train.resume(model)
    model.path.write_bytes(other.path.read_bytes())  # another run finishes it meanwhile
    save = partial(files.save_model, model, state, np.zeros(40))
    raises(icl.Refused, save, str(model.path), "another")
    equal(model.reached(), 40, "steps in the checkpoint")
    third, written = model_in(tmp_path / "third"), []
    def rehearse(e):  # another run finishes the model meanwhile
        train_to(40, third)
        written.append(third.path.stat().st_mtime_ns)

    with mock.patch.object(train, "rehearse", rehearse):
        status, _, err = program("--only", "sparse", "--out", tmp_path / "third")
    equal((status, err, [third.path.stat().st_mtime_ns]), (0, "", written), "it is left as it was")

def test_the_command_trains_measures_shows_and_again_changes_nothing(tmp_path):
    p = start("--out", tmp_path)
    out, err = p.communicate()
    equal((p.returncode, err, out.isascii()), (0, "", True), "exit status, stderr, ASCII alone")
    before, page = contents(tmp_path), (tmp_path / "report.html").read_text()
    drawn = [xml.dom.minidom.parse(str(path)) for path in tmp_path.glob("*.svg")]
    equal(page.count("<figure>"), len(drawn), "figures in the report")
    table = (tmp_path / "results.csv").read_text()
    for shown in ("dense model", "mixture model", "least squares", "Lasso", experiments.MIXED,
                  experiments.OWN):
        equal((f",{shown}," in table, f"\n{shown}  " in out), (True, True), f"{shown} is shown")
    equal(len(claims.verdicts(claims.claims_in(report.read(tmp_path)))), 13, "number of claims")
    path = tmp_path / "sparse/dense.npz"
    path.unlink()  # its predictions remain, and are enough
    (tmp_path / "sparse/Lasso.predictions.npz").unlink()  # will be measured again
    status, out, _ = program("--out", tmp_path)
    equal((status, "training" in out, path.exists()), (0, False, False), "status; trained again?")
    del before[path.relative_to(tmp_path)]
    equal(contents(tmp_path), before, "files")
    wider = program("--only", "sparse/wide", "--out", tmp_path, experiment="coverage")
    table = (tmp_path / "results.csv").read_text()
    equal((wider[0], table.count("nnz-coverage,wide model,")), (0, 3), "status; points of a curve")

def test_what_is_out_of_date_is_measured_again(tmp_path):
    model, lasso = model_in(tmp_path), model_in(tmp_path, "Lasso")
    train_to(40, model)
    for entry in (model, lasso):
        train.measure_job(entry)
        equal(files.needs_measuring(entry), False, f"whether {entry.name} is to be measured again")
    os.utime(model.path, (time.time() + 9,) * 2)
    equal(files.needs_measuring(model), True, "the same, when its checkpoint is younger")
    for path in (model.path, model.predictions_path):
        os.utime(path, (0, 0))
    equal(files.needs_measuring(model), True, "the same, when icl.py is younger")
    equal(files.edited_since(model.path, files.MAKE_MODELS), ["icl.py", "tasks.py", "train.py"],
          "the modules that were edited since it was trained")
    elsewhere = replace(lasso, experiment=replace(lasso.experiment, after=[1]))
    equal(files.needs_measuring(elsewhere), True, "the same, when it is asked after 1 example")
    changed = lambda size, seed: replace(experiments.sparse_experiment(size, seed), after=[1])
    with mock.patch.dict(experiments.EXPERIMENTS, sparse=changed):
        raises(icl.Refused, lambda: report.read(tmp_path), "sparse", "other prompts")

def test_however_a_run_ends_it_goes_on_to_the_same_bits(tmp_path):
    calm, storm, handler = tmp_path / "calm", tmp_path / "storm", signal.getsignal(signal.SIGINT)
    arguments = "--steps", 300, "--seed", 1, "--out"
    equal(program(*arguments, calm, "--processes", 6)[0], 0, "exit status")
    checkpoint, at_end = storm / "sparse/mixture.npz", 0
    def reached():
        return icl.load_checkpoint(checkpoint)[2]["step"] if checkpoint.exists() else 0

    stopped = "stopped; the same command goes on from the last checkpoints"
    ctrl_c = lambda p: os.killpg(p.pid, signal.SIGINT)  # as a terminal does: to all its processes
    for end, status, words in ((subprocess.Popen.kill, -9, ""), (ctrl_c, 130, stopped)):
        p = start(*arguments, storm, "--processes", 2, save_seconds=0)  # saves at every step
        while p.poll() is None and reached() <= at_end:
            time.sleep(0.01)
        end(p)
        err = p.communicate(timeout=30)[1].strip()  # at its last child's end, too: none is left
        equal((p.returncode, err), (status, words), "exit status and stderr")
        at_end = reached()
    below(at_end, 600, "steps before the last run, of twice 300")
    equal(program(*arguments, storm, "--processes", 1)[0], 0, "exit status")
    equal(contents(storm), contents(calm), "files")
    equal(signal.getsignal(signal.SIGINT), handler, "what Ctrl-C does in Python afterwards")

def test_files_of_other_settings_are_refused_by_name(tmp_path):
    again = partial(program, "--only", "linear", "--out", tmp_path, experiment="sine")
    status, out, err = again()
    equal((status, err, "sine/mixture" in out.splitlines()[-1]), (0, "", True), "a model alone")
    assert_refused(again("--steps", 3), "steps = 40, not 3", "linear.npz")
    lasso, other = (tmp_path / f"sine/{p}.predictions.npz" for p in ("Lasso", "least-squares"))
    lasso.write_bytes(other.read_bytes())
    assert_refused(again(), str(lasso))
    equal(lasso.read_bytes(), other.read_bytes(), "the refused file")
    for dims in (3, 4):
        program("--only", "dense", "--out", tmp_path / f"{dims}", size=replace(TINIER, n_dims=dims))
    lasso, other = (tmp_path / f"{dims}/sparse/Lasso.predictions.npz" for dims in (3, 4))
    lasso.write_bytes(other.read_bytes())
    raises(icl.Refused, lambda: report.read(tmp_path / "3"), "dims")

def test_a_state_of_training_that_cannot_be_is_refused_before_any(tmp_path):
    model = model_in(tmp_path)
    train_to(5, model)
    arrays = dict(np.load(model.path))
    for damage in (dict(losses=[1.0]), dict(losses=["a"] * 5), dict(rng=None), dict(seconds="1"),
                   dict(step=40), dict(step=-1), dict(settings=[])):
        header = json.loads(str(arrays["header"]))
        header["extra"] |= damage
        np.savez(model.path, **arrays | {"header": json.dumps(header)})
        assert_refused(program("--out", tmp_path), "sparse.npz")
    equal(model_in(tmp_path, "dense").reached(), 0, "steps of another model")

def test_a_closed_stdout_ends_a_run_in_one_line_at_most(tmp_path):
    p = start("--out", tmp_path)
    p.stdout.readline()
    p.stdout.close()  # as `| head -1` does
    err = p.stderr.read()
    assert p.wait(60) in (0, 2) and err.count("\n") <= 1, f"expected a line at most, got {err}"

def test_what_a_user_can_mend_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_refused(program("--out", tmp_path / "file"), str(tmp_path / "file"))
    new = "--out", tmp_path / "new"
    for lr, where, step in ((1e15, ("--out", tmp_path / "wild"), 2), (1e30, new, 1)):
        assert_refused(program("--seed", 7, *where, size=replace(TINIER, lr=lr, warmup=1)),
                       f"diverged at step {step}", "seed 7", "learning rates")
    with mock.patch.object(Sinusoid, "sample", lambda *_: None):
        assert_refused(program(*new, experiment="sine"), "NoneType", "tasks.py")
    methods = {"n_dims": 1, "__init__": lambda self, **_: None,
               "hypotheses": lambda self: WAVE.hypotheses()}
    nameless = type("Own", (), methods)  # its text names a place in memory
    hashless = dataclass(type("Own", (), methods))
    for own, words in ((nameless, "frozen dataclass"), (hashless, "unhashable")):
        with mock.patch.object(experiments, "Sinusoid", own):
            assert_refused(program(*new, experiment="sine"), "Own", words)
    for edit, words in ((dict(n_head=3), "n_embd (8)"), (dict(nnz=4), "nnz"),
                        (dict(prompts=1), "prompts"), (dict(lr=math.nan), "lr")):
        assert_refused(program(*new, size=replace(TINIER, **edit)), words)
    with mock.patch.object(report, "draw", lambda figure: 1 / 0):  # the rehearsal finds it
        assert_refused(program(*new), "sparse", "line", "zero")
    for option, value in (("--steps", 0), ("--only", "nobody")):
        assert_refused(program(*new, option, value), "error: ", str(value))
    # Two rates diverge: the lower one after the rehearsal, in training, which has a folder.
    equal(sorted(os.listdir(tmp_path)), ["file", "wild"], "what was written")

def test_every_purpose_has_a_random_stream_of_its_own():
    firsts = {experiments.make_experiment(name, TINIER, seed).stream(purpose).random()
              for name in experiments.EXPERIMENTS for seed in (0, 1) for purpose in ("a", "b")}
    equal(len(firsts), 8, "different first numbers of 8 streams")

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
                test(Path(folder)) if test.__code__.co_argcount else test()  # as pytest does
            except (Exception, SystemExit):
                verdict, failed = "FAILED", failed + 1
                traceback.print_exc(limit=-2, file=sys.stdout, chain=False)
        seconds, figures = time.perf_counter() - begin, ", ".join(NOTES)
        print(f"{verdict:6} {seconds:5.2f} s  {name}{figures and ': ' + figures}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return int(failed > 0)

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
