# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy"]
# ///
"""Train transformers on mixtures of function classes, compare them with the exact optimum, show it.

    python train.py --tiny          both experiments in minutes on a laptop
    python train.py --small         an evening on a laptop: the paper's findings, measured
    python train.py                 the paper's size: 12 layers, 256 channels

An experiment trains three models: one on each of two function classes (the specialists) and one on
their 50:50 mixture; "shares" trains on mixtures alone, 10:90, 50:50 and 90:10. Then everybody who
can predict, trained or computed, meets the same fresh prompts, and the program prints what the
paper claims (arXiv 2311.00871) next to what was measured.

The file reads in that order: sizes and experiments, training, evaluation, findings, figures, main.
"""
import icl  # before NumPy: it holds the BLAS to one thread

import argparse
import contextlib
import csv
import html
import io
import math
import multiprocessing
import os
import platform
import queue
import shlex
import signal
import sys
import textwrap
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist

import numpy as np

import baselines
from tasks import ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, sample_prompts


# ------------------------------------------------------------------------- sizes and experiments

@dataclass(frozen=True)
class Size:
    """How big a run is. The learning rates rise over the warm-up, then fall in a line to zero."""
    n_layer: int
    n_head: int
    n_embd: int
    n_dims: int        # of the sparse experiment's inputs; the sine experiment's are 1-D
    nnz: int           # non-zero coefficients of its sparse functions
    sparse_points: int
    sparse_steps: int  # of training
    sine_points: int
    sine_steps: int
    mixture_times: int = 1    # the mixture model trains for so many times these steps
    batch: int = 64
    lr: float = 3e-3          # Adam's, for gains, biases, read_in, read_out and positions
    matrix_lr: float = 0.02   # Muon's, for the matrices in the blocks
    warmup: int = 100
    prompts: int = 2000     # to evaluate an ICL curve on; half as many at each place of a sweep


SIZES = {
    "tiny": Size(6, 4, 48, n_dims=3, nnz=1, sparse_points=8, sparse_steps=3000,
                 sine_points=16, sine_steps=2400),
    "small": Size(8, 4, 64, n_dims=8, nnz=1, sparse_points=10, sparse_steps=20_000,
                  sine_points=21, sine_steps=6000, mixture_times=2, batch=128, prompts=4000),
    "paper": Size(12, 8, 256, n_dims=20, nnz=2, sparse_points=41, sparse_steps=500_000,
                  sine_points=41, sine_steps=500_000),
}


@dataclass(frozen=True)
class Experiment:
    """Two classes of functions, and models that are trained on one of them or on a mixture.

    classes: name -> function class. pretraining: name of a model -> what it is trained on.
    steps: of training; the "mixture" model's are size.mixture_times as many. At 2 times it sees as
    many prompts of either class as that class's specialist.
    """
    name: str
    classes: dict
    pretraining: dict
    size: Size
    n_points: int
    steps: int

    def steps_of(self, model):
        return self.steps * (self.size.mixture_times if model == "mixture" else 1)

    @property
    def sweep_examples(self):
        """After how many examples sweeps look: too few for least squares, or the last five."""
        few = self.size.n_dims // 2 + 1
        return [few] if self.name == "sparse" else list(range(self.n_points))[-5:]

    @property
    def mixture(self):
        return Mixture(tuple(self.classes.values()))

    @property
    def config(self):
        return icl.Config(self.mixture.n_dims, self.n_points, self.size.n_layer, self.size.n_head,
                          self.size.n_embd)


def make_experiment(name, size, steps=None):
    """An experiment at a size; `steps`, if given, instead of the size's.

    "sparse" and "sine" are the paper's: two specialists and a 50:50 mixture. "shares" asks of the
    sine classes whether a model selects as Bayes does when one class was rare in pretraining.
    """
    if name == "sparse":
        classes = {"dense": DenseLinear(size.n_dims), "sparse": SparseLinear(size.n_dims, size.nnz)}
        shape = size.sparse_points, steps or size.sparse_steps
    else:
        classes = {"linear": DenseLinear(1), "sinusoid": Sinusoid()}
        shape = size.sine_points, steps or size.sine_steps
    mixture = lambda *weights: Mixture(tuple(classes.values()), weights or None)
    models = classes | {"mixture": mixture()}
    if name == "shares":
        models = {"rare-linear": mixture(0.1, 0.9), "equal": mixture(0.5, 0.5),
                  "rare-sinusoid": mixture(0.9, 0.1)}
    return Experiment(name, classes, models, size, *shape)


EXPERIMENTS = {name: list(make_experiment(name, SIZES["tiny"]).pretraining)
               for name in ("sparse", "sine", "shares")}


def random_stream(seed, *purpose):
    """An independent generator for each purpose, so that evaluation cannot disturb training."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, purpose)).encode())])


# -------------------------------------------------------------------------------------- training

SAVE_SECONDS = 30  # between checkpoints


class Stopped(Exception):
    """Ctrl-C came, and what was under way has been saved."""


@dataclass
class Run:
    """One model's training: everything that a checkpoint holds.

    Once finished, a checkpoint is what is still needed: the parameters, without the optimiser's
    state and the random generator's.
    """
    experiment: Experiment
    model: str
    seed: int
    path: Path
    step: int = 0
    seconds: float = 0.0  # spent on the steps so far
    log: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # step, mean weighted loss

    def __post_init__(self):
        e = self.experiment
        self.config = e.config
        self.params = icl.init_params(self.config, random_stream(self.seed, e.name, self.model, 0))
        self.rng = random_stream(self.seed, e.name, self.model, "training prompts")
        self.optimizer = icl.Muon(self.params, e.size.lr, e.size.matrix_lr, clip=1.0)
        self.steps = e.steps_of(self.model)
        self.settings = {"experiment": e.name, "model": self.model, "seed": self.seed,
                         "steps": self.steps, "n_points": e.n_points,
                         "class": str(self.function_class), **asdict(self.config),
                         **{k: getattr(e.size, k) for k in ("batch", "lr", "matrix_lr", "warmup")}}
        self.pending = []  # losses since the last row of the log

    @property
    def function_class(self):
        return self.experiment.pretraining[self.model]

    @property
    def name(self):
        return f"{self.experiment.name}/{self.model}"

    @property
    def finished(self):
        return self.step == self.steps

    def one_step(self):
        e, size, start = self.experiment, self.experiment.size, time.monotonic()
        warm = min(1, (self.step + 1) / size.warmup)
        schedule = warm * (1 - self.step / self.steps)
        self.optimizer.lr, self.optimizer.matrix_lr = size.lr * schedule, size.matrix_lr * schedule
        xs, ys = sample_prompts(self.function_class, self.rng, size.batch, e.n_points)
        try:
            loss = icl.train_step(self.params, self.config, self.optimizer, xs, ys,
                                  icl.loss_weights(xs, ys))
        except FloatingPointError as error:
            raise icl.Refused(f"{self.name} diverged at step {self.step + 1} with seed "
                              f"{self.seed}: {error}; lower the learning rates in SIZES. The last "
                              "checkpoint, of finite numbers, is kept") from error
        self.step += 1
        self.seconds += time.monotonic() - start
        self.pending.append(loss)
        if self.step % max(1, self.steps // 200) == 0 or self.finished:
            self.log = np.vstack([self.log, [self.step, np.mean(self.pending)]])
            self.pending = []

    def save(self):
        """The log as text first, so that a checkpoint never stands without its log."""
        with icl.replacing(self.path.with_suffix(".csv")) as file:
            rows = "".join(f"{int(step)},{loss:.9g}\n" for step, loss in self.log)
            file.write(f"step,loss\n{rows}".encode())
        whole = (None, None) if self.finished else (self.optimizer, self.rng)
        icl.save_checkpoint(self.path, self.params, self.config, *whole, step=self.step,
                            log=self.log, pending=self.pending, seconds=self.seconds,
                            settings=self.settings)
        if self.finished:
            icl.previous(self.path).unlink(missing_ok=True)

    def load(self):
        """Go on from the checkpoint, if there is one; Refused if it is damaged or another's."""
        path, older = self.path, icl.previous(self.path)
        if not path.exists():
            if not older.exists():
                return
            path = older  # the machine died between two renames
        try:
            extra = icl.load_checkpoint(path)[2]
            step, log, pending, seconds = (
                extra[name] for name in ("step", "log", "pending", "seconds"))
            for name, value in self.settings.items():
                made = extra["settings"][name]
                if made != value:
                    raise icl.Refused(f"{path} was made with {name} = {made}, not {value}: "
                                      "choose another --out, or the same settings")
            if not (type(step) is int and 0 <= step <= self.steps and log.ndim == 2
                    and log.shape[1] == 2 and type(seconds) is float
                    and all(type(loss) is float for loss in pending)):
                raise icl.Refused(f"{path} holds no run of {self.steps} steps")
            whole = () if step == self.steps else (self.optimizer, self.rng)
            params, _, _ = icl.load_checkpoint(path, *whole)
        except (KeyError, TypeError, AttributeError) as e:
            raise icl.Refused(f"{path} is a checkpoint, but not one of this program's runs") from e
        except icl.Refused as e:
            if path != older and older.exists() and "was made with" not in str(e):
                raise icl.Refused(f"{e}; the one before it is kept: to go on from there, "
                                  f"rename {older.name} to {path.name}") from e
            raise
        self.params, self.step, self.seconds = params, step, seconds
        self.log, self.pending = log, pending


