"""Effective label noise against the number of prompts that a model was trained on.

    python results/precision.py [CHECKPOINT ...]     ten minutes on two cores

draws precision.svg and prints the numbers in precision.txt. Tiny's two mixture models are trained
at five lengths, each with a schedule of its own; a line joins them. Checkpoints of finished models
(by default, small's six) are short bars. Bands are 95% intervals over prompts, one seed each.
"""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import train  # before NumPy: it holds the BLAS to one thread
import argparse
import math
import os
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

import baselines
import icl
from results import drawing, files, jobs
from results.experiments import SIZES, make_experiment

LENGTHS = 300, 600, 1200, 2500, 5000


def model_of(path):
    """The entry that a checkpoint is of: its settings say which size and experiment."""
    made = icl.load_checkpoint(path)[2].get("settings")
    for size in SIZES.values() if isinstance(made, dict) else ():
        e = make_experiment(made.get("experiment"), size, made.get("seed"))
        model = files.Entry(e, made.get("model"), made.get("steps"), path)
        if made.items() <= model.settings.items() and model.reached() == model.steps:
            return model
    raise icl.Refused(f"{path} is no finished model of a size in SIZES")


def noise(model):
    """The effective label noise of a model, which is trained first if need be."""
    e = model.experiment
    if model.reached() < model.steps:
        train.train(model)
    return baselines.effective_noise(
        partial(icl.predict, files.load_model(model)[0], e.config), e.pretraining[model.name],
        e.stream("noise", model.name), e.n_points, min(1000, e.size.prompts))[:2]


def main(paths, lengths=LENGTHS):
    """Measure all models, a core each, print a line a model and draw the figure."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = [files.Entry(make_experiment(name, SIZES["tiny"]), "mixture", steps,
                            Path(folder) / name / f"{steps}.npz")
                for name in ("sparse", "sine") for steps in lengths]
        runs = tiny + [model_of(path) for path in paths]
        longest = sorted(range(len(runs)), key=lambda i: -runs[i].steps * (i < len(tiny)))
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), signal.signal,
                             (signal.SIGINT, signal.SIG_DFL)) as pool:  # Ctrl-C ends it
            found = list(pool.map(noise, [runs[i] for i in longest]))
    found = dict(zip(longest, found))
    lines, points = [], {}  # points: label -> prompts -> (s - margin / Z, s + margin / Z)
    for i, run in enumerate(runs):
        (s, (low, high)), size = found[i], run.experiment.size
        prompts, layers = run.steps * size.batch, f"{size.n_layer} layers"
        lines.append(f"{layers:10s}{run.label:20s}{prompts:12,d} prompts   {s:.3f} "
                     f"({low:.3f} to {high:.3f})")
        s, spread = (s, max(high - s, s - low) / 1.96) if math.isfinite(s) else (math.nan, 0)
        label = f"{run.label}, {'tiny' if i < len(tiny) else layers}"  # a model, a colour
        for x in [prompts] if i < len(tiny) else [0.9 * prompts, 1.1 * prompts]:
            points.setdefault(label, {})[x] = s - spread, s + spread
    print("\n".join(lines))
    x = np.array(sorted({x for line in points.values() for x in line}))
    values = {label: np.array([line.get(v, (math.nan,) * 2) for v in x]).T
              for label, line in points.items()}
    f = drawing.Figure("precision", "What more training buys", "", "prompts seen in training", x,
                       values, "effective label noise", log="x")
    (HERE / "precision.svg").write_text(drawing.draw(f), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="*", type=Path, default=sorted(
        path for path in HERE.glob("small/*/*.npz") if not path.stem.endswith("predictions")))
    sys.exit(jobs.exit_status("precision.py", lambda: main(parser.parse_args().checkpoints)))
