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
mixture of these classes and what lies between them. What predicts is a *predictor*: these models,
and what nobody trained, such as least squares or the exact optimum. Three stages, with files
between them, work on what is there:

    train      a model        -> OUT/EXPERIMENT/MODEL.npz
    measure    a predictor    -> OUT/EXPERIMENT/PREDICTOR.predictions.npz
    show       predictions    -> figures, results.csv, report.html, tables on the terminal

The first two are here, the third is results/report.py. A fourth, results/claims.py, judges whether
the paper (arXiv 2311.00871) is right. Models train side by side, each in a process of its own on
one core (results/jobs.py). Whatever ends a run, the same command goes on from its last checkpoints;
which files it can use, results/files.py says.
"""
import os

for _name in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM"):  # read by NumPy's BLAS
    os.environ[f"{_name}_THREADS"] = "1"  # more could change the last bits

import argparse
import contextlib
import math
import pickle
import platform
import re
import signal
import sys
import time
import zlib
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np

import baselines
import icl
from results import files, jobs
from tasks import (ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, narrow,
                   plain_numbers, sample_prompts)


# ------------------------------------------------------------------------- sizes and experiments

@dataclass(frozen=True)
class Size:
    """How big a run is. The learning rates rise over `warmup` steps, and fall linearly to zero."""
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
    curriculum: float = 0.0   # share of the steps that `lesson` makes easier, with fewer dims
    first_dims: int = 5       # where it begins; nothing is easier where there are no more
    prompts: int = 2000       # to evaluate on; half as many for each place of a sweep

    def __post_init__(self):
        plain_numbers(self)

    def check(self):
        """ValueError, by name, unless every field can be used."""
        reals = {"lr": (1e-30, 1e30), "matrix_lr": (1e-30, 1e30), "curriculum": (0, 0.99)}
        for name, value in asdict(self).items():
            least = 2 if name in ("sparse_points", "sine_points", "prompts") else 1
            low, high = reals.get(name, (least, 1_000_000))
            kinds = (int, float) if name in reals else (int,)  # no bool
            if type(value) not in kinds or not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high:,}, not {value!r}")
        icl.Config(self.n_dims, self.sparse_points, self.n_layer, self.n_head, self.n_embd)


SIZES = {
    "tiny": Size(6, 4, 48, n_dims=3, nnz=1, sparse_points=8, sparse_steps=1500, prompts=1000,
                 sine_points=16, sine_steps=1400),
    "small": Size(8, 4, 64, n_dims=8, nnz=1, sparse_points=10, sparse_steps=20_000,
                  sine_points=21, sine_steps=3000, batch=128),
    "paper": Size(12, 8, 256, n_dims=20, nnz=2, sparse_points=41, sparse_steps=3000,
                  sine_points=41, sine_steps=1500, curriculum=0.1),
}
EXPERIMENTS = "sine", "sparse"  # in the order of the report
OWN = "optimum for these functions"  # is told the class of the functions it is asked about
MIXED = "optimum of the mixture"     # is told only the mixture of the two classes


@dataclass(frozen=True)
class Experiment:
    """Which models are trained, on what, and what they are asked afterwards.

    A sweep leads from pretraining to what lies outside it.
    """
    name: str
    size: Size
    classes: dict      # name -> function class
    pretraining: dict  # name of a model -> the class or mixture that it is trained on
    n_points: int
    steps: int         # of training a specialist
    at: list           # the numbers of examples after which sweeps measure
    curves: dict = field(default_factory=dict)  # name -> class to draw ICL curves on
    sweeps: dict = field(default_factory=dict)  # name -> place on the x axis -> class
    controls: list = field(default_factory=list)  # the specialists that answer sweeps, too
    seed: int = 0

    @property
    def mixture(self):
        return Mixture(tuple(self.classes.values()))

    @property
    def config(self):
        return icl.Config(self.mixture.n_dims, self.n_points, self.size.n_layer, self.size.n_head,
                          self.size.n_embd)

    @cached_property
    def asked(self):
        """What predictors are asked, as JSON can hold it. A predictions file keeps it, and is out
        of date where it is no longer the same. The y tells when a class's code was changed."""
        return {"prompts": self.size.prompts, "nnz": self.size.nnz, "controls": self.controls,
                "sheets": {name: [str(sheet.function_class), sheet.at, f"{sheet.ys[0, -1]:.2f}"]
                           for name, sheet in sheets_of(self).items()}}

    def stream(self, *purpose):
        """A random generator for each purpose, so that evaluation cannot disturb training."""
        words = "/".join(map(str, (self.name, *purpose)))
        return np.random.default_rng([self.seed, zlib.crc32(words.encode())])


