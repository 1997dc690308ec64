# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy"]
# ///
"""Train transformers on mixtures of function classes and compare them with the exact optimum.

    python train.py --tiny          two experiments in minutes on a laptop
    python train.py --small         hours on a laptop: the paper's findings, measured
    python train.py                 the paper's size: 12 layers, 256 channels

An experiment trains a model on each of two function classes (the specialists) and one on their
50:50 mixture (the mixture model). `--experiment coverage` trains a mixture model and a wide one, on
a mixture of these classes and what lies between them. Models are compared with predictors that
nobody trained, such as least squares and the exact optimum. results/experiments.py states all that.
A run has three stages. Each reads the files of the one before it:

    train      a model        -> OUT/EXPERIMENT/MODEL.npz
    measure    a predictor    -> OUT/EXPERIMENT/PREDICTOR.predictions.npz
    show       predictions    -> figures, results.csv, report.html, tables on the terminal

The first two are here, the third is results/report.py. Afterwards, results/claims.py can judge
whether the paper (arXiv 2311.00871) is right. Models train side by side, each in a process of its
own on one core (results/jobs.py). Whatever ends a run, the same command goes on from its last
checkpoints; which files it can use, results/files.py says.
"""
import os

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
              "VECLIB_MAXIMUM_THREADS"):  # read by NumPy's BLAS
    os.environ[_name] = "1"  # more could change the last bits

import argparse
import contextlib
import math
import multiprocessing
import platform
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

import baselines
import icl
from results import files, jobs, report
from results.experiments import (EXPERIMENTS, SIZES, check_repeatable, companions, is_asked,
                                 make_experiment, sheets_of, untrained)
from results.progress import Progress, training_status
from tasks import narrow, sample_prompts


# -------------------------------------------------------------------------------------- training
# An Experiment (results/experiments.py) states what is trained on which functions. Its Size has the
# numbers: layers, steps, learning rates. An Entry (results/files.py) is one predictor of it, and a
# *model* is an entry that is trained: it has a number of steps, and a path for its checkpoint.

SAVE_SECONDS = 30   # between checkpoints
GRACE_SECONDS = 30  # how long a stopped run may take to finish a step and save


def lesson(model, done):
    """What to train on when a share `done` of the steps, 0 to 1, is done: function class, n_points.

    The curriculum of Garg et al. (arXiv 2208.01066, `src/curriculum.py` of their code): at first
    functions depend on few dims, d' of them, and prompts are short, 2d' + 1 points at most.
    """
    e, size = model.experiment, model.experiment.size
    c, first, last = e.pretraining[model.name], size.first_dims, e.config.n_dims
    if done >= size.curriculum or first >= last:
        return c, e.n_points
    dims = first + int(done / size.curriculum * (last - first))  # first to last - 1, in equal parts
    return narrow(c, dims), min(e.n_points, 2 * dims + 1)


def training_batch(model, done, rng):
    """Prompts of the present lesson and their weights in the loss: xs (B, N, d), ys, w (B, N)."""
    function_class, n_points = lesson(model, done)
    xs, ys = sample_prompts(function_class, rng, model.experiment.size.batch, n_points)
    weights = icl.loss_weights(xs, ys)  # by the lesson's own dims, before zeros are added
    absent = model.experiment.config.n_dims - xs.shape[2]
    return np.pad(xs, ((0, 0), (0, 0), (0, absent))), ys, weights


@dataclass
class TrainingState:
    """What training has reached, which its checkpoint holds."""
    params: dict
    optimizer: icl.Muon
    rng: np.random.Generator  # of the prompts
    losses: list              # of every step so far
    seconds: float = 0.0      # that these took

    @property
    def step(self):
        return len(self.losses)


def resume(model):
    """The state to train on from: that of an unfinished model's checkpoint, or a fresh one. Makes
    the model's folder."""
    model.path.parent.mkdir(parents=True, exist_ok=True)
    e, size = model.experiment, model.experiment.size
    params = icl.init_params(e.config, e.stream(model.name, 0))  # "0" names this random stream
    optimizer = icl.Muon(params, size.lr, size.matrix_lr, clip=1.0)
    state = TrainingState(params, optimizer, e.stream(model.name, "training prompts"), [])
    if 0 < model.reached() < model.steps:
        # This fills the optimiser and the rng, too.
        state.params, extra = files.load_model(model, optimizer, state.rng)
        state.losses, state.seconds = extra["losses"], extra["seconds"]
    return state


