# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy"]
# ///
"""Train transformers on mixtures of function classes and compare them with the exact optimum.

    python train.py --tiny          two experiments in minutes on a laptop
    python train.py --small         hours on a laptop: the paper's findings, measured
    python train.py                 the paper's size: 12 layers, 256 channels

An experiment trains a model on each of two function classes (the specialists) and one on their
50:50 mixture (the mixture model). With --experiment coverage there is a wide model, too, on a
mixture of these classes and what lies between them. They are compared with predictors that nobody
trained, such as least squares and the exact optimum. results/experiments.py states all that. Three
stages, each of which reads the files of the one before it:

    train      a model        -> OUT/EXPERIMENT/MODEL.npz
    measure    a predictor    -> OUT/EXPERIMENT/PREDICTOR.predictions.npz
    show       predictions    -> figures, results.csv, report.html, tables on the terminal

The first two are here, the third is results/report.py. A fourth, results/claims.py, judges whether
the paper (arXiv 2311.00871) is right. Models train side by side, each in a process of its own on
one core (results/jobs.py). Whatever ends a run, the same command goes on from its last checkpoints;
which files it can use, results/files.py says.
"""
import os

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
              "VECLIB_MAXIMUM_THREADS"):  # read by NumPy's BLAS
    os.environ[_name] = "1"  # more could change the last bits

import argparse
import math
import platform
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import baselines
import icl
from results import files, jobs, report
from results.experiments import (EXPERIMENTS, SIZES, check_repeatable, companions, is_asked,
                                 make_experiment, sheets_of, untrained)
from tasks import narrow, sample_prompts


# -------------------------------------------------------------------------------------- training
# A `model` is a files.Entry: an experiment, the name of a model in it, the number of steps that it
# trains, and the path of its checkpoint.

SAVE_SECONDS = 30  # between checkpoints


class Progress(NamedTuple):
    """What a training process sends after each step."""
    step: int
    over: float     # loss minus the optimum's, mean of the last 50 steps
    seconds: float  # that all steps so far took


def lesson(model, progress):
    """What to train on when a share `progress` of the steps is done: function class, n_points.

    The curriculum of Garg et al. (arXiv 2208.01066, `src/curriculum.py` of their code): at first
    functions depend on few dims, d' of them, and prompts are short, 2d' + 1 points at most.
    """
    e, c = model.experiment, model.experiment.pretraining[model.name]
    share, first, last = e.size.curriculum, e.size.first_dims, e.config.n_dims
    if progress >= share or first >= last:
        return c, e.n_points
    dims = first + int(progress / share * (last - first))  # each, but the last, equally long
    return narrow(c, dims), min(e.n_points, 2 * dims + 1)


def training_batch(model, progress, rng):
    """Prompts of the present lesson and their weights in the loss: xs (B, N, d), ys, w (B, N)."""
    function_class, n_points = lesson(model, progress)
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


def fresh(model):
    """The state before the first step."""
    e, size = model.experiment, model.experiment.size
    # 0 names the stream of initial parameters; another name would change all results on record.
    params = icl.init_params(e.config, e.stream(model.name, 0))
    optimizer = icl.Muon(params, size.lr, size.matrix_lr, clip=1.0)
    return TrainingState(params, optimizer, e.stream(model.name, "training prompts"), [])


def resume(model):
    """The state of its checkpoint, if there is one, or a fresh one."""
    state = fresh(model)
    if model.path.exists():
        # This fills the optimiser and the rng, too.
        state.params, extra = files.load_model(model, state.optimizer, state.rng)
        state.losses, state.seconds = extra["losses"], extra["seconds"]
    return state


def advance(model, state):
    """Take one step of training. icl.Refused if it diverges."""
    start = time.monotonic()
    e, optimizer = model.experiment, state.optimizer
    progress = state.step / model.steps
    fade = min(1, (state.step + 1) / e.size.warmup) * (1 - progress)  # rates rise, then fall
    optimizer.lr, optimizer.matrix_lr = e.size.lr * fade, e.size.matrix_lr * fade
    xs, ys, weights = training_batch(model, progress, state.rng)
    try:
        loss = icl.train_step(state.params, e.config, optimizer, xs, ys, weights)
    except FloatingPointError as error:
        raise divergence(model, state.step + 1, error) from error
    state.losses.append(loss)
    state.seconds += time.monotonic() - start