def make_experiment(name, size, seed=0):
    """The paper's experiment of that name, "sparse" or "sine", at a size."""
    size.check()
    makers = {"sparse": sparse_experiment, "sine": sine_experiment}
    if name not in makers:
        raise icl.Refused(f"there is no experiment {name!r}, but {', '.join(makers)}")
    e = makers[name](size, seed)
    e.mixture.hypotheses()  # ValueError if it has too many for the exact optimum
    check_names(e)
    return e


def sparse_experiment(size, seed):
    """Linear functions of n_dims inputs: all coefficients random, or all but a few zero."""
    d = size.n_dims
    classes = {"dense": DenseLinear(d), "sparse": SparseLinear(d, size.nnz)}
    pretraining = classes | {"mixture": Mixture(classes.values())}
    numbers = {k: SparseLinear(d, k) for k in range(1, d + 1)}
    wide = Mixture(numbers.values())
    with contextlib.suppress(ValueError):  # of 20 dims, 10 non-zeros have too many supports
        wide.hypotheses()
        pretraining["wide"] = wide
    return Experiment("sparse", size, classes, pretraining, size.sparse_points, size.sparse_steps,
                      at=[min(d // 2 + 1, size.sparse_points - 1)],  # too few for least squares
                      curves=classes, sweeps={"nnz": numbers}, controls=[*classes], seed=seed)


def sine_experiment(size, seed):
    """Functions of one input: lines and sinusoids, and what lies between and beyond them."""
    classes = {"linear": DenseLinear(1), "sinusoid": Sinusoid()}
    blend = partial(ConvexCombination, *classes.values())
    curves = classes | {"half-and-half": blend(0.5)}
    pretraining = classes | {"mixture": Mixture(classes.values()), "wide": Mixture(curves.values())}
    frequencies = 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0
    sweeps = {"weights": {w: blend(w) for w in np.linspace(0, 1, 11).tolist()},
              # At the last x, which was shown before: see sheets_of.
              "again": {w: blend(w) for w in (0.0, 0.3, 0.5, 0.7, 1.0)},
              "frequency": {omega: Sinusoid(frequency=omega) for omega in frequencies}}
    return Experiment("sine", size, classes, pretraining, size.sine_points, size.sine_steps,
                      at=list(range(1, size.sine_points))[-5:],  # the last five
                      curves=curves, sweeps=sweeps, controls=["sinusoid"], seed=seed)


def check_names(e):
    """ValueError unless names can be those of files, and classes be told apart by their texts."""
    # Beginnings of other predictors, of sheets, and of a key in facts.
    taken = "optimum ", "least squares", "Lasso", "Gaussian ", "icl", "functions", "pretraining"
    words = {*e.pretraining, *e.curves, *e.sweeps}
    if {"mixture", "wide"} & {*e.classes} or len({w.replace(" ", "-") for w in words}) < len(words):
        raise ValueError(f"of {', '.join(sorted(words))}, two would have the same file")
    for word in words:
        if (not re.fullmatch("[A-Za-z0-9_ -]{1,50}", word)
                or word.replace("-", " ").startswith(taken)):
            raise ValueError(f"{word!r} cannot name a class, a model or a sweep: use letters, "
                             f"digits, spaces, _ and -, and do not begin like {', '.join(taken)}")
    sheets = sorted(f"{sweep}-{x:g}" for sweep, classes in e.sweeps.items() for x in classes)
    for one, next_one in zip(sheets, sheets[1:]):
        if one == next_one:
            raise ValueError(f"two places of sweeps would have the same sheet, {one}")
    asked = [c for classes in (e.curves, *e.sweeps.values()) for c in classes.values()]
    for c in (*e.pretraining.values(), *asked):
        if " at 0x" in str(c):  # files name the class that they were made with
            raise ValueError(f"{c} must be a frozen dataclass without functions: its text must say "
                             "what it is")
        hash(c)  # TypeError unless frozen; optimal_loss keeps a loss for each class
        pickle.dumps(c)  # AttributeError if another process could not have it


# -------------------------------------------------------------------------------------- training

SAVE_SECONDS = 30  # between checkpoints


@dataclass(frozen=True)
class Predictor:
    """Who predicts in an experiment, and where its files lie. It is not yet the function (xs, ys)
    -> predictions: measure_job makes that of it. One with steps is called a model, and `train`
    fills its checkpoint; the others have 0 steps and no checkpoint."""
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
                "curriculum": e.size.curriculum and [e.size.curriculum, e.size.first_dims]}

    def load(self, optimizer=None, rng=None):
        """Parameters and extra of its checkpoint; see files.load_model."""
        return files.load_model(self, optimizer, rng)

    def reached(self):
        """The step that its checkpoint has reached; 0 without one."""
        return self.load()[1]["step"] if self.path.exists() else 0


def predictors_of(e, out):
    """All predictors of an experiment. With twice the steps, a 50:50 mixture model sees as many
    prompts of a class as that class's specialist. A wide mixture takes three times the steps."""
    times = {m: min(3, len(c.components)) if isinstance(c, Mixture) else 1
             for m, c in e.pretraining.items()}
    steps = {m: n * e.steps for m, n in times.items()}
    untrained = ["least squares", "Lasso", MIXED, OWN, *(f"optimum of {m}" for m in e.classes)]
    if e.mixture.n_dims == 1:
        untrained.append("Gaussian process")
    return [Predictor(e, name, steps.get(name, 0), out / e.name / f"{name.replace(' ', '-')}.npz")
            for name in [*steps, *untrained]]


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
    absent = model.experiment.config.n_dims - xs.shape[2]  # inputs that are zero
    return np.pad(xs, ((0, 0), (0, 0), (0, absent))), ys, icl.loss_weights(xs, ys)


@dataclass
class TrainingState:
    """What training has reached, which its checkpoint holds."""
    params: dict
    optimizer: icl.Muon
    rng: np.random.Generator  # of the prompts
    losses: list              # of every step so far
    seconds: float = 0.0      # that these took


def resume(model):
    """Where its checkpoint left off, or a fresh start."""
    e, size = model.experiment, model.experiment.size
    # 0 names the stream of initial parameters; another name would change all results on record.
    params = icl.init_params(e.config, e.stream(model.name, 0))
    optimizer = icl.Muon(params, size.lr, size.matrix_lr, clip=1.0)
    rng = e.stream(model.name, "training prompts")
    if not model.path.exists():
        return TrainingState(params, optimizer, rng, [])
    params, extra = model.load(optimizer, rng)
    return TrainingState(params, optimizer, rng, extra["losses"], extra["seconds"])


def save(model, state, optimum_loss):
    """Write the curve and the checkpoint; icl.Refused if another run is further along."""
    step = len(state.losses)
    if (there := model.reached()) > step:
        raise icl.Refused(f"{model.path} is at step {there:,}, this run only at {step:,}: "
                          "another run trains the same model")
    write_curve(model.path.with_suffix(".csv"), state.losses, model.steps, optimum_loss)
    rest = {} if step == model.steps else {  # what only further training needs
        "optimizer": state.optimizer, "losses": state.losses,
        "rng": state.rng.bit_generator.state}
    try:
        icl.save_checkpoint(model.path, state.params, model.experiment.config, step=step,
                            seconds=state.seconds, settings=model.settings, **rest)
    except ValueError as error:  # a parameter is not finite
        raise diverged(model, step, error) from error


def diverged(model, step, error):
    """The refusal to be raised, which says what its user can do."""
    return icl.Refused(f"{model.label} diverged at step {step} with seed {model.experiment.seed}: "
                       f"{error}; lower the Size's learning rates, or train others with --only")


def optimal_loss(model):
    """Returns optimum_loss(first, last): the mean loss that the exact optimum would have in the
    steps first to last, estimated on 2,000 prompts of each lesson."""
    @cache
    def of_lesson(c, n_points):
        rng = model.experiment.stream(model.name, "optimum")
        xs, ys = sample_prompts(c, rng, 2000, n_points)
        return np.mean(icl.loss_weights(xs, ys) * (baselines.bayes(c)(xs, ys) - ys) ** 2)

    def lesson_at(step):  # steps count from 1
        return lesson(model, (step - 1) / model.steps)

    def optimum_loss(first, last):
        if lesson_at(first) == lesson_at(last):  # nearly always: one lesson for all these steps
            return of_lesson(*lesson_at(first))
        return np.mean([of_lesson(*lesson_at(step)) for step in range(first, last + 1)])

    return optimum_loss


def train(model, save_seconds=math.inf, go_on=lambda *numbers: True):
    """Train a model to its end, going on from its checkpoint if there is one.

    It is saved at the end, and about every save_seconds. After each step, go_on(step, loss minus
    the optimum's, seconds so far) may say no: then what was reached is saved.
    """
    if model.reached() == model.steps:  # another run may have finished it meanwhile
        return
    config, size = model.experiment.config, model.experiment.size
    state = resume(model)
    optimum_loss = optimal_loss(model)  # first step, last step -> the optimum's mean loss
    saved = time.monotonic()
    model.path.parent.mkdir(parents=True, exist_ok=True)
    if not state.losses:  # a folder that cannot be written to is found now, not at the first save
        write_curve(model.path.with_suffix(".csv"), [], model.steps, optimum_loss)
    for step in range(len(state.losses) + 1, model.steps + 1):
        start = time.monotonic()
        progress = (step - 1) / model.steps  # share of the steps that is done
        fade = min(1, step / size.warmup) * (1 - progress)
        state.optimizer.lr, state.optimizer.matrix_lr = size.lr * fade, size.matrix_lr * fade
        xs, ys, weights = training_batch(model, progress, state.rng)
        try:
            loss = icl.train_step(state.params, config, state.optimizer, xs, ys, weights)
        except FloatingPointError as error:
            raise diverged(model, step, error) from error
        state.losses.append(loss)
        state.seconds += time.monotonic() - start
        first = max(1, step - 49)  # of the last 50 steps
        over = np.mean(state.losses[-50:]) - optimum_loss(first, step)
        if not go_on(step, over, state.seconds):
            break
        if time.monotonic() > saved + save_seconds:
            save(model, state, optimum_loss)
            saved = time.monotonic()
    save(model, state, optimum_loss)


def write_curve(path, losses, steps, optimum_loss):
    """A CSV file: mean loss of each steps // 200 steps or one, and that minus the optimum's."""
    every, rows = max(1, steps // 200), ["step,loss,over_optimum\n"]
    for step in range(every, len(losses) + 1, every):
        loss = np.mean(losses[step - every:step])
        rows.append(f"{step},{loss:.9g},{loss - optimum_loss(step - every + 1, step):.9g}\n")
    icl.write_whole(path, "".join(rows).encode())


def train_job(model, save_seconds, send):
    """`train` in a process of its own, which sends its numbers after each step. When the parent is
    gone, or SIGTERM comes (not on Windows), it saves what it has reached."""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))

    def go_on(*numbers):
        try:
            send(numbers)
        except BrokenPipeError:  # the parent was killed
            return False
        return not ended

    train(model, save_seconds, go_on)
    if ended:
        raise icl.Refused(f"{model.label} was told to end; the same command goes on")


