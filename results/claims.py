"""The paper's claims, and some of our own, judged by a run's predictions.

    python results/claims.py results/small runs/seed-1     a column for each folder

Each number stands with half of its 95% interval over prompts. One with a bound holds where its
whole interval lies within the bound, and is undecided where the interval crosses it. A claim is as
good as the worst of its numbers. Comparisons are paired prompt by prompt. What needs a model that
is not there is left out. README.md says when the bounds were set, and which were changed since.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import argparse
import math
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np

import icl
from results.experiments import MIXED, OWN
from results.report import GP, NOISY, TRUTH, WARY, WIDER, read, selection_weight, sweep

MODEL, WIDE, WAVES = "mixture model", "wide model", "sinusoid model"
DENSE, SPARSE = "dense model", "sparse model"
VERDICTS = "does not hold", "undecided", "holds"  # the worst first


def mean(values, z=1.96):
    """Mean over prompts of values (B,), and half of its 95% interval."""
    return values.mean(), z * values.std(ddof=1) / len(values) ** 0.5


@np.errstate(invalid="ignore")  # 0 / 0 is nan, and has no row
def ratio(a, b):
    """mean(a) / mean(b) over prompts, and half of its interval by the delta method. Where mean(b)
    may be zero or less, the interval has no end."""
    r, (below, margin) = a.mean() / b.mean(), mean(b)
    return r, math.inf if below <= margin else mean(a - r * b)[1] / below


def residual(a, b):
    """Root mean square, over 1 example and more, of the difference of two mean error curves.
    a, b: errors, prompt by prompt (B, N)."""
    difference = (a - b)[:, 1:]  # (B, N - 1)
    curve = difference.mean(0)  # (N - 1,)
    rms = math.sqrt(np.mean(curve**2)) + 1e-12
    # One sample a prompt: their mean is mean(curve^2) / rms = rms; they spread as rms does (delta).
    return mean((difference * curve).mean(1) / rms)


def farthest(values):
    """The largest |mean| of the columns of values (B, X).

    All columns' intervals are wider, so that they hold at once (Bonferroni). Then the largest is at
    least the highest of their lower ends, and at most the highest of their upper ends. Columns with
    nan are left out.
    """
    columns = values.T[~np.isnan(values).any(0)]
    z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(columns)))
    numbers = [(abs(value), margin) for value, margin in (mean(v, z) for v in columns)]
    low = max((value - margin for value, margin in numbers), default=math.nan)
    high = max((value + margin for value, margin in numbers), default=math.nan)
    return (low + high) / 2, (high - low) / 2


@dataclass
class Row:
    """A number, half of its interval, and the bound in which a claim wants it, if it wants any."""
    claim: str
    what: str
    number: tuple
    low: float = -math.inf
    high: float = math.inf

    @property
    def bound(self):
        words = {"at least": self.low, "at most": self.high}
        return ", ".join(f"{k} {v:g}" for k, v in words.items() if math.isfinite(v))

    @property
    def verdict(self):
        low, high = self.number[0] - self.number[1], self.number[0] + self.number[1]
        if self.low <= low and high <= self.high:
            return "holds"
        return "does not hold" if high < self.low or low > self.high else "undecided"


class Answers(dict):
    """Predictor -> predictions, (B, N) on a sheet or (B, X, A) on a sweep; nan of one not there."""
    def __missing__(self, predictor):
        return np.nan * self[TRUTH]

    def distance(self, p, q=TRUTH):
        """Squared, between predictions; from the truth it is the error."""
        return (self[p] - self[q]) ** 2


class Sweep:
    """The sheets of a sweep, at x (X,): methods return a number a prompt, (B,)."""
    def __init__(self, found, name, variance=lambda x: 1):
        self.x, predicted = sweep(found, name)  # predictions (B, X, numbers of examples)
        self.answers, self.variance = Answers(predicted), variance(self.x)

    def distance(self, p, q, *places, unit=1):
        """Mean squared distance of predictions at these places of x."""
        there = [np.isclose(x, places).any() for x in self.x]
        return (self.answers.distance(p, q).mean(2) / unit)[:, there].mean(1)

    def error(self, p, *places):
        return self.distance(p, TRUTH, *places, unit=self.variance)

    def excess(self, p, *places, over=OWN):
        return self.error(p, *places) - self.error(over, *places)


# ------------------------------------------------------------------------- the claims, one by one

def on_a_class(found, shown, noise):
    """Rows on the functions of one class. noise(model, part): see claims_of."""
    e, answers = found.e, Answers(found.on[f"icl-{shown}"])
    other, half = next(c for c in e.classes if c != shown), e.n_points // 2
    own, theirs = f"{shown} model", f"{other} model"

    def times(base, first=0, last=None, of=MODEL):
        """The error of `of` divided by that of `base`, after first to last - 1 examples."""
        error = lambda p: answers.distance(p)[:, first:last].mean(1)  # (B,)
        return ratio(error(of), error(base))

    row = partial(Row, f"near-optimal on {shown} functions")
    yield row("effective label noise of the mixture model", noise("mixture"), high=0.1)
    yield row("the same, on these functions alone", noise("mixture", shown))
    yield row(f"its curve beside the {NOISY}'s",
              residual(answers.distance(MODEL), answers.distance(NOISY)), high=0.03)
    yield row("beside the exact optimum's",
              residual(answers.distance(MODEL), answers.distance(MIXED)))
    yield row(f"times the {NOISY}'s error, first half", times(NOISY, 1, max(2, half)))
    yield row(f"times the {NOISY}'s error, second half", times(NOISY, half))
    yield row("excess over the optimum of the mixture",
              mean((answers.distance(MODEL) - answers.distance(MIXED)).mean(1)))
    for p in (NOISY, WARY, MIXED):
        yield row(f"squared distance to the {p}", mean(answers.distance(MODEL, p)[:, 1:].mean(1)))

    row = partial(Row, f"no extra cost on {shown} functions for not knowing the class")
    yield row("times the specialist's error", times(own), high=1.1)
    yield row("times it from 2 examples on", times(own, min(2, half)))
    yield row("the optimum pays", times(OWN, of=MIXED))
    for m in ("mixture", shown):
        yield row(f"effective label noise of the {m} model", noise(m))

    row = partial(Row, f"the {other} specialist fails on {shown} functions")
    yield row("times the mixture model's error", times(MODEL, of=theirs), low=2)
    if shown == "dense":
        row = partial(Row, "as good as least squares on dense functions")
        yield row("times their error", times("least squares"), high=1.1)
    if shown == "sparse":
        row = partial(Row, "better than least squares, as good as the Lasso on sparse ones")
        yield row("times the Lasso's error", times("Lasso"), high=1)
        yield row("times least squares'", times("least squares"), high=1)


def on_selection(found):
    """Rows on selection weights, at the worst number of examples of either class."""
    classes = found.e.classes
    row = partial(Row, "its selection weights are those of Bayes (ours, stricter than the paper's)")
    weight = {p: np.hstack([selection_weight(Answers(found.on[f"icl-{c}"]), classes, p)
                            for c in classes]) for p in (MODEL, MIXED, NOISY)}
    yield row("weight off the posterior's by", farthest(weight[MODEL] - weight[MIXED]), high=0.1)
    yield row(f"off the {NOISY}'s by", farthest(weight[MODEL] - weight[NOISY]))


def nearest(row, s, control, *places):
    """Rows: whose predictions are the model's nearest to, in a sweep?"""
    for x in places:
        for p in (WARY, MIXED, control):
            yield row(f"at {x:g}, squared distance to the {p}", mean(s.distance(MODEL, p, x)))


