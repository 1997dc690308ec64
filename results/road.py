"""How far tiny's model gets in a minute or two, one model at a time on every core.

    python results/road.py          five minutes on two cores; prints road.txt

Each road has a number of steps, as the learning rate falls to zero on the last. What counts is the
error after 0, 1, 2, ... examples on 5,000 fresh prompts, beside that of the exact optimum for what
the model was trained on.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import icl  # before NumPy: it holds the BLAS to one thread

import os
from dataclasses import replace

import numpy as np

import baselines
import train
from tasks import DenseLinear, Mixture, Sinusoid, SparseLinear, sample_prompts

WAVES = DenseLinear(1), Sinusoid()
ROADS = [  # pretraining class, points, prompts a step, steps, classes shown
    (DenseLinear(5), 8, 128, 1700, [DenseLinear(5)]),
    (SparseLinear(5, 1), 8, 128, 3500, [SparseLinear(5, 1)]),
    (Mixture(WAVES), 16, 64, 2600, WAVES),
]


def row(name, errors):
    """Print a predictor's errors by number of examples, and their mean."""
    print(f"  {name:15s} {' '.join(f'{e:.3f}' for e in errors)}   mean {errors.mean():.3f}")


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}, {os.cpu_count()} cores")
    for pretraining, n_points, batch, steps, shown in ROADS:
        size = replace(train.SIZES["tiny"], batch=batch)
        e = train.Experiment("road", *[{"model": pretraining}] * 2, size, n_points, steps)
        run = train.Run(e, "model", 0, Path())
        while not run.finished:
            run.one_step()
        print(f"\n{pretraining}\n  {steps:,d} steps of {batch} prompts: {run.seconds:.0f} seconds")
        for c in shown:
            xs, ys = sample_prompts(c, np.random.default_rng(7), 5000, n_points)
            error = lambda predictions: np.mean((predictions - ys) ** 2, axis=0)
            print(f"  on {c}, error after 0 to {n_points - 1} examples")
            row("model", error(icl.predict(run.params, run.config, xs, ys)))
            row("optimum", error(baselines.bayes(pretraining)(xs, ys)))
            if c in WAVES:
                row("knows the class", error(baselines.bayes(c)(xs, ys)))
            else:
                row("least squares", error(baselines.least_squares(xs, ys)))
        sys.stdout.flush()