def train(model, save_seconds=math.inf, send=lambda progress: None):
    """Train a model from its last checkpoint on, and save it about every save_seconds and at the
    end. After each step, send(Progress) may raise BrokenPipeError: then it saves and ends early.

    Every step has fresh prompts, and its loss is taken before the parameters change. So it is a
    loss on unseen data: no test set is needed.
    """
    e, size = model.experiment, model.experiment.size
    if model.reached() == model.steps:  # another run has finished it meanwhile
        return
    state = resume(model)
    optimum = optimum_losses(model)  # the least loss possible: what is above it can be learned
    saved = time.monotonic()
    try:
        while state.step < model.steps:
            start = time.monotonic()
            done = state.step / model.steps
            fade = min(1, (state.step + 1) / size.warmup) * (1 - done)  # rates rise, then fall
            state.optimizer.lr, state.optimizer.matrix_lr = size.lr * fade, size.matrix_lr * fade
            xs, ys, weights = training_batch(model, done, state.rng)
            loss = icl.train_step(state.params, e.config, state.optimizer, xs, ys, weights)
            state.losses.append(loss)
            state.seconds += time.monotonic() - start
            recent = slice(max(0, state.step - 50), state.step)  # the last 50 steps
            excess = np.mean(state.losses[recent]) - np.mean(optimum[recent])
            send(Progress(state.step, excess, state.seconds))
            if time.monotonic() > saved + save_seconds:
                files.save_model(model, state, optimum)
                saved = time.monotonic()
    except FloatingPointError as error:
        raise model.divergence(state.step + 1, error) from error
    except BrokenPipeError:  # the run was stopped, and this step is whole
        pass
    files.save_model(model, state, optimum)


def optimum_losses(model):
    """(steps,): the loss of the exact optimum in each step, estimated once for each lesson."""
    n_prompts = min(2000, 2 * model.experiment.size.prompts)  # `rehearse` sets size.prompts to 4

    @cache
    def estimate(c, n_points):
        rng = model.experiment.stream(model.name, "optimum")
        xs, ys = sample_prompts(c, rng, n_prompts, n_points)
        return np.mean(icl.loss_weights(xs, ys) * (baselines.bayes(c)(xs, ys) - ys) ** 2)

    return np.array([estimate(*lesson(model, step / model.steps)) for step in range(model.steps)])


def train_all(models, processes):
    """Train the models side by side, with one status line for all."""
    at_start = []  # Progress of each
    for model in models:
        state = resume(model)  # a checkpoint that is of no use is refused before any training
        if state.step:
            print(f"{model.label} goes on from step {state.step:,} of {model.steps:,}", flush=True)
        at_start.append(Progress(state.step, math.nan, state.seconds))
    print("training; shown: steps done, loss minus optimum's", flush=True)
    jobs.side_by_side([(train, model, SAVE_SECONDS) for model in models], processes,
                      partial(training_status, models, at_start, processes), GRACE_SECONDS)


# ------------------------------------------------------------------------------------- measuring
# A *sheet* (results/experiments.py) is a set of prompts, the same for all predictors: on one called
# "icl-dense" functions are dense, on "nnz-3" they have 3 non-zero coefficients. What nobody trains,
# such as the Lasso, is a function of a sheet; a model is one of (xs, ys). Companions are optima
# that stand beside a model.

def noise_of(model, predict, part=None):
    """Effective label noise (value, low, high) of a model's predictor, on prompts of all its
    pretraining, or of the class called `part` alone. The ideal learner is that of all pretraining.
    """
    e = model.experiment
    purpose = ("noise", model.name, part) if part else ("noise", model.name)
    n_prompts = min(1000, e.size.prompts)
    if part:  # as many of this class as there are among all: a mixture has half of each
        n_prompts //= 2
    s, (low, high), _ = baselines.effective_noise(
        predict, e.pretraining[model.name], e.stream(*purpose), e.n_points, n_prompts,
        prompts_of=e.classes[part] if part else None)
    return s, low, high


