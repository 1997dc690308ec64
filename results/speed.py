"""What a training step costs, how well it uses the machine, and what a full run would cost.

    python results/speed.py         a few minutes on an idle machine; prints speed.txt

Medians over rounds in which all measurements take turns, so that a drift of the machine's speed
meets them alike. Times and rates are a step's of the size's own batch; the rate counts the matrix
products of the gradients alone. The full run's cost is a projection, at best: its core-seconds,
measured on this machine's cores, shared without loss as train.py shares them, with as many threads
for every model, up to one for each shard of its batch.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import icl  # before NumPy: it holds the BLAS to one thread

import os
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

import baselines
import train
from tasks import sample_prompts

CORES = os.cpu_count()


def blas_rate(n=2048):
    """GFLOP/s of large float32 products, one on every core at a time."""
    rng = np.random.default_rng(0)
    pairs = [rng.standard_normal((2, n, n), np.float32) for _ in range(CORES)]
    with ThreadPoolExecutor(CORES) as pool:
        start = time.perf_counter()
        list(pool.map(lambda p: p[0] @ p[1], pairs))
        return CORES * 2 * n**3 / (time.perf_counter() - start) / 1e9


def step_gflop(config, batch):
    """10^9 multiplications and additions in the matrix products of one step's gradients."""
    T, Q, C = 2 * config.n_points - 1, config.n_points, config.n_embd
    def block(T, Q):  # keys at T tokens, queries and all that follows at Q
        return 2 * C * (3 * C * T + C * Q + 8 * C * Q) + 4 * T * Q * C
    forward = (config.n_layer - 1) * block(T, T) + block(T, Q)
    return 3 * batch * forward / 1e9  # the backward pass has two products for each one


def measure(e, model, rounds, batches=(32, 64, 128)):
    """Seconds a step by (threads, batch), and the BLAS rate, in turns."""
    run = train.Run(e, model, 0, Path())
    rng = np.random.default_rng(0)
    prompts = {b: sample_prompts(run.function_class, rng, b, e.n_points) for b in batches}
    cases = [(1, e.size.batch)] + [(CORES, b) for b in batches]
    times, rates = {case: [] for case in cases}, []
    for i in range(rounds + 1):
        rates.append(blas_rate())
        for threads, b in cases:
            icl.set_threads(threads)
            icl.predict(run.params, run.config, *prompts[b])  # wakes the new threads
            start = time.perf_counter()
            icl.train_step(run.params, run.config, run.optimizer, *prompts[b])
            if i:  # the first round warms up
                times[threads, b].append(time.perf_counter() - start)
    return {case: median(t) for case, t in times.items()}, median(rates[1:])


def yardsticks(e, n_prompts=1000):
    """Print the seconds that the predictors nobody trained take on prompts of the mixture."""
    xs, ys = sample_prompts(e.mixture, np.random.default_rng(0), n_prompts, e.n_points)
    lasso = lambda alpha: lambda xs, ys: baselines.lasso(xs, ys, alpha)
    predictors = {"exact optimum": baselines.bayes(e.mixture), "least squares":
                  baselines.least_squares} | {f"Lasso {a:g}": lasso(a) for a in (0.1, 0.03, 0.01)}
    print(f"\n{n_prompts:,d} prompts of {e.n_points} points from {e.mixture}")
    for name, predictor in predictors.items():
        start = time.perf_counter()
        train.run_predictors({name: predictor}, xs, ys)
        print(f"  {name:15s} {time.perf_counter() - start:5.2f} seconds", flush=True)


def main():
    """Print a line a size and experiment, what the yardsticks cost and what full runs would."""
    print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}, {CORES} cores")
    print(f"{'size, experiment':15s} {'1 thread':>9s} {f'{CORES} threads':>10s} {'ratio':>6s} "
          f"{'GFLOP/s':>8s} {'of BLAS':>8s}   prompts/s at 32, 64, 128 a step")
    core_seconds = {}
    for name, size in train.SIZES.items():
        core_seconds[name] = []
        for experiment in ("sparse", "sine"):
            e = train.make_experiment(experiment, size)
            seconds, rate = measure(e, "mixture", 5 if name == "paper" else 40)
            one, every = seconds[1, size.batch], seconds[CORES, size.batch]
            speed = step_gflop(e.config, size.batch) / every
            print(f"{name + ', ' + experiment:15s} {one * 1e3:7.1f}ms {every * 1e3:8.1f}ms "
                  f"{one / every:6.2f} {speed:8.0f} {speed / rate:8.0%}   "
                  + ", ".join(f"{b / seconds[CORES, b]:,.0f}" for b in (32, 64, 128)), flush=True)
            shards = len(list(icl._shards(np.zeros((size.batch, e.n_points)))))
            core_seconds[name] += [(one * e.steps_of(m), shards) for m in e.pretraining]
    yardsticks(train.make_experiment("sparse", train.SIZES["paper"]))
    print("\nTraining of all six models, side by side, on such cores, at best")
    for name, jobs in core_seconds.items():
        costs = []
        for cores in (2, 8, 32):
            workers = min(cores, len(jobs))
            each = [one / min(shards, cores // workers) for one, shards in jobs]
            hours = max(sum(each) / workers, max(each)) / 3600
            costs.append(f"{cores} cores {hours / 24:.3g} days" if hours > 48 else
                         f"{cores} cores {hours:.2g} hours" if hours > 1.5 else
                         f"{cores} cores {60 * hours:.2g} minutes")
        print(f"{name:6s} {', '.join(costs)}")


if __name__ == "__main__":
    main()
