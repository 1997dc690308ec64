# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy"]
# ///
"""Train transformers on mixtures of function classes and compare them with the exact optimum.

    python train.py --tiny          two experiments in minutes on a laptop
    python train.py --small         two hours on a laptop: the paper's findings, measured
    python train.py                 the paper's size: 12 layers, 256 channels

An experiment trains a model on each of two function classes (the specialists) and one on their
50:50 mixture. What predicts is a *predictor*: these models, and what nobody trained, such as least
squares or the exact optimum. Three stages, with files between them, work on what is there:

    train      a model        -> OUT/EXPERIMENT/MODEL.npz
    measure    a predictor    -> OUT/EXPERIMENT/PREDICTOR.predictions.npz
    show       predictions    -> figures, results.csv, report.html, tables on the terminal

A fourth, results/claims.py, judges from the predictions whether the paper (arXiv 2311.00871) is
right. Models train side by side, each in a process of its own on one core. Whatever ends a run, the
same command goes on from its last checkpoints.
"""
import os

for _name in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM"):  # read by NumPy's BLAS
    os.environ[f"{_name}_THREADS"] = "1"  # more could change the last bits

import argparse
import contextlib
import html
import io
import json
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np

import baselines
import icl
from tasks import (ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, narrow,
                   plain_numbers, sample_prompts)


# ------------------------------------------------------------------------- sizes and experiments

@dataclass(frozen=True)
class Size:
    """How big a run is. The learning rates rise linearly, then fall linearly to zero."""
    n_layer: int
    n_head: int
    n_embd: int
    n_dims: int        # of the sparse experiment's inputs; the sine experiment's are 1-D
    nnz: int           # non-zero coefficients of its sparse functions
    sparse_points: int
    sparse_steps: int  # of training a specialist; a mixture model takes twice as many
    sine_points: int
    sine_steps: int
    batch: int = 64
    lr: float = 3e-3          # Adam's, for gains, biases, read_in, read_out and positions
    matrix_lr: float = 0.02   # Muon's, for the matrices in the blocks
    warmup: int = 100
    curriculum: float = 0.0   # share of the sparse experiment's steps that `lesson` makes easier
    first_dims: int = 5       # where it begins
    prompts: int = 2000       # to evaluate on; half as many for each place of a sweep

    def check(self):  # ValueError, by name, where a field cannot be
        plain_numbers(self)
        for name, value in asdict(self).items():
            rates = {"lr": (1e-30, 1e30), "matrix_lr": (1e-30, 1e30), "curriculum": (0.0, 0.99)}
            least, most = rates.get(name, (1 + name.endswith(("points", "prompts")), 1_000_000))
            if not isinstance(value, (int, type(least))) or not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most:,}, not {value!r}")


SIZES = {
    "tiny": Size(6, 4, 48, n_dims=3, nnz=1, sparse_points=8, sparse_steps=1500, prompts=1000,
                 sine_points=16, sine_steps=1400),
    "small": Size(8, 4, 64, n_dims=8, nnz=1, sparse_points=10, sparse_steps=20_000,
                  sine_points=21, sine_steps=3000, batch=128, prompts=3000),
    "paper": Size(12, 8, 256, n_dims=20, nnz=2, sparse_points=41, sparse_steps=3000,
                  sine_points=41, sine_steps=1500, curriculum=0.1),
}
EXPERIMENTS = "sine", "sparse"  # in the order of the report


@dataclass(frozen=True)
class Experiment:
    """Which models are trained, on what, and what they are asked afterwards.

    A sweep asks what no model was trained on: name of the sweep -> place on its x axis -> class.
    """
    name: str
    size: Size
    classes: dict      # name -> function class
    pretraining: dict  # name of a model -> the class or mixture that it is trained on
    n_points: int
    steps: int         # of training a specialist
    at: list           # the numbers of examples after which sweeps measure
    sweeps: dict = field(default_factory=dict)
    seed: int = 0
    curriculum: float = 0.0  # share of the steps that `lesson` makes easier

    @property
    def mixture(self):
        return Mixture(tuple(self.classes.values()))

    @property
    def config(self):
        return icl.Config(self.mixture.n_dims, self.n_points, self.size.n_layer, self.size.n_head,
                          self.size.n_embd)

    def stream(self, *purpose):
        """A random generator for each purpose, so that evaluation cannot disturb training."""
        words = "/".join(map(str, (self.name, *purpose)))
        return np.random.default_rng([self.seed, zlib.crc32(words.encode())])