def measure(entry, predict=None):
    """Put all questions to a predictor: (noise, answers). predict: a model's function of (xs, ys).

    noise: of a model, "pretraining" or the name of a class -> (value, low, high).
    answers: "icl-dense", a sheet's name -> predictions (B, A), column j after sheet.after[j]
    examples; "icl-dense/noisy" -> the same of a companion, an optimum to compare the model with.
    """
    e, name = entry.experiment, entry.name
    noise, answers = {}, {}
    if predict:
        noise["pretraining"] = noise_of(entry, predict)
        if name == "mixture":
            noise |= {part: noise_of(entry, predict, part) for part in e.classes}

    def answer(sheet):  # (B, N)
        return predict(sheet.xs, sheet.ys) if predict else untrained(e)[name](sheet)

    for sheet in sheets_of(e).values():
        if is_asked(e, name, sheet):
            answers[sheet.name] = np.float32(answer(sheet)[:, sheet.after])
            for kind, predictions in companions(e, name, noise, sheet).items():
                answers[f"{sheet.name}/{kind}"] = np.float32(predictions[:, sheet.after])
    return noise, answers


def measure_job(entry, send=lambda label: None):
    """Measure a predictor, write its predictions, and send its label."""
    e, predict, training = entry.experiment, None, {}
    if entry.is_model:
        params, extra = files.load_model(entry)
        if extra["step"] != entry.steps:  # another run put it there meanwhile
            raise icl.Refused(f"{entry.path} is not trained to its end")
        predict = partial(icl.predict, params, e.config)
        training = {"seconds": extra["seconds"],
                    "curve": files.read_curve(entry.path.with_suffix(".csv"))}
    noise, answers = measure(entry, predict)
    if predict and not all(np.isfinite(a).all() for a in answers.values()):
        raise entry.divergence(entry.steps, "its predictions are not finite")
    made_by = (f"Python {platform.python_version()}, NumPy {np.__version__}, "
               f"{platform.system()} {platform.machine()}")
    facts = {"size": asdict(e.size), "asked": e.asked, "noise": noise,
             "settings": entry.settings, "made_by": made_by} | training
    files.write_predictions(entry.predictions_path, facts, answers)
    send(entry.label)


def rehearse(e):
    """All stages, with one step of training and on a handful of prompts, in a temporary folder.

    Raises icl.Refused, in one line that says where, if that cannot be done.
    """
    few = replace(e, size=replace(e.size, prompts=min(4, e.size.prompts)))
    try:
        with (tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(),
              contextlib.redirect_stdout(None)):
            warnings.simplefilter("ignore")  # a handful of prompts makes no statistics
            for entry in files.entries_of(few, Path(folder)):
                if entry.is_model:
                    entry = replace(entry, steps=1)
                    train(entry)
                measure_job(entry)
            report.show(Path(folder))
    except (Exception, SystemExit) as error:  # a function class of the user's can raise any
        raise icl.Refused(f"{e.name} cannot be evaluated like this: {jobs.where(error)}") from error


# ---------------------------------------------------------------------------------- command line