@contextlib.contextmanager
def lock(path):
    """Hold the file `path`, or Refused naming the process that does. The system lets go of it
    when the process ends, however it ends, so a dead run blocks nobody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            if os.name == "nt":
                import msvcrt
                file.seek(1 << 20)  # a byte beyond the text, which others may then still read
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read() or "another process"
            raise icl.Refused(f"{path.parent} is in use by {holder}: let it finish, or choose "
                              "another --out") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def train(run, say, stop):
    """Train until done, or until stop() says to: then Stopped. Saves about every half minute."""
    xs, ys = sample_prompts(run.function_class, random_stream(run.seed, "optimum"), 2000,
                            run.experiment.n_points)
    best = baselines.bayes(run.function_class)(xs, ys)
    optimum, _ = icl.mean_squared_error(best, ys, icl.loss_weights(xs, ys))
    started, first, saved, cost = time.monotonic(), run.step, time.monotonic(), 0.0
    while not run.finished and not stop():
        run.one_step()
        now = time.monotonic()
        rate = (run.step - first) / (now - started)  # steps a second
        loss = run.log[-5:, 1].mean() if len(run.log) else np.mean(run.pending)
        say(run.name, f"{run.name:13s} {run.step:6,d}/{run.steps:,d}"
            f"{clock((run.steps - run.step) / rate):>8s} left  "
            f"loss {loss:.4f}, {loss - optimum:+.4f} over the optimum  "
            f"{rate * run.experiment.size.batch:,.0f} prompts/s", run.finished)
        if now - saved > max(SAVE_SECONDS, 60 * cost) and not run.finished:
            run.save()  # takes less than 2% of the time
            saved, cost = time.monotonic(), time.monotonic() - now
    run.save()
    if not run.finished:
        raise Stopped


def train_all(runs, threads):
    """Train the runs side by side, each in a process of its own: two models on a core each take
    three quarters of the time that one after the other takes on both. The threads are shared out
    among those under way. Ctrl-C saves them all, then raises Stopped.
    """
    workers = min(threads, len(runs))
    spawn = multiprocessing.get_context("spawn")
    news, stop, say, asked = spawn.Queue(), spawn.Event(), Progress(), []
    share = spawn.Value("i", threads // workers)  # of the threads, for each worker
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for those born now
    try:
        with ProcessPoolExecutor(workers, spawn, _start_worker,
                                 (SAVE_SECONDS, news, stop, share)) as pool:
            jobs = [pool.submit(_train_in_worker, run) for run in runs]
            signal.signal(signal.SIGINT, lambda *_: asked.append(True))
            while left := [job for job in jobs if not job.done()]:
                share.value = threads // min(workers, len(left))
                if asked or any(job.done() and job.exception() for job in jobs):
                    stop.set()  # one that fails stops the rest
                with contextlib.suppress(queue.Empty):
                    say(*news.get(timeout=0.1))
        while not news.empty():  # the workers have ended: all that they said is here
            say(*news.get())
    finally:
        signal.signal(signal.SIGINT, previous)
    failures = [job.exception() for job in jobs if job.exception()]
    if failures:
        raise min(failures, key=lambda e: isinstance(e, Stopped))  # what stopped the others first


def _start_worker(*shared):
    global SAVE_SECONDS, _news, _stop, _share
    SAVE_SECONDS, _news, _stop, _share = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)  # the parent was killed: its checkpoints are another run's now


def _train_in_worker(run):
    shown = [0.0]

    def say(name, text, last):
        if last or time.monotonic() - shown[0] > 0.2:
            _news.put((name, text, last))
            shown[0] = time.monotonic()

    def stop():
        if icl.threads() != _share.value:
            icl.set_threads(_share.value)  # which changes no bit
        return _stop.is_set()

    train(run, say, stop)


def estimate_seconds(runs, threads):
    """The time that the unfinished runs will take side by side, from four measured steps of each.
    """
    workers, seconds = min(threads, len(runs)), []
    icl.set_threads(threads // workers)
    for run in runs:
        probe = Run(run.experiment, run.model, run.seed, run.path)
        times = []
        for _ in range(4):
            start = time.monotonic()
            probe.one_step()
            times.append(time.monotonic() - start)
        seconds.append(min(times) * (run.steps - run.step))  # the first one warms up
    icl.set_threads(threads)
    return max(sum(seconds) / workers, max(seconds))


# ------------------------------------------------------------------------------------ evaluation

@dataclass
class Figure:
    """What one figure shows: each predictor's squared error on the same B prompts, at X places.

    Along an ICL curve the places are numbers of examples; along a sweep each has prompts of its
    own. Where it is not the squared error, `ylabel` says what it is.
    """
    experiment: str
    name: str
    title: str
    xlabel: str
    x: np.ndarray              # (X,)
    classes: list              # (X,), the functions shown at each place
    errors: dict               # predictor -> (B, X)
    ylabel: str = "squared error"
    backdrop: np.ndarray | None = None  # (X,), drawn behind the lines, and what it is
    backdrop_label: str = ""
    log: str = ""              # axes with a logarithmic scale: "x", "y" or "xy"
    group: int = 0             # lines come in groups of so many, of one colour and several dashes

    def mean(self, predictor):
        return self.errors[predictor].mean(0)

    def standard_error(self, predictor):
        return self.errors[predictor].std(0, ddof=1) / math.sqrt(len(self.errors[predictor]))


OWN, MIXED = "optimum for these functions", "optimum of the mixture"
OTHER = "optimum for the other class"  # how a perfect specialist would fail: in the table alone


def run_predictors(predictors, xs, ys):
    """Predictions (B, N) of each predictor. Chunks of prompts run side by side on the cores."""
    chunks = [slice(i, i + 250) for i in range(0, len(xs), 250)]
    with ThreadPoolExecutor(icl.threads()) as pool:
        jobs = {name: [pool.submit(p, xs[chunk], ys[chunk]) for chunk in chunks]
                for name, p in predictors.items()}
        return {name: np.concatenate([job.result() for job in jobs[name]]) for name in jobs}


def icl_curve(e, predictors, function_class, seed, name, title, variance=1.0, other=None):
    """Error against the number of examples, on fresh prompts from `function_class`."""
    stream = lambda purpose: random_stream(seed, e.name, name, purpose)
    alphas = baselines.tune_lasso(function_class, stream("lasso"), e.n_points)
    predictors = predictors | {
        "least squares": baselines.least_squares,
        "Lasso": lambda xs, ys: baselines.lasso(xs, ys, alphas),
        MIXED: baselines.bayes(e.mixture), OWN: baselines.bayes(function_class)}
    if other is not None:
        predictors[OTHER] = baselines.bayes(other)
    xs, ys = sample_prompts(function_class, stream("prompts"), e.size.prompts, e.n_points)
    predictions = run_predictors(predictors, xs, ys)
    errors = {p: (predictions[p] - ys) ** 2 / variance for p in predictors}
    return Figure(e.name, name, title, "examples in the prompt", np.arange(e.n_points),
                  [function_class] * e.n_points, errors)


def sweep(e, predictors, classes, x, at, seed, name, title, xlabel, variance=None, **look):
    """Mean error after each of `at` examples on a family of classes, one at each place x.

    Also the predictions (B, X, len(at)), by predictor. Two exact yardsticks: the optimum for the
    functions shown, and the pretraining mixture's, which is what perfect pretraining would predict.
    """
    variance = np.ones(len(x)) if variance is None else variance
    columns, ys_at = {}, []
    for value, c in zip(x, classes):
        xs, ys = sample_prompts(c, random_stream(seed, e.name, name, value),
                                e.size.prompts // 2, at[-1] + 1)
        everyone = predictors | {MIXED: baselines.bayes(e.mixture)}
        try:
            everyone[OWN] = baselines.bayes(c)
        except ValueError:
            pass  # more hypotheses than can be enumerated: this place has no exact optimum
        for p, predictions in run_predictors(everyone, xs, ys).items():
            columns.setdefault(p, {})[value] = predictions[:, at]
        ys_at.append(ys[:, at])
    ys_at = np.stack(ys_at, 1)  # (B, X, len(at))
    missing = np.full_like(ys_at[:, 0], np.nan)
    predictions = {p: np.stack([columns[p].get(value, missing) for value in x], 1) for p in columns}
    errors = {p: ((predictions[p] - ys_at) ** 2).mean(2) / variance for p in predictions}
    return Figure(e.name, name, title, xlabel, np.asarray(x), classes, errors, **look), predictions


def evaluate_sparse(e, predictors, seed):
    """The figures of the sparse experiment, one by one; predictors: the three models, by name."""
    d, dense, sparse = e.size.n_dims, *e.classes.values()
    yield icl_curve(e, predictors, dense, seed, "icl-dense",
                    "Dense functions: the mixture model beside its specialist", other=sparse)
    yield icl_curve(e, predictors, sparse, seed, "icl-sparse",
                    "Sparse functions: the mixture model beside its specialist", other=dense)
    at, x = e.sweep_examples, np.arange(1, d + 1)
    figure, predictions = sweep(
        e, predictors | {"least squares": baselines.least_squares},
        [SparseLinear(d, int(k)) for k in x], x, at, seed, "nnz",
        f"From sparse to dense, {after(at)}", f"non-zero coefficients of {d}")
    yield figure
    pairs = {"mixture model to dense model": ("mixture model", "dense model"),
             "mixture model to sparse model": ("mixture model", "sparse model"),
             "dense model to sparse model": ("dense model", "sparse model"),
             "mixture model to its optimum": ("mixture model", MIXED),
             f"mixture model to {OWN}": ("mixture model", OWN)}
    distances = {p: ((predictions[a] - predictions[b]) ** 2).mean(2)
                 for p, (a, b) in pairs.items()}
    yield Figure(e.name, "nnz-distance", f"Whose predictions are they {after(at)}?",
                 figure.xlabel, x, figure.classes, distances, ylabel="squared distance")
    medium = SparseLinear(d, min(max(3, 2 * e.size.nnz), d - 1))
    yield noise_floor(e, predictors, [(f"{medium.nnz} of {d} non-zeros", medium, 1.0)], at, seed)
    yield selection(e, {"mixture model": (predictors["mixture model"], e.mixture)},
                    {"dense functions": dense, "sparse functions": sparse,
                     f"{medium.nnz} of {d} non-zeros": medium}, seed, "selection",
                    "Which class does it believe in?", "sparse")


def evaluate_sine(e, predictors, seed):
    """The figures of the sine experiment, one by one; predictors: the three models, by name."""
    linear, sinusoid = e.classes.values()
    late = e.sweep_examples
    yield icl_curve(e, predictors, linear, seed, "icl-linear",
                    "Lines: the mixture model beside its specialist", other=sinusoid)
    yield icl_curve(e, predictors, sinusoid, seed, "icl-sinusoid",
                    "Sinusoids: the mixture model beside its specialist", other=linear)
    yield large_values(e, predictors["mixture model"], linear, seed)
    relative = "squared error / Var f"
    combine = lambda w: ConvexCombination(linear, sinusoid, float(w))
    half = icl_curve(e, predictors, combine(0.5), seed, "icl-half",
                     "Half line, half sinusoid: do more examples help?", variance=0.5)
    half.ylabel = relative
    yield half
    weights = np.linspace(0, 1, 11)
    yield sweep(e, predictors, [combine(w) for w in weights], weights, late, seed, "weights",
                f"Between the two classes, {after(late)}",
                "weight w of w line + (1 - w) sinusoid", weights**2 + (1 - weights) ** 2,
                ylabel=relative, log="y")[0]
    omegas = np.geomspace(0.1, 10, 13)
    waves = {p: f for p, f in predictors.items() if p != "linear model"}
    yield sweep(e, waves, [Sinusoid(frequency=float(omega)) for omega in omegas], omegas, late,
                seed, "frequency", f"Common and rare frequencies, {after(late)}",
                "frequency (radians per unit of x)", log="xy", backdrop=sinusoid.density(omegas),
                backdrop_label="density in pretraining")[0]
    fast = Sinusoid(frequency=float(omegas[-1]))
    yield noise_floor(e, predictors, [("half and half", combine(0.5), 0.5),
                                      (f"frequency {fast.frequency:g}", fast, 1.0)], late, seed)
    yield selection(e, {"mixture model": (predictors["mixture model"], e.mixture)},
                    {"lines": linear, "sinusoids": sinusoid, "half and half": combine(0.5)}, seed,
                    "selection", "Which class does it believe in?", "sinusoid")


def large_values(e, model, function_class, seed):
    """How much of a model's error comes from values f(x) beyond a given size.

    The final layer norm gives every token's vector the length sqrt(C) before gain and read_out, so
    predictions are bounded. Larger values are so rare that this takes ten times a curve's prompts.
    """
    xs, ys = sample_prompts(function_class, random_stream(seed, e.name, "large values"),
                            10 * e.size.prompts, e.n_points)
    predictions = run_predictors({"mixture model": model}, xs, ys)["mixture model"]
    late, sizes = slice(e.sweep_examples[0], None), np.arange(13)
    errors = (predictions - ys)[:, late, None] ** 2  # (B, 5, 1)
    errors = (errors * (abs(ys[:, late, None]) > sizes)).mean(1)  # (B, X)
    return Figure(e.name, "large-values",
                  f"Lines: no prediction exceeds {math.ceil(10 * abs(predictions).max()) / 10}",
                  "t", sizes, [function_class] * len(sizes), {"mixture model": errors},
                  ylabel="squared error where |f(x)| > t")


def noise_floor(e, predictors, cases, at, seed):
    """Would one who knows the mixture exactly fail too? The pretraining optimum beside the model.

    cases: (name, function class, variance) each. The exact posterior assumes a little noise, its
    floor; the optimum is shown for a hundredth of it to a hundred times as much.
    """
    times = np.array([0.01, 0.1, 1.0, 10.0, 100.0])
    errors = {}
    for name, c, variance in cases:
        xs, ys = sample_prompts(c, random_stream(seed, e.name, "noise floor", name),
                                e.size.prompts // 2, at[-1] + 1)
        optima = {f"noise x {t}": baselines.bayes(e.mixture, t) for t in times}
        model_and_own = {"mixture model": predictors["mixture model"], OWN: baselines.bayes(c)}
        out = run_predictors(optima | model_and_own, xs, ys)
        error = {p: ((out[p] - ys)[:, at] ** 2).mean(1) / variance for p in out}  # (B,) each
        errors[f"mixture model, {name}"] = np.tile(error["mixture model"][:, None], len(times))
        errors[f"{MIXED}, {name}"] = np.stack([error[p] for p in optima], 1)
        errors[f"{OWN}, {name}"] = np.tile(error[OWN][:, None], len(times))
    return Figure(e.name, "noise-floor", f"Whose failure is it {after(at)}?",
                  "noise that the exact posterior assumes, times its own", times, [""] * len(times),
                  errors, ylabel="squared error / Var f", log="x", group=3)


def selection(e, models, classes, seed, name, title, second):
    """The weight that models put on the second class, by number of examples, beside Bayes'.

    models: name -> (predictor, the mixture it was trained on). With a and b the optimal predictions
    for the two classes and m the model's, that weight is the w that best mixes them into m:

        minimise E (m - (1 - w) a - w b)^2:   w = E (m - a)(b - a) / E (b - a)^2  over prompts.

    An optimum of the mixture has m = (1 - p) a + p b, p the exact posterior probability of the
    second class, so its own w is the mean of p, weighted in the same way by (b - a)^2. Where the
    two optima agree, E (b - a)^2 < 0.05, there is nothing to choose and no weight.
    """
    values = {}
    for label, c in classes.items():
        xs, ys = sample_prompts(c, random_stream(seed, e.name, name, label), e.size.prompts,
                                e.n_points)
        a, b = (baselines.bayes(part) for part in e.classes.values())
        out = run_predictors({"a": a, "b": b} | {m: f for m, (f, _) in models.items()}, xs, ys)
        step = (out["b"] - out["a"])[:, 1:]  # (B, N - 1): from no example nothing can be told
        power = np.where((step**2).mean(0) > 0.05, (step**2).mean(0), np.nan)
        for m, (_, mixture) in models.items():
            posterior = baselines.class_probabilities(mixture)
            p = run_predictors({"p": posterior}, xs, ys)["p"][:, 1:, 1]
            share = (out[m] - out["a"])[:, 1:] * step
            for who, num in ((m, share), (m.replace("model", "posterior"), p * step**2)):
                w = num.mean(0) / power
                # a ratio of means, as the mean of what each prompt adds to it to first order
                values[f"{who}, {label}"] = w + (num - w * step**2) / power
    places = max(np.flatnonzero(~np.isnan(v[0]))[-1] for v in values.values()) + 1
    return Figure(e.name, name, title, "examples in the prompt", np.arange(1, places + 1),
                  [""] * places, {who: v[:, :places] for who, v in values.items()},
                  ylabel=f"weight on the {second} class", group=2)


def evaluate_shares(e, predictors, seed):
    """Does a model select as Bayes does when one class was rare in pretraining?"""
    models = {m: (f, e.pretraining[m.removesuffix(" model")]) for m, f in predictors.items()}
    for label, c in e.classes.items():
        yield selection(e, models, {f"{label} functions": c}, seed, f"selection-{label}",
                        f"{label.capitalize()} functions: pretraining shares act as priors",
                        "sinusoid")


def predicted_functions(e, predictors, seed, n_examples=10):
    """What the mixture model believes a line, a sinusoid and their half-and-half sum look like.

    One context each, its x spread evenly, and a query at every place of a grid: a batch of prompts
    that differ in their last x only. Yields (title, grid, curves by name, example xs, example ys).
    """
    linear, sinusoid = e.classes.values()
    grid = np.linspace(-2.5, 2.5, 101, dtype=np.float32)
    titles = {"a line": linear, "a sinusoid": sinusoid,
              "half of each": ConvexCombination(linear, sinusoid, 0.5)}
    for title, c in titles.items():
        rng = random_stream(seed, e.name, "functions", title)
        f = c.sample(rng, 1)
        examples = rng.uniform(-2.2, 2.2, n_examples).astype(np.float32)
        xs = np.tile(examples, (len(grid), 1))
        xs = np.concatenate([xs, grid[:, None]], axis=1)[..., None]  # (101, n + 1, 1)
        ys = f(xs.reshape(1, -1, 1)).reshape(len(grid), -1).astype(np.float32)
        curves = {"true function": ys[:, -1]}
        for name in ("mixture model", MIXED):
            predictor = predictors.get(name) or baselines.bayes(e.mixture)
            curves[name] = predictor(xs, ys)[:, -1]
        yield title, grid, curves, examples, ys[0, :-1]


def results_table(figures):
    """All figures as tidy rows of text, without the places where a predictor has no answer.

    The last column says what the number called error is, where it is another than an error.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["experiment", "figure", "predictor", "function_class", "x", "error",
                    "standard_error", "quantity"])
    for f in figures:
        for p in f.errors:
            for x, c, mean, se in zip(f.x, f.classes, f.mean(p), f.standard_error(p)):
                if not math.isnan(mean):
                    numbers = f"{x:.6g}", f"{mean:.6g}", f"{se:.3g}"
                    table.writerow([f.experiment, f.name, p, c, *numbers, f.ylabel])
    return out.getvalue()


