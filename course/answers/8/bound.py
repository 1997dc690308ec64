import train  # first: it holds NumPy to one core
import numpy as np
import icl
from tasks import DenseLinear, sample_prompts


def bound(params):
    """A number that no prediction of a model with these parameters exceeds in size."""
    # A prediction is w . n + shift. The final layer norm makes n: its mean is 0 and its length at
    # most sqrt(C). As n has mean 0, w . n = (w - mean(w)) . n, and Cauchy-Schwarz bounds that.
    w = params["ln_f.weight"] * params["read_out.weight"][:, 0]
    shift = params["ln_f.bias"] @ params["read_out.weight"][:, 0] + params["read_out.bias"][0]
    return np.sqrt(len(w)) * np.linalg.norm(w - w.mean()) + abs(shift)


if __name__ == "__main__":
    params, config, _ = icl.load_checkpoint("results/small/sine/linear.npz")
    xs, ys = sample_prompts(DenseLinear(1), np.random.default_rng(0), 300, config.n_points)
    print("largest f(x)       ", abs(ys).max())
    print("largest prediction ", abs(icl.predict(params, config, xs, ys)).max())
    print(f"bound               {bound(params):.6f}")
