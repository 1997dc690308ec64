"""What must hold, each against something independent. Run by `python test_icl.py` or by pytest."""
import icl  # before NumPy: it holds the BLAS to one thread

import contextlib
import csv
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
from itertools import combinations
from pathlib import Path

import numpy as np

import baselines
import tasks
import train
from tasks import ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, sample_prompts

HERE = Path(__file__).resolve().parent
SLOW = bool(os.environ.get("ICL_SLOW"))  # more kills and more damage, in minutes
LINE, WAVE = DenseLinear(1), Sinusoid()
CLASSES = [DenseLinear(4), SparseLinear(4, 1), SparseLinear(4, 3), WAVE, Sinusoid(frequency=3.0),
           Mixture((DenseLinear(4), SparseLinear(4, 2))), Mixture((LINE, WAVE), (0.2, 0.8)),
           Mixture((ConvexCombination(DenseLinear(4), SparseLinear(4, 1), 1.0), DenseLinear(4)))]


def rng(seed=0):
    return np.random.default_rng(seed)


def small_model(dtype=np.float64, n_layer=2):
    """A model with every parameter away from its special initial value, and 7 prompts for it: they
    make shards of unequal sizes."""
    config = icl.Config(n_dims=3, n_points=5, n_layer=n_layer, n_head=2, n_embd=4)
    params = {name: (p + 0.1 * rng(1).standard_normal(p.shape)).astype(dtype)
              for name, p in icl.init_params(config, rng()).items()}
    xs, ys = sample_prompts(DenseLinear(3), rng(2), 7, 5)
    return params, config, xs.astype(dtype), ys.astype(dtype)


def assert_gradients(f, gradients, inputs, tolerance=1e-6):
    """Each analytic gradient of the scalar f(*inputs) against central differences, in float64."""
    for i, (x, gradient) in enumerate(zip(inputs, gradients)):
        numeric = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            sides = []
            for h in (1e-5, -1e-5):
                moved = [a.copy() for a in inputs]
                moved[i][place] += h
                sides.append(f(*moved))
            numeric[place] = (sides[0] - sides[1]) / 2e-5
        error = np.linalg.norm(gradient - numeric) / max(np.linalg.norm(numeric), 1e-8)
        assert gradient.dtype == np.float64 and error < tolerance, f"input {i}: {error:.2g}"


def assert_operation(op, *inputs):
    """Backward of `op` on a random direction of its output, against finite differences."""
    y, backward = op(*[a.copy() for a in inputs])
    direction = rng(5).standard_normal(y.shape)
    gradients = backward(direction)
    assert_gradients(lambda *a: np.sum(op(*a)[0] * direction),
                     gradients if isinstance(gradients, tuple) else (gradients,), inputs)


def errors(predictor, xs, ys):
    return (predictor(xs, ys) - ys) ** 2


def raises(kind, f, *words):
    """f() must raise `kind` with a message of one line that holds all the words."""
    try:
        f()
    except kind as e:
        message = str(e)
        assert "\n" not in message and all(w in message for w in words), message
        return
    raise AssertionError(f"no {kind.__name__}")


# ------------------------------------------------------------------------------- the transformer

def test_gradient_of_linear():
    r = rng()
    assert_operation(icl.linear, *map(r.standard_normal, ((7, 3), (3, 4), 4)))


def test_gradient_of_layernorm():
    r = rng()
    assert_operation(icl.layernorm, r.standard_normal((5, 6)),
                     r.standard_normal(6), r.standard_normal(6))


def test_layernorm_normalises_each_row():
    y, _ = icl.layernorm(5 + 3 * rng().standard_normal((9, 64)), np.ones(64), np.zeros(64))
    assert np.allclose(y.mean(1), 0, atol=1e-12) and np.allclose(y.var(1), 1, atol=1e-4)


def test_gradient_of_gelu():
    assert_operation(icl.gelu, 3 * rng().standard_normal((6, 5)))


def test_gelu_is_the_tanh_formula_and_finite_far_out():
    x = np.array([[-200.0, -30, -3, -1, 0, 0.5, 2, 30, 200]])
    expected = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    y, backward = icl.gelu(x.copy())
    assert np.allclose(y, expected, atol=1e-12)
    assert np.allclose(backward(np.ones_like(x))[0, [0, 1, 4, 7, 8]], [0, 0, 0.5, 1, 1])


def test_gradient_of_attention_with_every_query_and_with_every_second():
    qkv = rng().standard_normal((2, 5, 12))
    for stride in (1, 2):
        assert_operation(lambda a: icl.attention(a, 2, stride), qkv)


def test_attention_is_the_softmax_formula_written_as_loops():
    qkv, H, D = 2 * rng().standard_normal((2, 5, 12)), 2, 2
    q, k, v = np.split(qkv, 3, axis=2)
    expected = np.zeros((2, 5, 4))
    for b in range(2):
        for h in range(H):
            c = slice(h * D, h * D + D)
            for i in range(5):
                weights = np.exp([q[b, i, c] @ k[b, j, c] / math.sqrt(D) for j in range(i + 1)])
                expected[b, i, c] = weights / weights.sum() @ v[b, :i + 1, c]
    assert np.allclose(icl.attention(qkv, H)[0], expected)
    assert np.allclose(icl.attention(qkv, H, 2)[0], expected[:, ::2])


def test_gradient_of_mean_squared_error():
    predictions, ys, weights = rng().standard_normal((3, 4, 3))
    loss = lambda p: icl.mean_squared_error(p, ys, weights)
    assert_gradients(lambda p: loss(p)[0], (loss(predictions)[1](),), (predictions,))


def test_gradient_of_the_whole_model():
    params, config, xs, ys = small_model(n_layer=2)
    weights = icl.loss_weights(xs, ys)
    _, grads = icl.loss_and_grads(params, config, xs, ys, weights)
    assert grads.keys() == params.keys()
    f = lambda *arrays: icl.loss_and_grads(dict(zip(params, arrays)), config, xs, ys, weights)[0]
    assert_gradients(f, [grads[name] for name in params], list(params.values()))


def test_float32_in_float32_out():
    params, config, xs, ys = small_model(np.float32)
    _, grads = icl.loss_and_grads(params, config, xs, ys)
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    assert icl.predict(params, config, xs, ys).dtype == np.float32


def test_changing_an_example_changes_no_prediction_before_it():
    params, config, xs, ys = small_model()
    before = icl.predict(params, config, xs, ys)
    for k in range(5):
        x2, y2 = xs.copy(), ys.copy()
        x2[:, k + 1:] += 1  # prediction k may use x_k, but neither y_k nor anything later
        y2[:, k:] += 1
        after = icl.predict(params, config, x2, y2)
        assert np.array_equal(before[:, :k + 1], after[:, :k + 1])
        assert k == 4 or not np.allclose(before[:, k + 1], after[:, k + 1])


def test_a_shorter_prompt_gets_the_same_predictions():
    params, config, xs, ys = small_model()
    whole = icl.predict(params, config, xs, ys)
    for n in (1, 3):
        assert np.allclose(icl.predict(params, config, xs[:, :n], ys[:, :n]), whole[:, :n])


