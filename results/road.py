"""How far a model gets from random weights, in minutes.

    python results/road.py          six minutes on two cores; prints road.txt

Three roads at tiny's width, a core each. Each has a number of steps, as the learning rate falls to
zero on the last. What counts is the error after 0, 1, 2, ... examples on 5,000 fresh prompts,
beside that of the exact optimum for what the model was trained on.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train  # before NumPy: it holds the BLAS to one thread
import argparse
import os
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np

import baselines
import icl
from results import files, jobs
from results.experiments import SIZES, Experiment
from tasks import DenseLinear, Mixture, Sinusoid, SparseLinear, sample_prompts

WAVES = DenseLinear(1), Sinusoid()
ROADS = [  # pretraining class, points, prompts a step, steps, classes shown
    (DenseLinear(5), 8, 128, 1700, [DenseLinear(5)]),
    (SparseLinear(5, 1), 8, 128, 3500, [SparseLinear(5, 1)]),
    (Mixture(WAVES), 16, 64, 2600, WAVES),
]


def row(name, errors):
    """A predictor's errors by number of examples, and their mean, as text."""
    return f"  {name:15s} {' '.join(f'{e:.3f}' for e in errors)}   mean {errors.mean():.3f}"


def road(pretraining, n_points, batch, steps, classes):
    """Train a model on one class or mixture; the table of its errors on the classes."""
    size = replace(SIZES["tiny"], batch=batch)
    only = {"model": pretraining, "mixture": pretraining}
    e = Experiment("road", size, 0, {}, only, n_points, steps, {}, {}, [], [])
    with tempfile.TemporaryDirectory() as folder:
        entry = files.Entry(e, "model", steps, Path(folder) / "model.npz")
        train.train(entry)
        params, extra = files.load_model(entry)
    model, seconds = partial(icl.predict, params, e.config), extra["seconds"]
    lines = [f"\n{pretraining}", f"  {steps:,d} steps of {batch} prompts: {seconds:,.0f} seconds, "
             f"{seconds / steps:.3f} a step"]
    for c in classes:
        xs, ys = sample_prompts(c, np.random.default_rng(7), 5000, n_points)
        predictors = {"model": model, "optimum": baselines.bayes(pretraining)}
        predictors |= ({"knows the class": baselines.bayes(c)} if c in WAVES else
                       {"least squares": baselines.least_squares})
        lines.append(f"  on {c}, error after 0 to {n_points - 1} examples")
        lines += [row(name, np.mean((predict(xs, ys) - ys) ** 2, axis=0))
                  for name, predict in predictors.items()]
    return "\n".join(lines)


def main(roads=ROADS):
    """Train on all roads, a core each, and print their tables."""
    print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}, {os.cpu_count()} cores")
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), signal.signal,
                             (signal.SIGINT, signal.SIG_DFL)) as pool:  # Ctrl-C ends it
        print("\n".join(pool.map(road, *zip(*roads))))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    sys.exit(jobs.exit_status("road.py", main))