# -------------------------------------------------------------------------------------- findings

@dataclass(frozen=True)
class Finding:
    """A claim, what was measured, and whether the 95% interval lies inside the bound."""
    claim: str
    measured: str
    verdict: str

    def __str__(self):
        wrap = lambda text, first: textwrap.fill(text, 98, initial_indent=first,
                                                 subsequent_indent="      ",
                                                 break_on_hyphens=False)
        return wrap(f"[{self.verdict}] {self.claim}", "  ") + "\n" + wrap(self.measured, "      ")


def mean_and_margin(values):
    """Mean over prompts of values (B,) or (B, ...), and the half width of its 95% interval."""
    return values.mean(0), 1.96 * values.std(0, ddof=1) / math.sqrt(len(values))


def everywhere(n):
    """How much wider n 95% intervals must be to hold all at once in 95% of cases (Bonferroni)."""
    return NormalDist().inv_cdf(1 - 0.025 / n) / 1.96


def ratio_and_margin(a, b, paired=True):
    """mean(a) / mean(b) over prompts, and its 95% half width by the delta method."""
    r = a.mean() / b.mean()
    if paired:
        return r, 1.96 * np.std(a - r * b, ddof=1) / math.sqrt(len(a)) / b.mean()
    spread = [v.std(ddof=1) / math.sqrt(len(v)) / v.mean() for v in (a, b)]
    return r, 1.96 * r * math.hypot(*spread)


