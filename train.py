# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy"]
# ///
"""Train transformers on mixtures of function classes and compare them with the exact optimum.

    python train.py --tiny          two experiments in minutes on a laptop
    python train.py --small         two hours on a laptop: the paper's findings, measured
    python train.py                 the paper's size: 12 layers, 256 channels

Each of two experiments, "sparse" and "sine", trains a model on each of two function classes (the
specialists) and one on their 50:50 mixture. Then all predictors, trained or computed, are evaluated
on fresh prompts, the same for all. Each figure stands with the claims that are read off it, the
paper's (arXiv 2311.00871) and some of our own.

In this order: sizes and experiments, training, processes, statistics, evaluation, drawing, main.
Models train side by side, each in a process of its own on one core. Whatever ends a run, the same
command goes on from its last checkpoints.
"""
import os

for _name in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM"):  # read by NumPy's BLAS
    os.environ.setdefault(f"{_name}_THREADS", "1")

import argparse
import contextlib
import html
import math
import multiprocessing
import multiprocessing.connection
import platform
import shlex
import shutil
import signal
import sys
import time
import traceback
import warnings
import zlib
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from statistics import NormalDist

import numpy as np

import baselines
import icl
from tasks import (ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, narrow,
                   sample_prompts)


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
    prompts: int = 2000       # to evaluate on; half as many for each class of a sweep


SIZES = {
    "tiny": Size(6, 4, 48, n_dims=3, nnz=1, sparse_points=8, sparse_steps=1500, prompts=1000,
                 sine_points=16, sine_steps=1400),
    "small": Size(8, 4, 64, n_dims=8, nnz=1, sparse_points=10, sparse_steps=20_000,
                  sine_points=21, sine_steps=3000, batch=128, prompts=3000),
    "paper": Size(12, 8, 256, n_dims=20, nnz=2, sparse_points=41, sparse_steps=3000,
                  sine_points=41, sine_steps=1500, curriculum=0.1),
}


