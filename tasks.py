"""Function classes, their mixtures, and the prompts sampled from them.

A *function class* is a distribution over functions f: R^d -> R. In-context learning is learning f
from examples (x_1, f(x_1)), (x_2, f(x_2)), ... that stand in the prompt, x ~ N(0, I). A transformer
is trained on prompts whose functions come from a *pretraining mixture* of classes.

Each class has an input dimension, n_dims, and two methods:

    sample(rng, batch_size) -> f     one random function per prompt: f(xs), (B, N, d) -> (B, N)
    hypotheses() -> list             the class as Hypotheses, groups of Bayesian linear regressions
                                     (one regression for each choice of non-zero coefficients, say,
                                     or for each frequency), each with its prior probability for an
                                     ideal learner who knows the class

A class of your own needs these three, and must be a frozen dataclass: its text, such as
DenseLinear(n_dims=8), is written to files and must identify it.
The classes here are scaled to Var f(x) = 1 over f and x, so that predicting zero costs 1; a
ConvexCombination is not.
"""
import math
import numbers
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Callable

import numpy as np


class TooMany(ValueError):
    """A class has too many hypotheses for its exact posterior."""


@dataclass(frozen=True)
class Hypotheses:
    """A group of M hypotheses: under hypothesis m, f(x) = phi_m(x) . w, with w ~ N(0, I_F).

    features: one x of each of B prompts, (B, d) -> phi (F, M, B), F features of x under each of the
    M; for sinusoids, say, sin and cos of each frequency times x.
    SparseLinear(8, 2) is one group: M = 28 pairs of inputs, F = 2. Sinusoid is one: M = 320
    frequencies, F = 2. A mixture's list holds the groups of all its components.
    prior: (M,), each hypothesis's probability. noise: the variance of y around f(x) that the
    posterior assumes, small beside Var f = 1. The prompts have none; without it, once w is
    determined, the posterior would divide by a variance of zero.
    """
    features: Callable
    prior: np.ndarray
    noise: float

    def __post_init__(self):
        prior = np.asanyarray(self.prior)  # keeps a mask (numpy.ma), so that is_real refuses it
        if prior.ndim != 1 or not is_real(prior):
            raise ValueError(f"prior must be real numbers (M,), not {prior.dtype} {prior.shape}")
        object.__setattr__(self, "prior", prior)  # the way to set a field of a frozen dataclass
        _check_positive("noise", self.noise)


@dataclass(frozen=True)
class DenseLinear:
    """f(x) = w . x with w ~ N(0, I / n_dims)."""
    n_dims: int

    def __post_init__(self):
        plain_numbers(self)
        _check_count("n_dims", self.n_dims)

    def sample(self, rng, batch_size):
        w = rng.standard_normal((batch_size, self.n_dims, 1)) / math.sqrt(self.n_dims)
        return lambda xs: (xs @ w)[..., 0]

    def hypotheses(self):
        features = lambda x: x.T[:, None, :] / math.sqrt(self.n_dims)  # (d, 1, B)
        return [Hypotheses(features, np.ones(1), noise=1e-10)]


@dataclass(frozen=True)
class SparseLinear:
    """f(x) = w . x with nnz non-zero coefficients ~ N(0, 1 / nnz) at random places."""
    n_dims: int
    nnz: int

    def __post_init__(self):
        plain_numbers(self)
        _check_count("n_dims", self.n_dims)
        _check_count("nnz", self.nnz, self.n_dims)

    def sample(self, rng, batch_size):
        w = rng.standard_normal((batch_size, self.n_dims)) / math.sqrt(self.nnz)
        rank = rng.random((batch_size, self.n_dims)).argsort(axis=1)  # a row permutes 0..d-1
        w[rank >= self.nnz] = 0  # in each row, nnz ranks are below nnz: these places stay
        return lambda xs: (xs @ w[..., None])[..., 0]

    def hypotheses(self):
        n = math.comb(self.n_dims, self.nnz)
        if n > 20_000 or n * self.nnz**2 > 4_000_000:  # the covariances of 64 prompts: 2 GB
            raise TooMany(f"{self} has {n} supports; its exact posterior takes at most 20000, and "
                          "fewer of many coefficients")
        supports = np.array(list(combinations(range(self.n_dims), self.nnz)))  # (M, nnz)
        features = lambda x: x.T[supports.T] / math.sqrt(self.nnz)  # (nnz, M, B)
        return [Hypotheses(features, np.full(n, 1 / n), noise=1e-10)]