def finding(claim, parts, too_small=False):
    """A finding from parts (what, value, margin, least, most): each bound None or a number.

    It holds where every interval lies within its bounds, does not hold where one lies outside, and
    is undecided where one straddles a bound; where the size is too small to show it, that is said.
    """
    verdict = "holds" if any(part[3:] != (None, None) for part in parts) else "measured"
    for _, value, margin, least, most in parts:
        low, high = value - margin, value + margin
        if (least is not None and high < least) or (most is not None and low > most):
            verdict = "does not hold"
            break
        if not ((least is None or low >= least) and (most is None or high <= most)):
            verdict = "undecided"  # or not a number
    if verdict in ("does not hold", "undecided") and too_small:
        verdict += " at this size"
    bound = lambda least, most: (f" (at least {least:g})" if least is not None else
                                 f" (at most {most:g})" if most is not None else "")
    rounded = lambda v, digits: f"{float(f'{v:.{digits}g}'):g}"  # 210, not 2.1e+02
    measured = "; ".join(
        f"{what} {rounded(value, 3)} ± {rounded(margin, 2)}{bound(least, most)}"
        for what, value, margin, least, most in parts)
    return Finding(claim, measured, verdict)


def excess(figure, most=None, most_on_average=None):
    """The mixture model's error over its optimum along an ICL curve: at its worst, and the mean."""
    over = figure.errors["mixture model"] - figure.errors[MIXED]
    value, margin = mean_and_margin(over)
    margin *= everywhere(len(value))
    worst = worst_place(value, margin, most) if most else np.argmax(value)
    return [(f"worst {after(figure.x[worst])}:", value[worst], margin[worst], None, most),
            ("on average:", *mean_and_margin(over.mean(1)), None, most_on_average)]


