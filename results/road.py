"""How far a model gets from random weights: minutes at tiny, two hours at the paper's size.

    python results/road.py          five minutes on two cores; prints road.txt
    python results/road.py paper    two hours on two cores; prints paper.txt and draws paper.svg

One model at a time, on every core. Each road has a number of steps, as the learning rate falls to
zero on the last. What counts is the error after 0, 1, 2, ... examples on 5,000 fresh prompts,
beside that of the exact optimum for what the model was trained on.
"""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import icl  # before NumPy: it holds the BLAS to one thread

import contextlib
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


def show(run, classes, n_prompts=5000):
    """Print a trained model's errors on the classes, and those that it is measured by."""
    n_points = run.experiment.n_points
    print(f"\n{run.function_class}\n  {run.steps:,d} steps of {run.experiment.size.batch} prompts: "
          f"{run.seconds:,.0f} seconds, {run.seconds / run.steps:.3f} a step")
    for c in classes:
        xs, ys = sample_prompts(c, np.random.default_rng(7), n_prompts, n_points)
        error = lambda predictions: np.mean((predictions - ys) ** 2, axis=0)
        print(f"  on {c}, error after 0 to {n_points - 1} examples")
        row("model", error(icl.predict(run.params, run.config, xs, ys)))
        row("optimum", error(baselines.bayes(run.function_class)(xs, ys)))
        if c in WAVES:
            row("knows the class", error(baselines.bayes(c)(xs, ys)))
        else:
            row("least squares", error(baselines.least_squares(xs, ys)))
    sys.stdout.flush()


def tiny():
    """The three roads at tiny's size."""
    for pretraining, n_points, batch, steps, shown in ROADS:
        size = replace(train.SIZES["tiny"], batch=batch)
        e = train.Experiment("road", *[{"model": pretraining}] * 2, size, n_points, steps)
        run = train.Run(e, "model", 0, Path())
        while not run.finished:
            run.one_step()
        show(run, shown)


def paper(steps=3000):
    """The first steps at the paper's size, by train.py: stopped, it goes on where it was."""
    out = HERE.parent / "runs" / "road-paper"
    with contextlib.redirect_stdout(sys.stderr):
        train.main(["--experiment", "sparse", "--only", "dense", "--steps", str(steps), "--out",
                    str(out)])
    e = train.make_experiment("sparse", train.SIZES["paper"], steps)
    run = train.Run(e, "dense", 0, out / "sparse" / "dense.npz")
    run.load()
    show(run, [run.function_class], 1000)
    xs, ys = sample_prompts(run.function_class, np.random.default_rng(7), 1000, e.n_points)
    weighted = lambda predictions: icl.mean_squared_error(predictions, ys,
                                                          icl.loss_weights(xs, ys))[0]
    zero, optimum = weighted(0 * ys), weighted(baselines.bayes(run.function_class)(xs, ys))
    print(f"\n  weighted loss: {zero:.3f} of predicting zero, {optimum:.3f} of the optimum, and in "
          f"the {len(run.log)} stretches of training")
    for rows in np.array_split(run.log, 20):
        print(f"  up to step {rows[-1, 0]:5,.0f}: " + " ".join(f"{v:.3f}" for v in rows[:, 1]))
    lines = [("training loss", run.log[:, 1], None, train.STYLES["mixture model"]),
             ("predicting zero", np.full(len(run.log), zero), None, train.STYLES["least squares"]),
             ("exact optimum", np.full(len(run.log), optimum), None, train.STYLES[train.MIXED])]
    svg = train.chart("The paper's size on dense functions, the first steps", "step",
                      "weighted squared error", run.log[:, 0], lines, (0, 1.1 * zero), log="x")
    train.write_text(HERE / "paper.svg", svg)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["paper"]):
        sys.exit("usage: python results/road.py [paper]")
    print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}, {os.cpu_count()} cores")
    paper() if sys.argv[1:] else tiny()
