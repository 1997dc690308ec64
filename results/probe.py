"""One model of the sparse experiment beside its baselines, by number of examples.

    python results/probe.py CHECKPOINT        two minutes; printed paper/probe.txt

For a model whose experiment is not complete, so that `train.py` does not compare it yet.
"""
import sys
from dataclasses import replace
from pathlib import Path

from precision import run_of  # it imports train before NumPy, which holds the BLAS to one thread
import numpy as np

import baselines
import icl
import train
from tasks import sample_prompts


def main(path, prompts=1000):
    """Print what a model was trained on, its effective label noise, and a table of mean errors."""
    run = run_of(Path(path))
    if not run.finished():
        raise icl.Refused(f"{path} has not been trained to its end")
    e, c = replace(run.experiment, models={run.model: run.predictor()}), run.function_class
    size, (s, (low, high)) = e.size, train.noise_of(e, run.model)
    alphas = baselines.tune_lasso(c, e.stream("probe", "lasso"), e.n_points, n_prompts=300)
    predictors = {"model": e.models[run.model], "optimum": baselines.bayes(c),
                  "least squares": baselines.least_squares,
                  "Lasso": lambda xs, ys: baselines.lasso(xs, ys, alphas)}
    xs, ys = sample_prompts(c, e.stream("probe", run.model), prompts, e.n_points)
    errors = {p: (predict(xs, ys) - ys) ** 2 for p, predict in predictors.items()}  # (B, N) each
    row = lambda first, cells: f"{first:8s} " + " ".join(f"{cell:>15s}" for cell in cells)
    number = lambda v: f"{v.mean():.3f} ± {train.Z * v.std(ddof=1) / len(v) ** 0.5:.3f}"
    print(f"{run.name}, {run.steps:,} steps of {size.batch} prompts, seed {e.seed}: {c}")
    print(f"{size.n_layer} layers, {size.n_embd} channels; "
          f"effective label noise {s:.3f} ({low:.3f} to {high:.3f})\n")
    print(row("examples", errors))
    for k in range(e.n_points):
        print(row(f"{k:8d}", (number(v[:, k]) for v in errors.values())))
    print(row("mean", (number(v.mean(1)) for v in errors.values())))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except icl.Refused as e:
        sys.exit(str(e))