@dataclass(frozen=True)
class Experiment:
    """Two classes of functions, and models that are trained on one of them or on a mixture.

    classes: name -> function class. pretraining: name of a model -> what it is trained on.
    steps: of training a specialist. curriculum: the share of them that `lesson` makes easier. at: the numbers of examples at which sweeps measure.
    models: name -> predictor, which `evaluate` loads. noise: name -> effective label noise and its
    95% interval, which `run` fills in before there are figures.
    """
    name: str
    classes: dict
    pretraining: dict
    size: Size
    n_points: int
    steps: int
    at: list
    seed: int = 0
    curriculum: float = 0.0
    models: dict = field(default_factory=dict)
    noise: dict = field(default_factory=dict)

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
    """The experiment of that name at a size.

    "sparse" and "sine" are the paper's: two specialists and a 50:50 mixture. "shares" asks of the
    sine classes whether a model selects as Bayes does when one class was rare in pretraining.
    """
    if size.prompts < 2 or size.batch < 1:
        raise ValueError("prompts must be 2 or more, and batch 1 or more")
    if name == "sparse":
        classes = {"dense": DenseLinear(size.n_dims), "sparse": SparseLinear(size.n_dims, size.nnz)}
        n_points, steps = size.sparse_points, size.sparse_steps
        at = [min(size.n_dims // 2 + 1, n_points - 1)]  # too few for least squares
        curriculum = size.curriculum
    else:
        classes = {"linear": DenseLinear(1), "sinusoid": Sinusoid()}
        n_points, steps = size.sine_points, size.sine_steps
        at = list(range(1, n_points))[-5:]  # the last five
        curriculum = 0.0  # one dim cannot be fewer
    mixture = lambda *weights: Mixture(tuple(classes.values()), weights)
    pretraining = classes | {"mixture": mixture(0.5, 0.5)}
    if name == "shares":
        pretraining = {"rare-linear": mixture(0.1, 0.9), "equal": mixture(0.5, 0.5),
                       "rare-sinusoid": mixture(0.9, 0.1)}
    return Experiment(name, classes, pretraining, size, n_points, steps, at, seed,
                      curriculum)


# -------------------------------------------------------------------------------------- training

@dataclass(frozen=True)
class Run:
    """A model to be trained: which one of which experiment, for how long, and kept where."""
    experiment: Experiment
    model: str
    steps: int
    path: Path

    @property
    def name(self):
        return f"{self.experiment.name}/{self.model}"

    @property
    def function_class(self):
        return self.experiment.pretraining[self.model]

    @property
    def settings(self):
        e = self.experiment
        return {"experiment": e.name, "model": self.model, "seed": e.seed, "steps": self.steps,
                "class": str(self.function_class), **asdict(e.config),
                **{k: getattr(e.size, k) for k in ("batch", "lr", "matrix_lr", "warmup")},
                **({"curriculum": e.curriculum, "first_dims": e.size.first_dims}
                   if e.curriculum else {})}

    def initial(self):  # stream 0 of a model draws its initial parameters
        return icl.init_params(self.experiment.config, self.experiment.stream(self.model, 0))

    def load(self, optimizer=None):
        """Parameters and extra of its checkpoint; icl.Refused if that is damaged or another's."""
        params, _, extra = icl.load_checkpoint(self.path, optimizer)
        made = dict(extra.get("settings") or {})
        for name, value in self.settings.items():
            if made.get(name) != value:
                raise icl.Refused(f"{self.path} was made with {name} = {made.get(name)}, not "
                                  f"{value}: choose another --out, or the same settings")
        return params, extra

    def finished(self):
        return self.path.exists() and self.load()[1].get("step") == self.steps

    def predictor(self):
        """The trained model; before training has ended, the untrained one, for a rehearsal."""
        e = self.experiment
        params = self.load()[0] if self.finished() else self.initial()
        return lambda xs, ys: icl.predict(params, e.config, xs, ys)


def runs_of(e, out):
    """The runs of an experiment's models. With twice the steps, a 50:50 mixture model sees as
    many prompts of a class as that class's specialist."""
    return [Run(e, m, e.steps * (1 + isinstance(c, Mixture)), out / e.name / f"{m}.npz")
            for m, c in e.pretraining.items()]


def lesson(run, progress):
    """What to train on when a share `progress` of the steps is done: function class, n_points.

    The curriculum of Garg et al. (arXiv 2208.01066, `src/curriculum.py` of their code): at first
    functions depend on few dims, d' of them, and prompts are short, 2d' + 1 points at most.
    """
    e, d, first = run.experiment, run.experiment.config.n_dims, run.experiment.size.first_dims
    if progress >= e.curriculum or first >= d:
        return run.function_class, e.n_points
    dims = first + int(progress / e.curriculum * (d - first))  # first to d - 1, equally long each
    return narrow(run.function_class, dims), min(e.n_points, 2 * dims + 1)


def training_batch(run, progress, rng):
    """Prompts of the present lesson and their weights in the loss: xs (B, N, d), ys, w (B, N)."""
    function_class, n_points = lesson(run, progress)
    xs, ys = sample_prompts(function_class, rng, run.experiment.size.batch, n_points)
    weights = icl.loss_weights(xs, ys)
    absent = run.experiment.config.n_dims - xs.shape[2]
    return np.pad(xs, ((0, 0), (0, 0), (0, absent))), ys, weights  # inputs not used are zero


def least_loss(function_class, n_points, rng):
    """The mean weighted loss of the exact optimum, which no training can fall below."""
    xs, ys = sample_prompts(function_class, rng, 2000, n_points)
    return np.mean(icl.loss_weights(xs, ys) * (baselines.bayes(function_class)(xs, ys) - ys) ** 2)


def points_until(run):
    """(steps + 1,): how many points the prompts of the first 0, 1, 2, ... steps have, each one."""
    return np.cumsum([0] + [lesson(run, step / run.steps)[1] for step in range(run.steps)])


def train(run, save_seconds, progress, slot):
    """Train a model to its end, going on from its checkpoint if there is one.

    Three numbers of `progress`, from index slot on, tell the parent process the steps so far, the
    loss minus the optimum's, and the seconds per point. Saves about every save_seconds; ends early
    when the parent is gone.
    """
    e, size = run.experiment, run.experiment.size
    params = run.initial()
    rng = e.stream(run.model, "training prompts")
    optimizer = icl.Muon(params, size.lr, size.matrix_lr, clip=1.0)
    losses, seconds = [], 0.0  # of every step; of all steps together
    if run.path.exists():
        params, extra = run.load(optimizer)
        losses, seconds, rng.bit_generator.state = extra["losses"], extra["seconds"], extra["rng"]

    def save():
        every = max(1, run.steps // 200)  # losses averaged into one row of the training curve
        rows = [f"{i},{np.mean(losses[i - every:i]):.9g}\n"
                for i in range(every, len(losses) + 1, every)]
        icl.write_whole(run.path.with_suffix(".csv"), "".join(["step,loss\n", *rows]).encode())
        done = len(losses) == run.steps  # then no training state is still needed
        state = {} if done else {"losses": losses, "rng": rng.bit_generator.state}
        icl.save_checkpoint(run.path, params, e.config, None if done else optimizer,
                            step=len(losses), seconds=seconds, settings=run.settings, **state)

    run.path.parent.mkdir(parents=True, exist_ok=True)
    save()  # so that what prevents saving is reported now
    saved, cost, parent = time.monotonic(), 0.0, multiprocessing.parent_process()
    over, present, points = [], None, points_until(run)  # over: the losses minus the optimum's
    for step in range(len(losses), run.steps):
        start, progress_made = time.monotonic(), step / run.steps
        if lesson(run, progress_made) != present:
            present = lesson(run, progress_made)
            optimum = least_loss(*present, e.stream(run.model, "optimum"))
        schedule = min(1, (step + 1) / size.warmup) * (1 - progress_made)
        optimizer.lr, optimizer.matrix_lr = size.lr * schedule, size.matrix_lr * schedule
        xs, ys, weights = training_batch(run, progress_made, rng)
        try:
            with np.errstate(all="ignore"):  # the optimiser says where numbers are not finite
                loss = icl.train_step(params, e.config, optimizer, xs, ys, weights)
        except FloatingPointError as error:
            raise icl.Refused(f"{run.name} diverged at step {step + 1} with seed {e.seed}: "
                              f"{error}; lower the learning rates of the Size") from error
        losses.append(loss)
        over.append(loss - optimum)
        now = time.monotonic()
        seconds += now - start
        progress[slot:slot + 3] = step + 1, np.mean(over[-50:]), seconds / points[step + 1]
        if parent is not None and not parent.is_alive():
            return
        if now - saved > max(save_seconds, 60 * cost):  # saving takes less than 2% of the time
            save()
            saved, cost = time.monotonic(), time.monotonic() - now
    save()


SAVE_SECONDS = 30  # between checkpoints


def train_all(runs, processes):
    """Train the runs side by side, the longest first, with one status line for all."""
    runs = sorted(runs, key=lambda run: -run.experiment.n_points * run.steps)
    progress = multiprocessing.get_context("spawn").Array("d", 3 * len(runs), lock=False)
    points = [points_until(run) for run in runs]  # a step's time grows with its prompts' points

    def status(working):
        step, over, pace = np.reshape(progress, (-1, 3)).T
        left = np.array([total[-1] - total[int(done)] for total, done in zip(points, step)])
        left = max(left.sum() / len(working), left.max())  # shared evenly, or the longest run's
        seconds = timedelta(seconds=round(max(pace[i] for i in working) * left))
        return (f"{seconds} left; " if seconds else "") + ", ".join(
            f"{runs[i].name} {step[i]:,.0f}/{runs[i].steps:,d} {over[i]:+.3f}" for i in working)

    side_by_side([(train, run, SAVE_SECONDS, progress, 3 * i) for i, run in enumerate(runs)],
                 processes, status)


# ------------------------------------------------------------------------------------- processes

def side_by_side(jobs, processes, status):
    """The results of jobs (function, *arguments), each in a process of its own, in their order.

    status(indices of the jobs under way) is what to show meanwhile. An icl.Refused or OSError of a
    job is raised here. An error or Ctrl-C ends the other processes.
    """
    spawn, pause = multiprocessing.get_context("spawn"), 0.2 if sys.stdout.isatty() else 10
    waiting, working, results = list(enumerate(jobs)), {}, [None] * len(jobs)
    try:
        while waiting or working:
            while waiting and len(working) < processes:
                i, job = waiting.pop(0)
                receiver, sender = spawn.Pipe(duplex=False)
                process = spawn.Process(target=work, args=(sender, *job), daemon=True)
                handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child inherits this
                process.start()
                signal.signal(signal.SIGINT, handler)
                sender.close()  # so that the pipe ends with the process
                working[receiver] = i, process
            for receiver in multiprocessing.connection.wait(list(working), pause):
                i, process = working[receiver]
                with contextlib.suppress(EOFError):
                    results[i] = receiver.recv()
                process.join()
                del working[receiver]
                if process.exitcode:  # a negative one: killed; this error is an OSError, too
                    raise ChildProcessError(f"a process ended with exit code {process.exitcode}; "
                                            "unless it said why, the same command goes on")
                if isinstance(results[i], Exception):
                    raise results[i]
            if working:
                show_status(status([i for i, _ in working.values()]))
    finally:
        show_status("")
        for _, process in working.values():
            process.terminate()
            process.join()
    return results


def work(sender, function, *arguments):
    """A job in its process: send the parent its result, or the error that it should report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = function(*arguments)
    except (icl.Refused, OSError) as e:
        result = e
    with contextlib.suppress(BrokenPipeError):  # the parent was killed
        sender.send(result)


def say(text, end="\n"):
    """Print; a stdout that is closed, broken or lacks a letter must not end a run."""
    try:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), end=end, flush=True)
    except (AttributeError, OSError, ValueError):  # None, if it was closed from the start
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # nobody reads on


def show_status(text):
    """A line that renews itself on a terminal, and a plain one elsewhere."""
    if sys.stdout.isatty():
        say(f"{text[:shutil.get_terminal_size().columns - 1]}\x1b[K\r", end="")
    elif text:
        say(text)


# ------------------------------------------------------------------------------------ statistics

Z = 1.96  # a 95% interval reaches this many standard errors to each side


@dataclass(frozen=True)
class Measure:
    """A number, the half width of its 95% interval over prompts, and the bound on it, if any."""
    what: str
    value: float
    margin: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def verdict(self):
        """With a bound: "holds" if the whole interval lies within, "undecided" if it crosses."""
        if self.at_least == -math.inf and self.at_most == math.inf:
            return "measured"
        low, high = self.value - self.margin, self.value + self.margin
        if self.at_least <= low and high <= self.at_most:
            return "holds"
        return "does not hold" if high < self.at_least or low > self.at_most else "undecided"

    @property
    def number(self):
        rounded = lambda v, digits: f"{float(f'{v:.{digits}g}'):g}"  # 210, not 2.1e+02
        bound = f" (at least {self.at_least:g})" if self.at_least > -math.inf else ""
        bound += f" (at most {self.at_most:g})" if self.at_most < math.inf else ""
        return f"{rounded(self.value, 3)} ± {rounded(self.margin, 2)}{bound}"


def mean(what, values, **bound):
    """Measure of the mean over prompts of values (B,)."""
    return Measure(what, values.mean(), Z * values.std(ddof=1) / math.sqrt(len(values)), **bound)


def ratio(what, a, b, **bound):
    """Measure of mean(a) / mean(b) over prompts, its interval by the delta method."""
    r = a.mean() / b.mean()
    return Measure(what, r, mean("", a - r * b).margin / b.mean(), **bound)


def farthest(what, values, **bound):
    """|Mean| of that column of values (B, X) whose mean is farthest from 0, of those without nan.

    Picked from many, it has a wider interval: all columns' intervals hold at once (Bonferroni).
    """
    sizes = [mean(what, v if v.mean() > 0 else -v, **bound) for v in values.T
             if not np.isnan(v).any()]
    worst = max(sizes, key=lambda m: m.value)
    return replace(worst, margin=worst.margin * NormalDist().inv_cdf(1 - 0.025 / len(sizes)) / Z)


@dataclass(frozen=True)
class Claim:
    """A claim, and what was measured of it. It holds where every measure with a bound does.

    known_at_small: it held in the committed runs of the small size. So tiny, or a run with --steps,
    says "not yet" until it does.
    """
    text: str
    measures: list
    known_at_small: bool = False

    @property
    def decisive(self):
        order = ["does not hold", "undecided", "holds", "measured"]
        return min(self.measures, key=lambda m: order.index(m.verdict))

    def verdict(self, smaller):
        verdict = self.decisive.verdict
        return "not yet" if smaller and self.known_at_small and verdict != "holds" else verdict


# ------------------------------------------------------------------------------------ evaluation

OWN, MIXED = "optimum for these functions", "optimum of the mixture"
# The Bayes optimum that believes labels to have noise s, the mixture model's effective label noise
# (in `selection`, each model's own). It also reads labels with noise s added, except in sweeps.
NOISY = "noisy ideal learner"


@dataclass
class Figure:
    """What one figure shows, and the claims read off it.

    values: (predictor, functions shown) -> squared error on each of B prompts at X places, (B, X).
    Along an ICL curve the places are numbers of examples; along a sweep each place has its own
    prompts. Where it is not the squared error, `ylabel` says what it is.
    """
    name: str
    title: str
    xlabel: str
    x: np.ndarray              # (X,)
    values: dict
    ylabel: str = "squared error"
    claims: list = field(default_factory=list)
    log: str = ""              # axes with a logarithmic scale: "x", "y" or "xy"
    backdrop: tuple = ()       # a label, and (X,) to be drawn behind the lines
    dots: tuple = ()           # (x, y) of points to be drawn

    def mean(self, key):
        return self.values[key].mean(0)

    def margin(self, key):
        v = self.values[key]
        return Z * v.std(0, ddof=1) / math.sqrt(len(v)) if len(v) > 1 else np.zeros(v.shape[1])


def on(shown, errors, models):
    """A Figure's values from errors by predictor: the model "dense" is shown as "dense model"."""
    return {(f"{p} model" if p in models else p, shown): v for p, v in errors.items()}


def noise_of(e, model):
    """The effective label noise of a model: value, (low, high). See baselines.effective_noise."""
    return baselines.effective_noise(e.models[model], e.pretraining[model],
                                     e.stream("noise", model), e.n_points,
                                     min(1000, e.size.prompts))[:2]


def noisy_learner(e, model="mixture"):
    """(learner, s): the ideal learner that believes in s, a model's effective label noise."""
    s = float(np.nan_to_num(e.noise[model][0], nan=1.0, posinf=1.0))  # 1: the largest s tried
    return baselines.bayes(e.pretraining[model], s), s


def noise_measure(e, model, **bound):
    """Measure of a model's effective label noise; its margin is the interval's longer side."""
    value, (low, high) = e.noise[model]
    margin = max(high - value, value - low) if math.isfinite(value) else 0.0
    return Measure(f"effective label noise of the {model} model", value, margin, **bound)


def residual(what, a, b, **bound):
    """Measure of how far apart two error curves (B, N) are: rms over positions 2 to N."""
    difference = (a - b)[:, 1:]
    curve = difference.mean(0)
    rms = math.sqrt(np.mean(curve**2)) + 1e-12
    # The samples below average to mean(curve^2) / rms = rms, and spread as rms does (delta method).
    return mean(what, (difference * curve).mean(1) / rms, **bound)


def span(numbers):
    """Increasing numbers in words: "2 to 7", or "5" if there is only one."""
    return " to ".join(str(n) for n in sorted({numbers[0], numbers[-1]}))


def icl_curves(e, shown, other):
    """Errors by number of examples on the class `shown`: a model, its optima, other predictors."""
    name, c = f"icl-{shown}", e.classes[shown]
    alphas = baselines.tune_lasso(c, e.stream(name, "lasso"), e.n_points,
                                  n_prompts=min(300, e.size.prompts))
    predictors = e.models | {
        "least squares": baselines.least_squares,
        "Lasso": lambda xs, ys: baselines.lasso(xs, ys, alphas),
        MIXED: baselines.bayes(e.mixture), OWN: baselines.bayes(c)}
    xs, ys = sample_prompts(c, e.stream(name), e.size.prompts, e.n_points)
    errors = {p: (predict(xs, ys) - ys) ** 2 for p, predict in predictors.items()}  # (B, N) each
    learner, s = noisy_learner(e)
    noisy_labels = ys + s * e.stream(name, "label noise").standard_normal(ys.shape)
    errors[NOISY] = (learner(xs, noisy_labels) - ys) ** 2
    average = {p: v.mean(1) for p, v in errors.items()}  # (B,) each, over the numbers of examples
    ours, our_curves, half = average["mixture"], errors["mixture"], e.n_points // 2
    from_two = slice(min(2, e.n_points - 1), None)
    halves = {"early": slice(1, max(2, half)), "late": slice(half, None)}
    figure = lambda kind, title, *lines: Figure(
        f"{kind}-{shown}", f"{shown.capitalize()} functions: {title}", "examples in the prompt",
        np.arange(e.n_points), on(shown, {p: errors[p] for p in lines}, e.models))
    f = figure("icl", "a model and its optimum", "mixture", shown, MIXED, NOISY)
    g = figure("others", "other predictors", "mixture", other, "least squares", "Lasso", OWN)
    f.claims = [
        Claim(f"near-optimal on {shown} functions", [
            noise_measure(e, "mixture", at_most=0.10),
            residual(f"its curve beside the {NOISY}'s", our_curves, errors[NOISY], at_most=0.03),
            residual("beside the exact optimum's", our_curves, errors[MIXED]),
            *(ratio(f"times that learner's error, {when}", our_curves[:, part].mean(1),
                    errors[NOISY][:, part].mean(1)) for when, part in halves.items()),
            mean("excess over the optimum of the mixture", ours - average[MIXED])],
            known_at_small=True),
        Claim(f"no extra cost on {shown} functions for not knowing the class", [
            ratio("times the specialist's error", ours, average[shown], at_most=1.1),
            ratio("times it from 2 examples on", our_curves[:, from_two].mean(1),
                  errors[shown][:, from_two].mean(1)),
            ratio("the optimum pays", average[MIXED], average[OWN]),
            noise_measure(e, "mixture"), noise_measure(e, shown)],
            known_at_small=shown == "dense")]
    g.claims = [
        Claim(f"the {other} specialist fails on {shown} functions", [
            ratio("times the mixture model's error", average[other], ours, at_least=2)],
            known_at_small=True)]
    if shown == "dense":
        g.claims.append(Claim("as good as least squares on dense functions", [
            ratio("times their error", ours, average["least squares"], at_most=1.1)]))
    if shown == "sparse":
        g.claims.append(Claim("better than least squares, as good as the Lasso on sparse ones", [
            ratio("times the Lasso's error", ours, average["Lasso"], at_most=1),
            ratio("times least squares'", ours, average["least squares"], at_most=1)],
            known_at_small=True))
    return [f, g]


def sweep(e, name, classes, predictors):
    """How predictors do on X classes, a dict of place on the x axis -> function class.

    Returns predictions[predictor] (B, X, A), after each of the A numbers of examples in e.at, and
    errors[predictor] (B, X), the squared error averaged over these.
    Three ideal learners go along: the optimum for the functions shown, where it can be enumerated
    (else nan); that of the pretraining mixture, which is what perfect pretraining would predict;
    and the noisy one, which here reads labels without noise.
    """
    predictions, targets = {}, []
    predictors = predictors | {MIXED: baselines.bayes(e.mixture), NOISY: noisy_learner(e)[0]}
    for x, c in classes.items():
        xs, ys = sample_prompts(c, e.stream(name, x), max(2, e.size.prompts // 2), e.at[-1] + 1)
        targets.append(ys[:, e.at])
        try:
            own = baselines.bayes(c)
        except ValueError:  # more hypotheses than can be enumerated
            own = lambda xs, ys: np.full_like(ys, np.nan)
        for p, predict in (predictors | {OWN: own}).items():
            predictions.setdefault(p, []).append(predict(xs, ys)[:, e.at])
    predictions = {p: np.stack(v, 1) for p, v in predictions.items()}
    ys = np.stack(targets, 1)
    return predictions, {p: ((v - ys) ** 2).mean(2) for p, v in predictions.items()}


def distances(predictions, places, control, x):
    """How far the mixture model is from two ideal learners and a specialist, at x[places]."""
    names = {NOISY: NOISY, MIXED: MIXED, control: f"{control} model"}
    return [mean(f"at {x[i]:g}, squared distance to the {name}",
                 ((predictions["mixture"] - predictions[p])[:, i] ** 2).mean(1))
            for i in places for p, name in names.items()]


def failure(shown, model, mixed, own, **bound):
    """The claim that says whose failure it is: does the optimum of the mixture fail, too?"""
    verb = "fails, too" if "at_least" in bound else "does not fail"
    return Claim(f"at {shown} an ideal learner of the mixture {verb}", [
        ratio("its excess over the optimum, as a share of the model's", mixed - own, model - own,
              **bound)])


def non_zeros(e):
    """Errors on functions with any number of non-zeros, and how far apart predictions are."""
    d = e.size.n_dims
    x, shown = np.arange(1, d + 1), f"x of {d} non-zeros"
    predictions, errors = sweep(e, "nnz", {k: SparseLinear(d, int(k)) for k in x},
                        e.models | {"least squares": baselines.least_squares})
    after = f"after {span(e.at)} examples"
    f = Figure("nnz", f"From sparse to dense, {after}", f"non-zero coefficients of {d}", x,
               on(shown, errors, e.models))
    pairs = ("mixture", "dense"), ("mixture", "sparse"), ("dense", "sparse"), ("mixture", MIXED)
    apart = {f"{a}-to-{b.split()[0]}": ((predictions[a] - predictions[b]) ** 2).mean(2)
             for a, b in pairs}
    g = Figure("nnz-distance", f"Whose predictions are they {after}?", f.xlabel, x,
               on(shown, apart, ()), "squared distance")
    # The paper looks at up to 7 of 20. There our optimum is nan from 6 on: too many hypotheses.
    places = (x > e.size.nnz) & (x <= min(7, d - 1)) & ~np.isnan(errors[OWN]).any(0)
    if places.any():
        where = f"{span(x[places])} non-zeros"
        average = lambda v: v[:, places].mean(1)
        model, mixed, own = (average(errors[p]) for p in ("mixture", MIXED, OWN))
        f.claims = [Claim(f"at {where} it leaves the optimum", [
            mean("excess over the optimum for these functions", model - own, at_least=0.02),
            *distances(predictions, np.flatnonzero(places)[:2], "dense", x)]),
            failure(where, model, mixed, own, at_least=0.5)]
        to_dense, to_sparse, between, _ = map(average, apart.values())  # as in pairs
        g.claims = [Claim(f"at {where} its predictions lie between the specialists'", [
            ratio("squared distance to the dense model, as a share of theirs", to_dense, between,
                  at_most=1),
            ratio("to the sparse model", to_sparse, between, at_most=1)], known_at_small=True)]
    return [f, g]


def weights(e):
    """Between the two classes: errors at any weight w of w line + (1 - w) sinusoid."""
    x = np.linspace(0, 1, 11)
    classes = {w: ConvexCombination(*e.classes.values(), float(w)) for w in x}
    predictions, errors = sweep(e, "weights", classes, e.models)
    errors = {p: v / (x**2 + (1 - x) ** 2) for p, v in errors.items()}
    at = lambda w, p="mixture": errors[p][:, round(10 * w)]  # (B,), at weight w
    return [Figure(
        "weights", f"Between the two classes, after {span(e.at)} examples",
        "weight w of w line + (1 - w) sinusoid", x,
        on("w line + (1 - w) sinusoid", errors, e.models),
        "squared error / Var f", log="y", claims=[
            Claim("the error rises from both classes to the combination", [
                mean("at weight 0.2, minus the sinusoids'", at(0.2) - at(0), at_least=0),
                mean("at weight 0.8, minus the lines'", at(0.8) - at(1), at_least=0)]),
            Claim("it fails on half of each", [
                mean("excess over the optimum there", at(0.5) - at(0.5, OWN), at_least=0.02),
                ratio("times that on sinusoids", at(0.5), at(0)),
                mean("the sinusoid specialist's error", at(0.5, "sinusoid")),
                *distances(predictions, [5], "sinusoid", x)], known_at_small=True),
            failure("half of each", at(0.5), at(0.5, MIXED), at(0.5, OWN), at_least=0.5)])]


def frequencies(e):
    """Sinusoids of any frequency, common and rare in pretraining."""
    x = np.array([0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10])
    models = {m: predict for m, predict in e.models.items() if m != "linear"}
    classes = {w: Sinusoid(frequency=float(w)) for w in x}
    predictions, errors = sweep(e, "frequency", classes, models)
    density = e.classes["sinusoid"].density(x)
    at = lambda i, p="mixture": errors[p][:, i]
    times = lambda i, **bound: ratio(f"at {x[i]:.2g}, times that at {x[density.argmax()]:.2g}",
                                     at(i), at(density.argmax()), **bound)
    return [Figure(
        "frequency", f"Common and rare frequencies, after {span(e.at)} examples",
        "frequency (radians per unit of x)", x,
        on("sinusoids of frequency x", errors, e.models), log="xy",
        backdrop=("density in pretraining", density), claims=[
            Claim("it fails at high frequencies, rare in pretraining", [
                times(-1, at_least=10), times(0),
                *distances(predictions, [9, 11, 13], "sinusoid", x)],  # at 3, 5, 10
                known_at_small=True),
            failure(f"frequency {x[-1]:.2g}", at(-1), at(-1, MIXED), at(-1, OWN), at_most=0.1)])]


def selection(e, *labels):
    """The weight that models put on the second class, by number of examples, beside Bayes'.

    With a and b the optimal predictions for the two classes and m the model's, that weight is the w
    that best mixes them into m:

        minimise E (m - (1 - w) a - w b)^2:   w = E (m - a)(b - a) / E (b - a)^2  over prompts.

    An optimum of the mixture has m = (1 - p) a + p b, p the exact posterior probability of the
    second class, so its own w is the mean of p, weighted in the same way by (b - a)^2. Where the
    two optima agree, E (b - a)^2 < 0.05, there is nothing to choose and no weight.
    """
    mixtures = [m for m in e.models if isinstance(e.pretraining[m], Mixture)]
    weights = {}  # a specialist has none: it has nothing to choose
    for label in labels:
        xs, ys = sample_prompts(e.classes[label], e.stream("selection", label), e.size.prompts,
                                e.n_points)
        z = e.stream("selection noise", label).standard_normal(ys.shape)
        a, b = (baselines.bayes(c)(xs, ys) for c in e.classes.values())
        step = (b - a)[:, 1:]  # (B, N - 1): from no example nothing can be told
        power = np.where((step**2).mean(0) > 0.05, (step**2).mean(0), np.nan)

        def weight_samples(m):  # (B, N - 1): their mean is w, their standard error w's
            share = (m - a)[:, 1:] * step
            w = share.mean(0) / power
            return w + (share - w * step**2) / power

        for model in mixtures:
            learner, s = noisy_learner(e, model)
            predictions = {"model": e.models[model](xs, ys),
                           "posterior": baselines.bayes(e.pretraining[model])(xs, ys),
                           "noisy learner": learner(xs, ys + s * z)}
            weights |= {(f"{model} {who}", f"{label} functions"): weight_samples(m)
                        for who, m in predictions.items()}
    claims = []
    for model in mixtures:
        of = lambda who: np.hstack([weights[f"{model} {who}", f"{c} functions"] for c in labels])
        posterior, learner = of("model") - of("posterior"), of("model") - of("noisy learner")
        if not np.isnan(posterior).all():
            claims.append(Claim(f"the {model} model selects a class as Bayes does", [
                farthest("weight off the posterior's by", posterior, at_most=0.1),
                farthest(f"off the {NOISY}'s by", learner)]))
    known = ~np.isnan([w[0] for w in weights.values()]).all(0)  # nan in one prompt is nan in all
    places = known.nonzero()[0].max(initial=0) + 1  # the figure ends where no weight is defined
    return [Figure("selection" if len(labels) > 1 else f"selection-{labels[0]}",
                   "Which class does it believe in?", "examples in the prompt",
                   np.arange(1, places + 1), {k: w[:, :places] for k, w in weights.items()},
                   f"weight on the {list(e.classes)[1]} class", claims)]


def predicted_functions(e):
    """What the mixture model believes a line, a sinusoid and half of each look like.

    Ten examples each, and a query at every place of a grid: prompts that differ in their last x.
    """
    grid, figures = np.linspace(-2.5, 2.5, 101, dtype=np.float32), []
    n = min(10, e.n_points - 1)
    for name, title, w in (("1", "a line", 1), ("2", "a sinusoid", 0), ("3", "half of each", 0.5)):
        rng = e.stream("functions", title)
        f = ConvexCombination(*e.classes.values(), float(w)).sample(rng, 1)
        examples = rng.uniform(-2.2, 2.2, n)
        xs = np.float32([[*examples, x] for x in grid])[..., None]  # (101, n + 1, 1)
        ys = np.float32(f(xs.reshape(1, -1, 1)).reshape(len(grid), -1))
        curves = {"true function": ys, "mixture model": e.models["mixture"](xs, ys),
                  MIXED: baselines.bayes(e.mixture)(xs, ys)}
        figures.append(Figure(
            f"functions-{name}", f"Learned from {n} examples: {title}", "x", grid,
            {(p, title): v[None, :, -1] for p, v in curves.items()}, "f(x)",
            dots=tuple(zip(examples, ys[0, :-1]))))
    return figures


EVALUATION = {  # experiment: its jobs, each a function and what it takes beside the experiment
    "sparse": [(icl_curves, "sparse", "dense"), (icl_curves, "dense", "sparse"), (non_zeros,),
               (selection, "dense", "sparse")],
    "sine": [(icl_curves, "linear", "sinusoid"), (icl_curves, "sinusoid", "linear"),
             (selection, "linear", "sinusoid"), (weights,), (frequencies,), (predicted_functions,)],
    "shares": [(selection, "linear"), (selection, "sinusoid")],
}


def evaluate(e, out, function, *arguments):
    """Call one of the functions above with the models from `out`; a job of side_by_side."""
    models = {run.model: run.predictor() for run in runs_of(e, out)}
    return function(replace(e, models=models), *arguments)


def rehearse(e, out):
    """Evaluate models, trained or not yet, on a handful of prompts before hours of training:
    icl.Refused, in one line that says where, if that cannot be done."""
    few = replace(e, size=replace(e.size, prompts=min(4, e.size.prompts)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a handful of prompts makes no statistics
            few = replace(few, noise={m: evaluate(few, out, noise_of, m) for m in e.pretraining})
            for job in EVALUATION[e.name]:
                for figure in evaluate(few, out, *job):
                    draw(figure)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise icl.Refused(f"{e.name} cannot be evaluated like this: {place.name}, line "
                          f"{place.lineno} of {Path(place.filename).name}: {error!r}") from error


# --------------------------------------------------------------------------------------- drawing

# Okabe and Ito's palette, apart for every kind of colour vision.
STYLES = {  # predictor: colour, dashes, width
    "mixture model": ("#d55e00", "", 3), "dense model": ("#0072b2", "", 1.8),
    "linear model": ("#0072b2", "", 1.8), "sparse model": ("#009e73", "", 1.8),
    "sinusoid model": ("#009e73", "", 1.8), "least squares": ("#cc79a7", "8 3", 1.8),
    "Lasso": ("#cc79a7", "2 3", 2.2), MIXED: ("currentColor", "6 4", 1.6),
    OWN: ("currentColor", "", 1.2), NOISY: ("#e69f00", "", 1.8),
    "true function": ("currentColor", "", 1.2)}
PALETTE = ["#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9"]  # for all other lines
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


def draw(f):
    """A Figure as an SVG document, with 95% intervals over prompts as bands."""
    ys = np.concatenate([f.mean(key) for key in f.values])
    low, high = np.nanmin(ys), np.nanmax(ys) + 1e-9
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    if f.ylabel != "f(x)":  # errors, weights: from 0 (2e-4 if log) or little below it, to 2 at most
        low, high = (2e-4 if "y" in f.log else min(0, max(-0.2, low))), min(2, high)
    first, last = f.x[0], f.x[-1] + (len(f.x) == 1)  # never of width zero
    to_x = scale(first, last, LEFT, WIDTH, "x" in f.log)
    to_y = scale(low, high, BOTTOM, -HEIGHT, "y" in f.log)
    points = lambda x, y: " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y) if b == b)  # no nan
    px, body, marks = to_x(f.x), [], []
    for v in ticks(low, high, "y" in f.log):
        body.append(f'<path class="grid" d="M{LEFT},{to_y(v):.1f}h{WIDTH}"/>'
                    + text(LEFT - 8, to_y(v) + 5, f"{v:.4g}", "end"))
    body += [text(to_x(v), BOTTOM + 20, f"{v:.4g}") for v in ticks(first, last, "x" in f.log)
             if v == int(v) or f.x.dtype != int]
    if f.backdrop:
        label, v = f.backdrop
        outline = points(px, BOTTOM - 0.6 * HEIGHT * v / v.max())
        body.append(f'<polygon class="soft" points="{LEFT},{BOTTOM} {outline} '
                    f'{LEFT + WIDTH},{BOTTOM}"/>')
        marks.append((label, '<path class="soft" d="M0,-10h30v10h-30z"/>'))
    several, colours = len({shown for _, shown in f.values}) > 1, {}
    for predictor, shown in f.values:
        y, margin = f.mean((predictor, shown)), f.margin((predictor, shown))
        # For `selection`: colour by model (first word) and functions, dashes by the last word.
        dashes = {"posterior": "7 3", "learner": "2 3"}.get(predictor.split()[-1], "")
        colour = colours.setdefault((predictor.split()[0], shown), PALETTE[len(colours) % 6])
        colour, dashes, width = STYLES.get(None if several else predictor, (colour, dashes, 2))
        pen = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}"'
        around = points([*px, *px[::-1]], [*to_y(y + margin), *to_y(y - margin)[::-1]])
        body.append(f'<polygon points="{around}" fill="{colour}" opacity=".18"/>'
                    f'<polyline points="{points(px, to_y(y))}" {pen}/>')
        marks.append((f"{predictor}, {shown}" if several else predictor,
                      f'<path d="M0,-5h30" {pen}/>'))
    body += [f'<circle cx="{to_x(a):.1f}" cy="{to_y(b):.1f}" r="4.5" fill="currentColor"/>'
             for a, b in f.dots]
    return document(f, "".join(body), marks)


def document(f, body, marks):
    """The SVG around what is drawn: title, axis labels and the key, of (label, mark) pairs."""
    columns = 2 if max(len(label) for label, _ in marks) <= 33 else 1
    rows = [marks[i:i + columns] for i in range(0, len(marks), columns)]
    key = "".join(f'<g transform="translate({LEFT - 48 + 280 * j} {BOTTOM + 70 + 22 * i})">'
                  f'{mark}{text(37, 0, label, "start")}</g>'
                  for i, row in enumerate(rows) for j, (label, mark) in enumerate(row))
    total = BOTTOM + 70 + 22 * len(rows)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 {total}" role="img">
<title>{html.escape(f.title)}</title><style>{CSS}</style>
<rect class="paper" width="620" height="{total}"/>
<g font-size="17" font-weight="600">{text(LEFT - 48, 26, f.title, "start")}</g>
<svg y="{TOP - 10}" height="{HEIGHT + 32}" viewBox="0 {TOP - 10} 620 {HEIGHT + 32}">{body}</svg>
<path class="grid" d="M{LEFT},{TOP}h{WIDTH}v{HEIGHT}h-{WIDTH}z"/>
{text(LEFT + WIDTH / 2, BOTTOM + 42, f.xlabel)}
<g transform="translate(13 {TOP + HEIGHT / 2}) rotate(-90)">{text(0, 0, f.ylabel)}</g>
<g font-size="14">{key}</g></svg>
"""


REPORT = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>In-context learning: {size}</title>
<style>
:root{{color-scheme:light dark}}
body{{font:17px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem}}
p,pre{{max-width:46rem}} pre{{white-space:pre-wrap;font:14px/1.45 ui-monospace,monospace}}
.figures{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:2rem}}
figure{{margin:0;break-inside:avoid}} svg{{width:100%;border:1px solid #8884;border-radius:6px}}
figcaption p{{margin:.5rem 0}} small{{display:block;opacity:.8}}
</style>
<h1>What a transformer learns in context</h1>
<div class="figures">{body}</div>
<h2>How to read this</h2>
<p>Each model reads examples (x, f(x)) in a prompt and predicts f at the next x. Errors are squared;
every class has Var f(x) = 1, so predicting zero costs 1. Bands and ± are 95% intervals over
prompts. The <em>optimum</em> is the exact posterior mean, the least error that is possible: for the
functions shown, or for one who knows only that they come from the mixture.</p>
<h2>Settings</h2><pre>{settings}</pre></html>
"""


def results_table(figures):
    """All figures as tidy rows of comma-separated text, without the places that have no number.

    The column error holds a squared error, or else what the last column, quantity, says.
    """
    rows = ["experiment,figure,predictor,functions,x,error,standard_error,quantity"]
    for name, f in figures:
        for key in f.values:
            rows += [f"{name},{f.name},{','.join(key)},{x:.6g},{error:.6g},{margin / Z:.3g},"
                     f"{f.ylabel}" for x, error, margin in zip(f.x, f.mean(key), f.margin(key))
                     if error == error]  # not nan
    return "\n".join(rows) + "\n"


# ------------------------------------------------------------------------------------------ main

def parse_arguments(argv):
    """The command line, checked; argparse exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description="Train transformers on mixtures of function classes and compare them with the "
                    "exact optimum. The default size is the paper's.", allow_abbrev=False)
    size, add = parser.add_mutually_exclusive_group(), parser.add_argument
    size.add_argument("--tiny", action="store_true", help="minutes on a laptop")
    size.add_argument("--small", action="store_true", help="two hours on a laptop")
    add("--experiment", choices=EVALUATION, help="one of them (default: sparse and sine)")
    add("--only", metavar="MODEL", help="only train this one, such as sparse/dense, so that "
        "machines which share a directory can share the work")
    add("--steps", type=int, help="of training a specialist; a mixture model takes twice as many")
    add("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    add("--processes", type=int, default=os.cpu_count() or 1,
        help="side by side (default: one a core); the numbers do not depend on it")
    add("--out", type=Path, help="default: runs/SIZE, or runs/SIZE-EXPERIMENT")
    a = parser.parse_args(argv)
    for name, least in (("steps", 1), ("seed", 0), ("processes", 1)):
        value = getattr(a, name)
        if value is not None and value < least:
            parser.error(f"argument --{name}: must be {least} or more, not {value}")
    a.size = "tiny" if a.tiny else "small" if a.small else "paper"
    a.experiments = [a.experiment] if a.experiment else ["sparse", "sine"]
    a.out = a.out or Path("runs") / "-".join(filter(None, [a.size, a.experiment]))
    return a


def run(a):
    """Train what is still to be trained; when all is, evaluate, draw and report."""
    size = SIZES[a.size]
    if a.steps:
        size = replace(size, sparse_steps=a.steps, sine_steps=a.steps)
    try:
        experiments = [make_experiment(name, size, a.seed) for name in a.experiments]
        runs = [run for e in experiments for run in runs_of(e, a.out)]
    except (ValueError, TypeError) as e:
        raise icl.Refused(f"this size cannot be: {e}") from e
    chosen = [r for r in runs if a.only in (None, r.model, r.name)]
    if not chosen:
        names = ", ".join(r.name for r in runs)
        raise icl.Refused(f"there is no model {a.only!r}, but {names}")
    todo = [r for r in runs if not r.finished() and r in chosen]  # refuses another run's files
    say(f"{a.size} size into {a.out}, seed {a.seed}, NumPy {np.__version__}")
    for e in experiments:
        say(f"{e.name}: models {', '.join(e.pretraining)} of {size.n_layer} layers, "
            f"{size.n_embd} channels, {e.n_points} points")
    if todo:
        for e in experiments:
            rehearse(e, a.out)
        say(f"training {', '.join(r.name for r in todo)}; shown are the steps, and how much the "
            "loss is over the optimum's")
        train_all(todo, a.processes)
    if waiting := [r.name for r in runs if not r.finished()]:
        return say(f"still to be trained before anything can be compared: {', '.join(waiting)}")
    if a.only:
        return say("all are trained; the same command without --only compares them")
    start = time.monotonic()
    side = lambda jobs: side_by_side(jobs, a.processes, lambda working: (
        f"evaluating, job {max(working) + 1} of {len(jobs)}"))
    noise = side([(evaluate, r.experiment, a.out, noise_of, r.model) for r in runs])
    for r, value in zip(runs, noise):  # many figures need these
        r.experiment.noise[r.model] = value
    jobs = [(evaluate, e, a.out, *job) for e in experiments for job in EVALUATION[e.name]]
    results = side(jobs)
    figures = [(e.name, f) for (_, e, *_), result in zip(jobs, results) for f in result]
    show(a, figures, runs, timedelta(seconds=round(time.monotonic() - start)))


def show(a, figures, runs, duration):
    """Write figures, tables and the report, and print one line a claim."""
    settings = [f"python {shlex.join(sys.argv)}",
                f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.system()} "
                f"{platform.machine()}, {os.cpu_count()} cores, {a.processes} processes; "
                f"{duration} of evaluation"]
    settings += [f"{r.name}: {timedelta(seconds=round(r.load()[1]['seconds']))} of training, "
                 f"{', '.join(f'{k} {v}' for k, v in r.settings.items())}" for r in runs]
    details, page, fewer = [], [], a.size == "tiny" or bool(a.steps)
    for name, f in figures:
        svg = draw(f)
        icl.write_whole(a.out / f"{name}-{f.name}.svg", svg.encode())
        page.append(f"<figure>{svg}<figcaption>")
        for c in f.claims:
            verdict = c.verdict(fewer)
            measured = "; ".join(f"{m.what} {m.number}" for m in c.measures)
            details.append(f"[{verdict}] {name}: {c.text}\n    {measured}")
            page.append(f"<p><b>{verdict.capitalize()}:</b> {html.escape(c.text)}. "
                        f"<small>{html.escape(measured)}</small></p>")
            say(f"{name:6s}  {verdict:13s}  {c.text}: {c.decisive.number}")
        page.append("</figcaption></figure>")
    report = REPORT.format(size=a.size, body="\n".join(page),
                           settings=html.escape("\n".join(settings)))
    for name, content in (("results.csv", results_table(figures)), ("report.html", report),
                          ("run.txt", "\n".join([*settings, "", *details]) + "\n")):
        icl.write_whole(a.out / name, content.encode())
    say(f"{a.out / 'report.html'} shows it all")


def main(argv=None):
    """One run. Exit status: 0, 2 for an error that its user can mend, or 130 for Ctrl-C."""
    try:
        run(parse_arguments(argv))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        print("\nstopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    except (icl.Refused, OSError) as e:
        print(f"train.py: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
