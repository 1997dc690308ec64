"""What must hold, each against something independent. Run by `python test_icl.py` or by pytest."""
import icl  # before NumPy: it holds the BLAS to one thread

import contextlib
import csv
import io
import math
import os
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

HERE = Path(__file__).parent
LINE, WAVE = DenseLinear(1), Sinusoid()
CLASSES = [DenseLinear(4), SparseLinear(4, 1), SparseLinear(4, 3), WAVE, Sinusoid(frequency=3.0),
           Mixture((DenseLinear(4), SparseLinear(4, 2))), Mixture((LINE, WAVE), (0.2, 0.8)),
           Mixture((ConvexCombination(DenseLinear(4), SparseLinear(4, 1), 1.0), SparseLinear(4, 2)))]


def rng(seed=0):
    return np.random.default_rng(seed)


def small_model(dtype=np.float64, n_layer=2):
    """A model with every parameter away from its special initial value, and prompts for it."""
    config = icl.Config(n_dims=3, n_points=5, n_layer=n_layer, n_head=2, n_embd=4)
    params = {name: (p + 0.1 * rng(1).standard_normal(p.shape)).astype(dtype)
              for name, p in icl.init_params(config, rng()).items()}
    xs, ys = sample_prompts(DenseLinear(3), rng(2), 6, 5)
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
    assert_operation(icl.linear, r.standard_normal((7, 3)), r.standard_normal((3, 4)), r.standard_normal(4))


def test_gradient_of_layernorm():
    r = rng()
    assert_operation(icl.layernorm, r.standard_normal((5, 6)), r.standard_normal(6), r.standard_normal(6))


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
    predictions, ys = rng().standard_normal((2, 4, 3))
    _, backward = icl.mean_squared_error(predictions, ys)
    assert_gradients(lambda p: icl.mean_squared_error(p, ys)[0], (backward(),), (predictions,))


def test_gradient_of_the_whole_model():
    params, config, xs, ys = small_model(n_layer=2)
    _, grads = icl.loss_and_grads(params, config, xs, ys)
    assert grads.keys() == params.keys()
    f = lambda *arrays: icl.loss_and_grads(dict(zip(params, arrays)), config, xs, ys)[0]
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
    predictions, backward = icl.transformer(params, config, xs, ys)
    whole = backward(2 * (predictions - ys) / ys.size)
    loss, grads = icl.loss_and_grads(params, config, xs, ys)
    assert np.isclose(loss, np.mean((predictions - ys) ** 2))
    assert all(np.allclose(grads[name], whole[name]) for name in whole)


def test_any_number_of_threads_gives_the_same_bits():
    results = []
    try:
        for n in (1, 2, 7):
            icl.set_threads(n)
            config = icl.Config(3, 5, n_layer=2, n_head=2, n_embd=8)
            params = icl.init_params(config, rng())
            optimizer = icl.Muon(params, 1e-2, 1e-2, clip=1.0)
            r = rng(1)
            losses = [icl.train_step(params, config, optimizer, *sample_prompts(DenseLinear(3), r, 50, 5))
                      for _ in range(5)]
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
        assert np.all((0.4 < np.linalg.svd(step)[1]) & (np.linalg.svd(step)[1] < 1.4))
        assert np.sum(step * (u @ vt)) / np.linalg.norm(step) / np.linalg.norm(u @ vt) > 0.95


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
    assert abs((omega * density).sum() * 0.005 - 2) < 1e-2
    above_five = density[omega > 5].sum() * 0.005
    assert abs(np.mean(rng().gamma(6, 1 / 3, 200_000) > 5) - above_five) < 1e-3


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
            (lambda: DenseLinear(0), ("n_dims", "0")), (lambda: DenseLinear(2.5), ("n_dims", "2.5")),
            (lambda: SparseLinear(5, 0), ("nnz", "1 to 5", "0")),
            (lambda: SparseLinear(5, 6), ("nnz", "1 to 5", "6")),
            (lambda: Sinusoid(scale=-1.0), ("scale", "-1")), (lambda: Sinusoid(frequency=0.0), ("frequency",)),
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
    ys = ys + rng(1).standard_normal(ys.shape)  # with noise, so that no w fits
    predictions = baselines.least_squares(xs, ys)
    for b in range(20):
        for k in range(1, 9):
            w = np.linalg.lstsq(np.float64(xs[b, :k]), np.float64(ys[b, :k]), rcond=None)[0]
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
            pull = np.einsum("bnd,bn->bd", xs[:, :k], ys[:, :k] - (xs[:, :k] @ w[..., None])[..., 0]) / k
            zero = np.abs(w) < 1e-9
            assert np.all(np.abs(pull)[zero] <= alpha + 3e-3)  # |X^T e| / n <= alpha
            assert np.allclose(pull[~zero], alpha * np.sign(w[~zero]), atol=3e-3)