def test_sharded_gradient_is_the_whole_batchs():
    params, config, xs, ys = small_model()
    for w in (None, rng(1).random(ys.shape)):
        factor = 1 if w is None else w
        predictions, backward = icl.transformer(params, config, xs, ys)
        whole = backward(2 * factor * (predictions - ys) / ys.size)
        loss, grads = icl.loss_and_grads(params, config, xs, ys, w)
        assert np.isclose(loss, np.mean(factor * (predictions - ys) ** 2))
        assert all(np.allclose(grads[name], whole[name]) for name in whole)


def test_loss_weights_see_only_what_the_prediction_may_and_follow_their_formula():
    xs, ys = sample_prompts(SparseLinear(4, 1), rng(), 6, 5)
    weights = icl.loss_weights(xs, ys)
    for k in range(5):
        other_xs, other_ys = xs.copy(), ys.copy()
        other_xs[:, k + 1:], other_ys[:, k:] = 7, -7
        assert (icl.loss_weights(other_xs, other_ys)[:, k] == weights[:, k]).all()
        for b in range(6):
            v = (1 + sum(y * y for y in ys[b, :k])) / (k + 1)
            q = (1 + sum(x * x for x in xs[b, k])) / 5
            assert np.isclose(weights[b, k], 1 / (v * q))


def test_loss_weights_leave_the_optimum_where_it_is():
    f = Mixture((DenseLinear(2), SparseLinear(2, 1)))
    xs, ys = sample_prompts(f, rng(), 20_000, 4)
    best, weights = baselines.bayes(f)(xs, ys), icl.loss_weights(xs, ys)
    slope = weights * (best - ys) * best  # of the loss, as all predictions grow together
    assert (abs(slope.mean(0)) <= 4.5 * slope.std(0) / len(xs) ** 0.5 + 1e-6).all()
    slope = (abs(ys) + 1) ** -2 * (best - ys) * best  # such weights, with sight of y, would not
    assert (abs(slope.mean(0)[1:]) > 5 * slope.std(0)[1:] / len(xs) ** 0.5).any()


def test_any_number_of_threads_gives_the_same_bits():
    results = []
    try:
        for n in (1, 2, 7):
            icl.set_threads(n)
            config = icl.Config(3, 5, n_layer=2, n_head=2, n_embd=8)
            params = icl.init_params(config, rng())
            optimizer = icl.Muon(params, 1e-2, 1e-2, clip=1.0)
            r = rng(1)
            step = lambda xs, ys: icl.train_step(params, config, optimizer, xs, ys)
            losses = [step(*sample_prompts(DenseLinear(3), r, 50, 5)) for _ in range(5)]
            results.append((losses, [p.tobytes() for p in params.values()]))
    finally:
        icl.set_threads(os.cpu_count())
    assert results[0] == results[1] == results[2]


def test_adam_takes_the_steps_of_its_formula():
    p, m, v = np.float64([1, -2, 3]), 0, 0
    params = {"p": p.astype(np.float32)}
    optimizer = icl.Adam(params, lr=0.1, betas=(0.9, 0.99))
    for t in range(1, 6):
        g = rng(t).standard_normal(3)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        p = p - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        optimizer.update(params, {"p": g.astype(np.float32)})
        assert np.allclose(params["p"], p, atol=1e-5)


def test_clipping_scales_long_gradients_to_the_limit_and_leaves_short_ones():
    for norm, expected in ((10.0, 0.1), (0.5, 0.05)):  # the first m is a tenth of what comes in
        params = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
        optimizer = icl.Adam(params, lr=0.1, clip=1.0)
        optimizer.update(params, {name: np.float32([norm / math.sqrt(2)]) for name in params})
        m = np.concatenate([optimizer.state["m.a"], optimizer.state["m.b"]])
        assert np.isclose(np.linalg.norm(m), expected)


def test_muon_turns_the_gradient_into_a_nearly_orthogonal_step():
    for shape in ((16, 48), (48, 16), (16, 16)):
        params = {"h.0.attn.c_attn.weight": np.zeros(shape, np.float32)}
        g = rng().standard_normal(shape).astype(np.float32)
        icl.Muon(params, 1.0, 1.0, momentum=0.0).update(params, {"h.0.attn.c_attn.weight": g})
        step = -params["h.0.attn.c_attn.weight"] / math.sqrt(max(1, shape[0] / shape[1]))
        u, s, vt = np.linalg.svd(g, full_matrices=False)
        assert np.all((0.35 < np.linalg.svd(step)[1]) & (np.linalg.svd(step)[1] < 1.5))
        assert np.sum(step * (u @ vt)) / np.linalg.norm(step) / np.linalg.norm(u @ vt) > 0.9


def test_muon_is_its_formula_step_by_step():
    for shape in ((8, 24), (24, 8)):  # transposed, as Muon takes the smaller side for X X^T
        name = "h.0.attn.c_attn.weight"
        params = {name: np.zeros(shape, np.float32)}
        optimizer = icl.Muon(params, 1.0, 0.1, momentum=0.8, decay=0.7)
        M, v, p = np.zeros(shape), np.zeros(shape[1]), np.zeros(shape)
        for i in range(3):
            g = rng(i).standard_normal(shape)
            optimizer.update(params, {name: g.astype(np.float32)})
            M = 0.8 * M + g
            u, s, vt = np.linalg.svd((g + 0.8 * M) / np.linalg.norm(g + 0.8 * M),
                                     full_matrices=False)
            for _ in range(5):  # the Newton-Schulz polynomial acts on each singular value alone
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            R = u * s @ vt
            v = 0.7 * v + 0.3 * (R**2).mean(0)
            N = R / np.sqrt(v)
            N *= np.linalg.norm(R) / np.linalg.norm(N)
            p -= 0.1 * math.sqrt(max(1, shape[0] / shape[1])) * N
            assert np.allclose(params[name], p, atol=1e-4), (shape, i)


def test_muon_lets_every_neuron_take_steps_of_one_size():
    name = "h.0.attn.c_attn.weight"
    params = {name: np.zeros((8, 24), np.float32)}
    optimizer = icl.Muon(params, 1.0, 1.0)
    scale = np.where(np.arange(24) < 12, 0.01, 1.0).astype(np.float32)  # half of them hardly move
    steps = []
    for i in range(200):
        before = params[name].copy()
        optimizer.update(params, {name: rng(i).standard_normal((8, 24)).astype(np.float32) * scale})
        steps.append(np.linalg.norm(params[name] - before, axis=0))
    small, large = np.mean(steps[100:], axis=0).reshape(2, 12).mean(1)
    assert 0.8 * large < small < 1.25 * large  # without it, 0.01 of the others'


def test_a_short_training_clearly_beats_predicting_zero():
    config = icl.Config(n_dims=2, n_points=6, n_layer=2, n_head=2, n_embd=32)
    params, r = icl.init_params(config, rng()), rng(1)
    optimizer = icl.Muon(params, 3e-3, 1e-2, clip=1.0)
    for _ in range(300):
        icl.train_step(params, config, optimizer, *sample_prompts(DenseLinear(2), r, 64, 6))
    xs, ys = sample_prompts(DenseLinear(2), rng(2), 1000, 6)
    error = errors(lambda *prompt: icl.predict(params, config, *prompt), xs, ys)
    assert error[:, -1].mean() < 0.5 * np.mean(ys[:, -1] ** 2), error.mean(0)