def train_all(models, processes):
    """Train the models side by side, with one status line for all."""
    for model in models:
        if 0 < (step := model.reached()) < model.steps:
            resume(model)  # only so that it is refused here, before any process starts
            print(f"{model.label} goes on from step {step:,} of {model.steps:,}", flush=True)
    print(f"training {len(models)} models; shown: steps done, loss minus optimum's", flush=True)
    points = np.array([model.experiment.n_points for model in models])  # of a prompt
    steps = np.array([model.steps for model in models])
    at_start = [(model.reached(), 0.0, 0.0) for model in models]

    def status(working, sent):
        # Arrays over the models: what each sent last; before that its checkpoint's step, 0, and 0.
        step, over, seconds = np.array([sent.get(i, at_start[i]) for i in range(len(models))]).T
        left, begun = points * (steps - step), seconds > 0
        text = f"{(step == steps).sum()}/{len(models)} done"
        if begun.any():  # a point of a prompt will take as long as it took on average so far
            pace = seconds[begun].sum() / (points * step)[begun].sum()
            # The longest model's time, or an equal share of all for each process.
            seconds_left = round(pace * max(left.max(), left.sum() / min(processes, len(models))))
            text += f", {timedelta(seconds=seconds_left)} left"
        now = [f"{models[i].label} " + (f"{step[i] / steps[i]:.0%} {over[i]:+.3f}"
                                        if begun[i] else "starts") for i in working]
        return ": ".join([text, ", ".join(now)])

    jobs.side_by_side([(train_job, model, SAVE_SECONDS) for model in models], processes, status)


