"""One model of the sparse experiment beside its baselines, by number of examples.

    python results/probe.py CHECKPOINT [FOLDER]    minutes; printed what is in paper/

For a model whose experiment is not complete, so that `train.py` does not compare it yet. If the
model is still in training, this is how far it has come. For a mixture model there is a table for
each class, and what weight it puts on the sparse class (see `train.selection`). It draws the
tables in FOLDER, if there is one.
"""
import sys
from dataclasses import replace
from pathlib import Path

from precision import run_of  # it imports train before NumPy, which holds the BLAS to one thread
import numpy as np

import baselines
import icl
import train
from tasks import Mixture, SparseLinear, sample_prompts


def main(path, folder=None, prompts=1000):
    """Print what a model was trained on, its effective label noise, and tables of mean errors."""
    run = run_of(Path(path))
    params, extra = run.load()
    e, model = run.experiment, lambda xs, ys: icl.predict(params, run.experiment.config, xs, ys)
    e = replace(e, size=replace(e.size, prompts=prompts), models={run.model: model})
    s, (low, high) = train.noise_of(e, run.model)
    e = replace(e, noise={run.model: (s, (low, high))})
    print(f"{run.name}, {extra['step']:,} of {run.steps:,} steps of {e.size.batch} prompts, "
          f"seed {e.seed}: {run.function_class}")
    print(f"{e.size.n_layer} layers, {e.size.n_embd} channels; "
          f"effective label noise {s:.3f} ({low:.3f} to {high:.3f})")
    mixture = isinstance(run.function_class, Mixture)
    figures = []
    for name in e.classes if mixture else [run.model]:
        c = e.classes[name]
        alphas = baselines.tune_lasso(c, e.stream("probe", "lasso"), e.n_points, n_prompts=300)
        predictors = {run.model: model,
                      train.MIXED if mixture else train.OWN: baselines.bayes(run.function_class),
                      "least squares": baselines.least_squares,
                      "Lasso": lambda xs, ys: baselines.lasso(xs, ys, alphas)}
        xs, ys = sample_prompts(c, e.stream("probe", name), prompts, e.n_points)
        errors = {p: (predict(xs, ys) - ys) ** 2 for p, predict in predictors.items()}
        figures.append(train.Figure(
            f"errors-{name}", f"{name.capitalize()} functions: the model and its baselines",
            "examples in the prompt", np.arange(e.n_points),
            train.on(f"{name} functions", errors, e.models)))
    if mixture:
        d, numbers = e.size.n_dims, np.arange(1, min(8, e.size.n_dims + 1))
        _, errors = train.sweep(e, "nnz", {k: SparseLinear(d, k) for k in numbers},
                                {run.model: model, "least squares": baselines.least_squares})
        figures += train.selection(e, *e.classes)
        figures.append(train.Figure(
            "nnz", f"Any number of non-zeros, after {train.span(e.at)} examples", "non-zeros",
            numbers, train.on("sparse functions", errors, e.models)))
    for f in figures:
        table(f)
        if folder:
            file = Path(folder) / f"{run.name.replace('/', '-')}-{f.name}.svg"
            file.write_text(train.draw(f), encoding="utf-8")


def table(f):
    """Print a Figure: means over prompts, with their 95% intervals."""
    print(f"\n{f.title}")
    for shown in dict.fromkeys(shown for _, shown in f.values):
        columns = {p: v for (p, at), v in f.values.items() if at == shown}
        row = lambda first, cells: print(f"{first:>8s} " + " ".join(
            f"{cell:>{max(15, len(p))}s}" for p, cell in zip(columns, cells)))
        print(f"{shown}: {f.ylabel}, by {f.xlabel}")
        row("", columns)
        for i, k in enumerate(f.x):
            row(str(k), [number(v[:, i]) for v in columns.values()])
        if f.name.startswith("errors"):
            row("mean", [number(v.mean(1)) for v in columns.values()])


def number(v):
    """The mean of samples (B,), and half its 95% interval, in words."""
    return f"{v.mean():.3f} ± {train.Z * v.std(ddof=1) / len(v) ** 0.5:.3f}"


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except icl.Refused as e:
        sys.exit(str(e))
