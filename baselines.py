"""Predictors that nobody trained: least squares, Lasso, and the exact Bayes optimum.

A *predictor* is a function (xs, ys) -> predictions, xs (B, N, d), ys (B, N), predictions (B, N),
in which prediction k depends on the examples 1..k-1 and on x_k only. Here everything is computed
in float64, whatever comes in; arrays that are no prompts raise ValueError (icl.check_prompts).
"""
from icl import check_prompts  # before NumPy: it holds the BLAS to one thread

from dataclasses import replace

import numpy as np

from tasks import sample_prompts


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


def lasso(xs, ys, alpha, tol=1e-9, max_sweeps=10_000):
    """Lasso on the examples so far: min over w of ||y - X w||^2 / (2n) + alpha ||w||_1.

    xs (B, N, d), ys (B, N) -> predictions (B, N). alpha: one number, or (N,), one for each number
    of examples. Every prompt is solved until its duality gap is below tol mean(y^2), or for
    max_sweeps sweeps.

    Coordinate descent, for all prompts at once and warm-started from n - 1 examples: with
    r = X^T (y - X w) / n and G = X^T X / n,  w_j <- S(r_j + G_jj w_j, alpha) / G_jj, where
    S(z, a) = sign(z) max(|z| - a, 0). Source: Friedman, Hastie, Tibshirani 2010, "Regularization
    paths for generalized linear models via coordinate descent", sections 2.1 and 2.2. After
    each sweep, a leap to the minimum for the signs that w has now.
    """
    xs, ys = _float64(xs, ys)
    B, N, d = xs.shape
    if np.shape(alpha) not in ((), (N,)) or not np.all(np.isfinite(alpha)) or np.min(alpha) <= 0:
        raise ValueError(f"alpha must be positive, one number or {N} of them, not {alpha}")
    alpha = np.broadcast_to(alpha, N)
    predictions, w = np.zeros((B, N)), np.zeros((d, B))
    gram, moment, power = np.zeros((d, d, B)), np.zeros((d, B)), np.zeros(B)  # sums over examples
    for n in range(1, N):
        x, y = xs[:, n - 1].T, ys[:, n - 1]  # (d, B), (B,)
        gram += x[:, None] * x
        moment += x * y
        power += y * y
        _descend(gram / n, moment / n, power / n, alpha[n], w, tol, max_sweeps)
        predictions[:, n] = (xs[:, n].T * w).sum(0)
    return predictions


def _descend(G, c, y2, alpha, w, tol, max_sweeps):
    """Solve the Lasso in place for w (d, B), given G = X^T X / n, c = X^T y / n, y2 = y^T y / n."""
    todo, v = np.arange(w.shape[1]), w.copy()  # the prompts that have not converged
    for _ in range(max_sweeps):
        r = c - (G * v).sum(1)
        for j in range(len(v)):
            z = r[j] + G[j, j] * v[j]
            S = z - np.minimum(np.maximum(z, -alpha), alpha)
            new = S / np.maximum(G[j, j], 1e-300)
            r -= G[j] * (new - v[j])
            v[j] = new
        v = _leap(G, c, alpha, v)  # saves 97 to 99% of the time at the paper's size
        done = _duality_gap(c, y2, alpha, v, c - (G * v).sum(1)) <= tol * y2
        w[:, todo[done]] = v[:, done]
        if done.all():
            return
        G, c, y2, v, todo = (a[..., ~done] for a in (G, c, y2, v, todo))
    w[:, todo] = v


