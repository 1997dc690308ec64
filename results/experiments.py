"""What is trained, what else predicts, and what all are asked: sizes, experiments, sheets.

An experiment trains models on two classes of functions and on their mixture. Afterwards every
predictor answers the same *sheets* of prompts. A sheet has functions of one class: on "icl-dense"
there are dense ones, and on "nnz-3" ones with 3 non-zero coefficients. To change what is studied,
change this file; train.py only does what stands here.
"""
import pickle
import re
import sys
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import numpy as np

import baselines
import icl
from tasks import (ConvexCombination, DenseLinear, Mixture, Sinusoid, SparseLinear, TooMany,
                   plain_numbers, sample_prompts)


# ------------------------------------------------------------------------------------------ sizes

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
    curriculum: float = 0.0   # share of the steps that train.lesson makes easier, with fewer dims
    first_dims: int = 5       # dims of its first lesson; of no effect if inputs have no more
    prompts: int = 2000       # to evaluate on; half as many for each place of a sweep

    def __post_init__(self):
        plain_numbers(self)

    def check(self):
        """ValueError, by name, unless every field can be used."""
        limits = {  # types, lowest and highest value of a field
            "lr": ((int, float), 1e-30, 1e30), "matrix_lr": ((int, float), 1e-30, 1e30),
            "curriculum": ((int, float), 0, 0.99), "sparse_points": ((int,), 2, 1_000_000),
            "sine_points": ((int,), 2, 1_000_000), "prompts": ((int,), 2, 1_000_000)}
        all_others = (int,), 1, 1_000_000
        for name, value in asdict(self).items():
            kinds, low, high = limits.get(name, all_others)
            if type(value) not in kinds or not low <= value <= high:  # a bool is no int here
                kind = "number" if float in kinds else "whole number"
                raise ValueError(f"{name} must be a {kind} from {low} to {high:,}, not {value!r}")
        # Raises ValueError unless n_head divides n_embd.
        icl.Config(self.n_dims, self.sparse_points, self.n_layer, self.n_head, self.n_embd)


SIZES = {
    "tiny": Size(n_layer=6, n_head=4, n_embd=48, n_dims=3, nnz=1, sparse_points=8,
                 sparse_steps=1500, sine_points=16, sine_steps=1400, prompts=1000),
    "small": Size(n_layer=8, n_head=4, n_embd=64, n_dims=8, nnz=1, sparse_points=10,
                  sparse_steps=20_000, sine_points=21, sine_steps=3000, batch=128),
    "paper": Size(n_layer=12, n_head=8, n_embd=256, n_dims=20, nnz=2, sparse_points=41,
                  sparse_steps=3000, sine_points=41, sine_steps=1500, curriculum=0.1),
}


# ------------------------------------------------------------------------------------ experiments

@dataclass(frozen=True)
class Experiment:
    """Which models are trained, on what, and what they are asked afterwards.

    A sweep asks about classes along an axis that leads out of pretraining, such as 1, 2, 3, ...
    non-zero coefficients, where it had two of these numbers alone.
    """
    name: str
    size: Size
    seed: int
    # What is trained:
    classes: dict      # two: "dense" -> DenseLinear(8), and so on; each has a specialist
    pretraining: dict  # "dense", "sparse", "mixture", "wide" -> what that model is trained on
    n_points: int      # of a prompt
    steps: int         # of a specialist
    # What is asked:
    curves: dict       # "dense" -> DenseLinear(8), and so on: after every number of examples
    sweeps: dict       # "nnz" -> {3: SparseLinear(8, 3)}, and so on: place on the x axis -> class
    after: list        # [5], say: the numbers of examples after which sweeps ask
    controls: list     # the specialists that sweeps ask, beside the mixture model

    @property
    def mixture(self):
        return self.pretraining["mixture"]

    @property
    def config(self):
        size = self.size
        return icl.Config(int(self.mixture.n_dims), self.n_points, size.n_layer, size.n_head,
                          size.n_embd)

    def steps_of(self, model):
        """How many steps a model trains: a specialist's, times the classes in its mixture, so that
        it sees as many prompts of each as their specialists; but at most 3 times, to save time.
        """
        c = self.pretraining[model]
        classes = len(c.components) if isinstance(c, Mixture) else 1
        return self.steps * min(3, classes)

    def stream(self, *purpose):
        """A random generator for each purpose, so that evaluation cannot disturb training."""
        words = "/".join(map(str, (self.name, *purpose)))
        return np.random.default_rng([self.seed, zlib.crc32(words.encode())])

    @cached_property  # kept in __dict__, which `frozen` allows
    def asked(self):
        """All that predictors are asked, as JSON can hold it. A predictions file keeps it, and is
        out of date where it is no longer so."""
        def description(sheet):
            fingerprint = f"{sheet.ys[0, -1]:.2f}"  # most changes of the class's code change it
            return [str(sheet.function_class), list(sheet.after), fingerprint]

        return {"prompts": self.size.prompts, "nnz": self.size.nnz,
                "controls": list(self.controls),
                "sheets": {name: description(sheet) for name, sheet in sheets_of(self).items()}}