def blame(s, *places):
    """What, and number: does the optimum of the mixture fail as the model does?"""
    return ("its excess over the optimum, as a share of the model's",
            ratio(s.excess(MIXED, *places), s.excess(MODEL, *places)))


def on_numbers_of_non_zeros(found, noise):
    """Rows on every number of non-zeros; the paper singles out 3 to 7 of 20."""
    s, least, most = Sweep(found, "nnz"), found.e.size.nnz, found.e.size.n_dims

    def share(p, *places):  # of the specialists' distance
        return ratio(s.distance(MODEL, p, *places), s.distance(DENSE, SPARSE, *places))

    between = [k for k in s.x if least < k < most and k <= 7]
    # Of 20 dims, 6 or 7 non-zeros have too many hypotheses for the optimum: all stop at 5 there.
    known = [k for k in between if not np.isnan(s.error(OWN, k)).any()]
    if known:
        there = "at numbers of non-zeros between"
        row = partial(Row, f"{there} it leaves the optimum")
        yield row(f"at {', '.join(map(str, known))}, excess over the {OWN}",
                  mean(s.excess(MODEL, *known)), low=0.02)
        yield from nearest(row, s, DENSE, *known[:2])
        yield Row(f"{there} an ideal learner of the mixture fails, too", *blame(s, *known), low=0.5)
        # Nearer to each specialist than these are to each other.
        row = partial(Row, f"{there} its predictions lie between the specialists'")
        for p in (DENSE, SPARSE):
            yield row(f"squared distance to the {p}, as a share of theirs", share(p, *known),
                      high=1)

    row = partial(Row, "at both ends it predicts as the specialist does, the paper's sign of "
                  "selection")
    for k, p in ((least, SPARSE), (most, DENSE)):
        yield row(f"at {k} non-zeros, squared distance to the {p}, as a share of the specialists'",
                  share(p, k), high=0.1)

    row = partial(Row, "trained on every number of non-zeros, it is near-optimal at each")
    own_excess = {k: s.excess(WIDE, k, over=WIDER) for k in s.x}
    yield row("effective label noise of the wide model", noise("wide"), high=0.1)
    yield row("largest excess over its own optimum",
              farthest(np.stack(list(own_excess.values()), axis=1)), high=0.05)
    for k, excess in own_excess.items():
        yield row(f"at {k} non-zeros, excess over its own optimum", mean(excess))
    for k in s.x:
        yield row(f"at {k} non-zeros, its error as a share of the mixture model's",
                  ratio(s.error(WIDE, k), s.error(MODEL, k)))


