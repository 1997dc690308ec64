"""What a training step costs, beside the least that its matrix products could take.

    python results/speed.py         a few minutes on an idle machine; prints speed.txt

One thread, as train.py gives each model. A step: the gradients and the optimiser's update. The
products: those of the gradients alone, in the same shapes and chunks, into arrays made before. The
two take turns, and medians are shown, so that a drift of the machine's speed meets both alike.
"""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train  # before NumPy: it holds the BLAS to one thread
import argparse
import contextlib
import io
import platform
import time
from statistics import median

import numpy as np

import baselines
import icl
from results import files, jobs
from results.experiments import SIZES, make_experiment
from tasks import sample_prompts


def machine():
    """The processor and the BLAS, in words."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
        processor += ", AVX-512" if any("avx512f" in line for line in lines) else ""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        np.show_config()
    blas = next((line.split(":")[1].strip() for line in shown.getvalue().splitlines()
                 if "openblas configuration" in line), "unknown BLAS")
    return (f"Python {platform.python_version()}, NumPy {np.__version__}, {blas}\n"
            f"{processor}, {os.cpu_count()} cores")


def products(config, batch):
    """A function that computes the matrix products of one step's gradients, and nothing else."""
    rng, todo, of_size = np.random.default_rng(0), [], {}
    N, T, C, H = config.n_points, 2 * config.n_points - 1, config.n_embd, config.n_head

    def new(*shape):
        return rng.standard_normal(shape, np.float32)

    def linear(M, I, O):  # y = x W;  dx = dy W^T;  dW = x^T dy
        x, w, dy = new(M, I), new(I, O), new(M, O)
        todo.extend([(x, w, new(M, O)), (dy, w.T, new(M, I)), (x.T, dy, new(I, O))])

    def heads(B):
        q, k, v, y = (new(B, H, T, C // H) for _ in range(4))
        p = new(B, H, T, T)
        qT, pT, yT = (a.swapaxes(2, 3) for a in (q, p, y))
        todo.extend([(k, qT, new(*p.shape)), (pT, v, new(*y.shape)), (p, y, new(*v.shape)),
                     (v, yT, new(*p.shape)), (p, q, new(*k.shape)), (pT, k, new(*q.shape))])

    for xs, in icl.chunks(np.zeros((batch, N, config.n_dims), np.float32)):
        B, first = len(xs), len(todo)
        if B in of_size:
            todo += of_size[B]  # once more with the same arrays, as memory is used again
            continue
        linear(B * T, config.n_dims, C)
        for i in range(config.n_layer):
            read = B * (N if i == config.n_layer - 1 else T)  # in the last block, the x tokens
            linear(B * T, C, 3 * C)
            heads(B)
            linear(B * T, C, C)
            linear(read, C, 4 * C)
            linear(read, 4 * C, C)
        linear(B * N, C, 1)
        of_size[B] = todo[first:]

    def run():
        for a, b, out in todo:
            np.matmul(a, b, out=out)
    return run


def measure(e, rounds):
    """Median seconds of a step and of its products, in turns."""
    params = icl.init_params(e.config, np.random.default_rng(0))
    optimizer = icl.Muon(params, e.size.lr, e.size.matrix_lr, clip=1.0)
    xs, ys = sample_prompts(e.mixture, np.random.default_rng(0), e.size.batch, e.n_points)
    jobs = [lambda: icl.train_step(params, e.config, optimizer, xs, ys, icl.loss_weights(xs, ys)),
            products(e.config, e.size.batch)]
    times = [[], []]
    for i in range(rounds + 2):
        for job, spent in zip(jobs, times):
            start = time.perf_counter()
            job()
            spent.append(time.perf_counter() - start)
    return [median(spent[2:]) for spent in times]  # the first two warm up


def main(rounds=40, sizes=tuple(SIZES)):
    """Print a line a size and experiment, what the yardsticks cost, and what full runs would."""
    print(machine())
    print("size, experiment      step   products  ratio  prompts/s")
    hours = {}
    for name in sizes:
        size, hours[name] = SIZES[name], []
        for experiment in ("sparse", "sine"):
            e = make_experiment(experiment, size)
            step, least = measure(e, max(1, rounds // 8) if name == "paper" else rounds)
            print(f"{name + ', ' + experiment:16s} {step * 1e3:7.1f}ms {least * 1e3:8.1f}ms "
                  f"{step / least:6.2f} {size.batch / step:10,.0f}", flush=True)
            hours[name] += [step * model.steps / 3600 for model in files.entries_of(e, Path())
                            if model.steps]
    e = make_experiment("sparse", SIZES[sizes[-1]])
    xs, ys = sample_prompts(e.mixture, np.random.default_rng(0), 1000, e.n_points)
    print(f"\nSeconds for 1,000 prompts of {e.n_points} points from {e.mixture}")
    for name, predictor in {"exact optimum": baselines.bayes(e.mixture),
                            "least squares": baselines.least_squares,
                            "Lasso 0.1": lambda xs, ys: baselines.lasso(xs, ys, 0.1)}.items():
        start = time.perf_counter()
        predictor(xs, ys)
        print(f"  {name:15s} {time.perf_counter() - start:6.2f}", flush=True)
    print("\nHours to train all six models, one a core, on such cores")
    for name in sizes:
        costs = [f"{cores} cores {max(sum(hours[name]) / min(cores, 6), max(hours[name])):.3g}"
                 for cores in (2, 8, 32)]
        print(f"  {name:6s} {', '.join(costs)}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    sys.exit(jobs.exit_status("speed.py", main))