def train(model, save_seconds=math.inf, send=lambda message: None):
    """Train a model from its last checkpoint on, and save it at the end and about every
    save_seconds. After each step, send(Progress) may raise jobs.Ended: what was reached is saved.
    """
    if model.reached() == model.steps:  # another run has finished it meanwhile
        return
    state, optimum = resume(model), optimum_losses(model)
    model.path.parent.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    try:
        while state.step < model.steps:
            advance(model, state)
            send(progress_of(state, optimum))
            if time.monotonic() > saved + save_seconds:
                save(model, state, optimum)
                saved = time.monotonic()
    except jobs.Ended:  # only send raises it, between two steps: nothing is half done
        pass
    save(model, state, optimum)


def progress_of(state, optimum):
    """The Progress of a state. optimum: the least possible loss of each step, as optimum_losses."""
    recent = slice(max(0, state.step - 50), state.step)
    over = np.mean(state.losses[recent]) - np.mean(optimum[recent])
    return Progress(state.step, over, state.seconds)


def divergence(model, step, error):
    """The refusal to be raised; it says what a user can do."""
    return icl.Refused(f"{model.label} diverged at step {step} with seed {model.experiment.seed}: "
                       f"{error}; lower the Size's learning rates, or train others with --only")


def save(model, state, optimum):
    """Write the curve and the checkpoint; icl.Refused if another run is further along."""
    if (there := model.reached()) > state.step:
        raise icl.Refused(f"{model.path} is at step {there:,}, this run only at {state.step:,}: "
                          "another run trains the same model")
    write_curve(model.path.with_suffix(".csv"), state.losses, optimum)
    extra = {"step": state.step, "seconds": state.seconds, "settings": model.settings}
    optimizer = None
    if state.step < model.steps:  # what further training needs
        extra |= {"losses": state.losses, "rng": state.rng.bit_generator.state}
        optimizer = state.optimizer
    try:
        icl.save_checkpoint(model.path, state.params, model.experiment.config, optimizer, **extra)
    except ValueError as error:  # a parameter is not finite
        raise divergence(model, state.step, error) from error


def optimum_losses(model):
    """(steps,): the loss of the exact optimum in each step, estimated once for each lesson."""
    lessons = [lesson(model, step / model.steps) for step in range(model.steps)]
    estimates = {}  # class, n_points -> mean loss on 2,000 prompts
    for c, n_points in dict.fromkeys(lessons):
        xs, ys = sample_prompts(c, model.experiment.stream(model.name, "optimum"), 2000, n_points)
        errors = (baselines.bayes(c)(xs, ys) - ys) ** 2
        estimates[c, n_points] = np.mean(icl.loss_weights(xs, ys) * errors)
    return np.array([estimates[each] for each in lessons])


