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
import math
import os
import tempfile
from dataclasses import replace

import numpy as np

import icl

LENGTHS = 300, 600, 1200, 2500, 5000


def run_of(path):
    """The Run that a checkpoint is of: its settings say which size and experiment that was."""
    made = icl.load_checkpoint(path)[2]["settings"]
    for size in train.SIZES.values():
        e = train.make_experiment(made["experiment"], size, made["seed"])
        run = train.Run(e, made["model"], made["steps"], path)
        if run.settings == made:
            return run
    raise icl.Refused(f"{path} is of no size in SIZES")


def noise(run):
    """The effective label noise of a run's model, which is trained first if need be."""
    if not run.finished():
        train.train(run, math.inf, [0] * 3, 0)
    e = replace(run.experiment, models={run.model: run.predictor()})
    return train.noise_of(e, run.model)


def main(paths, lengths=LENGTHS):
    """Measure all models, a core each, print a line a model and draw the figure."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = [train.Run(train.make_experiment(name, train.SIZES["tiny"]), "mixture", steps,
                          Path(folder) / name / f"{steps}.npz")
                for name in ("sparse", "sine") for steps in lengths]
        runs = tiny + [run_of(path) for path in paths]
        longest = sorted(range(len(runs)), key=lambda i: -runs[i].steps * (i < len(tiny)))
        found = train.side_by_side([(noise, runs[i]) for i in longest], os.cpu_count(),
                                   lambda working: "")
    found = dict(zip(longest, found))
    lines, points = [], {}  # points: label -> prompts -> (s - margin / Z, s + margin / Z)
    for i, run in enumerate(runs):
        (s, (low, high)), size = found[i], run.experiment.size
        prompts, layers = run.steps * size.batch, f"{size.n_layer} layers"
        lines.append(f"{layers:10s}{run.name:20s}{prompts:12,d} prompts   {s:.3f} "
                     f"({low:.3f} to {high:.3f})")
        s, spread = (s, max(high - s, s - low) / train.Z) if math.isfinite(s) else (math.nan, 0)
        label = f"{run.name}, {'tiny' if i < len(tiny) else layers}"  # a model, a colour
        for x in [prompts] if i < len(tiny) else [0.9 * prompts, 1.1 * prompts]:
            points.setdefault(label, {})[x] = s - spread, s + spread
    print("\n".join(lines))
    x = np.array(sorted({x for line in points.values() for x in line}))
    errors = {(label, ""): np.array([line.get(v, (math.nan,) * 2) for v in x]).T
              for label, line in points.items()}
    f = train.Figure("precision", "What more training buys", "prompts seen in training", x, errors,
                     "effective label noise", log="x")
    (HERE / "precision.svg").write_text(train.draw(f), encoding="utf-8")


if __name__ == "__main__":
    main([Path(p) for p in sys.argv[1:]] or sorted(HERE.glob("small/*/*.npz")))