def make_experiment(name, size, seed=0):
    """The paper's experiment of that name, "sparse" or "sine", at a size."""
    size.check()
    if name == "sparse":
        d, n_points, steps = size.n_dims, size.sparse_points, size.sparse_steps
        classes = {"dense": DenseLinear(d), "sparse": SparseLinear(d, size.nnz)}
        at = [min(d // 2 + 1, n_points - 1)]  # too few for least squares
        sweeps = {"nnz": {k: SparseLinear(d, k) for k in range(1, d + 1)}}
        curriculum = size.curriculum
    else:
        n_points, steps, curriculum = size.sine_points, size.sine_steps, 0.0  # 1 dim is 1 dim
        classes = {"linear": DenseLinear(1), "sinusoid": Sinusoid()}
        at = list(range(1, n_points))[-5:]  # the last five
        weights = np.linspace(0, 1, 11).tolist()
        common_and_rare = 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0
        sweeps = {"weights": {w: ConvexCombination(*classes.values(), w) for w in weights},
                  "frequency": {w: Sinusoid(frequency=w) for w in common_and_rare}}
    pretraining = classes | {"mixture": Mixture(tuple(classes.values()))}
    pretraining["mixture"].hypotheses()  # ValueError if it has too many for the exact optimum
    return Experiment(name, size, classes, pretraining, n_points, steps, at, sweeps, seed,
                      curriculum)


# -------------------------------------------------------------------------------------- training

SAVE_SECONDS = 30  # between checkpoints


@dataclass(frozen=True)
class Predictor:
    """What predicts in an experiment, and its files. One with steps is a model, to be trained."""
    experiment: Experiment
    name: str
    steps: int
    path: Path  # of the checkpoint; the predictions file is beside it

    @property
    def label(self):
        return f"{self.experiment.name}/{self.name}"

    @property
    def predictions(self):
        return self.path.with_suffix(".predictions.npz")

    @property
    def settings(self):
        """What its files must have been made with."""
        e = self.experiment
        return {"experiment": e.name, "model": self.name, "seed": e.seed, "steps": self.steps,
                "class": str(e.pretraining.get(self.name)), **asdict(e.config),
                **{k: getattr(e.size, k) for k in ("batch", "lr", "matrix_lr", "warmup")},
                **({"curriculum": e.curriculum, "first_dims": e.size.first_dims}
                   if e.curriculum else {})}

    def refuse_others(self, path, facts):
        """icl.Refused, by name, if a file was made with other settings."""
        made = facts["settings"] if isinstance(facts.get("settings"), dict) else {}
        for name in [*self.settings, "curriculum"]:
            if made.get(name) != (value := self.settings.get(name)):
                raise icl.Refused(f"{path} was made with {name} = {made.get(name)}, not {value}: "
                                  "choose another --out, or the same settings")

    def load(self, optimizer=None, rng=None):
        """Parameters and extra of its checkpoint; icl.Refused if that is damaged or another's."""
        params, _, extra = icl.load_checkpoint(self.path, optimizer)
        self.refuse_others(self.path, extra)
        try:
            step, losses = extra["step"], extra.get("losses", [0.0] * self.steps)  # kept to the end
            fits = len(losses) == step <= self.steps and 0 <= extra["seconds"] <= 1e5 * step
            if optimizer:
                rng.bit_generator.state, s = extra["rng"], optimizer.state
                fits &= s["t"] == step and min(a.min() for n, a in s.items() if n[0] == "v") >= 0
            if not fits or np.array([*losses, 0.0]).dtype != float:
                raise ValueError(f"its numbers are not those of {step} steps of training")
        except Exception as error:  # whatever a stranger's file can cause
            raise icl.Refused(f"{self.path} cannot be gone on from: {error!r}") from error
        return params, extra

    def reached(self):
        """The step that its checkpoint has reached; 0 without one."""
        return self.load()[1]["step"] if self.path.exists() else 0

    def finished(self):  # what nobody trains has 0 steps, and always is
        return self.reached() == self.steps


def predictors_of(e, out):
    """All predictors of an experiment. With twice the steps, a 50:50 mixture model sees as many
    prompts of a class as that class's specialist."""
    steps = {m: e.steps * (1 + isinstance(c, Mixture)) for m, c in e.pretraining.items()}
    computed = "least squares", "Lasso", MIXED, OWN, *(f"optimum of {m}" for m in e.classes)
    for name in steps:
        if name in computed or not re.fullmatch("'[A-Za-z0-9_ -]{1,50}'", repr(name)):
            raise icl.Refused(f"{name!r} cannot name a model: use letters, digits, spaces, _ and -")
    return [Predictor(e, name, steps.get(name, 0), out / e.name / f"{name.replace(' ', '-')}.npz")
            for name in [*steps, *computed]]


def lesson(model, progress):
    """What to train on when a share `progress` of the steps is done: function class, n_points.

    The curriculum of Garg et al. (arXiv 2208.01066, `src/curriculum.py` of their code): at first
    functions depend on few dims, d' of them, and prompts are short, 2d' + 1 points at most.
    """
    e, c = model.experiment, model.experiment.pretraining[model.name]
    first, last = e.size.first_dims, e.size.n_dims
    if progress >= e.curriculum or first >= last:
        return c, e.n_points
    dims = first + int(progress / e.curriculum * (last - first))  # each, but the last, equally long
    return narrow(c, dims), min(e.n_points, 2 * dims + 1)


def training_batch(model, progress, rng):
    """Prompts of the present lesson and their weights in the loss: xs (B, N, d), ys, w (B, N)."""
    function_class, n_points = lesson(model, progress)
    xs, ys = sample_prompts(function_class, rng, model.experiment.size.batch, n_points)
    absent = model.experiment.config.n_dims - xs.shape[2]  # inputs that are zero
    return np.pad(xs, ((0, 0), (0, 0), (0, absent))), ys, icl.loss_weights(xs, ys)


def train(model, save_seconds=math.inf, report=None, until=math.inf):
    """Train a model to its end, or to a step, going on from its checkpoint if there is one.

    After each step, report(step, loss minus the optimum's, seconds so far) says whether to go on.
    What was reached is saved at the end, and about every save_seconds.
    """
    e, size, present = model.experiment, model.experiment.size, None
    params = icl.init_params(e.config, e.stream(model.name, 0))
    rng = e.stream(model.name, "training prompts")
    optimizer = icl.Muon(params, size.lr, size.matrix_lr, clip=1.0)
    losses, over, seconds = [], [], 0.0  # of every step; minus the optimum's; of all steps together
    if model.path.exists():
        params, extra = model.load(optimizer, rng)
        losses, seconds = extra["losses"], extra["seconds"]

    def save():
        if (reached := model.reached()) > len(losses):
            raise icl.Refused(f"{model.path} is at step {reached:,}, this run only at "
                              f"{len(losses):,}: another run trains the same model")
        every = max(1, model.steps // 200)  # losses averaged into one row of the training curve
        rows = [f"{i},{np.mean(losses[i - every:i]):.9g}\n"
                for i in range(every, len(losses) + 1, every)]
        icl.write_whole(model.path.with_suffix(".csv"), "".join(["step,loss\n", *rows]).encode())
        done = len(losses) == model.steps  # then no training state is still needed
        state = {} if done else {"losses": losses, "rng": rng.bit_generator.state}
        icl.save_checkpoint(model.path, params, e.config, None if done else optimizer,
                            step=len(losses), seconds=seconds, settings=model.settings, **state)

    model.path.parent.mkdir(parents=True, exist_ok=True)
    saved, cost, go_on = time.monotonic(), 0.0, True
    while len(losses) < min(model.steps, until) and go_on:
        start, progress = time.monotonic(), len(losses) / model.steps
        if lesson(model, progress) != present:
            present = c, n_points = lesson(model, progress)
            xs, ys = sample_prompts(c, e.stream(model.name, "optimum"), 2000, n_points)
            optimum = np.mean(icl.loss_weights(xs, ys) * (baselines.bayes(c)(xs, ys) - ys) ** 2)
        schedule = min(1, (len(losses) + 1) / size.warmup) * (1 - progress)
        optimizer.lr, optimizer.matrix_lr = size.lr * schedule, size.matrix_lr * schedule
        batch = training_batch(model, progress, rng)
        try:
            losses.append(icl.train_step(params, e.config, optimizer, *batch))
        except FloatingPointError as error:
            raise icl.Refused(f"{model.label} diverged at step {len(losses) + 1} with seed "
                              f"{e.seed}: {error}; lower the Size's learning rates") from error
        over.append(losses[-1] - optimum)
        now = time.monotonic()
        seconds += now - start
        go_on = report is None or report(len(losses), np.mean(over[-50:]), seconds)
        if now - saved > max(save_seconds, 60 * cost):  # saving takes less than 2% of the time
            save()
            saved, cost = time.monotonic(), time.monotonic() - now
    save()


def train_job(model, save_seconds, progress_path, row):
    """`train` in a process of its own; its numbers go to a row of a file that the parent reads.

    When the parent ends it (SIGTERM) or is gone, it saves the step that it has reached.
    """
    progress, ended = np.memmap(progress_path, np.float64, "r+").reshape(-1, 3), []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))

    def report(*numbers):
        progress[row] = numbers
        return multiprocessing.parent_process().is_alive() and not ended

    train(model, save_seconds, report)


def train_all(models, processes):
    """Train the models side by side, the longest first, with one status line for all."""
    models = sorted(models, key=lambda model: -model.experiment.n_points * model.steps)
    points = [np.cumsum([0] + [lesson(model, step / model.steps)[1] for step in range(model.steps)])
              for model in models]  # of all prompts after 0, 1, 2, ... steps
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "progress"
        progress = np.memmap(path, np.float64, "w+", shape=(len(models), 3))
        progress[:, 0] = [model.reached() for model in models]

        def status(done, working):
            step, over, seconds = progress.T
            read = np.array([p[int(i)] for p, i in zip(points, step)])
            left, begun = np.array([p[-1] for p in points]) - read, seconds > 0
            text = f"{done}/{len(models)} done"
            if begun.any():  # a point takes as long as so far; models are shared out evenly
                pace = seconds[begun].sum() / read[begun].sum()
                seconds_left = round(pace * max(left.max(), left.sum() / processes))
                text += f", {timedelta(seconds=seconds_left)} left"
            for i in working:
                now = f"{step[i] / models[i].steps:.0%} {over[i]:+.3f}" if begun[i] else "starts"
                text += f"{',' if i != working[0] else ':'} {models[i].label} {now}"
            return text

        side_by_side([(train_job, model, SAVE_SECONDS, path, i) for i, model in enumerate(models)],
                     processes, status)


# ------------------------------------------------------------------------------------- measuring

TRUTH, OWN, MIXED = "true function", "optimum for these functions", "optimum of the mixture"
# The optimum that believes labels to have noise s, a model's effective label noise. On sheets with
# a noise, it also reads labels with s times that noise added.
NOISY = "noisy ideal learner"
PICTURES = {"functions-1": ("a line", 1.0), "functions-2": ("a sinusoid", 0.0),
            "functions-3": ("half of each", 0.5)}  # sheet: title, weight of the line


@dataclass(frozen=True)
class Sheet:
    """Prompts for all predictors. Predictions are kept after the numbers of examples in `at`."""
    xs: np.ndarray  # (B, N, d)
    ys: np.ndarray  # (B, N)
    at: list
    computed: dict  # name -> predictor, of those that nobody trained
    noise: np.ndarray | float = 0.0

    @property
    def truth(self):
        return np.float64(self.ys[:, self.at])

    @property
    def mark(self):
        """What a file keeps, to tell whether its predictions are for these prompts."""
        return f"{np.mean(self.truth**2):.3g}"


def sheets_of(e):
    """Name -> Sheet: all that predictors are asked in an experiment."""
    sheets, every, mixed = {}, list(range(e.n_points)), {MIXED: baselines.bayes(e.mixture)}
    optima = {f"optimum of {shown}": baselines.bayes(c) for shown, c in e.classes.items()}
    simple = {"least squares": baselines.least_squares}
    for shown, c in e.classes.items():
        xs, ys = sample_prompts(c, e.stream(f"icl-{shown}"), e.size.prompts, e.n_points)
        noise = e.stream(f"icl-{shown}", "label noise").standard_normal(ys.shape)
        sheets[f"icl-{shown}"] = Sheet(xs, ys, every, mixed | simple | optimum(c) | {
            "Lasso": partial(tuned_lasso, e, shown)}, noise)
        xs, ys = sample_prompts(c, e.stream("selection", shown), e.size.prompts, e.n_points)
        noise = e.stream("selection noise", shown).standard_normal(ys.shape)
        sheets[f"selection-{shown}"] = Sheet(xs, ys, every, mixed | optima, noise)
    for sweep, classes in e.sweeps.items():
        for x, c in classes.items():
            xs, ys = sample_prompts(c, e.stream(sweep, x), max(2, e.size.prompts // 2),
                                    e.at[-1] + 1)
            sheets[f"{sweep}-{x:g}"] = Sheet(xs, ys, e.at, mixed | optimum(c) | (
                simple if sweep == "nnz" else {}))
    for name, (title, weight) in PICTURES.items() if e.mixture.n_dims == 1 else ():
        c, rng = ConvexCombination(*e.classes.values(), weight), e.stream("functions", title)
        f, n = c.sample(rng, 1), min(10, e.n_points - 1)  # one function, n examples of it, and
        examples, grid = rng.uniform(-2.2, 2.2, n), np.linspace(-2.5, 2.5, 101)  # 101 queries
        xs = np.float32([[*examples, x] for x in np.float32(grid)])[..., None]  # (101, n + 1, 1)
        ys = np.float32(f(xs.reshape(1, -1, 1)).reshape(len(grid), -1))
        sheets[name] = Sheet(xs, ys, [n], mixed)
    return sheets


def optimum(c):
    """{OWN: the exact optimum of a class}, or {} where it has too many hypotheses for that."""
    with contextlib.suppress(ValueError):
        return {OWN: baselines.bayes(c)}
    return {}


def tuned_lasso(e, shown, xs, ys):
    """The Lasso with the best alpha for each number of examples, found on other prompts."""
    alphas = baselines.tune_lasso(e.classes[shown], e.stream(f"icl-{shown}", "lasso"), e.n_points,
                                  n_prompts=min(300, e.size.prompts))
    return baselines.lasso(xs, ys, alphas)


def measure(e, name, model=None):
    """What a predictor answers: facts about it, and an array (B, A) for each sheet.

    With a trained model goes its noisy ideal learner, under SHEET/noisy.
    """
    sheets = sheets_of(e)
    facts = {"size": asdict(e.size), "marks": {key: s.mark for key, s in sheets.items()}}
    if model is None:
        return facts, {key: np.float32(s.computed[name](s.xs, s.ys)[:, s.at])
                       for key, s in sheets.items() if name in s.computed}
    c, arrays = e.pretraining[name], {}
    noise, interval, _ = baselines.effective_noise(model, c, e.stream("noise", name), e.n_points,
                                                   min(1000, e.size.prompts))
    believed = float(np.nan_to_num(noise, nan=1.0, posinf=1.0))  # 1: the largest that is tried
    learner = baselines.bayes(c, believed)
    for key, s in sheets.items():
        arrays[key] = np.float32(model(s.xs, s.ys)[:, s.at])
        if isinstance(c, Mixture) or np.ndim(s.noise):  # a specialist's: on ICL curves alone
            arrays[f"{key}/noisy"] = np.float32(learner(s.xs, s.ys + believed * s.noise)[:, s.at])
    return facts | {"noise": (noise, *interval)}, arrays


def measure_job(p):
    """Measure a predictor in a process of its own, and write its predictions file."""
    model, made = None, {"settings": p.settings}
    if p.steps:
        params, extra = p.load()
        if extra["step"] != p.steps:  # another run put it there meanwhile
            raise icl.Refused(f"{p.path} is not trained to its end")
        model, made["seconds"] = partial(icl.predict, params, p.experiment.config), extra["seconds"]
    facts, arrays = measure(p.experiment, p.name, model)
    packed = io.BytesIO()
    np.savez(packed, header=np.array(json.dumps(facts | made)), **arrays)
    p.path.parent.mkdir(parents=True, exist_ok=True)
    icl.write_whole(p.predictions, packed.getbuffer())


def read_predictions(path):
    """The facts and arrays of a predictions file; icl.Refused if it is no such file."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            arrays = dict(npz)
        facts = json.loads(str(arrays.pop("header")))
        Size(**facts["size"]), facts["marks"], dict(facts["settings"])  # an error if they are not
    except Exception as error:  # whatever a stranger's file can cause
        raise icl.Refused(f"{path} is not a predictions file that can be used: "
                          f"{str(error) or repr(error)}".split("\n")[0]) from error
    return facts, arrays


def is_due(p, sheets):
    """Whether a predictor is to be measured, once or again. Only a finished model ever is."""
    finished = p.finished()
    if not p.predictions.is_file():
        return finished
    facts, _ = read_predictions(p.predictions)
    p.refuse_others(p.predictions, facts)
    newer = p.path.exists() and p.path.stat().st_mtime > p.predictions.stat().st_mtime
    return finished and (newer or facts["marks"] != {key: s.mark for key, s in sheets.items()})


def arrange(e, measured):
    """What figures are made of, from the facts and arrays of each predictor that is measured.

    on: sheet -> predictor -> predictions (B, A), and under TRUTH what is right; predictions for
    other prompts are left out. noise: model -> effective label noise and its interval's ends.
    """
    sheets, noise = sheets_of(e), {}
    on = {key: {TRUTH: sheet.truth} for key, sheet in sheets.items()}
    for name, (facts, arrays) in measured.items():
        shown = f"{name} model" if name in e.pretraining else name
        learner = NOISY if name == "mixture" else f"{NOISY} of {name}"
        for key, predictions in arrays.items():
            key, _, noisy = key.partition("/")
            if key in sheets and sheets[key].mark == facts["marks"].get(key):
                on[key][learner if noisy else shown] = np.float64(predictions)
        if "noise" in facts:
            noise[name] = facts["noise"]
    return on, noise


# --------------------------------------------------------------------------------------- figures

@dataclass
class Figure:
    """lines: predictor -> values (B, X) on B prompts at X places; their means are drawn."""
    name: str
    title: str
    caption: str     # what to look for
    xlabel: str
    x: np.ndarray    # (X,)
    lines: dict
    ylabel: str = "squared error"
    log: str = ""         # axes with a logarithmic scale: "x", "y" or "xy"
    backdrop: tuple = ()  # a label, and (X,) to be drawn behind the lines
    dots: tuple = ()      # (x, y) of points to be drawn


def mean_and_error(values):
    """Mean over prompts of values (B, X), and its standard error: (X,) each."""
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(0), spread / math.sqrt(len(values))


def figures_of(e, on, sheets):
    """All figures of an experiment."""
    figures = [picture(on[name], sheets[name], name) for name in PICTURES if name in on]
    for figures_of_class in (icl_figures, selection_figures):
        figures += [f for shown in e.classes for f in figures_of_class(e, on, shown)]
    figures += [f for name in e.sweeps for f in sweep_figures(e, on, name)]
    return [f for f in figures if f.lines]


def picture(at, sheet, name):
    """One function, and what the mixture model predicts everywhere from ten examples of it."""
    return Figure(
        name, f"Learned from {sheet.at[0]} examples: {PICTURES[name][0]}",
        "Dots are the examples in the prompt. Does the model follow the function between them?",
        "x", sheet.xs[:, -1, 0],
        {p: at[p].T for p in (TRUTH, "mixture model", MIXED) if p in at},
        "f(x)", dots=tuple(zip(sheet.xs[0, :-1, 0], sheet.ys[0, :-1])))


def errors(at, *predictors):
    """Predictor -> squared errors, of those that were asked."""
    return {p: (at[p] - at[TRUTH]) ** 2 for p in predictors if p in at}


def mixture_models(e):
    """The names, as figures show them, of the models that were trained on a mixture."""
    return [f"{m} model" for m in e.pretraining if m not in e.classes]


def icl_figures(e, on, shown):
    """Errors by number of examples, on functions of one class."""
    at, others = on[f"icl-{shown}"], [f"{m} model" for m in e.classes if m != shown]
    along = "examples in the prompt", np.arange(e.n_points)
    return [Figure(
        f"icl-{shown}", f"{shown.capitalize()} functions: models and their optimum",
        "The nearer the mixture model is to the specialist, the less it costs not to be told the "
        "class. The optimum of the mixture is not told it, either.",
        *along, errors(at, *mixture_models(e), f"{shown} model", MIXED, NOISY)), Figure(
        f"others-{shown}", f"{shown.capitalize()} functions: other predictors",
        "A model that selects the class leaves behind the specialist of another one.",
        *along, errors(at, *mixture_models(e), *others, "least squares", "Lasso", OWN))]


def selection_figures(e, on, shown):
    """Which class's optimum the predictions are like, by number of examples."""
    at, (first, second) = on[f"selection-{shown}"], e.classes
    there = {f"optimum of {first}", f"optimum of {second}"} <= at.keys()
    return [Figure(
        f"selection-{shown}", f"{shown.capitalize()} functions: which class do predictions "
        "resemble?", f"0: predictions are those of the optimum for {first} functions; 1: for "
        f"{second} functions. No line where these two agree.", "examples in the prompt",
        np.arange(1, e.n_points), {p: selection_weight(at, e.classes, p) for p in
                                   [*mixture_models(e), MIXED, NOISY] if there and p in at},
        f"weight on the {second} class")]


def selection_weight(at, classes, predictor):
    """Samples (B, N - 1) of the weight that a predictor puts on the second class, one a prompt.

    With a and b the optimal predictions for the two classes and m the predictor's, that weight is
    the w that best mixes them into m:

        minimise E (m - (1 - w) a - w b)^2:   w = E (m - a)(b - a) / E (b - a)^2  over prompts.

    An optimum of the mixture has m = (1 - p) a + p b, p the exact posterior probability of the
    second class, so its own w is the mean of p, weighted in the same way by (b - a)^2. Where the
    two optima agree, E (b - a)^2 < 0.05, there is nothing to choose and no weight.
    """
    a, b = (at[f"optimum of {name}"] for name in classes)
    step = (b - a)[:, 1:]  # (B, N - 1): from no example nothing can be told
    power = np.where((step**2).mean(0) > 0.05, (step**2).mean(0), np.nan)
    share = (at[predictor] - a)[:, 1:] * step
    w = share.mean(0) / power
    return w + (share - w * step**2) / power  # their mean is w, their standard error w's


def sweep(e, on, name):
    """Places (X,); predictor -> predictions (B, X, A), of those that were asked at all places."""
    sheets = [on[f"{name}-{x:g}"] for x in e.sweeps[name]]
    return np.array(list(e.sweeps[name])), {p: np.stack([at[p] for at in sheets], axis=1)
                                            for p in sheets[0] if all(p in at for at in sheets)}


def sweep_figures(e, on, name):
    """Errors outside pretraining, and for "nnz" also how far apart predictions are."""
    (x, at), d = sweep(e, on, name), e.size.n_dims
    after = f"after {' to '.join(str(n) for n in sorted({e.at[0], e.at[-1]}))} examples"
    models = [f"{m} model" for m in e.pretraining]
    lines = {p: v.mean(2) for p, v in errors(at, *models, "least squares", MIXED, OWN).items()}
    if name == "nnz":
        apart = {p: (p, "mixture model") for p in ("dense model", "sparse model", MIXED)}
        apart["between the specialists"] = "dense model", "sparse model"
        along = f"non-zero coefficients of {d}", x
        return [Figure(
            "nnz", f"From sparse to dense, {after}", "Pretraining had functions with "
            f"{e.size.nnz} and with all {d} non-zeros. In between, which specialist's error is "
            "the mixture model's like?", *along, lines), Figure(
            "nnz-distance", f"Whose predictions are they, {after}?", "How far others' predictions "
            "are from the mixture model's. Near 0, it predicts as they do.", *along,
            {key: ((at[p] - at[q]) ** 2).mean(2) for key, (p, q) in apart.items()
             if p in at and q in at}, "squared distance")]
    if name == "weights":
        return [Figure(
            "weights", f"Between the two classes, {after}", "Pretraining had only lines, at 1, and "
            "sinusoids, at 0. In between models fail, and so does the optimum of the mixture.",
            "weight w of w line + (1 - w) sinusoid", x,
            {p: v / (x**2 + (1 - x) ** 2) for p, v in lines.items()}, "squared error / Var f", "y")]
    return [Figure(
        "frequency", f"Common and rare frequencies, {after}", "Grey: how common a frequency was "
        "in pretraining. Where it was rare, models fail, and the optimum of the mixture does not.",
        "frequency (radians per unit of x)", x,
        {p: v for p, v in lines.items() if p != "linear model"}, log="xy",
        backdrop=("density in pretraining", e.classes["sinusoid"].density(x)))]


# --------------------------------------------------------------------------- drawing and report

# Okabe and Ito's palette, apart for every kind of colour vision.
STYLES = {  # predictor: colour, dashes, width
    "mixture model": ("#d55e00", "", 3), "dense model": ("#0072b2", "", 1.8),
    "linear model": ("#0072b2", "", 1.8), "sparse model": ("#009e73", "", 1.8),
    "sinusoid model": ("#009e73", "", 1.8), "least squares": ("#cc79a7", "8 3", 1.8),
    "Lasso": ("#cc79a7", "2 3", 2.2), MIXED: ("currentColor", "6 4", 1.6),
    OWN: ("currentColor", "", 1.2), NOISY: ("#e69f00", "", 1.8),
    TRUTH: ("currentColor", "", 1.2), "between the specialists": ("currentColor", "2 3", 1.2)}
PALETTE = "#56b4e9", "#cc79a7", "#e69f00", "#0072b2", "#009e73", "#d55e00"  # for all other lines
CSS = """svg{color:#1a1a1a;font:15px system-ui,sans-serif}.paper{fill:#fff}
@media(prefers-color-scheme:dark){svg{color:#eee}.paper{fill:#16181c}}
text{fill:currentColor}.grid{fill:none;stroke:#888;stroke-opacity:.3}
.soft{fill:#888;fill-opacity:.3}"""
LEFT, TOP, WIDTH, HEIGHT = 78, 48, 512, 300  # the frame that data are drawn in
BOTTOM = TOP + HEIGHT
ROUND = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]


def ticks(low, high, log):
    """A few round numbers between low and high."""
    if log:  # powers of ten, and 2 and 5 times these where the axis spans less than three of them
        return [v for v in ROUND[::3 if high > 900 * low else 1] if 0.99 * low <= v <= 1.01 * high]
    step = next(v for v in ROUND if v >= (high - low) / 6)
    return step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)


