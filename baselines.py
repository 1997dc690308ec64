"""Predictors that nobody trained: least squares, Lasso, and the exact Bayes optimum.

A *predictor* is a function (xs, ys) -> predictions, with xs (B, N, d), ys (B, N), predictions
(B, N). Prediction k uses the examples 1..k-1 and x_k only. Here all is computed in float64, and
predictions are finite for float32 prompts in any unit. Arrays that are no prompts raise ValueError.

The exact Bayes optimum is also a yardstick for trained models: `effective_noise` tells how noisy
the labels would have to be for the optimum to err as much as a model does.
"""
from dataclasses import replace

import numpy as np

from icl import check_prompts
from tasks import sample_prompts

# ------------------------------------------------------------------------- least squares and Lasso


def least_squares(xs, ys):
    """Least squares on the examples so far, of least norm while they do not determine w.

    xs (B, N, d), ys (B, N) -> predictions (B, N); the first, from no examples, is 0.
    """
    xs, ys = _float64(xs, ys)
    predictions = np.zeros(ys.shape)
    for k in range(1, ys.shape[1]):
        w = np.linalg.pinv(xs[:, :k]) @ ys[:, :k, None]  # (B, d, 1)
        predictions[:, k] = (xs[:, k, None] @ w)[:, 0, 0]
    return predictions


def lasso(xs, ys, alpha, tol=1e-10, max_rounds=1000):
    """Lasso on the examples so far: min over w of ||y - X w||^2 / (2n) + alpha ||w||_1.

    xs (B, N, d), ys (B, N) -> predictions (B, N). alpha: one number, or (N,), one for each number
    of examples. A prompt is solved once its duality gap is at most tol mean(y^2), and given up
    after max_rounds rounds of ten sweeps. With alpha from 0.03 up, on the classes of tasks.py with
    d up to 20, predictions are within 1e-3 of scikit-learn's.

    The method is coordinate descent, for all prompts at once, from the solution for n - 1 examples:
    with G = X^T X / n and r = X^T (y - X w) / n, a sweep replaces each coordinate in turn by
    w_j <- S(r_j + G_jj w_j) / G_jj, where S(z) = sign(z) max(|z| - alpha, 0).
    Source: Friedman, Hastie, Tibshirani 2010, "Regularization paths for generalized linear models
    via coordinate descent", sections 2.1 and 2.2.
    """
    xs, ys = _float64(xs, ys)
    B, N, d = xs.shape
    if np.shape(alpha) not in ((), (N,)) or not np.all(np.isfinite(alpha)) or np.min(alpha) <= 0:
        raise ValueError(f"alpha must be positive, one number or {N} of them, not {alpha}")
    alpha = np.broadcast_to(alpha, N)
    # Prompts come last, so that one operation on a coordinate runs along all prompts in memory.
    predictions, w = np.zeros((B, N)), np.zeros((d, B))
    gram, moment, power = np.zeros((d, d, B)), np.zeros((d, B)), np.zeros(B)  # sums over examples
    for n in range(1, N):
        x, y = xs[:, n - 1].T, ys[:, n - 1]  # (d, B), (B,)
        gram += x[:, None] * x
        moment += x * y
        power += y * y
        _descend(w, gram / n, moment / n, power / n, alpha[n], tol, max_rounds)
        predictions[:, n] = (xs[:, n].T * w).sum(0)
    return predictions


def _descend(w, G, c, y2, alpha, tol, max_rounds):
    """Solve the Lasso in place for w (d, B), given G = X^T X / n, c = X^T y / n, y2 = y^T y / n."""
    todo, v = np.arange(w.shape[1]), w.copy()  # the prompts that are not solved yet, and their w
    for _ in range(max_rounds):
        r = c - (G * v).sum(1)  # (d, B)
        done = _duality_gap(v, r, c, y2, alpha) <= tol * y2  # (B,)
        w[:, todo[done]] = v[:, done]
        if done.all():
            return
        G, c, y2, v, r, todo = (a[..., ~done] for a in (G, c, y2, v, r, todo))
        for _ in range(10):
            v_before, r_before = v.copy(), r.copy()
            for j in range(len(v)):
                z = r[j] + G[j, j] * v[j]  # (B,)
                shrunk = z - np.clip(z, -alpha, alpha)  # S(z)
                change = shrunk / np.maximum(G[j, j], 1e-300) - v[j]
                v[j] += change
                r -= G[j] * change
        v += _stride(v, v - v_before, r, r_before - r, alpha) * (v - v_before)
    w[:, todo] = v