def test_lasso_of_orthogonal_inputs_is_soft_thresholding():
    xs = 2.0 * np.eye(4)[None]
    ys = np.array([[4.0, -1.0, 0.2, 0.0]])
    w = lasso_weights(xs, ys, 0.25, 4)  # G = I, X^T y / n = y / 2
    assert np.allclose(w, np.sign(ys) * np.maximum(np.abs(ys / 2) - 0.25, 0), atol=1e-6)


def test_lasso_takes_an_alpha_for_each_number_of_examples():
    xs, ys = sample_prompts(SparseLinear(5, 1), rng(), 30, 8)
    alphas = np.geomspace(0.01, 1, 8)
    each = baselines.lasso(xs, ys, alphas)
    for k in (2, 5, 7):
        assert np.allclose(each[:, k], baselines.lasso(xs, ys, alphas[k])[:, k], atol=1e-2)


def test_lasso_is_tuned_to_the_best_of_its_alphas():
    alphas = baselines.tune_lasso(SparseLinear(5, 1), rng(), 9, alphas=(0.03, 3.0))
    assert np.all(alphas[2:] == 0.03)  # 3 shrinks nearly all weights to zero


def test_bayes_of_the_dense_class_is_least_squares():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 200, 10)
    a, b = baselines.bayes(DenseLinear(4))(xs, ys), baselines.least_squares(xs, ys)
    agree = np.abs(a - b) < 1e-3  # but for the few X that are nearly singular beside the noise floor
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
                scores.append(math.log(prior) - (y @ np.linalg.solve(S, y) + np.linalg.slogdet(S)[1]) / 2)
            weights = np.exp(np.array(scores) - max(scores))
            predictions[b, k] = weights @ means / weights.sum()
    return predictions


def sparse_hypotheses(d, nnz, share=1.0):
    supports = list(combinations(range(d), nnz))
    return [(share / len(supports), lambda x, s=s: x[:, s] / math.sqrt(nnz)) for s in supports]


def test_bayes_of_the_sparse_class_is_brute_force_over_supports():
    xs, ys = map(np.float64, sample_prompts(SparseLinear(5, 2), rng(), 12, 7))
    ours = baselines.bayes(SparseLinear(5, 2))(xs, ys)
    assert np.allclose(ours, brute_force(sparse_hypotheses(5, 2), xs, ys, 1e-6), atol=1e-4)


def test_bayes_of_a_mixture_is_brute_force_over_the_union():
    mixture = Mixture((DenseLinear(4), SparseLinear(4, 1)), (0.3, 0.7))
    xs, ys = map(np.float64, sample_prompts(mixture, rng(), 20, 6))
    union = [(0.3, lambda x: x / 2)] + sparse_hypotheses(4, 1, 0.7)
    assert np.allclose(baselines.bayes(mixture)(xs, ys), brute_force(union, xs, ys, 1e-6), atol=1e-4)


def test_bayes_of_a_combination_is_brute_force_over_the_pairs():
    c = ConvexCombination(DenseLinear(3), SparseLinear(3, 1), 0.4)
    xs, ys = map(np.float64, sample_prompts(c, rng(), 12, 7))
    pairs = [(p, lambda x, f=f: np.concatenate([0.4 * x / math.sqrt(3), 0.6 * f(x)], axis=1))
             for p, f in sparse_hypotheses(3, 1)]
    assert np.allclose(baselines.bayes(c)(xs, ys), brute_force(pairs, xs, ys, 2e-6), atol=1e-4)


def test_bayes_of_a_sinusoid_of_known_frequency_is_regression_on_sine_and_cosine():
    xs, ys = map(np.float64, sample_prompts(Sinusoid(frequency=4.0), rng(), 10, 6))
    known = [(1.0, lambda x: np.concatenate([np.sin(4 * x), np.cos(4 * x)], axis=1))]
    ours = baselines.bayes(Sinusoid(frequency=4.0))(xs, ys)
    assert np.allclose(ours, brute_force(known, xs, ys, 1e-6), atol=1e-4)


def test_bayes_finds_a_frequency_a_million_times_rarer_than_common_ones():
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


def test_every_baseline_is_causal():
    xs, ys = sample_prompts(DenseLinear(4), rng(), 5, 7)
    x2, y2 = xs.copy(), ys.copy()
    x2[:, 4:] += 1
    y2[:, 3:] += 1
    for p in (baselines.least_squares, lambda xs, ys: baselines.lasso(xs, ys, 0.1),
              *(baselines.bayes(c) for c in CLASSES if c.n_dims == 4)):
        assert np.allclose(p(xs, ys)[:, :4], p(x2, y2)[:, :4])


# -------------------------------------------------------------------------------------- the runs