def write_curve(path, losses, optimum):
    """A CSV file: mean loss of each 200th part of the steps, and that minus the optimum's."""
    every = max(1, len(optimum) // 200)
    rows = ["step,loss,over_optimum\n"]
    for step in range(every, len(losses) + 1, every):
        last = slice(step - every, step)
        loss, least = np.mean(losses[last]), np.mean(optimum[last])
        rows.append(f"{step},{loss:.9g},{loss - least:.9g}\n")
    icl.write_whole(path, "".join(rows).encode())


def train_all(models, processes):
    """Train the models side by side, with one status line for all."""
    at_start = []  # (step, seconds) of each
    for model in models:
        state = resume(model)  # what cannot be gone on from is refused before any process starts
        if state.step:
            print(f"{model.label} goes on from step {state.step:,} of {model.steps:,}", flush=True)
        at_start.append((state.step, state.seconds))
    print(f"training {len(models)} models; shown: steps done, loss minus optimum's", flush=True)
    jobs.side_by_side([(train, model, SAVE_SECONDS) for model in models], processes,
                      partial(training_status, models, at_start, processes), ends_itself=True)


def training_status(models, at_start, processes, working, sent):
    """Such as "1/6 done, 0:04:10 left: sine/linear 40% +0.012, sine/mixture starts".

    at_start: (step, seconds) of each model. working: indices of models. sent: index -> Progress.
    """
    steps = [sent[i].step if i in sent else step for i, (step, _) in enumerate(at_start)]
    done = sum(step == model.steps for step, model in zip(steps, models))
    text = f"{done}/{len(models)} done"
    if sent:
        text += f", {time_left(models, steps, at_start, processes, sent)} left"
    each = []
    for i in working:
        reached = "starts"
        if i in sent:
            reached = f"{steps[i] / models[i].steps:.0%} {sent[i].over:+.3f}"
        each.append(f"{models[i].label} {reached}")
    return f"{text}: {', '.join(each)}"


def time_left(models, steps, at_start, processes, sent):
    """Until all are trained, if a point of a prompt will take as long as it took in this run."""
    points = [model.experiment.n_points for model in models]  # of a prompt, so of a step
    done = sum(points[i] * (progress.step - at_start[i][0]) for i, progress in sent.items())
    spent = sum(progress.seconds - at_start[i][1] for i, progress in sent.items())
    left = [n * (model.steps - step) for n, model, step in zip(points, models, steps)]
    # The longest model's own time at least, as no model is split between processes.
    longest = max(max(left), sum(left) / min(processes, len(models)))
    return timedelta(seconds=round(spent / done * longest))


# ------------------------------------------------------------------------------------- measuring

def noise_of(entry, predict):
    """Effective label noise (value, low, high) of a model's predictor: on all of its pretraining,
    and, of the mixture model, on each class alone."""
    e, n = entry.experiment, min(1000, entry.experiment.size.prompts)
    pretraining = e.pretraining[entry.name]

    def noise_on(c, n_prompts, *words):
        """On prompts of c; the ideal learner knows all of pretraining. words: of the stream."""
        rng = e.stream("noise", entry.name, *words)
        value, (low, high), _ = baselines.effective_noise(predict, pretraining, rng, e.n_points,
                                                          n_prompts, prompts_of=c)
        return value, low, high

    noise = {"pretraining": noise_on(pretraining, n)}
    if entry.name == "mixture":
        noise |= {name: noise_on(c, n // 2, name) for name, c in e.classes.items()}
    return noise


def measure(entry, predict=None):
    """(facts, arrays) of a predictor. arrays: SHEET -> (B, A), its predictions after each of the A
    numbers of examples in sheet.after; and of a model, SHEET/KIND -> those of its companions.
    predict: a model's; without it the predictor is one that nobody trains.
    """
    e, name = entry.experiment, entry.name
    facts, arrays = {"size": asdict(e.size), "asked": e.asked}, {}
    sheets = [sheet for sheet in sheets_of(e).values() if is_asked(e, name, sheet)]

    def keep(sheet, predictions, kind=""):
        arrays[sheet.name + kind] = np.float32(predictions[:, sheet.after])  # of (B, N)

    if not predict:
        for sheet in sheets:
            keep(sheet, untrained(e)[name](sheet))
        return facts, arrays
    facts["noise"] = noise_of(entry, predict)
    s = facts["noise"]["pretraining"][0]
    for sheet in sheets:
        keep(sheet, predict(sheet.xs, sheet.ys))
        for kind, predictions in companions(e, name, s, sheet).items():
            keep(sheet, predictions, f"/{kind}")
    return facts, arrays


def measure_job(entry, send):
    """Measure a predictor in a process of its own, write its predictions, and send its name."""
    made_by = (f"Python {platform.python_version()}, NumPy {np.__version__}, "
               f"{platform.system()} {platform.machine()}")
    predict, made = None, {"settings": entry.settings, "made_by": made_by}
    if entry.is_model:
        params, extra = files.load_model(entry)
        if extra["step"] != entry.steps:  # another run put it there meanwhile
            raise icl.Refused(f"{entry.path} is not trained to its end")
        predict = partial(icl.predict, params, entry.experiment.config)
        made["seconds"] = extra["seconds"]
        made["curve"] = files.read_curve(entry.path.with_suffix(".csv"))
    facts, arrays = measure(entry, predict)
    if predict and not all(np.isfinite(a).all() for a in arrays.values()):
        raise divergence(entry, entry.steps, "its predictions are not finite")
    files.write_predictions(entry.predictions_path, facts | made, arrays)
    send(entry.label)


def rehearse(e):
    """All stages on a handful of prompts, in memory: a step of training, measuring, drawing.

    Raises icl.Refused, in one line that says where, if that cannot be done.
    """
    few = replace(e, size=replace(e.size, prompts=min(4, e.size.prompts)))
    measured = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a handful of prompts makes no statistics
            for entry in files.entries_of(few, Path()):
                predict = None
                if entry.is_model:
                    state = fresh(entry)
                    advance(entry, state)
                    predict = partial(icl.predict, state.params, few.config)
                measured[entry.name] = measure(entry, predict)
            found = report.arrange(few, measured)
            report.tables(found)
            report.page([found], [report.figures_of(found)])
    except (Exception, SystemExit) as error:  # a class of one's own can cause any
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
    add("--experiment", choices=(*EXPERIMENTS, "coverage"), help="one of them (default: sine and "
        "sparse). coverage: mixture models of two classes, and of all that lies between")
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


@np.errstate(all="ignore")  # what is not finite is told in words
def experiments_of(a):
    """Both experiments, at the size and with the seed that are asked for."""
    size = SIZES[a.size]
    if a.steps:
        size = replace(size, sparse_steps=a.steps, sine_steps=a.steps)
    try:
        experiments = [make_experiment(name, size, a.seed) for name in EXPERIMENTS]
        for e in experiments:
            check_repeatable(e)
    except (Exception, SystemExit) as error:  # a class of one's own can cause any
        why = error if isinstance(error, ValueError) else jobs.where(error)
        raise icl.Refused(f"this size or a class cannot be: {why}") from error
    return experiments


def is_named(model, experiment):
    """Whether --experiment names the model. Without it, all are named but the wide ones."""
    if experiment == "coverage":  # not an experiment of its own, but two models of each
        return model.name in ("mixture", "wide")
    return model.name != "wide" and experiment in (None, model.experiment.name)


def is_shown(e, chosen, out):
    """Whether an experiment is measured and shown: a model of it is chosen, or it has files."""
    return e.name in {m.experiment.name for m in chosen} or any((out / e.name).glob("*.npz"))


def stages(a):
    """Train what is still to be trained, measure what is not yet measured, show what there is.

    Of the models, `named` are those that --experiment names, `chosen` those that --only names, too.
    Of each experiment that is shown, every entry is measured, as far as it can be.
    """
    experiments = experiments_of(a)
    entries = [entry for e in experiments for entry in files.entries_of(e, a.out)]
    entries.sort(key=lambda entry: -entry.experiment.n_points * entry.steps)  # longest first
    named = [entry for entry in entries if entry.is_model and is_named(entry, a.experiment)]
    chosen = [model for model in named if a.only in (None, model.name, model.label)]
    if not chosen:
        raise icl.Refused(f"there is no model {a.only!r}, but {', '.join(m.label for m in named)}")
    shown = [e for e in experiments if is_shown(e, chosen, a.out)]
    to_show = [entry for entry in entries if entry.experiment in shown]
    files.refuse_conflicts(to_show, a.out)
    print(f"{a.size} size into {a.out}, seed {a.seed}, NumPy {np.__version__}")
    to_train = [model for model in chosen if files.needs_training(model)]
    if to_train:
        print("rehearsing every stage on a few prompts", flush=True)
        for e in shown:
            rehearse(e)  # mistakes show before hours of training
        train_all(to_train, a.processes)
    files.refuse_conflicts(to_show, a.out)  # another run may have written some meanwhile
    to_measure = [entry for entry in to_show if files.needs_measuring(entry)]
    jobs.side_by_side([(measure_job, entry) for entry in to_measure], a.processes,
                      lambda _, sent: f"measuring: {len(sent)} of {len(to_measure)} done")
    report.show(a.out)
    if missing := [model.label for model in named if not model.predictions_path.is_file()]:
        print(f"not trained yet, so not shown: {', '.join(missing)}", flush=True)


def main(argv=None):
    """One run. Exit status: 0, 2 for an error that a line can tell, or 130 for Ctrl-C."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what no text can
    try:
        stages(parse_arguments(argv))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    except (icl.Refused, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # nobody reads on
        print(f"train.py: error: {str(error) or repr(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    import train  # not __main__: what is sent between processes names this module
    sys.exit(train.main())