def _stride(v, step, r, G_step, alpha):
    """How often to repeat the last sweep's step: t >= 0 with the least objective at v + t step.

    Between two nearly equal inputs the weights shift by tiny steps in one direction. Without
    strides, one prompt in fifty is still far from its end after 10,000 sweeps at alpha = 0.03.
    As long as no weight changes sign, the objective is a parabola in t. So t is the parabola's
    minimum, or where the first weight reaches zero.
    """
    side = np.sign(np.where(v == 0, step, v))  # (d, B): the sign of v + t step for small t
    slope = (step * (r - alpha * side)).sum(0)  # (B,)
    minimum = np.maximum(slope, 0) / np.maximum((step * G_step).sum(0), 1e-300)
    zero = np.divide(-v, step, out=np.full(v.shape, np.inf), where=step * side < 0).min(0)
    return np.minimum(minimum, zero)


def _duality_gap(w, r, c, y2, alpha):
    """Primal minus dual objective, an upper bound on how far w is from optimal.

    The residual e = y - X w, scaled by s so that |X^T (s e)| / n <= alpha, is a dual point:
    gap = |e|^2 / 2n + alpha |w|_1 - s (e . y) / n + s^2 |e|^2 / 2n.
    Source: Kim et al. 2007, "An interior-point method for large-scale l1-regularized least
    squares", section III.A.
    """
    wc = (w * c).sum(0)
    e2 = np.maximum(y2 - wc - (w * r).sum(0), 0)  # |y - X w|^2 / n
    s = np.minimum(1, alpha / np.maximum(np.abs(r).max(0), 1e-300))
    return (1 + s * s) / 2 * e2 + alpha * np.abs(w).sum(0) - s * (y2 - wc)


def tune_lasso(function_class, rng, n_points, n_prompts=300, alphas=(0.03, 0.1, 0.3, 1.0, 3.0)):
    """The Lasso's best alpha for each number of examples: (n_points,), chosen from `alphas`.

    It is chosen on prompts of the very class that the Lasso will be judged on, though not on the
    same prompts. That is the most that a fair choice can give the Lasso.
    """
    xs, ys = sample_prompts(function_class, rng, n_prompts, n_points)
    errors = [((lasso(xs, ys, alpha) - ys) ** 2).mean(0) for alpha in alphas]  # (N,) each
    return np.array(alphas)[np.argmin(errors, axis=0)]


def _float64(xs, ys, n_dims=None):
    check_prompts(xs, ys, n_dims)
    return xs.astype(np.float64), ys.astype(np.float64)


# ---------------------------------------------------------------------------- the Bayes optimum


def bayes(function_class, label_noise=0.0):
    """The exact posterior mean of a class: no predictor has a lower expected squared error on it.

    Returns the predictor; it raises ValueError on prompts of another dimension than the class's.
    label_noise: the standard deviation of the noise that the learner believes to be in the labels.

    A class is a set of hypotheses, each with a prior probability. Under one hypothesis,
    f(x) = phi . w with features phi of x and weights w ~ N(0, I). The posterior of w stays
    Gaussian, with mean m and covariance P, and each example updates it in closed form (this is
    recursive least squares, the Kalman filter without dynamics). A hypothesis gains probability by
    predicting the examples well. Start from m = 0, P = I and the prior as weight. At every x:

        predict f(x):  sum of weight (phi . m) over the hypotheses, weights normalised to sum to 1
        then see y:    e = y - phi . m,  the error,   s = phi . P phi + noise,  its variance
                       log weight -= (e^2 / s + log s) / 2
                       m += P phi e / s,   P -= P phi (P phi)^T / s

    The noise is the hypothesis's own small variance plus label_noise^2. With label_noise = 0 the
    prediction is exact but for two things: that small variance, whose square root is about the
    most it costs, and the grid of frequencies that Sinusoid makes of its own.

    Source: Bishop 2006, "Pattern Recognition and Machine Learning", sections 3.3 and 3.4.
    """
    groups = _believing(function_class, label_noise)

    def predictor(xs, ys):
        return _posterior(groups, xs, ys, function_class.n_dims)[0]

    return predictor


def class_probabilities(mixture, label_noise=0.0):
    """The exact posterior over a mixture's classes: (xs, ys) -> (B, N, number of components).

    Entry k is the probability of each component given the examples 1..k-1. label_noise: as in bayes.
    """
    groups = _believing(mixture, label_noise)
    owner = np.repeat(np.arange(len(mixture.components)),
                      [len(c.hypotheses()) for c in mixture.components])

    def probabilities(xs, ys):
        parts = _posterior(groups, xs, ys, mixture.n_dims)[1]  # (groups, B, N)
        return np.stack([parts[owner == i].sum(0) for i in range(owner[-1] + 1)], axis=-1)

    return probabilities