# ------------------------------------------------------------------------------------- the tasks

def test_every_class_has_mean_zero_and_variance_one():
    for c in CLASSES[:-1] + [Sinusoid(9.0, 0.1), SparseLinear(20, 2)]:
        _, ys = sample_prompts(c, rng(), 20_000, 3)
        per_prompt = (ys**2).mean(1)
        assert abs(ys.mean()) < 0.02, c
        assert abs(per_prompt.mean() - 1) < 4 * per_prompt.std() / math.sqrt(20_000), c


def test_a_combination_has_the_variance_of_its_weights():
    for w in (0.0, 0.3, 1.0):
        _, ys = sample_prompts(ConvexCombination(LINE, WAVE, w), rng(), 20_000, 3)
        assert abs((ys**2).mean() / (w * w + (1 - w) ** 2) - 1) < 0.05


def test_inputs_are_standard_normal_and_float32():
    xs, ys = sample_prompts(DenseLinear(3), rng(), 5000, 4)
    assert xs.shape == (5000, 4, 3) and ys.shape == (5000, 4) and xs.dtype == ys.dtype == np.float32
    assert abs(xs.mean()) < 0.02 and np.allclose(np.cov(xs[:, 0].T), np.eye(3), atol=0.08)


def test_sparse_functions_have_nnz_coefficients_anywhere():
    f = SparseLinear(6, 2).sample(rng(), 3000)
    w = f(np.tile(np.eye(6), (3000, 1, 1)))  # f at the unit vectors is w
    assert np.all((w != 0).sum(1) == 2)
    assert np.allclose((w != 0).mean(0), 2 / 6, atol=0.04)


def test_sinusoids_have_frequencies_of_their_law():
    omega = np.linspace(0.005, 40, 8000)
    density = WAVE.density(omega)
    assert abs(density.sum() * 0.005 - 1) < 1e-3
    assert abs((omega * density).sum() * 0.005 - 1.5) < 1e-2
    above = lambda w: density[omega > w].sum() * 0.005  # as Sinusoid and the README say it
    for w, share in ((3, 0.02), (5, 7e-5), (6, 1 / 300_000), (8, 4e-9)):
        assert abs(above(w) / share - 1) < 0.1
    # The steepest slope of f at x = 0 is omega a: its mean square is E[omega^2] = 6 * 7 / 16.
    near_zero = WAVE.sample(rng(), 50_000)(np.tile([[-1e-3], [1e-3]], (50_000, 1, 1)))
    slopes = (near_zero[:, 1] - near_zero[:, 0]) / 2e-3
    assert abs(np.mean(slopes**2) / (6 * 7 / 16) - 1) < 0.05


def test_a_mixture_takes_one_component_a_prompt_in_its_shares():
    mixture = Mixture((DenseLinear(6), SparseLinear(6, 1)), (0.2, 0.8))
    w = mixture.sample(rng(), 5000)(np.tile(np.eye(6), (5000, 1, 1)))
    counts = (w != 0).sum(1)
    assert set(counts) == {1, 6} and abs(np.mean(counts == 1) - 0.8) < 0.03


def test_the_same_seed_gives_the_same_prompts_and_another_does_not():
    for c in CLASSES:
        a, b, other = (sample_prompts(c, rng(seed), 5, 4) for seed in (3, 3, 4))
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
        assert not np.array_equal(a[1], other[1])


def test_impossible_classes_are_refused_by_name():
    for f, words in [
            (lambda: DenseLinear(0), ("n_dims", "0")),
            (lambda: DenseLinear(2.5), ("n_dims", "2.5")),
            (lambda: SparseLinear(5, 0), ("nnz", "1 to 5", "0")),
            (lambda: SparseLinear(5, 6), ("nnz", "1 to 5", "6")),
            (lambda: Sinusoid(scale=-1.0), ("scale", "-1")),
            (lambda: Sinusoid(frequency=0.0), ("frequency",)),
            (lambda: Mixture(()), ("components",)),
            (lambda: Mixture((LINE, WAVE), (0.5, 0.6)), ("weights", "0.6")),
            (lambda: Mixture((LINE, WAVE), (1.5, -0.5)), ("weights", "-0.5")),
            (lambda: Mixture((LINE, WAVE), (1.0,)), ("weights", "2")),
            (lambda: Mixture((LINE, WAVE), (math.nan, 1.0)), ("weights", "nan")),
            (lambda: Mixture((LINE, DenseLinear(2))), ("dimension", "[1, 2]")),
            (lambda: ConvexCombination(LINE, WAVE, 1.1), ("weight", "[0, 1]", "1.1")),
            (lambda: ConvexCombination(LINE, DenseLinear(2), 0.5), ("dimension", "[1, 2]")),
            (lambda: sample_prompts(LINE, rng(), 0, 3), ("batch_size", "0")),
            (lambda: SparseLinear(40, 20).hypotheses(), ("supports",))]:
        raises(ValueError, f, *words)


# ---------------------------------------------------------------------------------- the baselines

def test_least_squares_is_numpys_lstsq_on_every_prefix():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 20, 9)
    xs, ys = xs.astype(float), ys + rng(1).standard_normal(ys.shape)  # with noise: no w fits
    predictions = baselines.least_squares(xs, ys)
    for b in range(20):
        for k in range(1, 9):
            w = np.linalg.lstsq(xs[b, :k], ys[b, :k], rcond=None)[0]
            assert np.isclose(predictions[b, k], xs[b, k] @ w, atol=1e-6)


def lasso_weights(xs, ys, alpha, k):
    """The Lasso's w after k examples, read off its predictions at the unit vectors: (B, d)."""
    B, _, d = xs.shape
    w = []
    for j in range(d):
        prompt = np.concatenate([xs[:, :k], np.tile(np.eye(d)[j], (B, 1, 1))], axis=1)
        w.append(baselines.lasso(prompt, np.pad(ys[:, :k], ((0, 0), (0, 1))), alpha)[:, k])
    return np.stack(w, 1)


def test_lasso_meets_its_optimality_conditions():
    xs, ys = sample_prompts(SparseLinear(6, 2), rng(), 30, 13)
    xs, ys = np.float64(xs), ys + 0.1 * rng(1).standard_normal(ys.shape)
    for alpha in (0.03, 0.3):
        for k in (1, 3, 6, 12):
            w = lasso_weights(xs, ys, alpha, k)
            residual = ys[:, :k] - np.einsum("bnd,bd->bn", xs[:, :k], w)
            pull = np.einsum("bnd,bn->bd", xs[:, :k], residual) / k
            zero = np.abs(w) < 1e-9
            assert np.all(np.abs(pull)[zero] <= alpha + 1e-4)  # |X^T e| / n <= alpha
            assert np.allclose(pull[~zero], alpha * np.sign(w[~zero]), atol=1e-4)