@dataclass(frozen=True)
class Sinusoid:
    """f(x) = a sin(omega x) + b cos(omega x), one-dimensional, a, b ~ N(0, 1).

    omega ~ Gamma(shape, scale): mean 1.5 and thin tails by default, with 2% above 3, 7e-5 above 5
    and 4e-9 above 8. Given a `frequency`, every function has that one instead.
    """
    shape: float = 6.0
    scale: float = 1 / 4
    frequency: float | None = None
    n_dims = 1

    def __post_init__(self):
        plain_numbers(self)
        _check_positive("shape", self.shape)
        _check_positive("scale", self.scale)
        if self.frequency is not None:
            _check_positive("frequency", self.frequency)

    def density(self, omega):
        """Probability density of the frequency omega > 0."""
        log_normaliser = math.lgamma(self.shape) + self.shape * math.log(self.scale)
        return np.exp((self.shape - 1) * np.log(omega) - omega / self.scale - log_normaliser)

    def sample(self, rng, batch_size):
        a, b = rng.standard_normal((2, batch_size, 1))
        # Drawn even if it is fixed, so that rng goes on alike at every frequency.
        omega = rng.gamma(self.shape, self.scale, (batch_size, 1))
        if self.frequency is not None:
            omega[:] = self.frequency
        return lambda xs: a * np.sin(omega * xs[..., 0]) + b * np.cos(omega * xs[..., 0])

    def hypotheses(self):
        """One per frequency of an even grid: spacing 1/40 of Gamma's mean, up to 8 times that mean.

        Points of equal probability would leave the tails bare. The noise covers the rounding to
        the grid: a frequency is off by spacing^2 / 12 in the mean square; the phase omega x, and f,
        by that times E[x^2] = 1. By default that is 1.2e-4.
        """
        if self.frequency is not None:
            grid, prior, noise = np.array([self.frequency]), np.ones(1), 1e-10
        else:
            spacing = self.shape * self.scale / 40
            grid = spacing * np.arange(0.5, 320)  # (M,)
            prior, noise = self.density(grid), spacing**2 / 12
            prior /= prior.sum()

        def features(x):
            phase = grid[:, None] * x[:, 0]  # (M, B)
            return np.stack([np.sin(phase), np.cos(phase)])  # (2, M, B)

        return [Hypotheses(features, prior, noise)]


@dataclass(frozen=True)
class Mixture:
    """Each prompt's function comes from one of `components`, drawn with probabilities `weights`."""
    components: tuple
    weights: tuple | None = None

    def __post_init__(self):
        if isinstance(self.components, (set, frozenset)):
            raise ValueError("components must be in order, a tuple or list, not a set")
        object.__setattr__(self, "components", tuple(self.components))
        n = len(self.components)
        if n == 0:
            raise ValueError("components must hold at least one function class, not none")
        weights = (1 / n,) * n if self.weights is None else tuple(map(float, self.weights))
        if len(weights) != n:
            raise ValueError(f"weights must be {n} numbers, one a component, not {len(weights)}")
        if not all(w >= 0 for w in weights) or abs(sum(weights) - 1) > 1e-8:
            raise ValueError(f"weights must be non-negative and sum to 1, not {weights}")
        object.__setattr__(self, "weights", weights)
        _check_dims(self.components)

    @property
    def n_dims(self):
        return self.components[0].n_dims

    def sample(self, rng, batch_size):
        which = rng.choice(len(self.components), batch_size, p=self.weights)
        # Every component draws a function for every prompt; `which` picks one of them.
        functions = [c.sample(rng, batch_size) for c in self.components]
        # Each gets an x of its own: a class of yours may work in place.
        return lambda xs: np.stack([f(xs.copy()) for f in functions])[which, np.arange(batch_size)]

    def hypotheses(self):
        return [Hypotheses(h.features, weight * h.prior, h.noise)
                for c, weight in zip(self.components, self.weights) for h in c.hypotheses()]