def on_combinations(found, noise):
    """Rows on what lies between lines, at weight 1, and sinusoids, at 0; errors over Var f."""
    def variance(x):
        return x**2 + (1 - x) ** 2

    s, again = Sweep(found, "weights", variance), Sweep(found, "again", variance)

    row = partial(Row, "the error rises from both classes to the combination")
    for w, end, those in ((0.2, 0, "sinusoids"), (0.8, 1, "lines")):
        yield row(f"error at weight {w}, minus that on {those}",
                  mean(s.error(MODEL, w) - s.error(MODEL, end)), low=0)

    row = partial(Row, "it fails on half of each")
    yield row("excess over the optimum there", mean(s.excess(MODEL, 0.5)), low=0.02)
    yield row("error there, times that on sinusoids", ratio(s.error(MODEL, 0.5), s.error(MODEL, 0)))
    yield row("excess of a Gaussian process", mean(s.excess(GP, 0.5)))
    yield row("the sinusoid specialist's error", mean(s.error(WAVES, 0.5)))
    yield from nearest(row, s, WAVES, 0.5)
    yield Row("at half of each an ideal learner of the mixture fails, too", *blame(s, 0.5), low=0.5)

    row = partial(Row, "with half of each in pretraining, the failure between the classes is gone")
    yield row("effective label noise of the wide model", noise("wide"))
    for w in (0.3, 0.5, 0.7):
        yield row(f"at weight {w}, excess over the optimum, as a share of the mixture model's",
                  ratio(s.excess(WIDE, w), s.excess(MODEL, w)), high=0.5)
    for w in (0.3, 0.5, 0.7):
        yield row(f"at weight {w}, excess over its own optimum",
                  mean(s.excess(WIDE, w, over=WIDER)))

    row = partial(Row, "between the classes it contradicts the examples that it was shown")
    for w, low in ((0.3, -math.inf), (0.5, 0.02), (0.7, -math.inf)):
        yield row(f"at weight {w}, error at an x just shown, minus that on sinusoids",
                  mean(again.error(MODEL, w) - again.error(MODEL, 0)), low)
    for w in (0, 0.5, 1):
        for p in (MODEL, MIXED, GP):
            yield row(f"at weight {w}, the same error of the {p}", mean(again.error(p, w)))