def scale(low, high, start, length, log):
    """Data to a coordinate: low to start, high to start + length; cut off one length outside."""
    transform = (lambda v: np.log(np.maximum(v, low))) if log else np.asarray
    left, right = transform(low), transform(high)
    return lambda v: start + length * np.clip((transform(v) - left) / (right - left), -1, 2)


def text(x, y, words, anchor="middle"):
    """An SVG text at (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def points(x, y):
    """Coordinates in SVG's words, without those that are nan."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y) if b == b)


def draw(f):
    """A Figure as an SVG document, with 95% intervals over prompts as bands."""
    means = np.concatenate([mean_and_error(v)[0] for v in f.lines.values()])
    low, high = np.nanmin(means), np.nanmax(means) + 1e-9
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    if f.ylabel != "f(x)":  # errors, weights: from 0 (2e-4 if log) or little below it, to 2 at most
        low, high = (2e-4 if "y" in f.log else min(0, max(-0.2, low))), min(2, high)
    first, last = f.x[0], f.x[-1] + (len(f.x) == 1)  # never of width zero
    to_x = scale(first, last, LEFT, WIDTH, "x" in f.log)
    to_y = scale(low, high, BOTTOM, -HEIGHT, "y" in f.log)
    x, body, key = to_x(f.x), [], []
    for v in ticks(low, high, "y" in f.log):
        body.append(f'<path class="grid" d="M{LEFT},{to_y(v):.1f}h{WIDTH}"/>'
                    + text(LEFT - 8, to_y(v) + 5, f"{v:.4g}", "end"))
    body += [text(to_x(v), BOTTOM + 20, f"{v:.4g}") for v in ticks(first, last, "x" in f.log)
             if v == int(v) or f.x.dtype != int]
    if f.backdrop:
        label, v = f.backdrop
        outline = points(x, BOTTOM - 0.6 * HEIGHT * v / v.max())
        body.append(f'<polygon class="soft" points="{LEFT},{BOTTOM} {outline} '
                    f'{LEFT + WIDTH},{BOTTOM}"/>')
        key.append((label, '<path class="soft" d="M0,-10h30v10h-30z"/>'))
    for i, (predictor, values) in enumerate(f.lines.items()):
        y, error = mean_and_error(values)
        colour, dashes, width = STYLES.get(predictor, (PALETTE[i % 6], "", 2))
        pen = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}"'
        band = points([*x, *x[::-1]], [*to_y(y + 1.96 * error), *to_y(y - 1.96 * error)[::-1]])
        body.append(f'<polygon points="{band}" fill="{colour}" opacity=".18"/>'
                    f'<polyline points="{points(x, to_y(y))}" {pen}/>')
        key.append((predictor, f'<path d="M0,-5h30" {pen}/>'))
    body += [f'<circle cx="{to_x(a):.1f}" cy="{to_y(b):.1f}" r="4.5" fill="currentColor"/>'
             for a, b in f.dots]
    return document(f, "".join(body), key)