def parse_arguments(argv):
    """The command line, checked; argparse exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description="Train transformers on mixtures of function classes and compare them with the "
                    "exact optimum. The default size is the paper's; tiny takes minutes on a "
                    "laptop, small some hours.", allow_abbrev=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    sizes = parser.add_mutually_exclusive_group()
    for name, size in SIZES.items():
        sizes.add_argument(f"--{name}", dest="size", action="store_const", const=name,
                           help=f"{size.n_layer} layers, {size.n_embd} channels")
    add = parser.add_argument
    add("--experiment", choices=(*EXPERIMENTS, "coverage"), help="run one alone (default: sine "
        "and sparse). coverage: mixture models of two classes, and of all that lies between")
    add("--only", metavar="MODEL", help="only train this one, such as sparse/dense, so that "
        "machines which share a directory can share the work")
    add("--steps", type=int, help="of training a specialist; a mixture model takes twice as "
        "many, one of all that lies between three times")
    add("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    add("--processes", type=int, default=cores or 1,
        help="side by side (default: one a core); the numbers do not depend on it")
    add("--out", type=Path, help="default: runs/SIZE, or runs/SIZE-EXPERIMENT")
    parser.set_defaults(size="paper")
    a = parser.parse_args(argv)
    for name, least in (("steps", 1), ("seed", 0), ("processes", 1)):
        value = getattr(a, name)
        if value is not None and value < least:
            parser.error(f"argument --{name}: must be {least} or more, not {value}")
    a.out = a.out or Path("runs") / "-".join(filter(None, [a.size, a.experiment]))
    return a


@np.errstate(all="ignore")  # our own checks report inf and nan
def experiments_of(a):
    """Both experiments, at the size and with the seed that are asked for."""
    size = SIZES[a.size]
    if a.steps:
        size = replace(size, sparse_steps=a.steps, sine_steps=a.steps)
    try:
        experiments = [make_experiment(name, size, a.seed) for name in EXPERIMENTS]
        for e in experiments:
            check_repeatable(e)
    except (Exception, SystemExit) as error:  # a function class of the user's can raise any
        raise icl.Refused(f"this size or a class cannot be used: {jobs.where(error)}") from error
    return experiments


def choose(a, entries):
    """The models to train, by --experiment and --only."""
    models = [entry for entry in entries if entry.is_model]
    if a.experiment == "coverage":  # not an experiment, but these models of both
        named = [model for model in models if model.name in ("mixture", "wide")]
    else:
        named = [model for model in models if model.name != "wide"
                 and a.experiment in (None, model.experiment.name)]
    chosen = [model for model in named if a.only in (None, model.name, model.label)]
    if not chosen:
        raise icl.Refused(f"there is no model {a.only!r}, but {', '.join(m.label for m in named)} "
                          "(--experiment coverage: other ones)")
    return chosen


def stages(a):
    """Train what is still to be trained, measure what is not yet measured, show what there is."""
    experiments = experiments_of(a)
    entries = [entry for e in experiments for entry in files.entries_of(e, a.out)]
    # Longest first, so that none is left to train alone at the end.
    entries.sort(key=lambda entry: entry.experiment.n_points * entry.steps, reverse=True)
    chosen = choose(a, entries)

    def is_shown(e):  # if a model of it is chosen, or if an earlier run left files
        return any(m.experiment is e for m in chosen) or any((a.out / e.name).glob("*.npz"))

    experiments_shown = [e for e in experiments if is_shown(e)]
    entries_shown = [entry for entry in entries if entry.experiment in experiments_shown]
    files.refuse_conflicts(entries_shown, a.out)
    print(f"{a.size} size into {a.out}, seed {a.seed}, NumPy {np.__version__}")
    for model in entries_shown:
        if model.reached() and (edited := files.edited_since(model.path, files.MAKE_MODELS)):
            print(f"{model.label} was trained before {edited[0]} was edited: another --out would "
                  "train it anew")

    if to_train := [model for model in chosen if files.needs_training(model)]:
        print("rehearsing every stage on a few prompts", flush=True)
        for e in experiments_shown:
            rehearse(e)  # mistakes show before hours of training
        train_all(to_train, a.processes)
        files.refuse_conflicts(entries_shown, a.out)  # another run may have written here meanwhile

    to_measure = [entry for entry in entries_shown if files.needs_measuring(entry)]
    jobs.side_by_side([(measure_job, entry) for entry in to_measure], a.processes,
                      lambda _, sent: f"measuring: {len(sent)} of {len(to_measure)} done")

    report.show(a.out)


def main(argv=None):
    """One run. Exit status: 0; 2 after an error, told in one line; 130 after Ctrl-C."""
    if multiprocessing.current_process().name != "MainProcess":  # a job imports the caller's script
        print("train.main must be called below `if __name__ == '__main__':`", file=sys.stderr)
        return 2
    return jobs.exit_status("train.py", lambda: stages(parse_arguments(argv)),
                            "stopped; the same command goes on from the last checkpoints")


if __name__ == "__main__":
    import train  # this file, by its name: what is sent to other processes must not be __main__'s
    sys.exit(train.main())