def after(examples):
    """How many examples came before: "after 1 example", or of a list "after 16 to 20 examples"."""
    first, last = np.atleast_1d(examples)[[0, -1]]
    number = last if first == last else f"{first} to {last}"
    return f"after {number} example{'' if last == 1 else 's'}"


def worst_place(value, margin, most):
    """Where the interval is farthest above `most`; or, if none is wholly, where it reaches most."""
    low, high = value - margin, value + margin
    return np.nanargmax(low if np.nanmax(low) > most else high)


def ratio(what, figure, a, b, least=None, most=None, first=0):
    """Ratio of two predictors' errors, averaged over the places of a figure from `first` on."""
    a, b = (figure.errors[p][:, first:].mean(1) for p in (a, b))
    return (what, *ratio_and_margin(a, b), least, most)


def findings_on_classes(e, figures, too_small, **bounds):
    """What both experiments share, class by class: near-optimal, at no extra cost; no transfer.

    bounds: those of excess().
    """
    for name in e.classes:
        yield finding(f"Near-optimal on {name} functions: the mixture model's error over the exact "
                      "optimum of the mixture", excess(figures[f"icl-{name}"], **bounds), too_small)
    for name in e.classes:
        f = figures[f"icl-{name}"]
        yield finding(f"Not knowing that functions are {name} costs it almost nothing: its error "
                      "over the specialist's",
                      [ratio("times", f, "mixture model", f"{name} model", most=1.1),
                       ratio("from 2 examples on:", f, "mixture model", f"{name} model", first=2),
                       ratio("the exact optimum itself pays", f, MIXED, OWN)], too_small)
    for name, other in zip(e.classes, reversed(e.classes)):
        f = figures[f"icl-{name}"]
        yield finding(f"The {other} specialist fails on {name} functions: its error over the "
                      "mixture model's",
                      [ratio("times", f, f"{other} model", "mixture model", least=2),
                       ("a perfect specialist's own error, from half-way on:", *mean_and_margin(
                           f.errors[OTHER][:, len(f.x) // 2:].mean(1)), None, None)], too_small)


def findings_sparse(e, figures, too_small):
    """The paper's claims about dense and sparse functions, on figures by name."""
    yield from findings_on_classes(e, figures, too_small, most=0.05)
    dense, sparse = figures["icl-dense"], figures["icl-sparse"]
    yield finding("As good as least squares on dense functions: its error over theirs",
                  [ratio("times", dense, "mixture model", "least squares", most=1.1)], too_small)
    yield finding("Better than least squares on sparse functions, and as good as a Lasso tuned on "
                  "them: its error over theirs",
                  [ratio("least squares:", sparse, "mixture model", "least squares", most=1),
                   ratio("Lasso:", sparse, "mixture model", "Lasso", most=1)], too_small)
    f, d, nnz = figures["nnz-distance"], e.size.n_dims, e.size.nnz
    middle = (f.x > nnz) & (f.x <= min(7, d - 1))
    apart = "dense model to sparse model"
    span = lambda p: f.errors[p][:, middle].mean(1)
    when = after(e.sweep_examples)
    places = " to ".join(dict.fromkeys(str(k) for k in f.x[middle][[0, -1]]))
    share = lambda s, of: ratio_and_margin(of(f"mixture model to {s} model"), of(apart))
    first = lambda p: f.errors[p][:, f.x > nnz][:, 0]
    yield finding(f"At {places} non-zeros its predictions lie between the specialists' "
                  f"{when}: squared distance, as a share of theirs",
                  [(f"to the {s} model:", *share(s, span), None, 1) for s in e.classes]
                  + [(f"at {nnz + 1} non-zeros alone, to the {s} model:", *share(s, first), None,
                      None) for s in e.classes], too_small)
    n = figures["nnz"]
    over, margin = mean_and_margin(n.errors["mixture model"] - n.errors[OWN])
    known = middle & ~np.isnan(over)  # the optimum there can be enumerated
    yield finding(f"That sparsity was not in pretraining, and there it leaves the optimum: error "
                  f"{when} over the optimum for these functions",
                  [(f"at {k} non-zeros:", over[n.x == k][0],
                    margin[n.x == k][0] * everywhere(known.sum()), 0.02, None)
                   for k in n.x[known]], too_small)
    name = next(iter(figures["noise-floor"].errors)).removeprefix("mixture model, ")
    yield from findings_on_failure(figures, {name: (0.5, None)}, too_small)
    yield from findings_on_selection(figures["selection"], too_small)


def findings_sine(e, figures, too_small):
    """The paper's claims about lines and sinusoids, and why it fails outside; figures by name."""
    yield from findings_on_classes(e, figures, too_small, most_on_average=0.05)
    w, half, freq = figures["weights"], figures["icl-half"], figures["frequency"]
    at = lambda weight: w.errors["mixture model"][:, np.argmin(abs(w.x - weight))]
    late = lambda f, p="mixture model": f.errors[p][:, e.sweep_examples].mean(1)
    large = figures["large-values"]
    beyond = lambda t: large.errors["mixture model"][:, np.flatnonzero(large.x == t)[0]]
    lines, sinusoids = beyond(0), late(figures["icl-sinusoid"])
    times = lambda a, b: ratio_and_margin(a, b, paired=False)
    fall = lambda f, p="mixture model": ratio_and_margin(*(
        f.errors[p][:, first:first + 5].mean(1) for first in (e.n_points - 5, e.n_points // 2 - 2)))
    when = after(e.sweep_examples)
    yield finding(f"From either class to the other its error {when} rises",
                  [("weight 0.2, times the sinusoids':", *times(at(0.2), sinusoids), 1, None),
                   ("weight 0.8, times the lines':", *times(at(0.8), lines), 1, None)], too_small)
    yield finding(f"It fails on half of each, where the optimum is near 0: its error {when} over "
                  "that on its classes",
                  [("times the sinusoids':", *times(late(half), sinusoids), 10, None),
                   ("times the lines':", *times(late(half), lines), 10, None),
                   ("optimum for them:", *mean_and_margin(late(half, OWN)), None, 0.02)]
                  + [(f"{p}, over Var f:", *mean_and_margin(late(half, p)), None, None)
                     for p in ("mixture model", "sinusoid model", MIXED)], too_small)
    yield finding("More examples hardly help there: its error at the last 5 positions over that at "
                  "5 half-way",
                  [("times", *fall(half), 0.75, None),
                   ("the optimum of the mixture:", *fall(half, MIXED), None, None),
                   ("on sinusoids:", *fall(figures["icl-sinusoid"]), None, None)], too_small)
    yield finding(f"{large.title}, and its error {when} is mostly that on few large ones",
                  [("share of f(x) beyond 6:", *ratio_and_margin(beyond(6), lines), 0.5, None)],
                  too_small)
    f = freq.errors["mixture model"]
    common = int(np.argmax(freq.backdrop))
    for tail in (-1, 0):
        yield finding(f"It fails at frequency {freq.x[tail]:.2g}, rare in pretraining: its error "
                      f"{when} over that at {freq.x[common]:.2g}, where pretraining was densest",
                      [("times", *times(f[:, tail], f[:, common]), 10, None),
                       ("optimum there:", *mean_and_margin(freq.errors[OWN][:, tail]), None,
                        0.02)], too_small)
    yield from findings_on_failure(figures, {"half and half": (0.5, None),
                                             f"frequency {freq.x[-1]:.2g}": (None, 0.1)}, too_small)
    yield from findings_on_selection(figures["selection"], too_small)


def findings_shares(e, figures, too_small):
    """Whether the prior that a mixture model acts on is the share of the class in pretraining."""
    for figure in figures.values():
        yield from findings_on_selection(figure, too_small)


def findings_on_failure(figures, cases, too_small):
    """The share of the model's error over the optimum that one who knows the mixture has too."""
    f = figures["noise-floor"]
    for name, (least, most) in cases.items():
        model, perfect, own = (f.errors[f"{p}, {name}"] for p in ("mixture model", MIXED, OWN))
        parts = [(f"noise x {times:g}:",
                  *ratio_and_margin((perfect - own)[:, i], (model - own)[:, i]), least, most)
                 for i, times in enumerate(f.x)]
        yield finding(f"Who knows that mixture exactly {'fails' if least else 'does not fail'} on "
                      f"{name}: the pretraining optimum's error over the optimum, as a share of "
                      "the model's, whatever noise the posterior assumes", parts, too_small)


def findings_on_selection(figure, too_small):
    """How far a model's weight on a class is from the exact posterior's, at its farthest."""
    lines = list(figure.errors.items())
    for (name, model), (_, exact) in zip(lines[::2], lines[1::2]):
        value, margin = mean_and_margin(model - exact)
        margin *= everywhere(np.isfinite(value).sum())
        worst = worst_place(abs(value), margin, 0.1)
        who, shown = name.split(", ")
        yield finding(f"On {shown} the {who} selects as Bayes does: its {figure.ylabel} minus the "
                      "exact posterior's", [(f"worst {after(figure.x[worst])}:",
                                              abs(value[worst]), margin[worst], None, 0.1)],
                      too_small)


# --------------------------------------------------------------------------------------- figures

# Okabe and Ito's palette, apart for every kind of colour vision; dashes tell them apart in print.
STYLES = {  # predictor: colour, dashes, width
    "mixture model": ("#d55e00", "", 3), "dense model": ("#0072b2", "", 1.8),
    "linear model": ("#0072b2", "", 1.8), "sparse model": ("#009e73", "", 1.8),
    "sinusoid model": ("#009e73", "", 1.8), "least squares": ("#cc79a7", "8 3", 1.8),
    "Lasso": ("#e69f00", "2 3", 2.2), MIXED: ("currentColor", "6 4", 1.6),
    OWN: ("currentColor", "", 1.2), "true function": ("currentColor", "", 1.2)}
PALETTE = ["#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00"]
DASHES = [("", 2.6), ("7 3", 1.9), ("2 3", 1.9)]
SPARE = [(colour, dashes, 2) for colour, (dashes, _) in zip(PALETTE, DASHES + DASHES)]
CSS = """svg{color:#1a1a1a;font:15px system-ui,sans-serif}.paper{fill:#fff}
@media(prefers-color-scheme:dark){svg{color:#eee}.paper{fill:#16181c}}
text{fill:currentColor}.grid{stroke:#888;stroke-opacity:.3}.soft{fill:#888;fill-opacity:.3}"""
LEFT, TOP, WIDTH, HEIGHT = 78, 48, 512, 300  # the frame that data are drawn in


def ticks(low, high, log=False):
    """About five round numbers between low and high."""
    if log:
        return [m * 10.0**p for p in range(-6, 7) for m in ((1, 2, 5) if high < 900 * low else (1,))
                if low * 0.999 <= m * 10.0**p <= high * 1.001]
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 5, 10) if s * unit >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * i for i in range(first, last + 1)]


def chart(title, xlabel, ylabel, x, lines, y_range, log="", backdrop=None, backdrop_label="",
          dots=()):
    """A line chart as an SVG document. lines: (label, y, 95% margin or None, style) each."""
    x_scale, y_scale = (np.log if axis in log else np.asarray for axis in "xy")
    left, right, low, high = *x_scale([x[0], x[-1]]), *y_scale(y_range)
    to_x = lambda v: LEFT + (x_scale(v) - left) / (right - left) * WIDTH
    floor = y_range[0] if "y" in log else -np.inf  # what lies below is drawn along it
    to_y = lambda v: TOP + HEIGHT * np.clip(  # far out is cut off
        (high - y_scale(np.maximum(v, floor))) / (high - low), -1, 2)
    px = to_x(x)
    points = lambda xs, ys: " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys) if b == b)
    body = []
    for v in ticks(*y_range, "y" in log):
        body.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{to_y(v):.1f}" '
                    f'y2="{to_y(v):.1f}"/><text x="{LEFT - 8}" y="{to_y(v) + 5:.1f}" '
                    f'text-anchor="end">{v:.4g}</text>')
    for v in ticks(x[0], x[-1], "x" in log):
        body.append(f'<text x="{to_x(v):.1f}" y="{TOP + HEIGHT + 20}" '
                    f'text-anchor="middle">{v:.4g}</text>')
    if backdrop is not None:
        tops = TOP + HEIGHT - backdrop / backdrop.max() * HEIGHT * 0.6
        body.append(f'<polygon class="soft" points="{LEFT},{TOP + HEIGHT} {points(px, tops)} '
                    f'{LEFT + WIDTH},{TOP + HEIGHT}"/>')
    for label, y, margin, (colour, dashes, width) in lines:
        if margin is not None:
            seen = ~np.isnan(y)
            around = points(np.concatenate([px[seen], px[seen][::-1]]), np.concatenate(
                [to_y((y + margin)[seen]), to_y((y - margin)[seen])[::-1]]))
            body.append(f'<polygon points="{around}" fill="{colour}" opacity=".18"/>')
        body.append(f'<polyline points="{points(px, to_y(y))}" fill="none" stroke="{colour}" '
                    f'stroke-width="{width}" stroke-dasharray="{dashes}"/>')
    for a, b in dots:
        body.append(f'<circle cx="{to_x(a):.1f}" cy="{to_y(b):.1f}" r="4.5" fill="currentColor"/>')
    entries = [(label, style) for label, _, _, style in lines]
    keys, total = legend(entries + [(backdrop_label, None)] * (backdrop is not None))
    clip, middle = f"clip{zlib.crc32(title.encode())}", TOP + HEIGHT / 2
    title, xlabel, ylabel = map(html.escape, (title, xlabel, ylabel))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 {total}" role="img">
<title>{title}</title><style>{CSS}</style>
<rect class="paper" width="620" height="{total}"/>
<clipPath id="{clip}"><rect x="0" y="{TOP - 10}" width="620" height="{HEIGHT + 32}"/></clipPath>
<text x="{LEFT - 48}" y="26" font-size="17" font-weight="600">{title}</text>
<g clip-path="url(#{clip})">{"".join(body)}</g>
<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" class="grid"/>
<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 42}" text-anchor="middle">{xlabel}</text>
<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{ylabel}</text>
{keys}</svg>
"""


def legend(entries):
    """The (label, style) in columns, style None for the backdrop; and the height of it all."""
    out, columns = [], 2 if max(len(label) for label, _ in entries) <= 33 else 1
    for i, (label, style) in enumerate(entries):
        x, y = LEFT - 48 + i % columns * 280, TOP + HEIGHT + 70 + i // columns * 22
        if style is None:
            out.append(f'<rect class="soft" x="{x}" y="{y - 10}" width="30" height="10"/>')
        else:
            colour, dashes, width = style
            out.append(f'<line x1="{x}" x2="{x + 30}" y1="{y - 5}" y2="{y - 5}" stroke="{colour}" '
                       f'stroke-dasharray="{dashes}" stroke-width="{width}"/>')
        out.append(f'<text x="{x + 37}" y="{y}" font-size="14">{html.escape(label)}</text>')
    return "".join(out), TOP + HEIGHT + 70 + -(-len(entries) // columns) * 22


def draw(figure):
    """A Figure as an SVG document, with 95% intervals over prompts as bands."""
    spare = iter(SPARE)
    if figure.group:
        spare = ((colour, *dashes) for colour in PALETTE for dashes in DASHES[:figure.group])
    lines = [(p, figure.mean(p), 1.96 * figure.standard_error(p), STYLES.get(p) or next(spare))
             for p in figure.errors if p != OTHER]
    everything = np.concatenate([y for _, y, _, _ in lines])
    lowest, highest = min(0, np.nanmin(everything)), 1.05 * np.nanmax(everything)
    y_range = 2e-4 if "y" in figure.log else max(-0.2, lowest), min(2, highest)
    return chart(figure.title, figure.xlabel, figure.ylabel, figure.x, lines, y_range, figure.log,
                 figure.backdrop, figure.backdrop_label)


def draw_functions(title, grid, curves, xs, ys):
    """Predicted functions over x as an SVG document, with the examples as dots."""
    lines = [(name, y, None, STYLES[name]) for name, y in curves.items()]
    reach = 1.15 * max(np.abs(curves["true function"]).max(), np.abs(ys).max(), 0.5)
    return chart(f"Learned from {len(xs)} examples: {title}", "x", "f(x)", grid, lines,
                 (-reach, reach), dots=zip(xs, ys))


REPORT = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>In-context learning: {size}</title>
<style>
:root{{color-scheme:light dark}}
body{{font:17px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem}}
p,li,pre{{max-width:46rem}}
.figures{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:1rem}}
.figures svg{{width:100%;border:1px solid #8884;border-radius:6px}}
pre{{white-space:pre-wrap;font:14px/1.45 ui-monospace,monospace}}
li{{margin:.6rem 0}} .verdict{{font-weight:600}}
.measured{{display:block;font-size:.88em;opacity:.8}}
@media print{{figure{{break-inside:avoid}}}}
</style>
<h1>What a transformer learns in context</h1>
<p>Each model reads examples (x, f(x)) in a prompt and predicts f at the next x. It was trained on
one class of functions or on a mixture of two. Does it find out from the examples which class
f is from, and does it generalise outside? Errors are squared, and predicting zero costs 1; bands
are 95% intervals over prompts. The <em>optimum</em> is the exact posterior mean, the least error
that is possible.</p>
{body}
<h2>Settings</h2><pre>{settings}</pre></html>
"""


def report(size, sections, settings):
    """One self-contained page. sections: (heading, findings, svgs) each."""
    body = []
    for heading, findings, svgs in sections:
        items = "".join(f'<li><span class="verdict">{html.escape(f.verdict)}</span>: '
                        f'{html.escape(f.claim)}<span class="measured">{html.escape(f.measured)}'
                        "</span></li>" for f in findings)
        figures = "".join(f"<figure style='margin:0'>{svg}</figure>" for svg in svgs)
        body.append(f"<h2>{html.escape(heading)}</h2><ul>{items}</ul>"
                    f"<div class='figures'>{figures}</div>")
    return REPORT.format(size=html.escape(size), body="".join(body), settings=html.escape(settings))


# ------------------------------------------------------------------------------------------ main

def clock(seconds):
    """Seconds as minutes:seconds or hours:minutes:seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """A line for each name that renews itself on a terminal; elsewhere, one every ten seconds."""
    def __init__(self):
        self.shown, self.lines = {}, {}

    def __call__(self, name, text, last=False):
        if sys.stdout.isatty():
            up = f"\x1b[{len(self.lines)}A" if self.lines else ""
            self.lines[name] = text[:os.get_terminal_size().columns - 1]  # a wrapped line is two
            first = [self.lines.pop(name)] if last else []  # it stays, above those still renewed
            print(up + "".join(f"\r{line}\x1b[K\n" for line in first + [*self.lines.values()]),
                  end="", flush=True)
        elif last or time.monotonic() - self.shown.get(name, 0) > 10:
            print(text, flush=True)
            self.shown[name] = time.monotonic()


def write_text(path, text):
    """Write a text file whole or not at all."""
    with icl.replacing(path) as file:
        file.write(text.encode())


def evaluate(e, runs, seed, out, too_small):
    """Figures, drawings and findings of one experiment whose three models are trained."""
    predictors = {f"{run.model} model": lambda xs, ys, run=run: icl.predict(
        run.params, run.config, xs, ys) for run in runs}
    figures, svgs = {}, {}
    produce, find = {"sparse": (evaluate_sparse, findings_sparse),
                     "sine": (evaluate_sine, findings_sine),
                     "shares": (evaluate_shares, findings_shares)}[e.name]
    for figure in produce(e, predictors, seed):
        figures[figure.name] = figure
        svgs[figure.name] = draw(figure)
        print(f"{e.name}: evaluated {figure.name}", flush=True)
    if e.name == "sine":
        for i, drawing in enumerate(predicted_functions(e, predictors, seed), 1):
            svgs[f"functions-{i}"] = draw_functions(*drawing)
    for name, svg in svgs.items():
        write_text(out / f"{e.name}-{name}.svg", svg)
    return figures, list(svgs.values()), list(find(e, figures, too_small))


def parse_arguments(argv):
    """The command line, checked; argparse exits with status 2 where it is wrong."""
    def positive(text):
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not {text!r}")
        return int(text)

    def seed(text):
        return 0 if text == "0" else positive(text)

    def directory(text):
        if not text or "\0" in text:
            raise argparse.ArgumentTypeError(f"must name a directory, not {text!r}")
        return Path(text)

    parser = argparse.ArgumentParser(
        description="Train transformers on mixtures of function classes, in NumPy alone, and "
                    "compare them with the exact optimum. The default size is the paper's.",
        allow_abbrev=False)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tiny", dest="size", action="store_const", const="tiny",
                       help="minutes on a laptop")
    which.add_argument("--small", dest="size", action="store_const", const="small",
                       help="an evening on a laptop")
    parser.set_defaults(size="paper")
    parser.add_argument("--experiment", choices=EXPERIMENTS,
                        help="one of them (default: sparse and sine)")
    names = "; ".join(f"{', '.join(models)} ({e})" for e, models in EXPERIMENTS.items())
    parser.add_argument("--only", metavar="MODEL", help="train this model alone, to share the work "
                        f"among machines: {names}")
    parser.add_argument("--steps", type=positive, help="training steps of each model (at small, "
                        "of the specialists; twice as many of the mixture model)")
    parser.add_argument("--seed", type=seed, default=0, help="of all random numbers (default: 0)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(),
                        help="default: one a core; the numbers do not depend on it")
    parser.add_argument("--out", type=directory, help="for everything (default: runs/SIZE, or "
                        "runs/SIZE-EXPERIMENT with --experiment)")
    a = parser.parse_args(argv)
    a.experiments = [a.experiment] if a.experiment else ["sparse", "sine"]
    models = [m for e in a.experiments for m in EXPERIMENTS[e]]
    if a.only is not None and a.only not in models:
        parser.error(f"argument --only: invalid choice: {a.only!r} (choose from "
                     f"{', '.join(models)})")
    a.out = a.out or Path("runs") / "-".join(filter(None, [a.size, a.experiment]))
    return a


def main(argv=None):
    """One run: hold the checkpoints' locks, go on from them, train, compare and show."""
    a = parse_arguments(argv)
    icl.set_threads(a.threads)
    size = SIZES[a.size]
    experiments = [make_experiment(name, size, a.steps) for name in a.experiments]
    runs = [Run(e, model, a.seed, a.out / e.name / f"{model}.npz")
            for e in experiments for model in e.pretraining]
    wanted = [run for run in runs if a.only in (None, run.model)]
    with contextlib.ExitStack() as locks:  # held until the end
        for run in wanted:
            locks.enter_context(lock(run.path.with_name(f".{run.model}.lock")))
            for left in run.path.parent.glob(f"{run.model}.*.tmp"):  # by a run that was killed
                left.unlink(missing_ok=True)
        for run in runs:
            run.load()
        train_and_compare(a, size, experiments, runs, [r for r in wanted if not r.finished])


def train_and_compare(a, size, experiments, runs, todo):
    """Train what is to do; when all is trained, compare, draw and report it."""
    print(f"{a.size} size into {a.out}, seed {a.seed}, {a.threads} threads, NumPy {np.__version__}")
    for e in experiments:
        parameters = sum(math.prod(s) for s in e.config.shapes().values())
        print(f"{e.name}: {', '.join(f'{m} ({c})' for m, c in e.classes.items())}; models "
              f"{', '.join(e.pretraining)} of {size.n_layer} layers, {size.n_embd} channels, "
              f"{parameters:,d} parameters each; {e.n_points} points, "
              f"{', '.join(f'{e.steps_of(m):,d}' for m in e.pretraining)} steps of "
              f"{size.batch} prompts")
    if todo:
        print(f"to train: {', '.join(run.name for run in todo)}; about "
              f"{clock(estimate_seconds(todo, a.threads))} of training", flush=True)
        train_all(sorted(todo, key=lambda run: -run.steps), a.threads)  # the longest first
        for run in runs:  # others, too, may have been finished meanwhile, by another process
            run.load()
    waiting = [run.name for run in runs if not run.finished]
    if waiting:
        print(f"still to be trained before anything can be compared: {', '.join(waiting)}")
    else:
        compare(a, experiments, runs)


def compare(a, experiments, runs):
    """Evaluate the trained models; write figures, report.html, results.csv and run.txt."""
    start, sections, figures = time.monotonic(), [], []
    for e in experiments:
        shown, svgs, findings = evaluate(e, [run for run in runs if run.experiment is e], a.seed,
                                         a.out, a.size == "tiny" or a.steps is not None)
        figures += shown.values()
        sections.append((f"Experiment {e.name}", findings, svgs))
    findings = "\n".join("\n".join([f"\n{heading}", *map(str, found)])
                         for heading, found, _ in sections)
    verdicts = Counter(f.verdict for _, found, _ in sections for f in found)
    findings += "\n\nVerdicts: " + ", ".join(f"{n} {v}" for v, n in verdicts.most_common())
    settings = "\n".join(
        [f"python {shlex.join(sys.argv)}",
         f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.system()} "
         f"{platform.machine()}, {os.cpu_count()} cores, {a.threads} threads; "
         f"{clock(time.monotonic() - start)} of evaluation"]
        + [f"{run.name}: {clock(run.seconds)} of training, "
           f"{', '.join(f'{k} {v}' for k, v in run.settings.items())}" for run in runs])
    write_text(a.out / "results.csv", results_table(figures))
    write_text(a.out / "report.html", report(a.size, sections, settings))
    write_text(a.out / "run.txt", f"{settings}\n{findings}\n")
    print(f"{findings}\n\n{a.out / 'report.html'} shows it all; {a.out / 'results.csv'} holds the "
          f"numbers, {a.out / 'run.txt'} the findings")


def run_safely():
    """main, with errors as one line: the exit status is 0, 2 for an error or 130 for Ctrl-C."""
    try:
        main()
    except (Stopped, KeyboardInterrupt) as e:
        saved = " and saved" if isinstance(e, Stopped) else ""
        print(f"stopped{saved}; the same command goes on from here", file=sys.stderr)
        return 130
    except (icl.Refused, OSError) as e:
        print(f"train.py: error: {e}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print("train.py: error: a training process died, perhaps for want of memory; the same "
              "command goes on from its last checkpoint", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_safely())
