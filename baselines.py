"""Predictors that nobody trained: least squares, Lasso, and the exact Bayes optimum.

A *predictor* is a function (xs, ys) -> predictions, xs (B, N, d), ys (B, N), predictions (B, N).
Prediction k depends on x_k and the examples 1..k-1 only. The predictors of this file compute in
float64, and float32 prompts of any scale get finite predictions. Arrays that are no prompts raise
ValueError. At the end, effective_noise says in one number how close a trained model comes to the
optimum.
"""
import numbers
from dataclasses import replace

import numpy as np

from icl import check_prompts
from tasks import is_real, sample_prompts


def least_squares(xs, ys):
    """Least squares, y = w . x, on the examples so far; of least norm while w is not determined.

    xs (B, N, d), ys (B, N) -> predictions (B, N); the first, from no examples, is 0.
    """
    check_prompts(xs, ys)
    xs, ys = xs.astype(float), ys.astype(float)
    predictions = np.zeros(ys.shape)
    for k in range(1, ys.shape[1]):
        w = np.linalg.pinv(xs[:, :k]) @ ys[:, :k, None]  # (B, d, 1)
        predictions[:, k] = (xs[:, k, None] @ w)[:, 0, 0]
    return predictions


def lasso(xs, ys, alpha):
    """Lasso on the examples so far: min over w of ||y - X w||^2 / (2n) + alpha ||w||_1.

    alpha: a number, or (N,): alpha[n] after n examples. Sweeps until the duality gap is at most
    1e-10 mean(y^2), or 10,000 times. For alpha >= 0.03, d <= 20: within 1e-3 of scikit-learn's.

    Coordinate descent for all prompts at once, started at the solution for n - 1 examples. With
    G = X^T X / n and r = X^T (y - X w) / n, a sweep replaces each coordinate in turn by
    w_j <- S(r_j + G_jj w_j) / G_jj, where S(z) = sign(z) max(|z| - alpha, 0).
    Source: Friedman, Hastie, Tibshirani 2010, J. Statistical Software 33 (1), sections 2.1, 2.2.
    """
    check_prompts(xs, ys)
    xs, ys = xs.astype(float), ys.astype(float)
    B, N, d = xs.shape
    alpha = np.asanyarray(alpha)
    if (alpha.shape not in ((), (N,)) or not is_real(alpha)
            or not np.all(np.isfinite(alpha)) or np.min(alpha) <= 0):
        raise ValueError(f"alpha must be positive, one number or {N} of them, not {alpha.tolist()}")
    alpha = np.broadcast_to(alpha.astype(float), N)
    predictions, w = np.zeros((B, N)), np.zeros((d, B))  # B last: row j is coordinate j of all
    gram, moment, power = np.zeros((d, d, B)), np.zeros((d, B)), np.zeros(B)  # sums over examples
    for n in range(1, N):
        x, y = xs[:, n - 1].T, ys[:, n - 1]  # (d, B), (B,)
        gram += x[:, None] * x
        moment += x * y
        power += y * y
        _descend(w, gram / n, moment / n, power / n, alpha[n])
        predictions[:, n] = (xs[:, n].T * w).sum(0)
    return predictions


def _descend(w, G, c, y2, alpha):
    """Solve the Lasso in place for w (d, B), given G = X^T X / n, c = X^T y / n, y2 = y^T y / n."""
    todo, v = np.arange(w.shape[1]), w.copy()  # the prompts that are not solved yet, and their w
    for _ in range(1000):  # rounds of ten sweeps; each begins with a look at the gap
        r = c - (G * v).sum(1)  # (d, B)
        done = _duality_gap(v, r, c, y2, alpha) <= 1e-10 * y2  # (B,)
        w[:, todo[done]] = v[:, done]
        if done.all():
            return
        # Go on with the prompts that are not solved yet.
        G, c, y2, v, r, todo = (a[..., ~done] for a in (G, c, y2, v, r, todo))
        for _ in range(9):
            _sweep(v, r, G, alpha)
        v_before, r_before = v.copy(), r.copy()
        _sweep(v, r, G, alpha)
        step, G_times_step = v - v_before, r_before - r  # G (v - v_before), as r = c - G v
        v += _stride(v, step, r, G_times_step, alpha) * step
    w[:, todo] = v