def make_experiment(name, size, seed=0):
    """The paper's experiment of that name, "sparse" or "sine", at a size."""
    size.check()
    if name not in EXPERIMENTS:
        raise icl.Refused(f"there is no experiment {name!r}, but {', '.join(EXPERIMENTS)}")
    e = EXPERIMENTS[name](size, seed)
    if e.name != name:
        raise ValueError(f"the experiment {name} calls itself {e.name}")
    e.mixture.hypotheses()  # ValueError if it has too many for the exact optimum
    check_names(e)
    for classes in (e.pretraining, e.curves, *e.sweeps.values()):
        for c in classes.values():
            check_class(c)
    return e


def sparse_experiment(size, seed):
    """Linear functions of n_dims inputs: all coefficients random, or all but a few zero."""
    d = size.n_dims
    classes = {"dense": DenseLinear(d), "sparse": SparseLinear(d, size.nnz)}
    by_nnz = {k: SparseLinear(d, k) for k in range(1, d + 1)}
    every_nnz = Mixture(by_nnz.values())
    pretraining = classes | {"mixture": Mixture(classes.values())}
    if has_optimum(every_nnz):  # not of 20 dims
        pretraining["wide"] = every_nnz
    return Experiment("sparse", size, seed, classes, pretraining, n_points=size.sparse_points,
                      steps=size.sparse_steps, curves=classes, sweeps={"nnz": by_nnz},
                      after=[min(d // 2 + 1, size.sparse_points - 1)],  # fewer than dims, from 3 on
                      controls=[*classes])


def sine_experiment(size, seed):
    """Functions of one input: lines and sinusoids, and what lies between and beyond them."""
    classes = {"linear": DenseLinear(1), "sinusoid": Sinusoid()}
    blend = partial(ConvexCombination, *classes.values())
    curves = classes | {"half-and-half": blend(0.5)}
    pretraining = classes | {"mixture": Mixture(classes.values()), "wide": Mixture(curves.values())}
    frequencies = 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0
    sweeps = {"weights": {w: blend(w) for w in np.linspace(0, 1, 11).tolist()},
              "again": {w: blend(w) for w in (0.0, 0.3, 0.5, 0.7, 1.0)},  # at an x shown before
              "frequency": {omega: Sinusoid(frequency=omega) for omega in frequencies}}
    return Experiment("sine", size, seed, classes, pretraining, n_points=size.sine_points,
                      steps=size.sine_steps, curves=curves, sweeps=sweeps,
                      after=list(range(1, size.sine_points))[-5:],  # the last five
                      controls=["sinusoid"])


EXPERIMENTS = {"sine": sine_experiment, "sparse": sparse_experiment}  # in the report's order


# ----------------------------------------------------------------------------------------- sheets

# Sheet -> title, weight of the line. The title names its random stream, too.
PICTURES = {"functions-1": ("a line", 1.0), "functions-2": ("a sinusoid", 0.0),
            "functions-3": ("half of each", 0.5)}


@dataclass(frozen=True)
class Sheet:
    """Prompts that predictors answer."""
    name: str
    function_class: object
    xs: np.ndarray  # (B, N, d)
    ys: np.ndarray  # (B, N)
    after: list     # [5, 6], say: predictions after 5 and after 6 examples are kept


def sheets_of(e):
    """Name -> Sheet: all that predictors are asked in an experiment."""
    sheets = [curve_sheet(e, name, c) for name, c in e.curves.items()]
    sheets += [sweep_sheet(e, sweep, x, c)
               for sweep, classes in e.sweeps.items() for x, c in classes.items()]
    if e.mixture.n_dims == 1:
        sheets += [picture(e, name) for name in PICTURES]
    named = {sheet.name: sheet for sheet in sheets}
    if len(named) < len(sheets):
        raise ValueError(f"two sheets of {e.name} have one name; all are {', '.join(named)}")
    return named


def curve_sheet(e, name, c):
    """Functions of a class: what are predictions after every number of examples?"""
    xs, ys = sample_prompts(c, e.stream(f"icl-{name}"), e.size.prompts, e.n_points)
    return Sheet(f"icl-{name}", c, xs, ys, list(range(e.n_points)))


def sweep_sheet(e, sweep, x, c):
    """Functions of class c, at the place x of a sweep. In the sweep called "again", the last x of a
    prompt is one that the prompt has shown before: does a model know what it was told?"""
    rng = e.stream(sweep, x)
    after = e.after[-1:] if sweep == "again" else e.after
    xs, ys = sample_prompts(c, rng, max(2, e.size.prompts // 2), after[-1] + 1)
    if sweep == "again":  # a random example of each prompt, once more at its end
        prompt, example = np.arange(len(xs)), rng.integers(xs.shape[1] - 1, size=len(xs))
        xs[:, -1], ys[:, -1] = xs[prompt, example], ys[prompt, example]
    return Sheet(f"{sweep}-{x:g}", c, xs, ys, after)


def picture(e, name):
    """Sheet of one function: the same ten examples of it before each of 101 queries."""
    title, weight = PICTURES[name]
    c = ConvexCombination(*e.classes.values(), weight)
    rng = e.stream("functions", title)
    f = c.sample(rng, 1)
    n = min(10, e.n_points - 1)
    examples = rng.uniform(-2.2, 2.2, n)
    queries = np.linspace(-2.5, 2.5, 101)
    xs = np.float32([[*examples, x] for x in queries])[..., None]  # (101, n + 1, 1)
    # f is one function, so it takes one prompt: all 101 in a row.
    ys = np.float32(f(xs.reshape(1, -1, 1)).reshape(len(xs), -1))
    if not np.isfinite(ys).all():
        raise ValueError(f"f(x) of {c} must be finite for each x from -2.5 to 2.5")
    return Sheet(name, c, xs, ys, [n])


# ------------------------------------------------------------------------------------- predictors

OWN = "optimum for these functions"  # is told the class of the functions it is asked about
MIXED = "optimum of the mixture"     # is told only the mixture of the two classes
GP = "Gaussian process"
# The label of the true values, and those of companions:
TRUTH = "true function"
NOISY, WARY = "noisy ideal learner", "wary ideal learner"
WIDE_OPTIMUM = "optimum of the wide mixture"


def untrained(e):
    """Name -> function of a sheet that returns predictions (B, N): all that nobody trains. It takes
    a sheet, not (xs, ys), as some are told the sheet's class."""
    def lasso(sheet):  # with the best alpha for each number of examples
        alphas = baselines.tune_lasso(sheet.function_class, e.stream(sheet.name, "lasso"),
                                      sheet.xs.shape[1], n_prompts=min(300, e.size.prompts))
        return baselines.lasso(sheet.xs, sheet.ys, alphas)

    def optimum(c, sheet):
        return baselines.bayes(c)(sheet.xs, sheet.ys)

    predictors = {"least squares": lambda sheet: baselines.least_squares(sheet.xs, sheet.ys),
                  "Lasso": lasso, MIXED: partial(optimum, e.mixture),
                  OWN: lambda sheet: optimum(sheet.function_class, sheet)}
    predictors |= {f"optimum of {name}": partial(optimum, c) for name, c in e.classes.items()}
    if e.mixture.n_dims == 1:
        predictors[GP] = lambda sheet: baselines.gaussian_process(sheet.xs, sheet.ys)
    return predictors


def companions(e, model, noise, sheet):
    """Kind -> predictions (B, N) of optima to be compared with a model.

    The mixture model has two ideal learners, with s its effective label noise, the value of
    noise["pretraining"]. "noisy", on ICL sheets alone, reads labels with noise of that standard
    deviation, and knows it. "wary" reads exact labels, but distrusts them as if they had it. The
    wide model has "optimum", the exact one of its mixture.
    """
    if model == "wide":
        return {"optimum": baselines.bayes(e.pretraining["wide"])(sheet.xs, sheet.ys)}
    if model != "mixture":
        return {}
    s = noise["pretraining"][0]
    if not np.isfinite(s):  # no s fits
        s = baselines.NOISE_GRID[-1]  # the largest that was tried
    learner = baselines.bayes(e.mixture, s)
    predictions = {"wary": learner(sheet.xs, sheet.ys)}
    if sheet.name.startswith("icl-"):
        z = e.stream(sheet.name, "label noise").standard_normal(sheet.ys.shape)
        predictions["noisy"] = learner(sheet.xs, sheet.ys + s * z)
    return predictions


def is_asked(e, name, sheet):
    """Whether the predictor of that name answers a sheet. ICL sheets are for all, others, to save
    time, for a few."""
    if name == OWN and not has_optimum(sheet.function_class):
        return False
    few = {"mixture", "wide", *e.controls, GP, MIXED, OWN}
    return sheet.name.startswith("icl-") or name in few


# ----------------------------------------------------------------------------------------- checks

def has_optimum(function_class):
    """Whether its hypotheses are few enough for the exact optimum to be computed."""
    try:
        function_class.hypotheses()
    except TooMany:
        return False
    return True


def check_names(e):
    """ValueError unless names can be those of files, and labels differ."""
    names = [*e.pretraining, *untrained(e)]
    for name in (e.name, *names, *e.curves, *e.sweeps):
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_ -]{1,50}", name):
            raise ValueError(f"{name!r} cannot be a name: use letters, digits, spaces, _ and -, "
                             "50 at most")
    # What a class's name would be taken for: a model, a key of train.measure's noise, an optimum.
    reserved = {"mixture", "wide", "pretraining", "the mixture", "the wide mixture"}
    if taken := reserved & {*e.classes}:
        raise ValueError(f"no class can be called {min(taken)}")
    if len({name.replace(" ", "-").lower() for name in names}) < len(names):
        raise ValueError(f"of {', '.join(names)}, two would have one file")
    labels = {f"{model} model" for model in e.pretraining} | {TRUTH, NOISY, WARY, WIDE_OPTIMUM}
    if taken := labels & untrained(e).keys():
        raise ValueError(f"no predictor can be called {min(taken)}")


def check_class(c):
    """An error unless files can name the class, by its text, and other processes can be sent it."""
    if re.search(" at 0x|frozenset", str(c)):
        raise ValueError(f"{c} must be a frozen dataclass without functions or sets: its text must "
                         "say what it is")
    try:
        hash(c)  # train.optimum_losses needs it
    except TypeError as error:
        raise ValueError(f"{c} must be a frozen dataclass, of numbers, text and tuples: {error}"
                         ) from error
    pickle.loads(pickle.dumps(c))  # AttributeError if it is no module's
    if type(c).__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ValueError(f"{c} must be a class of a file, which other processes can import")


def check_repeatable(e):
    """ValueError unless sheets that are sampled again are the same, so that processes agree."""
    first, again = sheets_of(e), sheets_of(e)
    for name, sheet in first.items():
        if not np.array_equal(sheet.ys, again[name].ys):
            raise ValueError(f"{sheet.function_class} must draw from `sample`'s rng alone")
