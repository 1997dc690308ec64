"""What each part of the training recipe is worth: change one at a time, three seeds each.

    python results/recipe.py        a quarter of an hour on two cores; prints recipe.txt

Every variant trains the tiny size's sparse specialist for 1,200 steps. What counts is its error
above the exact optimum, averaged over the ICL curve, on 5,000 fresh prompts. The last three add
what an earlier recipe had and this one has not, one at a time and together.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train  # before NumPy: it holds the BLAS to one thread
import argparse
import math
import os
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from unittest import mock

import numpy as np

import baselines
import icl
from results import files, jobs
from results.experiments import SIZES, make_experiment
from tasks import sample_prompts

SEEDS = 3


class AdamAlone(icl.Adam):
    """Adam for everything."""
    def __init__(self, params, lr, matrix_lr, **more):
        super().__init__(params, lr, **more)


class NorMuon(icl.Muon):
    """Muon with normalised neurons: each column's steps divided by their running root mean square.

    Source: Li et al. 2025, arXiv 2510.05491, algorithm 1. Its steps are larger where rows outnumber
    columns.
    """
    def __init__(self, params, lr, matrix_lr, **more):
        super().__init__(params, lr, matrix_lr, **more)
        self.state |= {f"v.{n}": np.zeros_like(params[n][:1]) for n in self.matrices}

    def step(self, name, p, g):
        plain = icl.orthogonalise

        def orthogonalise(x):
            v, (rows, columns) = self.state[f"v.{name}"], x.shape
            r = plain(x) if rows <= columns else plain(x.T).T
            v += 0.05 * (np.mean(r * r, axis=0) - v)
            step = r / np.sqrt(v + 1e-12)
            step *= np.linalg.norm(r) / (np.linalg.norm(step) + 1e-12)
            return step * math.sqrt(max(1, rows / columns))

        with mock.patch.object(icl, "orthogonalise", orthogonalise):
            super().step(name, p, g)


class WiderSteps(icl.Muon):
    """Muon with Jordan's factor: larger steps where columns outnumber rows."""
    def update(self, params, grads):
        plain = icl.orthogonalise

        def orthogonalise(x):
            rows, columns = x.shape
            return plain(x.T).T if rows > columns else math.sqrt(columns / rows) * plain(x)

        with mock.patch.object(icl, "orthogonalise", orthogonalise):
            super().update(params, grads)


def small_matrices(params):
    """The blocks' matrices start with GPT-2's standard deviation."""
    for name, p in params.items():
        if name.startswith("h.") and p.ndim == 2:
            p *= 0.02 * len(p) ** 0.5


def small_positions(params):
    """Positions start with GPT-2's standard deviation."""
    params["wpe.weight"] *= 0.02 / 0.5


def waves(params):
    """Positions start as cosines, a channel each, of frequencies from pi down to pi / T."""
    T, C = params["wpe.weight"].shape
    frequency = math.pi * T ** -(np.arange(C) // 2 / max(1, C // 2 - 1))  # (C,), in pairs
    phase = np.arange(C) % 2 * math.pi / 2
    params["wpe.weight"][:] = math.sqrt(0.5) * np.cos(np.arange(T)[:, None] * frequency + phase)


def independent_keys(params):
    """Keys start independent of queries."""
    for name, p in params.items():
        if name.endswith("c_attn.weight"):
            query, key, _ = np.split(p, 3, axis=1)  # views
            key[:] = (key + 0.5 * query) / math.sqrt(0.75)


VARIANTS = {  # name: what changes of the size, the initial parameters, the optimiser, the loss
    "the recipe": {},
    "a loss without weights": {"weights": lambda xs, ys: np.ones_like(ys)},
    "4 layers of 64 channels, not 6 of 48": {"size": {"n_layer": 4, "n_embd": 64}},
    **{f"Adam alone, {lr:g}": {"size": {"lr": lr}, "optimizer": AdamAlone}
       for lr in (1e-3, 2e-3, 4e-3, 8e-3)},
    "Muon with a factor for wide matrices": {"optimizer": WiderSteps},
    "matrices start at 0.02, as in GPT-2": {"change": small_matrices},
    "positions start at 0.02, as in GPT-2": {"change": small_positions},
    "half the learning rates": {"size": {"lr": 1.5e-3, "matrix_lr": 0.01}},
    "twice the learning rates": {"size": {"lr": 6e-3, "matrix_lr": 0.04}},
    "keys start independent of queries": {"change": independent_keys},
    "earlier: normalised neurons": {"optimizer": NorMuon},
    "earlier: positions as waves": {"change": waves},
    "earlier: both": {"optimizer": NorMuon, "change": waves},
}


def measure(name, seed, steps):
    """A variant's error above the optimum after training with that seed."""
    variant, fresh = VARIANTS[name], icl.init_params
    size = replace(SIZES["tiny"], **variant.get("size", {}))
    e = make_experiment("sparse", size, seed)

    def initial(config, rng):
        params = fresh(config, rng)
        variant.get("change", lambda params: None)(params)
        return params

    with (tempfile.TemporaryDirectory() as folder, mock.patch.object(icl, "init_params", initial),
          mock.patch.object(icl, "Muon", variant.get("optimizer", icl.Muon)),
          mock.patch.object(icl, "loss_weights", variant.get("weights", icl.loss_weights))):
        model = files.Entry(e, "sparse", steps, Path(folder) / "sparse.npz")
        train.train(model)
        params, _ = files.load_model(model)
    c = e.classes["sparse"]
    xs, ys = sample_prompts(c, np.random.default_rng(seed), 5000, e.n_points)
    error, least = (np.mean((predicted - ys) ** 2) for predicted in (
        icl.predict(params, e.config, xs, ys), baselines.bayes(c)(xs, ys)))
    return error - least


def main(steps=1200, names=tuple(VARIANTS)):
    """Train every variant with every seed, a core each, and print a line a variant."""
    jobs = [(name, seed, steps) for name in names for seed in range(SEEDS)]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), signal.signal,
                             (signal.SIGINT, signal.SIG_DFL)) as pool:  # Ctrl-C ends it
        errors = list(pool.map(measure, *zip(*jobs)))
    print(f"{'variant':40s} error above the optimum, seeds 0 to {SEEDS - 1}    mean")
    for name, row in zip(names, np.reshape(errors, (-1, SEEDS))):
        print(f"{name:40s} {'  '.join(f'{v:.4f}' for v in row):37s} {row.mean():.4f}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    sys.exit(jobs.exit_status("recipe.py", main))