@dataclass(frozen=True)
class ConvexCombination:
    """f = weight f1 + (1 - weight) f2 with f1, f2 from `first` and `second`; not rescaled.

    Var f(x) = weight^2 + (1 - weight)^2 where both classes have variance 1.
    """
    first: object
    second: object
    weight: float

    def __post_init__(self):
        plain_numbers(self)
        if not isinstance(self.weight, numbers.Real) or not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], not {self.weight!r}")
        _check_dims((self.first, self.second))

    @property
    def n_dims(self):
        return self.first.n_dims

    def sample(self, rng, batch_size):
        f1, f2 = self.first.sample(rng, batch_size), self.second.sample(rng, batch_size)
        return lambda xs: self.weight * f1(xs.copy()) + (1 - self.weight) * f2(xs.copy())

    def hypotheses(self):
        """Every pair of a first and a second hypothesis: their features side by side."""
        def pair(h1, h2):
            def features(x):
                phi1 = self.weight * h1.features(x.copy())
                phi2 = (1 - self.weight) * h2.features(x.copy())
                # Pair i is of hypotheses i // M2 and i % M2.
                first = phi1.repeat(len(h2.prior), axis=1)  # (F1, M1 M2, B)
                second = np.tile(phi2, (1, len(h1.prior), 1))  # (F2, M1 M2, B)
                return np.concatenate([first, second])

            noise = self.weight**2 * h1.noise + (1 - self.weight) ** 2 * h2.noise
            return Hypotheses(features, np.outer(h1.prior, h2.prior).ravel(), noise)

        return [pair(h1, h2) for h1 in self.first.hypotheses() for h2 in self.second.hypotheses()]


def narrow(function_class, n_dims):
    """DenseLinear, SparseLinear or a mixture of these, on another number of dims.

    Var f stays 1. A curriculum begins with few dims: Garg et al. 2022, arXiv 2208.01066.
    """
    if isinstance(function_class, Mixture):
        components = tuple(narrow(c, n_dims) for c in function_class.components)
        return replace(function_class, components=components)
    if isinstance(function_class, SparseLinear):
        return replace(function_class, n_dims=n_dims, nnz=min(function_class.nnz, n_dims))
    return replace(function_class, n_dims=n_dims)


def sample_prompts(function_class, rng, batch_size, n_points):
    """Fresh prompts: xs (B, N, d) ~ N(0, I), ys (B, N) = f(xs), one new f a prompt; both float32.

    All randomness comes from `rng`, a numpy.random.Generator. ValueError unless f(xs) are real
    numbers (B, N), finite in float32.
    """
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}")
    for name, count in (("batch_size", batch_size), ("n_points", n_points),
                        ("n_dims", function_class.n_dims)):
        _check_count(name, count)
    f = function_class.sample(rng, batch_size)
    xs = rng.standard_normal((batch_size, n_points, function_class.n_dims), np.float32)
    ys = np.asanyarray(f(xs.copy()))  # f may be one of your own, and work in place
    if ys.shape != xs.shape[:2] or not is_real(ys):
        raise ValueError(f"f(xs) of {function_class} must be {xs.shape[:2]} real numbers, "
                         f"not {type(ys).__name__} {ys.shape} of {ys.dtype}")
    with np.errstate(over="ignore"):
        ys = np.asarray(ys, np.float32)
    if not np.isfinite(ys).all():
        raise ValueError(f"f(xs) of {function_class} must be finite in float32")
    return xs, ys


def is_real(a):
    """Whether an array holds real numbers, and none is hidden by a mask (numpy.ma)."""
    return a.dtype.kind in "fiu" and not hasattr(a, "mask")


def plain_numbers(made):
    """NumPy's numbers become Python's: a class's text must not depend on NumPy's version."""
    for name, value in vars(made).items():
        if isinstance(value, np.generic):
            object.__setattr__(made, name, value.item())


def _check_count(name, value, most=math.inf):
    if not isinstance(value, (int, np.integer)) or value is True or not 1 <= value <= most:
        limit = "of 1 or more" if most == math.inf else f"from 1 to {most}"
        raise ValueError(f"{name} must be an integer {limit}, not {value!r}")


def _check_positive(name, value):
    if not isinstance(value, (int, float, np.floating)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number, positive and finite, not {value!r}")


def _check_dims(classes):
    dims = {c.n_dims for c in classes}
    if len(dims) > 1:
        raise ValueError(f"classes must share one input dimension, not {sorted(dims)}")