def _sweep(v, r, G, alpha):
    """Each coordinate in turn, in place: w_j <- S(r_j + G_jj w_j) / G_jj; r follows."""
    for j in range(len(v)):
        z = r[j] + G[j, j] * v[j]  # (B,); S(z) is z - clip(z)
        change = (z - np.clip(z, -alpha, alpha)) / np.maximum(G[j, j], 1e-300) - v[j]
        v[j] += change
        r -= G[j] * change


def _stride(v, step, r, G_times_step, alpha):
    """How many times to repeat the last sweep's step: the t >= 0 of least objective at v + t step.

    Where two inputs nearly agree, sweeps shift weight between them in tiny equal steps: one prompt
    in fifty would be far from solved after 10,000 sweeps (alpha 0.03). While no weight changes
    sign, the objective at v + t step is that at v, minus slope t, plus bend t^2 / 2: go to its
    lowest point, t = slope / bend, or until a weight is zero.
    """
    side = np.sign(np.where(v == 0, step, v))  # (d, B), the signs of v + t step
    slope = (step * (r - alpha * side)).sum(0)  # (B,)
    bend = (step * G_times_step).sum(0)
    bend = np.maximum(bend, 1e-6 * np.abs(slope) + 1e-300)  # so t is at most 1e6
    zero = np.divide(-v, step, out=np.full(v.shape, np.inf), where=step * side < 0)  # (d, B)
    return np.clip(slope / bend, 0, zero.min(0))


def _duality_gap(w, r, c, y2, alpha):
    """Primal minus dual objective: an upper bound on how far w's objective is from the least.

    The residual e = y - X w, scaled by s so that every |X^T (s e)| / n <= alpha, is a dual point:
    gap = |e|^2 / 2n + alpha |w|_1 - s (e . y) / n + s^2 |e|^2 / 2n. Source: Kim et al. 2007, "An
    interior-point method for large-scale l1-regularized least squares", section III.A (their lambda
    is 2 n alpha).
    """
    wc = (w * c).sum(0)
    e2 = np.maximum(y2 - wc - (w * r).sum(0), 0)  # |y - X w|^2 / n
    s = alpha / np.maximum(np.abs(r).max(0), alpha)
    return (1 + s * s) / 2 * e2 + alpha * np.abs(w).sum(0) - s * (y2 - wc)


def tune_lasso(function_class, rng, n_points, n_prompts=300, alphas=(0.03, 0.1, 0.3, 1.0, 3.0)):
    """The best of `alphas` for each number of examples, (n_points,), on prompts of the class."""
    if not len(alphas):
        raise ValueError("alphas must hold at least one number")
    xs, ys = sample_prompts(function_class, rng, n_prompts, n_points)
    errors = [((lasso(xs, ys, alpha) - ys) ** 2).mean(0) for alpha in alphas]  # (N,) each
    return np.array(alphas)[np.argmin(errors, axis=0)]


def gaussian_process(xs, ys):
    """Gaussian process regression on 1-D inputs: all it knows is that f is smooth.

    f is normal with covariance K(x, x') = exp(-(x - x')^2 / 2); labels have noise of variance 1e-3.
    So after examples (X, y) the mean of f(x) is K(x, X) (K(X, X) + 1e-3 I)^-1 y.
    Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", section 2.2.
    """
    check_prompts(xs, ys, 1)
    x, ys = xs.astype(float), ys.astype(float)  # (B, N, 1), (B, N)
    K = np.exp(-((x - x.swapaxes(1, 2)) ** 2) / 2)  # (B, N, N)
    predictions = np.zeros(ys.shape)
    for k in range(1, ys.shape[1]):
        w = np.linalg.solve(K[:, :k, :k] + 1e-3 * np.eye(k), ys[:, :k, None])  # (B, k, 1)
        predictions[:, k] = (K[:, k, None, :k] @ w)[:, 0, 0]
    return predictions