# ------------------------------------------------------------------------------------- measuring

# Sheet -> title, weight of the line. The title names its random stream, too.
PICTURES = {"functions-1": ("a line", 1.0), "functions-2": ("a sinusoid", 0.0),
            "functions-3": ("half of each", 0.5)}


@dataclass(frozen=True)
class Sheet:
    """Prompts for all predictors. Predictions are kept after the numbers of examples in `at`."""
    function_class: object
    xs: np.ndarray  # (B, N, d)
    ys: np.ndarray  # (B, N)
    at: list


def sheets_of(e):
    """Name -> Sheet: all that predictors are asked in an experiment."""
    sheets = {}
    for shown, c in e.curves.items():
        xs, ys = sample_prompts(c, e.stream(f"icl-{shown}"), e.size.prompts, e.n_points)
        sheets[f"icl-{shown}"] = Sheet(c, xs, ys, list(range(e.n_points)))
    for sweep, classes in e.sweeps.items():
        for x, c in classes.items():
            rng, at = e.stream(sweep, x), e.at[-1:] if sweep == "again" else e.at
            xs, ys = sample_prompts(c, rng, max(2, e.size.prompts // 2), at[-1] + 1)
            if sweep == "again":  # the last x is one that was shown before
                which = np.arange(len(xs)), rng.integers(at[-1], size=len(xs))
                xs[:, -1], ys[:, -1] = xs[which], ys[which]
            sheets[f"{sweep}-{x:g}"] = Sheet(c, xs, ys, at)
    if e.mixture.n_dims == 1:
        for name, (title, weight) in PICTURES.items():
            c = ConvexCombination(*e.classes.values(), weight)
            sheets[name] = picture(c, e.stream("functions", title), min(10, e.n_points - 1))
    return sheets


def picture(c, rng, n):
    """Sheet of one function of a class: n examples of it, the same ones before 101 queries."""
    f, examples, queries = c.sample(rng, 1), rng.uniform(-2.2, 2.2, n), np.linspace(-2.5, 2.5, 101)
    xs = np.float32([[*examples, x] for x in np.float32(queries)])[..., None]  # (101, n + 1, 1)
    ys = np.float32(f(xs.reshape(1, -1, 1)).reshape(len(xs), -1))
    return Sheet(c, xs, ys, [n])


def is_asked(e, name, key):
    """Whether a predictor is asked on a sheet. On ICL sheets all are. The other sheets take long:
    there neither the Lasso is, nor an optimum of one class, nor a specialist that is no control."""
    if key.startswith("icl-"):
        return True
    idle = {c for c in e.classes if c not in e.controls}  # a specialist has its class's name
    return name not in {"Lasso", *(f"optimum of {c}" for c in e.classes), *idle}


def computed(e, name, key, sheet):
    """The predictor of that name, which nobody trained; None if it has too many hypotheses."""
    if name == "least squares":
        return baselines.least_squares
    if name == "Gaussian process":
        return baselines.gaussian_process
    if name == "Lasso":  # with the best alpha for each number of examples
        alphas = baselines.tune_lasso(sheet.function_class, e.stream(key, "lasso"), e.n_points,
                                      n_prompts=min(300, e.size.prompts))
        return partial(baselines.lasso, alpha=alphas)
    told = {MIXED: e.mixture, OWN: sheet.function_class}
    told |= {f"optimum of {c}": e.classes[c] for c in e.classes}
    try:
        told[name].hypotheses()
    except ValueError:
        return None
    return baselines.bayes(told[name])


def label_noise(e, name, trained):
    """Effective label noise (value, low, high) of a trained predictor: on all of its pretraining,
    and, of the mixture model, on each class alone."""
    def noise_on(c, n_prompts, *stream):  # prompts of c; the learner knows all of pretraining
        value, interval, _ = baselines.effective_noise(
            trained, e.pretraining[name], e.stream("noise", name, *stream), e.n_points, n_prompts,
            prompts_of=c)
        return value, *interval

    n = min(1000, e.size.prompts)
    noise = {"pretraining": noise_on(e.pretraining[name], n)}
    if name == "mixture":
        noise |= {part: noise_on(c, n // 2, part) for part, c in e.classes.items()}
    return noise


def measure(e, name, trained=None):
    """What a predictor answers: facts about it, and for each sheet an array (B, A): predictions
    after each of the A numbers of examples in sheet.at.

    trained: the function that predicts, if it is a model. With the mixture model go ideal
    learners, SHEET/wary and SHEET/noisy, as they need to know its effective label noise; with the
    wide one goes the exact optimum of its mixture, SHEET/optimum.
    """
    facts, arrays = {"size": asdict(e.size), "asked": e.asked}, {}
    if trained:
        facts["noise"] = label_noise(e, name, trained)
    for key, sheet in sheets_of(e).items():
        if not is_asked(e, name, key):
            continue
        predict = trained or computed(e, name, key, sheet)
        answers = {}  # SHEET, or SHEET/KIND of learners that go with a model -> (B, N)
        if predict:
            answers[key] = predict(sheet.xs, sheet.ys)
        if trained and name == "mixture":
            answers |= ideal_learners(e, facts["noise"]["pretraining"][0], key, sheet)
        if trained and name == "wide":
            answers[f"{key}/optimum"] = baselines.bayes(e.pretraining[name])(sheet.xs, sheet.ys)
        arrays |= {kind: np.float32(a[:, sheet.at]) for kind, a in answers.items()}
    return facts, arrays


def ideal_learners(e, s, key, sheet):
    """Answers of optima of the mixture that believe labels to have noise of standard deviation s:
    one reads the prompt's own labels; on ICL sheets, another reads labels with such noise."""
    s = float(np.nan_to_num(s, nan=1.0, posinf=1.0))  # 1 is the largest that was tried
    learner, answers = baselines.bayes(e.pretraining["mixture"], s), {}
    answers[f"{key}/wary"] = learner(sheet.xs, sheet.ys)
    if key.startswith("icl-"):
        z = e.stream(key, "label noise").standard_normal(sheet.ys.shape)
        answers[f"{key}/noisy"] = learner(sheet.xs, sheet.ys + s * z)
    return answers


def measure_job(p, send):
    """Measure a predictor in a process of its own, write its predictions, and send its name."""
    made_by = (f"Python {platform.python_version()}, NumPy {np.__version__}, "
               f"{platform.system()} {platform.machine()}")
    trained, made = None, {"settings": p.settings, "made_by": made_by}
    if p.steps:
        params, extra = p.load()
        if extra["step"] != p.steps:  # another run put it there meanwhile
            raise icl.Refused(f"{p.path} is not trained to its end")
        trained = partial(icl.predict, params, p.experiment.config)
        made["seconds"] = extra["seconds"]
        with contextlib.suppress(OSError, ValueError):  # it may be gone, or older
            made["curve"] = np.loadtxt(p.path.with_suffix(".csv"), delimiter=",", skiprows=1,
                                       usecols=(0, 2), ndmin=2).tolist()  # step, over_optimum
    facts, arrays = measure(p.experiment, p.name, trained)
    if trained and not all(np.isfinite(a).all() for a in arrays.values()):
        raise diverged(p, p.steps, "its predictions are not finite")
    files.write_predictions(p.predictions, facts | made, arrays)
    send(p.label)


# ---------------------------------------------------------------------------------- command line

def parse_arguments(argv):
    """The command line, checked; argparse exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description="Train transformers on mixtures of function classes and compare them with the "
                    "exact optimum. The default size is the paper's; tiny takes minutes on a "
                    "laptop, small some hours.", allow_abbrev=False)
    sizes, add = parser.add_mutually_exclusive_group(), parser.add_argument
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name, size in SIZES.items():
        sizes.add_argument(f"--{name}", dest="size", action="store_const", const=name,
                           default="paper", help=f"{size.n_layer} layers, {size.n_embd} channels")
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
    a = parser.parse_args(argv)
    for name, least in (("steps", 1), ("seed", 0), ("processes", 1)):
        value = getattr(a, name)
        if value is not None and value < least:
            parser.error(f"argument --{name}: must be {least} or more, not {value}")
    a.out = a.out or Path("runs") / "-".join(filter(None, [a.size, a.experiment]))
    return a


@np.errstate(all="ignore")  # what is not finite is told in words
def choose(a):
    """(shown, models, chosen): the experiments to measure and show; the models that --experiment
    names; and those of these models to train, to which --only narrows them down."""
    size = SIZES[a.size]
    if a.steps:
        size = replace(size, sparse_steps=a.steps, sine_steps=a.steps)
    try:
        experiments = [make_experiment(name, size, a.seed) for name in EXPERIMENTS]
        models = [p for e in experiments for p in predictors_of(e, a.out) if p.steps]
        for e in experiments:
            sheets_of(e)  # every class is sampled from, once
    except ValueError as error:
        raise icl.Refused(f"this size or a class cannot be: {error}") from error
    except (Exception, SystemExit) as error:  # a class of one's own can cause any
        raise icl.Refused(f"this size or a class cannot be: {jobs.where(error)}") from error
    if a.experiment == "coverage":  # of both experiments; wide models are trained by no other
        models = [model for model in models if model.name in ("mixture", "wide")]
    else:
        models = [model for model in models if model.name != "wide"
                  and a.experiment in (None, model.experiment.name)]
    chosen = [model for model in models if a.only in (None, model.name, model.label)]
    if not chosen:
        raise icl.Refused(f"there is no model {a.only!r}, but {', '.join(m.label for m in models)}")
    shown = [e for e in experiments if e in [model.experiment for model in chosen]
             or any((a.out / e.name).glob("*.npz"))]  # what is in the folder is shown, too
    return shown, models, chosen


def stages(a):
    """Train what is still to be trained, measure what is not yet measured, show what there is."""
    from results import report  # here, as it imports this module
    experiments, models, chosen = choose(a)
    predictors = [p for e in experiments for p in predictors_of(e, a.out)]
    predictors.sort(key=lambda p: -p.experiment.n_points * p.steps)  # the longest jobs first
    files.check(predictors, a.out)
    print(f"{a.size} size into {a.out}, seed {a.seed}, NumPy {np.__version__}")
    todo = [p for p in predictors if p in chosen and p.reached() < p.steps
            and not p.predictions.is_file()]  # predictions suffice where the checkpoint is gone
    if todo:
        for e in experiments:
            report.rehearse(e, a.out)  # all stages on a few prompts: mistakes show before training
        train_all(todo, a.processes)
    files.check(predictors, a.out)  # another run may have written some meanwhile
    due = [p for p in predictors if files.is_due(p)]
    jobs.side_by_side([(measure_job, p) for p in due], a.processes,
                      lambda _, sent: f"measuring: {len(sent)} of {len(due)} predictors done")
    report.show(a.out)
    if missing := [model.label for model in models if not model.predictions.is_file()]:
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
    except (icl.Refused, OSError, MemoryError, argparse.ArgumentError) as error:
        if isinstance(error, BrokenPipeError):
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # nobody reads on
        print(f"train.py: error: {str(error) or repr(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    import train  # not __main__: what is sent between processes names this module
    sys.exit(train.main())