def test_lasso_of_orthogonal_inputs_is_soft_thresholding():
    xs = 2.0 * np.eye(4)[None]
    ys = np.array([[4.0, -1.0, 0.2, 0.0]])
    w = lasso_weights(xs, ys, 0.25, 4)  # G = I, X^T y / n = y / 2
    assert np.allclose(w, np.sign(ys) * np.maximum(np.abs(ys / 2) - 0.25, 0), atol=1e-6)


def test_lasso_converges_in_a_few_sweeps_whatever_the_rank():
    xs, ys = sample_prompts(DenseLinear(8), rng(), 1000, 11)  # fewer examples than dims, and more
    sweeps, gap = [], baselines._duality_gap
    baselines._duality_gap = lambda *a: sweeps.append(1) or gap(*a)  # asked after every sweep
    try:
        for alpha in (0.001, 0.03, 0.3):
            baselines.lasso(xs, ys, alpha, max_sweeps=100)
    finally:
        baselines._duality_gap = gap
    assert len(sweeps) < 3 * 10 * 6


def test_lasso_predicts_the_same_in_any_unit_of_the_inputs():
    xs, ys = sample_prompts(SparseLinear(4, 1), rng(), 50, 7)
    at_home = baselines.lasso(xs, ys, 0.1)
    for unit in (1e-6, 1e-3, 1e3):
        assert np.allclose(baselines.lasso(unit * xs, ys, 0.1 * unit), at_home, atol=1e-5)


def test_lasso_takes_an_alpha_for_each_number_of_examples():
    xs, ys = sample_prompts(SparseLinear(5, 1), rng(), 30, 8)
    alphas = np.geomspace(0.01, 1, 8)
    each = baselines.lasso(xs, ys, alphas)
    for k in (2, 5, 7):
        assert np.allclose(each[:, k], baselines.lasso(xs, ys, alphas[k])[:, k], atol=1e-5)


def test_lasso_is_tuned_to_the_best_of_its_alphas():
    alphas = baselines.tune_lasso(SparseLinear(5, 1), rng(), 9, alphas=(0.03, 3.0))
    assert np.all(alphas[2:] == 0.03)  # 3 shrinks nearly all weights to zero


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


def test_bayes_of_the_sparse_class_is_brute_force_over_supports():
    xs, ys = map(np.float64, sample_prompts(SparseLinear(5, 2), rng(), 12, 7))
    ours = baselines.bayes(SparseLinear(5, 2))(xs, ys)
    assert np.allclose(ours, brute_force(sparse_hypotheses(5, 2), xs, ys, 1e-10), atol=1e-4)


def test_bayes_of_a_mixture_is_brute_force_over_the_union():
    mixture = Mixture((DenseLinear(4), SparseLinear(4, 1)), (0.3, 0.7))
    xs, ys = map(np.float64, sample_prompts(mixture, rng(), 20, 6))
    union = [(0.3, lambda x: x / 2)] + sparse_hypotheses(4, 1, 0.7)
    ours = baselines.bayes(mixture)(xs, ys)
    assert np.allclose(ours, brute_force(union, xs, ys, 1e-10), atol=1e-4)


def test_bayes_of_a_combination_is_brute_force_over_the_pairs():
    c = ConvexCombination(DenseLinear(3), SparseLinear(3, 1), 0.4)
    xs, ys = map(np.float64, sample_prompts(c, rng(), 12, 7))
    pairs = [(p, lambda x, f=f: np.concatenate([0.4 * x / math.sqrt(3), 0.6 * f(x)], axis=1))
             for p, f in sparse_hypotheses(3, 1)]
    assert np.allclose(baselines.bayes(c)(xs, ys), brute_force(pairs, xs, ys, 0.52e-10), atol=1e-4)


def test_bayes_of_a_combination_with_all_its_weight_on_one_class_is_that_class_own():
    xs, ys = map(np.float64, sample_prompts(LINE, rng(), 20, 6))
    assert np.allclose(baselines.bayes(ConvexCombination(LINE, WAVE, 1.0))(xs, ys),
                       baselines.bayes(LINE)(xs, ys), atol=1e-7)


def test_bayes_of_a_sinusoid_of_known_frequency_is_regression_on_sine_and_cosine():
    xs, ys = map(np.float64, sample_prompts(Sinusoid(frequency=4.0), rng(), 10, 6))
    known = [(1.0, lambda x: np.concatenate([np.sin(4 * x), np.cos(4 * x)], axis=1))]
    ours = baselines.bayes(Sinusoid(frequency=4.0))(xs, ys)
    assert np.allclose(ours, brute_force(known, xs, ys, 1e-10), atol=1e-4)


def test_bayes_finds_a_frequency_that_pretraining_all_but_never_shows():
    xs, ys = sample_prompts(Sinusoid(frequency=8.0), rng(), 300, 21)
    assert errors(baselines.bayes(Mixture((LINE, WAVE))), xs, ys)[:, -1].mean() < 0.01


def test_no_predictor_beats_bayes_on_its_own_class_beyond_noise():
    for c in (DenseLinear(4), SparseLinear(4, 1), CLASSES[5]):
        xs, ys = sample_prompts(c, rng(), 2000, 9)
        optimum = errors(baselines.bayes(c), xs, ys)
        others = [baselines.least_squares, lambda xs, ys: baselines.lasso(xs, ys, 0.05),
                  baselines.bayes(DenseLinear(4)), baselines.bayes(SparseLinear(4, 1)),
                  baselines.bayes(SparseLinear(4, 2)), lambda xs, ys: 0 * ys]
        for other in others:
            gain = optimum - errors(other, xs, ys)
            assert np.all(gain.mean(0) < 4 * gain.std(0) / math.sqrt(2000) + 1e-4), c
    for c in (WAVE, Mixture((LINE, WAVE)), ConvexCombination(LINE, WAVE, 0.5)):
        xs, ys = sample_prompts(c, rng(), 1000, 12)
        optimum = errors(baselines.bayes(c), xs, ys)
        for other in (baselines.least_squares, baselines.bayes(LINE), baselines.bayes(WAVE)):
            gain = optimum - errors(other, xs, ys)
            assert np.all(gain.mean(0) < 4 * gain.std(0) / math.sqrt(1000) + 1e-3), c


def test_class_probabilities_start_at_the_weights_and_find_the_class():
    classes = (DenseLinear(4), SparseLinear(4, 1))
    mixture = Mixture(classes, (0.3, 0.7))
    for i, c in enumerate(classes):
        p = baselines.class_probabilities(mixture)(*sample_prompts(c, rng(), 200, 8))
        assert np.allclose(p.sum(2), 1) and np.allclose(p[:, 0], [0.3, 0.7])
        assert p[:, -1, i].mean() > 0.999


def test_the_assumed_noise_can_be_scaled_and_makes_dense_bayes_a_ridge_regression():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 20, 7)
    ys = ys + rng(1).standard_normal(ys.shape).astype(np.float32) / 2
    predictions = baselines.bayes(DenseLinear(4), noise_times=1e9)(xs, ys)  # 1e-10 becomes 0.1
    for k in range(1, 7):
        X, y = xs[:, :k].astype(float), ys[:, :k].astype(float)
        ridge = np.linalg.solve(X.swapaxes(1, 2) @ X + 0.4 * np.eye(4), X.swapaxes(1, 2)
                                @ y[..., None])  # 0.1 over the prior variance 1/4
        assert np.allclose(predictions[:, k], (xs[:, k, None] @ ridge)[:, 0, 0], atol=1e-6)


