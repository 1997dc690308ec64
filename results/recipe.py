"""What each part of the training recipe is worth: take one away at a time, three seeds each.

    python results/recipe.py        twelve minutes on two cores; prints recipe.txt

Every variant trains the tiny size's sparse specialist for 1,200 steps. What counts is its error
above the exact optimum, averaged over the ICL curve, on 5,000 fresh prompts.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import icl  # before NumPy: it holds the BLAS to one thread

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np

import baselines
import train
from tasks import sample_prompts

STEPS, SEEDS = 1200, 3


def small_matrices(params, rng):
    """A change: the blocks' matrices with GPT-2's standard deviation, and all else as it was."""
    for name, p in params.items():
        if name.startswith("h.") and p.ndim == 2:
            p *= 0.02 * len(p) ** 0.5


def small_positions(params, rng):
    """A change: positions drawn at random, with GPT-2's standard deviation."""
    params["wpe.weight"][:] = 0.02 * rng.standard_normal(params["wpe.weight"].shape)


def independent_keys(params, rng):
    """A change: keys that know nothing of the queries."""
    for key, p in params.items():
        if key.endswith("c_attn.weight"):
            C = len(p)
            p[:, C:2 * C] = rng.standard_normal((C, C)) / C**0.5


class PlainMuon(icl.Muon):
    """Muon without the normalised neurons: v stays one."""
    def __init__(self, params, lr, matrix_lr, **more):
        super().__init__(params, lr, matrix_lr, decay=1.0, **more)
        for name in self.state:
            if name.startswith("v.h.") and len(self.state[name]) == 1:
                self.state[name] += 1


class PlainAdam(icl.Adam):
    """Adam for everything."""
    def __init__(self, params, lr, matrix_lr, **more):
        super().__init__(params, lr, **more)


def equal_weights(xs, ys):
    """Every squared error counts the same, however large its prompt's values are."""
    return np.ones_like(ys)


VARIANTS = {  # name: what changes of the size, the initial parameters, the optimiser, the loss
    "the recipe": {},
    "a loss without weights": {"weights": equal_weights},
    "4 layers of 64 channels, not 6 of 48": {"size": {"n_layer": 4, "n_embd": 64}},
    "Muon without normalised neurons": {"optimizer": PlainMuon},
    "Adam alone, 1e-3": {"size": {"lr": 1e-3}, "optimizer": PlainAdam},
    "Adam alone, 2e-3": {"size": {"lr": 2e-3}, "optimizer": PlainAdam},
    "Adam alone, 4e-3": {"size": {"lr": 4e-3}, "optimizer": PlainAdam},
    "Adam alone, 8e-3": {"size": {"lr": 8e-3}, "optimizer": PlainAdam},
    "matrices start at 0.02, as in GPT-2": {"start": small_matrices},
    "positions start at 0.02, not as waves": {"start": small_positions},
    "keys start independent of queries": {"start": independent_keys},
    "half the learning rates": {"size": {"lr": 1.5e-3, "matrix_lr": 0.01}},
    "twice the learning rates": {"size": {"lr": 6e-3, "matrix_lr": 0.04}},
}


def measure(name, seed):
    """Mean error above the optimum of one variant with one seed."""
    icl.set_threads(1)
    variant = VARIANTS[name]
    size = replace(train.SIZES["tiny"], **variant.get("size", {}))
    e = train.make_experiment("sparse", size, STEPS)
    run = train.Run(e, "sparse", seed, Path())
    if "start" in variant:
        variant["start"](run.params, np.random.default_rng([seed, 1]))
    if "optimizer" in variant:
        run.optimizer = variant["optimizer"](run.params, size.lr, size.matrix_lr, clip=1.0)
    with mock.patch.object(icl, "loss_weights", variant.get("weights", icl.loss_weights)):
        while not run.finished:
            run.one_step()
    xs, ys = sample_prompts(run.function_class, np.random.default_rng(7), 5000, e.n_points)
    error, optimum = (np.mean((p - ys) ** 2) for p in (
        icl.predict(run.params, run.config, xs, ys), baselines.bayes(run.function_class)(xs, ys)))
    return float(error - optimum)


if __name__ == "__main__":
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {name: [pool.submit(measure, name, seed) for seed in range(SEEDS)]
                for name in VARIANTS}
        print(f"{'variant':40s} error above the optimum, seeds 0 to {SEEDS - 1}    mean")
        for name, results in jobs.items():
            excess = [job.result() for job in results]
            print(f"{name:40s} {'  '.join(f'{v:.4f}' for v in excess):37s} {np.mean(excess):.4f}",
                  flush=True)
