from dataclasses import dataclass
import numpy as np
import baselines
from tasks import DenseLinear, Hypotheses, Mixture, sample_prompts


@dataclass(frozen=True)
class Affine:
    """f(x) = (w x + b) / sqrt(2), one-dimensional, w, b ~ N(0, 1)."""
    n_dims = 1

    def sample(self, rng, batch_size):
        w, b = rng.standard_normal((2, batch_size, 1)) / np.sqrt(2)
        return lambda xs: w * xs[..., 0] + b

    def hypotheses(self):
        def features(x):  # (B, 1) -> (2, 1, B)
            return np.stack([x.T, np.ones_like(x.T)]) / np.sqrt(2)

        return [Hypotheses(features, np.ones(1), noise=1e-10)]


if __name__ == "__main__":
    xs, ys = sample_prompts(Affine(), np.random.default_rng(0), 4000, 6)
    print("variance", (ys**2).mean().round(2))
    print("optimum ", ((baselines.bayes(Affine())(xs, ys) - ys) ** 2).mean(0).round(2))
    xs, ys = sample_prompts(DenseLinear(1), np.random.default_rng(0), 4000, 6)
    p = baselines.class_probabilities(Mixture((DenseLinear(1), Affine())))(xs, ys)
    print("on lines through 0, p(Affine) after 1 example", p[:, 1, 1].mean().round(3))