def on_frequencies(found, noise):
    """Rows on frequencies that were common, at 1.5, and rare in pretraining."""
    s = Sweep(found, "frequency")
    common = s.error(MODEL, 1.5)
    row = partial(Row, "it fails at high frequencies, rare in pretraining")
    yield row("error at 10, times that at 1.5", ratio(s.error(MODEL, 10), common), low=10)
    yield row("error at 0.1, times that at 1.5", ratio(s.error(MODEL, 0.1), common))
    yield from nearest(row, s, WAVES, 3, 5, 10)
    yield Row("at frequency 10 an ideal learner of the mixture does not fail", *blame(s, 10),
              high=0.1)


def claims_of(found):
    """All rows that have a number, from what was found of an experiment. A claim is left out if one
    of its numbers with a bound is missing (nan)."""
    e = found.e

    def noise(model, part="pretraining"):
        """Effective label noise, and the longer side of its interval."""
        nothing = [math.nan] * 3
        s, low, high = found.facts.get(model, {}).get("noise", {}).get(part, nothing)
        # s = inf, worse than all that were tried, lies outside each bound; inf - inf would be nan.
        return s, max(high - s, s - low) if math.isfinite(s) else 0.0

    rows = [row for c in e.classes for row in on_a_class(found, c, noise)]
    rows += on_selection(found)
    sweeps = {"sparse": [on_numbers_of_non_zeros], "sine": [on_combinations, on_frequencies]}
    for judge in sweeps[e.name]:
        rows += judge(found, noise)
    incomplete = {row.claim for row in rows if row.bound and math.isnan(row.number[0])}
    return [replace(row, claim=f"{e.name}: {row.claim}") for row in rows
            if row.claim not in incomplete and not math.isnan(row.number[0])]


# -------------------------------------------------------------------------------------- the table

def verdicts(rows):
    """Claim -> the worst verdict on its numbers that have a bound."""
    judged = {}
    for row in rows:
        if row.bound:
            judged.setdefault(row.claim, []).append(VERDICTS.index(row.verdict))
    return {claim: VERDICTS[min(ranks)] for claim, ranks in judged.items()}


def table(runs):
    """Lines of text from name of a run -> its rows: a column a run, and counts of verdicts."""
    lines = [" | ".join(["|  | bound", *runs]) + " |", "|---" * (2 + len(runs)) + "|"]
    judged = {run: verdicts(rows) for run, rows in runs.items()}
    cells = {}  # claim -> what, bound -> run -> text
    for run, rows in runs.items():
        for row in rows:
            value, margin = row.number
            text = f"{float(f'{value:.3g}'):g} ± {float(f'{margin:.2g}'):g}"
            numbers = cells.setdefault(row.claim, {}).setdefault((row.what, row.bound), {})
            numbers[run] = f"{text}, {row.verdict}" if row.bound else text
    for claim, numbers in cells.items():
        overall = [judged[run].get(claim, "") for run in runs]
        lines.append(" | ".join([f"| **{claim}**", "", *overall]) + " |")
        for (what, bound), texts in numbers.items():
            lines.append(" | ".join([f"| {what}", bound, *(texts.get(run, "") for run in runs)])
                         + " |")
    for run, claims in judged.items():
        counts = [f"{list(claims.values()).count(v)} {v}" for v in reversed(VERDICTS)]
        lines += ["", f"{run}, {len(claims)} claims: {', '.join(counts)}"]
    return lines


def claims_in(folder):
    """The rows of all experiments in a folder; icl.Refused if there are none."""
    if not (everything := read(folder)):
        raise icl.Refused(f"{folder} holds no predictions of a run")
    return [row for found in everything for row in claims_of(found)]


if __name__ == "__main__":
    if sys.stdout:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", help="of a run, such as results/small")
    try:
        print("\n".join(table({name: claims_in(Path(name)) for name in
                               parser.parse_args().folders})))
    except (icl.Refused, OSError) as error:
        parser.exit(2, f"claims.py: error: {error}\n")