def bayes(function_class, label_noise=0.0):
    """The exact posterior mean of a class, a predictor. It believes that labels carry noise of
    standard deviation label_noise. If they do, no predictor has a lower expected squared error.

    A class is a set of hypotheses, each with a prior probability. Under one hypothesis,
    f(x) = phi . w, with features phi of x and w ~ N(0, I). The posterior of w is then Gaussian: one
    example updates its mean m and covariance P in closed form (recursive least squares, the Kalman
    filter without dynamics). Hypotheses that predict the examples well gain weight. Start from
    m = 0, P = I and the prior as weight; at every x,

        predict f(x):  sum of weight (phi . m) over the hypotheses, weights normalised to sum to 1
        then see y:    e = y - phi . m,  the error,   s = phi . P phi + noise,  its variance
                       log weight -= (e^2 / s + log s) / 2
                       m += P phi e / s,   P -= P phi (P phi)^T / s

    noise is label_noise^2 plus a small floor of the hypothesis's own. Without label noise, the
    result is exact but for the floor, which moves predictions by about its square root at most, and
    for the grid that stands for Sinusoid's frequencies.
    Source: Bishop 2006, "Pattern Recognition and Machine Learning", sections 3.3 and 3.4.
    """
    posterior = _posterior(function_class, label_noise)
    return lambda xs, ys: posterior(xs, ys)[0]


def class_probabilities(mixture, label_noise=0.0):
    """The exact posterior over a mixture's classes: (xs, ys) -> (B, N, number of components).

    Entry k is the probability of each component given the examples 1..k-1; label_noise as in bayes.
    Exercises of course/lab.md use it.
    """
    posterior = _posterior(mixture, label_noise)
    sizes = [len(c.hypotheses()) for c in mixture.components]
    owner = np.repeat(np.arange(len(sizes)), sizes)  # group -> its component

    def probabilities(xs, ys):
        parts = posterior(xs, ys)[1]  # (groups, B, N)
        return np.stack([parts[owner == i].sum(0) for i in range(len(sizes))], axis=-1)

    return probabilities


def _posterior(function_class, label_noise):
    """(xs, ys) -> predictions (B, N), probability (groups, B, N) of each group of hypotheses."""
    if not isinstance(label_noise, numbers.Real) or not 0 <= float(label_noise) < 1e150:
        raise ValueError(f"label_noise must be a number from 0 to 1e150, not {label_noise!r}")
    variance = float(label_noise) ** 2
    groups = [replace(h, noise=h.noise + variance) for h in function_class.hypotheses()]
    prior = np.concatenate([h.prior for h in groups] or [[0]])
    if not (prior >= 0).all() or not abs(prior.sum() - 1) < 1e-6:
        raise ValueError(f"priors of {function_class} must be non-negative and sum to 1, not to "
                         f"{prior.sum():.6g}")

    def posterior(xs, ys):
        check_prompts(xs, ys, function_class.n_dims)
        xs, ys = xs.astype(float), ys.astype(float)
        n = 64  # prompts at once: their P stay in a core's cache, up to 40% faster than all at once
        chunks = [_recursion(groups, xs[i:i + n], ys[i:i + n]) for i in range(0, len(xs), n)]
        predictions, parts = zip(*chunks)
        predictions, parts = np.concatenate(predictions), np.concatenate(parts, axis=1)
        if not np.isfinite(predictions).all():
            raise ValueError(f"features of {function_class} must be finite")
        return predictions, parts

    return posterior


def _features(h, x, F=None):
    """h.features(x), which may be one of your own: ValueError unless they are real, (F, M, B)."""
    phi, M, B = np.asanyarray(h.features(x.copy())), len(h.prior), len(x)
    if phi.ndim != 3 or phi.shape[1:] != (M, B) or F not in (None, len(phi)) or not is_real(phi):
        raise ValueError(f"features {h.features} must return real numbers ({F or 'F'}, {M}, {B}), "
                         f"not {phi.dtype} {phi.shape}")
    return np.asarray(phi, float)