def _leap(G, c, alpha, v):
    """The exact minimum for the signs of v (d, B): G_AA w_A = c_A - alpha s_A on v's support A.

    On the straight way there, the first coordinate to change sign stops at zero; the rest goes on
    from there. Coordinate descent finds the support soon but creeps from there, above all with
    fewer examples than dimensions. Source: Lee et al. 2006, "Efficient sparse coding algorithms",
    algorithm 1.
    """
    v, moving = v.copy(), np.arange(v.shape[1])  # the prompts that are not there yet
    size = np.einsum("jjb->b", G)
    while len(moving):
        at = v[:, moving]
        support = at != 0
        M = (G[..., moving] * (support * support[:, None])).transpose(2, 0, 1)  # (B, d, d)
        M += np.eye(len(v)) * (1e-13 * size[moving] + ~support).T[:, None]  # 1 for what stays 0
        goal = np.linalg.solve(M, ((c[:, moving] - alpha * np.sign(at)) * support).T[..., None])
        goal = goal[..., 0].T
        crossing = goal * at < 0
        share = np.where(crossing, at / np.where(crossing, at - goal, 1), 1)  # of the way, to zero
        first = share.min(0)
        v[:, moving] = np.where(crossing & (share <= first), 0, at + first * (goal - at))
        moving = moving[first < 1]
    return v


def _duality_gap(c, y2, alpha, w, r):
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


def _float64(xs, ys, n_dims=None):
    check_prompts(xs, ys, n_dims)
    return xs.astype(np.float64), ys.astype(np.float64)


def tune_lasso(function_class, rng, n_points, n_prompts=300,
               alphas=(0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)):
    """The Lasso's best alpha for each number of examples: (n_points,), chosen from `alphas`.

    Chosen on prompts of the very class it will be judged on, though not on the same prompts: the
    most that a fair choice can give the Lasso.
    """
    xs, ys = sample_prompts(function_class, rng, n_prompts, n_points)
    errors = [((lasso(xs, ys, alpha) - ys) ** 2).mean(0) for alpha in alphas]  # (N,) each
    return np.array(alphas)[np.argmin(errors, axis=0)]


def bayes(function_class, noise_times=1.0):
    """The exact posterior mean of a class: no predictor has a lower expected squared error on it.

    Returns the predictor; it raises ValueError on prompts of another dimension than the class's.
    noise_times: what to multiply the hypotheses' noise by, to see that nothing hangs on it.

    Given one hypothesis the class is linear in Gaussian weights, so its posterior is Gaussian and
    one example updates it in closed form (recursive least squares, the Kalman filter without
    dynamics). How well each hypothesis predicted the examples so far weighs it against the rest.
    From mean m = 0, covariance P = I and the prior as weight, at every x, phi its features:

        predict f(x):  sum of weight (phi . m) over the hypotheses, weights normalised to sum to 1
        then see y:    e = y - phi . m,  the error,   s = phi . P phi + noise,  its variance
                       log weight -= (e^2 / s + log s) / 2
                       m += P phi e / s,   P -= P phi (P phi)^T / s

    Exact but for the hypotheses' noise, whose square root is about the most it costs, and the grid
    of frequencies that Sinusoid makes of theirs.

    Source: Bishop 2006, "Pattern Recognition and Machine Learning", sections 3.3 and 3.4.
    """
    groups = [replace(h, noise=h.noise * noise_times) for h in function_class.hypotheses()]
    return lambda xs, ys: _posterior(groups, xs, ys, function_class.n_dims)[0]


def class_probabilities(mixture):
    """The exact posterior over a mixture's classes: (xs, ys) -> (B, N, number of components).

    Entry k is the probability of each component given the examples 1..k-1.
    """
    sizes = [len(c.hypotheses()) for c in mixture.components]
    owner, groups = np.repeat(np.arange(len(sizes)), sizes), mixture.hypotheses()

    def probabilities(xs, ys):
        parts = _posterior(groups, xs, ys, mixture.n_dims)[1]  # (groups, B, N)
        return np.stack([parts[owner == i].sum(0) for i in range(len(sizes))], axis=-1)

    return probabilities


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
    """The formulas of `bayes`, for one chunk of prompts."""
    B, N, _ = xs.shape
    with np.errstate(divide="ignore"):
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
            s = (phi * gain).sum(0) + h.noise
            e = ys[:, k] - mean
            log_weights[i] -= (e * e / s + np.log(s)) / 2
            m += gain * (e / s)
            P -= gain[:, None] * (gain / s)
    return predictions, parts