def _believing(function_class, label_noise):
    """The class's hypotheses, with the variance of noisy labels on top of their own noise."""
    if not (label_noise >= 0 and label_noise * label_noise < np.inf):
        raise ValueError(f"label_noise must be finite and not negative, not {label_noise}")
    return [replace(h, noise=h.noise + label_noise * label_noise)
            for h in function_class.hypotheses()]


def _posterior(groups, xs, ys, n_dims):
    """Predictions (B, N) and the probability (groups, B, N) of each group of hypotheses."""
    xs, ys = _float64(xs, ys, n_dims)
    shapes = [h.features(xs[:1, 0]).shape for h in groups]  # (F, M, 1) each
    # As many prompts at once as keep P, of F F M numbers each, in a core's cache: won up to 40%.
    n = max(1, 2**17 // sum(F * F * M for F, M, _ in shapes))
    chunks = [_recursion(groups, xs[i:i + n], ys[i:i + n]) for i in range(0, len(xs), n)]
    predictions, parts = zip(*chunks)
    return np.concatenate(predictions), np.concatenate(parts, axis=1)


def _recursion(groups, xs, ys):
    """The formulas of `bayes`, for one chunk of prompts; M hypotheses of F features a group."""
    B, N, _ = xs.shape
    with np.errstate(divide="ignore"):  # a prior probability may be zero
        log_weights = [np.log(h.prior)[:, None] + np.zeros(B) for h in groups]  # (M, B) each
    state = []
    for h in groups:
        F, M, _ = h.features(xs[:, 0]).shape
        state.append((np.zeros((F, M, B)), np.tile(np.eye(F)[:, :, None, None], (1, 1, M, B))))
    predictions, parts = np.zeros((B, N)), np.zeros((len(groups), B, N))
    for k in range(N):
        top = np.max([lw.max(0) for lw in log_weights], axis=0)  # (B,)
        weights = [np.exp(lw - top) for lw in log_weights]
        total = sum(weight.sum(0) for weight in weights)
        for i, h in enumerate(groups):
            phi = h.features(xs[:, k])  # (F, M, B)
            m, P = state[i]
            mean = (phi * m).sum(0)  # (M, B)
            predictions[:, k] += (weights[i] * mean).sum(0) / total
            parts[i, :, k] = weights[i].sum(0) / total
            gain = (P * phi).sum(1)  # (F, M, B)
            # Never less noise than P's rounding errors make, or s could be negative for large x.
            s = (phi * gain).sum(0) + h.noise + 1e-13 * (phi * phi).sum(0)
            e = ys[:, k] - mean
            log_weights[i] -= (e * e / s + np.log(s)) / 2
            m += gain * (e / s)
            P -= gain[:, None] * (gain / s)
    return predictions, parts


# ------------------------------------------------------------------------- effective label noise

NOISE_GRID = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.25, 0.5, 1.0)


def effective_noise(predictor, function_class, rng, n_points, n_prompts=1000, grid=NOISE_GRID):
    """The label noise s with which an ideal learner errs as much as `predictor` does without.
    """
    xs, ys = sample_prompts(function_class, rng, n_prompts, n_points)
    z = rng.standard_normal(ys.shape)
    error = (predictor(xs, ys) - ys) ** 2  # (B, N)
    learner = np.stack([(bayes(function_class, s)(xs, ys + s * z) - ys) ** 2 for s in grid])
    if min(ys.shape) < 2:
        low = value = high = np.nan
    else:
        excess = (learner - error)[:, :, 1:].mean(2)  # (S, B)
        mean, margin = excess.mean(1), 1.96 * excess.std(1, ddof=1) / np.sqrt(n_prompts)
        low, value, high = (_crossing(grid, d) for d in (mean + margin, mean, mean - margin))
    errors = [np.interp(value, grid, column) for column in learner.mean(1).T]
    return value, (low, high), np.array(errors)


def _crossing(grid, difference):
    """Where the difference, at each s of the grid, reaches zero: 0, between, or beyond (inf)."""
    difference = np.maximum.accumulate(difference)  # it falls by chance only
    if difference[0] >= 0:
        return 0.0
    return float(np.interp(0, difference, grid, right=np.inf))