def _recursion(groups, xs, ys):
    """The formulas of `bayes`, for one chunk of prompts; each group: M hypotheses, F features."""
    with np.errstate(divide="ignore"):  # a prior probability may be zero
        log_weights = [np.log(h.prior)[:, None] + np.zeros(len(xs)) for h in groups]  # (M, B) each
    shapes = [_features(h, xs[:, 0]).shape for h in groups]  # (F, M, B) each, at the first x
    means = [np.zeros(shape) for shape in shapes]
    covariances = [np.tile(np.eye(F)[:, :, None, None], (1, 1, M, B)) for F, M, B in shapes]
    predictions, parts = np.zeros(ys.shape), np.zeros((len(groups), *ys.shape))
    for k in range(ys.shape[1]):
        top = np.max([lw.max(0) for lw in log_weights], axis=0)  # (B,)
        weights = [np.exp(lw - top) for lw in log_weights]
        total = sum(weight.sum(0) for weight in weights)
        for i, h in enumerate(groups):
            m, P, log_weight = means[i], covariances[i], log_weights[i]  # updated in place
            phi = _features(h, xs[:, k], len(m))  # (F, M, B)
            mean = (phi * m).sum(0)  # (M, B): phi . m, what each hypothesis predicts
            predictions[:, k] += (weights[i] * mean).sum(0) / total
            parts[i, :, k] = weights[i].sum(0) / total
            gain = (P * phi).sum(1)  # (F, M, B)
            # The last term outweighs P's rounding errors, which could make s negative at large x.
            s = (phi * gain).sum(0) + h.noise + 1e-13 * (phi * phi).sum(0)
            e = ys[:, k] - mean
            log_weight -= (e * e / s + np.log(s)) / 2
            m += gain * (e / s)
            P -= gain[:, None] * (gain / s)
    return predictions, parts


NOISE_GRID = 0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.25, 0.5, 1


def effective_noise(predictor, function_class, rng, n_points, n_prompts=1000, grid=NOISE_GRID,
                    prompts_of=None):
    """Effective label noise: the s at which an ideal learner's error is the predictor's.

    The ideal learner, bayes(function_class, s), reads the labels y + s z, z standard normal; the
    predictor reads y. Both predict y, on the same prompts of function_class, the predictor's own
    pretraining (or of prompts_of, a part of it). s is where their mean errors, from 1 example on,
    agree. The learner is computed on the grid, with straight lines between (for sinusoids, in 6
    seconds).

    Returns s, its 95% interval (low, high), and the learner's error at s at each of the n_points.
    In the interval, the mean difference of errors, prompt by prompt, is within 1.96 standard errors
    of zero. It covers the choice of prompts, not of a training seed. s = 0: as good as the optimum.
    s = inf: worse than the grid's last learner, whose errors are then returned. s = nan: too little
    data, only one prompt or one point, or predictions that are nan.

    Added noise tells the learner nothing new, so its expected error on prompts of function_class
    cannot fall as s grows: s is unique, or the least of a stretch. On a part of it that need not be
    so: s is the first crossing. It says how large a model's errors are, not how they come about. On
    sinusoids, whose grid of frequencies acts like a noise of 0.011, an s below 0.02 means nothing.
    """
    if list(grid) != sorted(grid) or 0 not in grid[:1]:
        raise ValueError(f"grid must rise from 0, not {grid}")

    def reaches_zero(curve):
        """The s at which a curve over the grid reaches zero; inf if it never does."""
        rising = np.maximum.accumulate(curve)  # as its expectation does
        # np.interp inverts the curve: it is given a height and returns s. Where the curve stays at
        # zero, a height just below that finds the first s.
        return float(np.interp(-1e-12, rising, grid, right=np.inf))

    xs, ys = sample_prompts(prompts_of or function_class, rng, n_prompts, n_points)
    z = rng.standard_normal(ys.shape)
    learner = np.stack([(bayes(function_class, s)(xs, ys + s * z) - ys) ** 2 for s in grid])
    predictions = predictor(xs.copy(), ys.copy())  # which may work in place
    if (type(predictions) is not np.ndarray or predictions.shape != ys.shape
            or predictions.dtype.kind != "f"):
        raise ValueError(f"the predictor must return an array of floats {ys.shape}, not "
                         f"{type(predictions).__name__} {np.shape(predictions)}")
    s = low = high = np.nan
    if min(ys.shape) > 1:
        error = (predictions - ys) ** 2
        excess = (learner - error)[:, :, 1:].mean(2)  # (grid, B)
        mean, margin = excess.mean(1), 1.96 * excess.std(1, ddof=1) / np.sqrt(n_prompts)
        s = reaches_zero(mean)
        # A higher curve reaches zero at a smaller s.
        low, high = reaches_zero(mean + margin), reaches_zero(mean - margin)
    return s, (low, high), np.array([np.interp(s, grid, curve) for curve in learner.mean(1).T])