def document(f, body, key):
    """The SVG around what is drawn: title, axis labels and the key, of (label, mark) pairs."""
    cells = [f'<g transform="translate({LEFT - 48 + 280 * (i % 2)} {BOTTOM + 70 + 22 * (i // 2)})">'
             f'{mark}{text(37, 0, label, "start")}</g>' for i, (label, mark) in enumerate(key)]
    total = BOTTOM + 70 + 22 * ((len(key) + 1) // 2)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 {total}" role="img">
<title>{html.escape(f.title)}</title><style>{CSS}</style>
<rect class="paper" width="620" height="{total}"/>
<g font-size="17" font-weight="600">{text(LEFT - 48, 26, f.title, "start")}</g>
<svg y="{TOP - 10}" height="{HEIGHT + 32}" viewBox="0 {TOP - 10} 620 {HEIGHT + 32}">{body}</svg>
<path class="grid" d="M{LEFT},{TOP}h{WIDTH}v{HEIGHT}h-{WIDTH}z"/>
{text(LEFT + WIDTH / 2, BOTTOM + 42, f.xlabel)}
<g transform="translate(13 {TOP + HEIGHT / 2}) rotate(-90)">{text(0, 0, f.ylabel)}</g>
<g font-size="14">{"".join(cells)}</g></svg>
"""


def report(size, figures, settings):
    """The page with all figures, by experiment, and the lines that say how they were made."""
    body = "\n".join(
        f'<h2>The experiment {name}</h2>\n<div class="figures">' + "\n".join(
            f"<figure>{draw(f)}<figcaption>{html.escape(f.caption)}</figcaption></figure>"
            for f in of) + "</div>" for name, of in figures.items())
    return REPORT.format(size=size, body=body, settings=html.escape("\n".join(settings)))


REPORT = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>In-context learning: {size}</title>
<style>
:root{{color-scheme:light dark}}
body{{font:17px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem}}
p,pre{{max-width:46rem}} pre{{white-space:pre-wrap;font:14px/1.45 ui-monospace,monospace}}
.figures{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:2rem}}
figure{{margin:0;break-inside:avoid}} svg{{width:100%;border:1px solid #8884;border-radius:6px}}
</style>
<h1>What a transformer learns in context</h1>
<p>Each model reads examples (x, f(x)) in a prompt and predicts f at the next x. Errors are squared;
every class has Var f(x) = 1, so predicting zero costs 1. Bands are 95% intervals over prompts. The
<em>optimum</em> is the exact posterior mean, the least error that is possible: for the functions
shown, or for one who knows only that they come from the mixture. The <em>noisy ideal learner</em>
is that optimum when labels have noise: so much that its mean error is the mixture model's.</p>
{body}<h2>Settings</h2><pre>{settings}</pre></html>
"""


def csv_rows(e, figures):
    """All that figures draw, as rows of comma-separated text, but for what has no number."""
    return [f"{e.name},{f.name},{p},{x:.6g},{value:.6g},{error:.3g},{f.ylabel}"
            for f in figures for p, values in f.lines.items()
            for x, value, error in zip(f.x, *mean_and_error(values)) if value == value]  # not nan


def tables(e, on, noise):
    """ICL curves as lines of text, a table a class, and each model's effective label noise."""
    places = sorted({n for n in (0, 1, 2, 3, 5, 10, 20, 40, e.n_points - 1) if n < e.n_points})
    models, lines = [f"{m} model" for m in e.pretraining], []
    for shown in e.classes:
        curves = errors(on[f"icl-{shown}"], *models, "least squares", "Lasso", MIXED, OWN)
        lines.append(f"{shown + ' functions, examples':29s}" + "".join(f"{n:6d}" for n in places))
        lines += [f"{p:29s}" + "".join(f"{error:6.2f}" if error < 99 else f"{error:6.0f}"
                                       for error in v.mean(0)[places])
                  for p, v in curves.items()] + [""]
    values = [f"{m} {s:.3f} ({low:.3f} to {high:.3f})" for m, (s, low, high) in noise.items()]
    return [*lines, f"effective label noise: {', '.join(values) or 'no model is trained'}", ""]


def show(a, experiments):
    """Write figures, results.csv and the report from predictions, and print the tables."""
    settings = [f"python {shlex.join(sys.argv)}", f"Python {platform.python_version()}, NumPy "
                f"{np.__version__}, {platform.system()} {platform.machine()}"]
    figures, rows = {}, ["experiment,figure,predictor,x,value,standard_error,quantity"]
    for e in experiments:
        measured = {p.name: read_predictions(p.predictions) for p in predictors_of(e, a.out)
                    if p.predictions.is_file()}
        on, noise = arrange(e, measured)
        figures[e.name] = figures_of(e, on, sheets_of(e))
        for f in figures[e.name]:
            icl.write_whole(a.out / f"{e.name}-{f.name}.svg", draw(f).encode())
        rows += csv_rows(e, figures[e.name])
        settings += [f"{e.name}/{name}: {timedelta(seconds=round(facts['seconds']))} of training, "
                     + ", ".join(f"{k} {v}" for k, v in facts["settings"].items())
                     for name, (facts, _) in measured.items() if "seconds" in facts]
        print("\n".join(tables(e, on, noise)))
    icl.write_whole(a.out / "results.csv", "\n".join([*rows, ""]).encode())
    page = report(a.size, figures, settings)
    icl.write_whole(a.out / "report.html", page.encode(errors="backslashreplace"))
    print(f"{a.out / 'report.html'} shows it all", flush=True)


def rehearse(e, out):
    """Take a step of training, measure and draw on a handful of prompts, all in memory:
    icl.Refused, in one line that says where, if that cannot be done."""
    few, measured = replace(e, size=replace(e.size, prompts=min(4, e.size.prompts))), {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a handful of prompts makes no statistics
            for p in predictors_of(few, out):
                model, rng = None, np.random.default_rng(0)
                if p.steps:
                    params = icl.init_params(e.config, rng)
                    optimizer = icl.Muon(params, e.size.lr, e.size.matrix_lr)
                    icl.train_step(params, e.config, optimizer, *training_batch(p, 0.0, rng))
                    model = partial(icl.predict, params, e.config)
                measured[p.name] = measure(few, p.name, model)
            on, noise = arrange(few, measured)
            return tables(few, on, noise), [draw(f) for f in figures_of(few, on, sheets_of(few))]
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise icl.Refused(f"{e.name} cannot be evaluated like this: {place.name}, line "
                          f"{place.lineno} of {Path(place.filename).name}: {error!r}") from error


# ------------------------------------------------------------------------------------- processes

SECONDS_TO_SAVE = 5  # what a step has reached, before a process is killed


def side_by_side(jobs, processes, status):
    """Run jobs (function, *arguments), each in a process of its own. What it finds, it writes.

    status(number of jobs done, indices of those under way) is what to show meanwhile. An
    icl.Refused or OSError of a job is raised here. An error or Ctrl-C ends the other processes.
    """
    spawn, waiting, working = multiprocessing.get_context("spawn"), list(enumerate(jobs)), {}
    said, stops, before = time.monotonic(), [], None
    if threading.current_thread() is threading.main_thread():  # Ctrl-C reaches no other
        before = signal.signal(signal.SIGINT, lambda *_: stops.append(True))
    try:
        while (waiting or working) and not stops:
            while waiting and len(working) < processes:
                i, job = waiting.pop(0)
                receiver, sender = spawn.Pipe(duplex=False)
                process = spawn.Process(target=work, args=(sender, *job), daemon=True)
                start(process)
                working[process.sentinel] = i, process, receiver, sender
            done = len(jobs) - len(waiting) - len(working)
            if sys.stdout and sys.stdout.isatty() or time.monotonic() > said + 10:
                said = time.monotonic()
                show_status(status(done, [i for i, *_ in working.values()]))
            ended = multiprocessing.connection.wait(list(working), 0.2)
            for sentinel in ended:
                _, process, receiver, _ = working.pop(sentinel)
                process.join()
                if receiver.poll():  # why the job could not be done
                    raise receiver.recv()
                if process.exitcode:  # a negative one: killed; this error is an OSError, too
                    raise ChildProcessError(f"a process ended with exit code {process.exitcode}; "
                                            "unless it said why, the same command goes on")
    finally:
        for _, process, *_ in working.values():
            process.terminate()
        for _, process, *_ in working.values():
            process.join(SECONDS_TO_SAVE)
            process.kill()  # if it was stopped, say
            process.join()
        if before:
            signal.signal(signal.SIGINT, before)
    if stops:
        raise KeyboardInterrupt
    show_status("")


def start(process):
    """Start a process. It inherits that Ctrl-C is blocked, and so leaves that to its parent."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return process.start()
    multiprocessing.resource_tracker.ensure_running()  # which would unblock it, if it came later
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@np.errstate(all="ignore")  # what is not finite is told in words
def work(sender, function, *arguments):
    """A job in its process. Why it cannot be done, the parent hears."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function(*arguments)
    except (icl.Refused, OSError) as error:
        with contextlib.suppress(BrokenPipeError):  # the parent was killed
            sender.send(error)


def show_status(line):
    """Show a line that renews itself on a terminal, and a plain one elsewhere."""
    if sys.stdout and sys.stdout.isatty():
        print(f"{line[:shutil.get_terminal_size().columns - 1]}\x1b[K", end="\r", flush=True)
    elif line:
        print(line, flush=True)


# ---------------------------------------------------------------------------------- command line

def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_arguments(argv):
    """The command line, checked; argparse exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description="Train transformers on mixtures of function classes and compare them with the "
                    "exact optimum. The default size is the paper's.", allow_abbrev=False)
    size, add = parser.add_mutually_exclusive_group(), parser.add_argument
    size.add_argument("--tiny", action="store_true", help="minutes on a laptop")
    size.add_argument("--small", action="store_true", help="two hours on a laptop")
    add("--experiment", choices=EXPERIMENTS, help="one of them (default: all)")
    add("--only", metavar="MODEL", help="only train this one, such as sparse/dense, so that "
        "machines which share a directory can share the work")
    add("--steps", type=int, help="of training a specialist; a mixture model takes twice as many")
    add("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    add("--processes", type=int, default=cores(),
        help="side by side (default: one a core); the numbers do not depend on it")
    add("--out", type=Path, help="default: runs/SIZE, or runs/SIZE-EXPERIMENT")
    a = parser.parse_args(argv)
    for name, least in (("steps", 1), ("seed", 0), ("processes", 1)):
        value = getattr(a, name)
        if value is not None and value < least:
            parser.error(f"argument --{name}: must be {least} or more, not {value}")
    a.size = "tiny" if a.tiny else "small" if a.small else "paper"
    a.out = a.out or Path("runs") / "-".join(filter(None, [a.size, a.experiment]))
    return a


def choose(a):
    """The experiments to be shown, and the models to be trained, that the arguments ask for."""
    size = SIZES[a.size]
    if a.steps:
        size = replace(size, sparse_steps=a.steps, sine_steps=a.steps)
    try:
        experiments = [make_experiment(name, size, a.seed) for name in EXPERIMENTS]
        models = [p for e in experiments if a.experiment in (None, e.name)
                  for p in predictors_of(e, a.out) if p.steps and p.settings]
    except (ValueError, TypeError) as error:
        raise icl.Refused(f"this size cannot be: {error}") from error
    chosen = [model for model in models if a.only in (None, model.name, model.label)]
    if not chosen:
        raise icl.Refused(f"there is no model {a.only!r}, but {', '.join(m.label for m in models)}")
    asked = [model.experiment.name for model in chosen]  # what is in the folder is shown, too
    return [e for e in experiments
            if e.name in asked or any((a.out / e.name).glob("*.npz"))], chosen


def stages(a):
    """Train what is still to be trained, measure what is not yet measured, show what there is."""
    experiments, chosen = choose(a)
    predictors = [(p, sheets) for e in experiments for sheets in [sheets_of(e)]
                  for p in predictors_of(e, a.out)]
    for p, sheets in predictors:
        is_due(p, sheets)  # refuses another run's files
    todo = [model for model in chosen if not model.finished() and not model.predictions.is_file()]
    print(f"{a.size} size into {a.out}, seed {a.seed}, NumPy {np.__version__}")
    if todo:
        for e in experiments:
            rehearse(e, a.out)
        for model in todo:
            train(model, until=0)  # whatever cannot be gone on from, or saved, is found here
            if step := model.reached():
                print(f"{model.label} goes on from step {step:,} of {model.steps:,}", flush=True)
        print(f"training {', '.join(model.label for model in todo)}\nshown are the steps done, and "
              "how much the loss is over the optimum's", flush=True)
        train_all(todo, a.processes)
    due = [p for p, sheets in predictors if is_due(p, sheets)]
    side_by_side([(measure_job, p) for p in due], a.processes,
                 lambda done, working: f"measuring: {done} of {len(due)} predictors done")
    show(a, experiments)
    if missing := [p.label for p, _ in predictors if not p.predictions.is_file()]:
        print(f"not trained yet, so not shown: {', '.join(missing)}", flush=True)


def main(argv=None):
    """One run. Exit status: 0, 2 for an error that its user can mend, or 130 for Ctrl-C."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what no text can
    try:
        stages(parse_arguments(argv))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    except (icl.Refused, OSError) as error:
        if isinstance(error, BrokenPipeError):
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # nobody reads on
        print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    import train  # so that classes are train's, for whoever reads what is sent between processes
    sys.exit(train.main())
