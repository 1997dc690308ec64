import train  # first: it holds NumPy to one core
import numpy as np
import baselines, icl
from tasks import DenseLinear, Mixture, SparseLinear, sample_prompts


def selection_weight(predictions, a, b):
    """The weight w of b at each position; predictions, a, b (B, N) -> (N,)."""
    # The sum over prompts of (m - (1 - w) a - w b)^2, with m = predictions, is least where its
    # derivative in w is 0: (m - a - w (b - a)) . (b - a) = 0.
    return ((predictions - a) * (b - a)).sum(0) / ((b - a) ** 2).sum(0)


if __name__ == "__main__":
    dense, sparse = DenseLinear(8), SparseLinear(8, 1)
    mixture, rng = Mixture((dense, sparse)), np.random.default_rng
    params, config, _ = icl.load_checkpoint("results/small/sparse/mixture.npz")

    def model(xs, ys):
        return icl.predict(params, config, xs, ys)

    s, interval, _ = baselines.effective_noise(model, mixture, rng(0), config.n_points)
    print(f"effective label noise {s:.3f}, 95% interval {interval[0]:.3f} to {interval[1]:.3f}")
    xs, ys = sample_prompts(sparse, rng(1), 2000, 7)
    a, b = baselines.bayes(dense)(xs, ys), baselines.bayes(sparse)(xs, ys)
    noise = s * rng(2).standard_normal(ys.shape)
    for name, predictions in (
            ("model        ", model(xs, ys)),
            ("noisy learner", baselines.bayes(mixture, s)(xs, ys + noise)),
            ("optimum      ", baselines.bayes(mixture)(xs, ys)),
            ("Lasso        ", baselines.lasso(xs, ys, 0.1))):
        print(name, selection_weight(predictions[:, 1:], a[:, 1:], b[:, 1:]).round(2))