@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def command(*arguments, **options):
    return subprocess.run([sys.executable, str(HERE / "train.py"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=300, **options)


def test_a_checkpoint_brings_back_every_bit():
    config = icl.Config(2, 4, n_layer=1, n_head=2, n_embd=8)
    params, r = icl.init_params(config, rng()), rng(1)
    optimizer = icl.Muon(params, 1e-2, 1e-2)
    step = lambda p, o, r: icl.train_step(p, config, o, *sample_prompts(DenseLinear(2), r, 8, 4))
    step(params, optimizer, r)
    with scratch() as folder:
        icl.save_checkpoint(folder / "c.npz", params, config, optimizer, r, note="hello", a=np.arange(3))
        optimizer2, r2 = icl.Muon(params, 1e-2, 1e-2), rng(99)
        params2, config2, extra = icl.load_checkpoint(folder / "c.npz", optimizer2, r2)
        assert [p.name for p in folder.iterdir()] == ["c.npz"]
    assert config2 == config and extra["note"] == "hello" and np.array_equal(extra["a"], np.arange(3))
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
        train.train(whole, lambda *_, **__: None)
        first = tiny_run(folder / "b")
        for _ in range(5):
            first.one_step()
        first.save()
        second = tiny_run(folder / "b")
        second.load()
        assert second.step == 5
        train.train(second, lambda *_, **__: None)
        assert all(np.array_equal(whole.params[name], second.params[name]) for name in whole.params)
        assert np.array_equal(whole.log, second.log)
        files = [(folder / d / "mixture.csv").read_bytes() for d in "ab"]
        assert files[0] == files[1] and len(files[0].splitlines()) == 13


def test_the_command_line_trains_compares_and_shows_an_experiment():
    with scratch() as folder:
        out = folder / "o"
        arguments = ("--tiny", "--experiment", "sparse", "--steps", 3, "--out", out)
        first = command(*arguments)
        assert first.returncode == 0, first.stderr
        names = {p.name for p in out.iterdir()}
        assert {"results.csv", "report.html", "sparse-icl-dense.svg", "sparse-nnz.svg"} <= names
        rows = list(csv.DictReader(open(out / "results.csv")))
        assert list(rows[0]) == ["experiment", "figure", "predictor", "function_class", "x", "error",
                                 "standard_error"]
        assert {"dense model", "sparse model", "mixture model", "least squares", "Lasso"} <= {
            r["predictor"] for r in rows}
        for svg in out.glob("*.svg"):
            xml.dom.minidom.parse(str(svg))
        page = (out / "report.html").read_text()
        assert page.count("<svg") == len(list(out.glob("*.svg"))) and "http://" not in page.replace(
            "http://www.w3.org/2000/svg", "")
        before = (out / "results.csv").read_bytes()
        again = command(*arguments)
        assert again.returncode == 0 and "to train" not in again.stdout
        assert (out / "results.csv").read_bytes() == before


def test_one_model_alone_is_trained_and_the_rest_is_named():
    with scratch() as folder:
        done = command("--tiny", "--experiment", "sine", "--only", "linear", "--steps", 2, "--out", folder)
        assert done.returncode == 0 and "sine/sinusoid, sine/mixture" in done.stdout, done.stderr
        assert [p.name for p in (folder / "sine").glob("*.npz")] == ["linear.npz"]
        other = command("--tiny", "--experiment", "sine", "--seed", 1, "--steps", 2, "--out", folder)
        assert other.returncode == 2 and "seed" in other.stderr and "Traceback" not in other.stderr


def test_ctrl_c_saves_and_says_how_to_go_on():
    with scratch() as folder:
        p = subprocess.Popen([sys.executable, "-u", str(HERE / "train.py"), "--tiny", "--experiment",
                              "sparse", "--only", "dense", "--out", str(folder)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while "step" not in (line := p.stdout.readline()) or "to train" in line or "steps" in line:
            pass
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
        assert p.returncode == 130 and "saved" in err and len(err.strip().splitlines()) == 1
        assert (folder / "sparse" / "dense.npz").exists()


def test_bad_command_lines_are_refused_with_status_2_before_anything_is_written():
    bad = [["--steps", "0"], ["--steps", "x"], ["--seed", "-1"], ["--threads", "1.5"], ["--bogus"],
           ["--experiment", "cubic"], ["--only", "nobody"], ["--tiny", "--small"], ["extra"],
           ["--experiment", "sine", "--only", "dense"], ["--ti"], ["--steps"]]
    for arguments in bad:
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            try:
                train.parse_arguments(arguments)
            except SystemExit as e:
                assert e.code == 2
            else:
                raise AssertionError(arguments)
        assert "train.py" in err.getvalue() or "usage" in err.getvalue()


if __name__ == "__main__":
    tests = {name: f for name, f in globals().items() if name.startswith("test_")}
    failed = 0
    for name, f in tests.items():
        start = time.perf_counter()
        try:
            f()
        except Exception:
            failed += 1
            traceback.print_exc()
        print(f"{time.perf_counter() - start:6.2f} s  {name.removeprefix('test_').replace('_', ' ')}",
              flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(failed > 0)
