import sys
import train  # first: it holds NumPy to one core
import numpy as np
import baselines, icl
from tasks import DenseLinear, Mixture, Sinusoid, sample_prompts

LAW = 2.0, 2.0  # shape and scale; mean 4, and a density of 0.017 at 10


def three_errors(path, law, frequency, seed, n_prompts):
    """Mean squared errors at the last five places, on sinusoids of one frequency: of the model in
    the checkpoint, of the optimum of its own mixture, of the optimum for this frequency.
    """
    params, config, _ = icl.load_checkpoint(path)
    truth = Sinusoid(frequency=frequency)
    xs, ys = sample_prompts(truth, np.random.default_rng(seed), n_prompts, config.n_points)

    def error(predictions):
        return ((predictions - ys)[:, -5:] ** 2).mean()

    mixture = Mixture((DenseLinear(1), Sinusoid(*law)))  # the model's own pretraining
    return (error(icl.predict(params, config, xs, ys)), error(baselines.bayes(mixture)(xs, ys)),
            error(baselines.bayes(truth)(xs, ys)))


def verdict(model, optimum):
    """From the errors of a model and of its mixture's optimum: "none" if the model does not fail;
    "data" if both fail; "learning" if the model alone fails. An error above 0.1 is a failure.
    """
    if model <= 0.1:
        return "none"
    return "data" if optimum > 0.1 else "learning"


if __name__ == "__main__":
    path, law = sys.argv[1], (float(sys.argv[2]), float(sys.argv[3]))
    for frequency in (1.5, 5.0, 10.0):
        model, optimum, own = three_errors(path, law, frequency, 0, 1000)
        print(f"{frequency:4} {model:.5f} {optimum:.5f} {own:.5f} {verdict(model, optimum)}")
    print("both 0.3:", verdict(0.3, 0.3))
