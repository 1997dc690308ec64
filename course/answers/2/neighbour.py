import numpy as np
from tasks import DenseLinear, sample_prompts


def nearest_neighbour(xs, ys):
    """The y of the nearest earlier x; xs (B, N, d), ys (B, N) -> predictions (B, N)."""
    predictions = np.zeros(ys.shape)  # (B, N)
    for k in range(1, ys.shape[1]):
        distance = ((xs[:, k, None] - xs[:, :k]) ** 2).sum(2)  # (B, k)
        nearest = distance.argmin(1)  # (B,)
        predictions[:, k] = ys[np.arange(len(ys)), nearest]
    return predictions


if __name__ == "__main__":
    xs, ys = sample_prompts(DenseLinear(8), np.random.default_rng(0), 10_000, 11)
    print(((nearest_neighbour(xs, ys) - ys) ** 2).mean(0).round(2))