def test_every_baseline_is_causal():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 5, 7)
    x2, y2 = xs.copy(), ys.copy()
    x2[:, 4:] += 1
    y2[:, 3:] += 1
    for p in (baselines.least_squares, lambda xs, ys: baselines.lasso(xs, ys, 0.1),
              *(baselines.bayes(c) for c in CLASSES if c.n_dims == 4)):
        assert np.allclose(p(xs, ys)[:, :4], p(x2, y2)[:, :4])


# ------------------------------------------------------------------ what a finding is made of

def test_the_weight_of_a_perfect_learner_is_the_posterior_and_of_a_specialist_0_or_1():
    e = train.make_experiment("sparse", train.SIZES["tiny"])
    models = {"perfect model": baselines.bayes(e.mixture),
              "dense model": baselines.bayes(e.classes["dense"]),
              "sparse model": baselines.bayes(e.classes["sparse"])}
    figure = train.selection(e, {m: (f, e.mixture) for m, f in models.items()},
                             {"here": e.classes["dense"]}, 0, "selection", "", "sparse")
    weight = {p: figure.mean(p) for p in figure.errors}
    assert np.allclose(weight["perfect model, here"], weight["perfect posterior, here"])
    assert np.allclose(weight["dense model, here"], 0)
    assert np.allclose(weight["sparse model, here"], 1)
    assert weight["perfect model, here"][0] > 0.2 and weight["perfect model, here"][-1] < 1e-3


def test_the_margin_of_a_ratio_covers_what_fresh_samples_show():
    r = rng()
    draw = lambda: (lambda z: (2 * z + r.exponential(1, 400), z + r.exponential(1, 400)))(
        r.exponential(1, 400))
    for paired in (True, False):
        if not paired:
            pair, draw = draw, lambda: (pair()[0], pair()[1])
        ratios = [train.ratio_and_margin(*draw(), paired) for _ in range(400)]
        values, margins = np.transpose(ratios)
        assert 0.9 < np.mean(abs(values - 1.5) < margins) < 0.98
        assert abs(1.96 * values.std() / margins.mean() - 1) < 0.15


def test_intervals_everywhere_hold_all_at_once_in_95_of_100_trials():
    trials = rng().standard_normal((2000, 10, 100)).transpose(2, 0, 1)  # (B, trials, places)
    value, margin = train.mean_and_margin(trials)
    at_once = np.mean((abs(value) < margin * train.everywhere(10)).all(1))
    assert 0.93 < at_once < 0.97, at_once
    assert np.mean((abs(value) < margin).all(1)) < 0.7


def test_a_finding_holds_only_where_its_whole_interval_is_within_the_bound():
    verdict = lambda *part, **more: train.finding("", [("", *part)], **more).verdict
    assert verdict(1.0, 0.1, None, 1.2) == verdict(1.0, 0.1, 0.8, None) == "holds"
    assert verdict(1.0, 0.1, None, 1.05) == verdict(1.0, 0.1, 0.95, None) == "undecided"
    assert verdict(1.0, 0.1, None, 0.8) == verdict(1.0, 0.1, 1.2, None) == "does not hold"
    assert verdict(1.0, 0.1, None, None) == "measured"
    assert verdict(math.nan, 0.1, None, 1.2) == verdict(1.0, math.nan, 0.8, None) == "undecided"
    assert verdict(1.0, 0.1, None, 0.8, too_small=True) == "does not hold at this size"
    both = train.finding("", [("", 1, 0.1, None, 2), ("", 1, 0.1, 2, None)])
    assert both.verdict == "does not hold"


def test_the_worst_place_is_one_wholly_beyond_the_bound_where_there_is_one():
    value, margin = np.array([0.06, 0.055, math.nan]), np.array([0.001, 0.010, math.nan])
    assert train.worst_place(value, margin, 0.05) == 0
    assert train.worst_place(value, margin, 0.06) == 1  # none is: the one that reaches farthest


# -------------------------------------------------------------------------------------- the runs

@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def start(*arguments, save_seconds=30, before="pass", group=False):
    """train.py in a process of its own, evaluating on few prompts and saving as often as told."""
    code = (f"import dataclasses, sys, train; train.SAVE_SECONDS = {save_seconds}; "
            "train.SIZES['tiny'] = dataclasses.replace(train.SIZES['tiny'], prompts=100); "
            f"{before}; sys.exit(train.run_safely())")
    return subprocess.Popen([sys.executable, "-u", "-c", code, *map(str, arguments)], cwd=HERE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=group)


def command(*arguments, **options):
    """The same, waited for: (exit status, stdout, stderr)."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def assert_refused(result, *words):
    """Exit status 2, and one line on stderr, not a traceback, that holds all the words."""
    status, _, err = result
    assert status == 2 and len(err.strip().splitlines()) == 1 and all(w in err for w in words), err


def test_a_checkpoint_brings_back_every_bit():
    config = icl.Config(2, 4, n_layer=1, n_head=2, n_embd=8)
    params, r = icl.init_params(config, rng()), rng(1)
    optimizer = icl.Muon(params, 1e-2, 1e-2)
    step = lambda p, o, r: icl.train_step(p, config, o, *sample_prompts(DenseLinear(2), r, 8, 4))
    step(params, optimizer, r)
    with scratch() as folder:
        icl.save_checkpoint(folder / "c.npz", params, config, optimizer, r, note="hello",
                            a=np.arange(3))
        optimizer2, r2 = icl.Muon(params, 1e-2, 1e-2), rng(99)
        params2, config2, extra = icl.load_checkpoint(folder / "c.npz", optimizer2, r2)
        assert [p.name for p in folder.iterdir()] == ["c.npz"]
    assert config2 == config and extra["note"] == "hello"
    assert np.array_equal(extra["a"], np.arange(3))
    for _ in range(3):
        assert step(params, optimizer, r) == step(params2, optimizer2, r2)
    assert all(np.array_equal(params[name], params2[name]) for name in params)


def test_a_failed_write_leaves_the_old_file_whole():
    with scratch() as folder:
        path = folder / "results.csv"
        path.write_text("old")
        try:
            with icl.replacing(path) as file:
                file.write(b"ne")
                raise OSError("disk full")
        except OSError:
            pass
        assert path.read_text() == "old" and [p.name for p in folder.iterdir()] == ["results.csv"]


def tiny_run(folder, steps=12):
    e = train.make_experiment("sparse", train.SIZES["tiny"], steps)
    return train.Run(e, "mixture", 0, folder / "mixture.npz")


def test_an_interrupted_and_resumed_training_equals_an_uninterrupted_one_bit_for_bit():
    with scratch() as folder:
        for d in "ab":
            (folder / d).mkdir()
        whole = tiny_run(folder / "a")
        train.train(whole, lambda *_: None, lambda: False)
        first = tiny_run(folder / "b")
        for _ in range(5):
            first.one_step()
        first.save()
        second = tiny_run(folder / "b")
        second.load()
        assert second.step == 5
        train.train(second, lambda *_: None, lambda: False)
        assert all(np.array_equal(whole.params[name], second.params[name]) for name in whole.params)
        assert np.array_equal(whole.log, second.log)
        files = [(folder / d / "mixture.csv").read_bytes() for d in "ab"]
        assert files[0] == files[1] and len(files[0].splitlines()) == 13


def test_evaluation_does_not_disturb_training_and_every_purpose_has_its_own_stream():
    with scratch() as folder:
        calm, disturbed = tiny_run(folder), tiny_run(folder)
        for _ in range(3):
            calm.one_step()
            disturbed.one_step()
            e = disturbed.experiment
            xs, ys = sample_prompts(e.mixture, train.random_stream(0, e.name, "prompts"), 20, 8)
            train.run_predictors({"mixture model": lambda xs, ys: icl.predict(
                disturbed.params, disturbed.config, xs, ys)}, xs, ys)
        for name, p in calm.params.items():
            assert np.array_equal(p, disturbed.params[name])
    first = [train.random_stream(*purpose).random(3).tobytes() for purpose in
             [(0, "a"), (1, "a"), (0, "b"), (0, "a", "b"), (0, "a", "b", 1)]]
    assert len(set(first)) == 5


def test_the_command_line_trains_compares_and_shows_an_experiment():
    with scratch() as folder:
        out = folder / "o"
        arguments = ("--tiny", "--experiment", "sparse", "--steps", 3, "--out", out)
        status, _, err = command(*arguments)
        assert status == 0, err
        names = {p.name for p in out.iterdir()}
        assert {"results.csv", "report.html", "sparse-icl-dense.svg", "sparse-nnz.svg"} <= names
        rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
        assert ",".join(rows[0]) == ("experiment,figure,predictor,function_class,x,error,"
                                     "standard_error,quantity")
        assert {"dense model", "sparse model", "mixture model", "least squares", "Lasso"} <= {
            r["predictor"] for r in rows}
        for svg in out.glob("*.svg"):
            xml.dom.minidom.parse(str(svg))
        page = (out / "report.html").read_text()
        assert page.count("<svg") == len(list(out.glob("*.svg")))
        assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # self-contained
        before = (out / "results.csv").read_bytes()
        status, shown, _ = command(*arguments)
        assert status == 0 and "to train" not in shown
        assert (out / "results.csv").read_bytes() == before


def test_one_model_alone_is_trained_and_the_rest_is_named():
    with scratch() as folder:
        arguments = ("--tiny", "--experiment", "sine", "--steps", 2, "--out", folder)
        status, shown, err = command(*arguments, "--only", "linear")
        assert status == 0 and "sine/sinusoid, sine/mixture" in shown, err
        assert [p.name for p in (folder / "sine").glob("*.npz")] == ["linear.npz"]
        assert_refused(command(*arguments, "--seed", 1), "seed", "linear.npz")


def wait_for(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(process.stderr.read())


def test_ctrl_c_saves_and_says_how_to_go_on_and_a_second_one_does_no_harm():
    for presses in (1, 3):
        with scratch() as folder:
            p = start("--tiny", "--experiment", "sparse", "--threads", 2, "--out", folder,
                      group=os.name != "nt")
            wait_for(p, "sparse/dense")
            wait_for(p, "sparse/sparse")  # two are under way, side by side
            for _ in range(presses):
                if presses == 1 or os.name == "nt":
                    p.send_signal(signal.SIGINT)
                else:
                    os.killpg(p.pid, signal.SIGINT)  # as a terminal does: to every process of it
                time.sleep(0.01)
            _, err = p.communicate(timeout=60)
            assert p.returncode == 130 and "saved" in err, err
            assert len(err.strip().splitlines()) == 1
            e = train.make_experiment("sparse", train.SIZES["tiny"])
            for model in ("dense", "sparse"):
                run = train.Run(e, model, 0, folder / "sparse" / f"{model}.npz")
                run.load()
                assert run.step > 0


def test_when_a_run_is_killed_or_one_model_fails_no_training_goes_on():
    if os.name == "nt":
        return  # no process groups there
    with scratch() as folder:
        p = start("--tiny", "--experiment", "sparse", "--threads", 2, "--out", folder, group=True)
        wait_for(p, "sparse/dense")
        p.kill()
        p.communicate()  # its pipes close once its last child is gone
        with contextlib.suppress(ProcessLookupError):
            for _ in range(50):
                os.killpg(p.pid, 0)
                time.sleep(0.1)
            raise AssertionError("a process of the killed run is still there")
    with scratch() as folder:
        (folder / "sparse" / "dense.csv").mkdir(parents=True)  # in the way of the first save
        assert_refused(command("--tiny", "--experiment", "sparse", "--threads", 2, "--out", folder,
                               save_seconds=1), "dense.csv")
        e = train.make_experiment("sparse", train.SIZES["tiny"])
        run = train.Run(e, "sparse", 0, folder / "sparse" / "sparse.npz")
        run.load()
        assert 0 < run.step < run.steps / 2, "it went on without the one that failed"


def test_a_finished_run_keeps_its_parameters_alone_and_still_counts_as_finished():
    with scratch() as folder:
        run = tiny_run(folder, steps=2)
        run.one_step()
        run.save()
        assert any(name.startswith("optimizer/") for name in np.load(run.path).files)
        run.one_step()
        run.save()
        kept = {name.split("/")[0] for name in np.load(run.path).files}
        assert kept == {"header", "params", "extra"}
        assert [p.name for p in folder.glob("*.npz")] == ["mixture.npz"]
        again = tiny_run(folder, steps=2)
        again.load()
        assert again.finished and again.seconds == run.seconds > 0
        assert all(np.array_equal(again.params[name], run.params[name]) for name in run.params)


def test_the_committed_models_are_whole_and_finished():
    for name in ("sparse", "sine"):
        e = train.make_experiment(name, train.SIZES["small"])
        for model in e.pretraining:
            run = train.Run(e, model, 0, HERE / "results" / "small" / name / f"{model}.npz")
            run.load()
            assert run.finished, run.path


def test_the_mixture_model_of_small_sees_as_many_prompts_of_a_class_as_its_specialist():
    for name in ("sparse", "sine"):
        e = train.make_experiment(name, train.SIZES["small"])
        steps = {m: train.Run(e, m, 0, Path()).settings["steps"] for m in e.pretraining}
        assert all(steps["mixture"] * weight == steps[m] for m, weight in
                   zip(e.classes, e.mixture.weights))


def test_no_prediction_exceeds_what_the_final_layer_norm_allows():
    config = icl.Config(n_dims=1, n_points=6, n_layer=2, n_head=2, n_embd=16)
    params = {name: np.float32(p + 0.3 * rng(1).standard_normal(p.shape))
              for name, p in icl.init_params(config, rng()).items()}
    gain, bias, read_out = (params[name] for name in
                            ("ln_f.weight", "ln_f.bias", "read_out.weight"))
    w = gain * read_out[:, 0]  # meets a vector of mean 0 and length sqrt(C)
    bound = 4 * np.linalg.norm(w - w.mean()) + abs(bias @ read_out + params["read_out.bias"])[0]
    largest = max(abs(icl.predict(params, config, *(np.float32(size) * a for a in sample_prompts(
        DenseLinear(1), rng(), 500, 6)))).max() for size in (1, 30, 1000))
    assert 0.2 * bound < largest < bound * (1 + 1e-5)
    # The README: fewer than one value in a thousand of the lines is larger than 6.
    assert 6e-4 < np.mean(abs(sample_prompts(DenseLinear(1), rng(), 50_000, 20)[1]) > 6) < 9e-4


def test_the_readmes_first_lesson_prints_what_the_readme_shows():
    lesson, _, rest = (HERE / "README.md").read_text().split("```python\n")[1].partition("```\n")
    shown = np.array(re.findall(r"\d\.\d*", rest.split("\n\n")[0]), float)
    out = subprocess.run([sys.executable, "-c", lesson], cwd=HERE, capture_output=True, text=True)
    printed = np.array(re.findall(r"\d\.\d*", out.stdout), float)
    assert len(shown) == 30 and np.allclose(printed, shown, atol=0.011), out


def test_every_row_of_the_readmes_findings_is_a_finding_of_the_committed_run():
    found = re.sub(r"\s+", " ", (HERE / "results" / "small" / "run.txt").read_text()).strip()
    found = {(verdict, text) for verdict, text in
             re.findall(r"\[([a-z ]+)\] (.*?)(?= \[[a-z ]+\] | Experiment | Verdicts|$)", found)}
    table = (HERE / "README.md").read_text().split("| the paper's claim |")[1].split("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    rows = [row for row in rows if len(row) == 3]
    for label, measured, verdict in rows:
        same = [text for v, text in found if v == verdict and text.endswith(measured)]
        assert len(same) == 1 and all(w in same[0] for w in re.findall(r"dense|sparse|linear|sinus"
                                      r"oid|lines|\d[.\d]*", label)), (label, measured, same)
    assert len(rows) > 20


def test_every_decimal_number_of_the_readmes_findings_and_costs_was_printed_by_a_committed_run():
    printed = "".join(path.read_text() for path in [*(HERE / "results").glob("*/run.txt"),
                                                    *(HERE / "results").glob("*.txt")])
    found = (HERE / "README.md").read_text().split("## What was found")[1]
    found = found.split("## What the program promises")[0]
    numbers = re.findall(r"(?<![\w./-])\d+\.\d+(?:e[+-]\d+)?(?![\w/-])", found)
    assert len(numbers) > 20
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", printed), number


def test_killed_at_random_moments_a_run_ends_with_the_bits_of_an_undisturbed_one():
    with scratch() as folder:
        steps = 40 if SLOW else 8
        arguments = ("--tiny", "--experiment", "sparse", "--steps", steps, "--out")
        calm, storm, r = folder / "calm", folder / "storm", rng()
        assert command(*arguments, calm)[0] == 0
        for _ in range(20 if SLOW else 3):
            p = start(*arguments, storm, save_seconds=0)
            time.sleep(r.uniform(0.2, 2.5))
            p.kill()
            p.communicate()
        (storm / "sparse").mkdir(parents=True, exist_ok=True)
        (storm / "sparse" / "dense.npz.1.tmp").write_bytes(b"half a checkpoint")
        status, _, err = command(*arguments, storm)
        assert status == 0 and not list((storm / "sparse").glob("*.tmp")), err
        for name in ("results.csv", "sparse/dense.csv", "sparse/sparse.csv", "sparse/mixture.csv"):
            assert (calm / name).read_bytes() == (storm / name).read_bytes(), name
        for model in ("dense", "sparse", "mixture"):
            a, b = (icl.load_checkpoint(d / "sparse" / f"{model}.npz")[0] for d in (calm, storm))
            assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_second_run_in_the_same_directory_refuses_and_names_the_first():
    with scratch() as folder:
        arguments = ("--tiny", "--experiment", "sparse", "--out", folder)
        first = start(*arguments)
        try:
            wait_for(first, "over the optimum")
            assert_refused(command(*arguments), str(first.pid), str(folder))
        finally:
            first.kill()
            first.communicate()
        status, _, err = command(*arguments, "--only", "dense", "--steps", 1)
        assert status == 0, err  # the dead one does not block


def test_a_file_in_the_way_and_a_directory_deleted_meanwhile_are_one_clear_line():
    with scratch() as folder:
        (folder / "file").write_text("mine")
        assert_refused(command("--tiny", "--out", folder / "file"), str(folder / "file"))
        assert (folder / "file").read_text() == "mine"
        raises(OSError, tiny_run(folder / "gone").save, str(folder / "gone"))
    if Path("/proc/self").exists():  # where not even root may write
        assert_refused(command("--tiny", "--out", "/proc/icl"), "/proc/icl")


def test_a_full_disk_is_one_clear_line_and_leaves_the_last_checkpoint_whole():
    if os.name == "nt":
        return  # no way to limit the size of files there
    with scratch() as folder:
        arguments = ("--tiny", "--experiment", "sparse", "--only", "dense", "--out", folder)
        path = folder / "sparse" / "dense.npz"
        first = start(*arguments, save_seconds=0)
        wait_for(first, "over the optimum")
        first.send_signal(signal.SIGINT)
        first.communicate()
        before = path.read_bytes()
        full = command(*arguments, save_seconds=0, before=(
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"))
        assert_refused(full, str(path), "large")
        assert path.read_bytes() == before and not list(folder.rglob("*.tmp"))


def damaged(good):
    """(what is wrong with it, the bytes of a checkpoint damaged so): all must be refused."""
    arrays = dict(np.load(io.BytesIO(good)))
    header = str(arrays["header"])

    def packed(**changes):
        out = io.BytesIO()
        np.savez(out, **{name: a for name, a in (arrays | changes).items() if a is not None})
        return out.getvalue()

    def edited(name, value):
        """With another value in the header."""
        changed = re.sub(f'"{name}": [^,}}]+', f'"{name}": {value}', header)
        assert changed != header, name
        return packed(header=np.array(changed))

    some = "params/h.0.mlp.c_fc.weight"
    yield "empty", b""
    yield "truncated", good[:len(good) // 2]
    yield "text", b"not an npz at all"
    yield "an npy", (lambda out: (np.save(out, np.ones(3)), out.getvalue())[1])(io.BytesIO())
    yield "a pickle", packed(**{some: np.array([print, {}], object)})
    yield "newer", edited("format", 99)
    yield "no header", packed(header=None)
    yield "no json", packed(header=np.array("{"))
    yield "huge", edited("n_layer", 1000000000)
    yield "negative", edited("n_layer", -4)
    yield "other size", edited("n_embd", 32)
    yield "missing", packed(**{some: None})
    yield "extra", packed(**{"params/more": np.ones(3, np.float32)})
    yield "misshapen", packed(**{some: arrays[some].T})
    yield "float64", packed(**{some: arrays[some].astype(np.float64)})
    yield "nan", packed(**{some: arrays[some] * np.float32(np.nan)})
    yield "optimiser", packed(**{"optimizer/m.h.0.mlp.c_fc.weight": np.ones(1, np.float32)})
    yield "steps", edited("step", '"1"')
    yield "rng", edited("bit_generator", '"MT19937"')
    yield "log", packed(**{"extra/log": np.ones(3)})


def test_a_damaged_checkpoint_is_refused_whole_in_one_line_and_the_one_before_is_offered():
    with scratch() as folder:
        run = tiny_run(folder)
        run.one_step()
        run.save()
        run.save()
        good = run.path.read_bytes()
        for what, content in damaged(good):
            run.path.write_bytes(content)
            fresh = tiny_run(folder)
            before = {name: p.copy() for name, p in fresh.params.items()}
            raises(ValueError, fresh.load, str(run.path), "mixture.previous.npz")
            assert fresh.step == 0 and fresh.optimizer.t == 0, what
            assert all(np.array_equal(before[name], fresh.params[name]) for name in before), what
            assert run.path.read_bytes() == content, what
        os.replace(icl.previous(run.path), run.path)
        fresh.load()
        assert fresh.step == 1


def test_a_checkpoint_with_any_bit_flipped_is_refused_or_holds_the_same_numbers():
    with scratch() as folder:
        run = tiny_run(folder)
        run.save()
        good, r, refused = bytearray(run.path.read_bytes()), rng(), 0
        for place in r.integers(len(good), size=400 if SLOW else 60):
            bad = good.copy()
            bad[place] ^= 1 << r.integers(8)
            run.path.write_bytes(bad)
            try:
                params, _, _ = icl.load_checkpoint(run.path)
            except ValueError as e:
                assert str(run.path) in str(e)
                refused += 1
            else:
                assert all(np.array_equal(params[name], run.params[name]) for name in params)
        assert refused > 40


def test_a_run_killed_between_two_renames_goes_on_from_the_checkpoint_before():
    with scratch() as folder:
        run = tiny_run(folder)
        run.one_step()
        run.save()
        os.replace(run.path, icl.previous(run.path))
        fresh = tiny_run(folder)
        fresh.load()
        assert fresh.step == 1


def test_training_that_diverges_stops_at_once_and_keeps_its_numbers_finite():
    with scratch() as folder:
        run = tiny_run(folder)
        run.one_step()
        run.params["h.0.mlp.c_fc.weight"][0, 0] = np.nan
        before = run.params["h.1.mlp.c_fc.weight"].copy()
        raises(ValueError, run.one_step, "diverged", "step 2", "seed 0", "learning rate")
        assert run.step == 1 and run.optimizer.t == 1
        assert np.array_equal(before, run.params["h.1.mlp.c_fc.weight"])


def test_a_mistake_in_the_program_is_shown_with_its_traceback():
    status, _, err = command("--tiny", "--out", "nowhere",
                             before="train.make_experiment = lambda *a: train.np.ones(2) @ [1]")
    assert status == 1 and "Traceback" in err and "matmul" in err and not Path("nowhere").exists()


def test_wrong_arrays_are_refused_by_name_shape_and_what_was_wanted():
    params, config, xs, ys = small_model()
    predictors = [lambda *p: icl.predict(params, config, *p), baselines.least_squares,
                  lambda *p: icl.loss_and_grads(params, config, *p),
                  lambda *p: baselines.lasso(*p, 0.1), baselines.bayes(DenseLinear(3))]
    nan = ys.copy()
    nan[0, 0] = np.nan
    for f in predictors:
        raises(ValueError, lambda: f(xs[0], ys), "xs", "(B, N", "(5, 3)")
        raises(ValueError, lambda: f(xs, ys[:, :3]), "ys", "(7, 5)", "(7, 3)")
        raises(ValueError, lambda: f(xs.astype(int), ys), "xs", "int64")
        raises(ValueError, lambda: f(xs.tolist(), ys), "xs", "list")
        raises(ValueError, lambda: f(xs, nan), "ys", "finite", "nan")
        raises(ValueError, lambda: f(xs[:0], ys[:0]), "xs", "(0, 5, 3)")
    for f in (predictors[0], predictors[2], predictors[4]):
        raises(ValueError, lambda: f(xs[:, :, :2], ys), "xs", "3", "(7, 5, 2)")
    longer = np.tile(xs, (1, 2, 1)), np.tile(ys, (1, 2))
    raises(ValueError, lambda: predictors[0](*longer), "xs", "5 points", "(7, 10, 3)")
    raises(ValueError, lambda: baselines.lasso(xs, ys, -1.0), "alpha", "-1")
    raises(ValueError, lambda: icl.loss_and_grads(params, config, xs, ys, ys[0]), "weights", "(5,)")
    for bad in (dict(n_layer=0), dict(n_head=3), dict(n_embd=2.0)):
        raises(ValueError, lambda: icl.Config(3, 5, **bad), *bad)


def test_bad_command_lines_are_refused_with_status_2_before_anything_is_written():
    bad = [["--steps", "0"], ["--steps", "x"], ["--seed", "-1"], ["--threads", "1.5"], ["--bogus"],
           ["--experiment", "cubic"], ["--only", "nobody"], ["--tiny", "--small"], ["extra"],
           ["--experiment", "sine", "--only", "dense"], ["--ti"], ["--steps"], ["--out", ""]]
    numbers = ["", "-1", "1.5", "1e3", "nan", "inf", "0x10", "\uff11", "9" * 30, " 1", "1 ", "None"]
    r = rng()
    pick = lambda *choices: str(r.choice(choices))
    for _ in range(200):  # one bad piece among good ones, in any order
        good = [["--tiny"], ["--experiment", "sine"], ["--only", "mixture"], ["--seed", "3"],
                ["--threads", "2"], ["--out", "nowhere"]]
        spoiled = [[[pick("--steps", "--seed", "--threads"), pick(*numbers)]],
                   [["--experiment", pick("", "sines", "SPARSE", "dense")]],
                   [["--only", pick("", "dense", "Mixture", "sine/mixture")], good[1]],
                   [[pick("--Tiny", "-t", "--step", "--small", "--help=1", "x")], good[0]]]
        spoiled = spoiled[r.integers(4)]
        names = [piece[0] for piece in spoiled]
        pieces = [good[i] for i in r.permutation(len(good))[:r.integers(5)]]
        pieces = [piece for piece in pieces if piece[0] not in names] + spoiled
        bad.append([word for i in r.permutation(len(pieces)) for word in pieces[i]])
    for arguments in bad:
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            try:
                train.main(arguments)
            except SystemExit as e:
                assert e.code == 2, arguments
            else:
                raise AssertionError(arguments)
        assert "usage:" in err.getvalue() and "error:" in err.getvalue(), arguments
    assert not Path("nowhere").exists()


def run_all():
    tests = {name: f for name, f in globals().items() if name.startswith("test_")}
    failed = 0
    for name, f in tests.items():
        begin = time.perf_counter()
        try:
            f()
        except Exception:
            failed += 1
            traceback.print_exc()
        spent = time.perf_counter() - begin
        print(f"{spent:6.2f} s  {name.removeprefix('test_').replace('_', ' ')}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(run_all())
