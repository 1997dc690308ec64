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
import train  # before NumPy: it holds the BLAS to one thread
import argparse
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

import icl
from results.report import GP, NOISY, TRUTH, WARY, WIDER, read, selection_weight, sweep
from train import MIXED, OWN

MODEL, WIDE, WAVES = "mixture model", "wide model", "sinusoid model"
DENSE, SPARSE = "dense model", "sparse model"
VERDICTS, NAN = ("does not hold", "undecided", "holds"), math.nan  # the worst first


def mean(values, z=1.96):
    """Mean over prompts of values (B,), and half of its 95% interval."""
    return values.mean(), z * values.std(ddof=1) / len(values) ** 0.5


@np.errstate(invalid="ignore")  # 0 / 0 is nan, and has no row
def ratio(a, b):
    """mean(a) / mean(b) over prompts, and half of its interval by the delta method."""
    r = a.mean() / b.mean()
    return r, mean(a - r * b)[1] / b.mean()


def residual(a, b):
    """How far apart two error curves (B, N) are: root mean square over 1 example and more."""
    difference = (a - b)[:, 1:]
    curve = difference.mean(0)
    rms = math.sqrt(np.mean(curve**2)) + 1e-12
    # The samples below average to mean(curve^2) / rms = rms, and spread as rms does (delta method).
    return mean((difference * curve).mean(1) / rms)


def farthest(values):
    """|Mean| of that column of values (B, X) whose interval reaches farthest from 0.

    Picked from many, it has a wider interval: all columns' intervals hold at once (Bonferroni).
    Columns with nan are left out.
    """
    columns = values.T[~np.isnan(values).any(0)]
    z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(columns)))
    numbers = [(abs(value), margin) for value, margin in (mean(v, z) for v in columns)]
    return max(numbers, key=sum, default=(NAN, NAN))


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
    """Predictor -> predictions; those of a predictor that is not there are nan."""
    def __missing__(self, predictor):
        return np.nan * self[TRUTH]

    def apart(self, p, q=TRUTH):
        """Squared distance of predictions, or error: (B, X), means over all but the first axes."""
        d = (self[p] - self[q]) ** 2
        return d if d.ndim == 2 else d.mean(2)


def within(e, shown, answers, noise):
    """Rows on the functions of one class."""
    other, half = next(c for c in e.classes if c != shown), e.n_points // 2
    own, theirs = f"{shown} model", f"{other} model"

    def times(p, first=0, last=None, q=MODEL):
        return ratio(*(answers.apart(r)[:, first:last].mean(1) for r in (q, p)))

    near = f"near-optimal on {shown} functions"
    cost = f"no extra cost on {shown} functions for not knowing the class"
    fails = f"the {other} specialist fails on {shown} functions"
    rows = [
        Row(near, "effective label noise of the mixture model", noise("mixture"), high=0.1),
        Row(near, "the same, on these functions alone", noise("mixture", shown)),
        Row(near, f"its curve beside the {NOISY}'s",
            residual(answers.apart(MODEL), answers.apart(NOISY)), high=0.03),
        Row(near, "beside the exact optimum's",
            residual(answers.apart(MODEL), answers.apart(MIXED))),
        Row(near, "times that learner's error, early", times(NOISY, 1, max(2, half))),
        Row(near, "times that learner's error, late", times(NOISY, half)),
        Row(near, "excess over the optimum of the mixture",
            mean((answers.apart(MODEL) - answers.apart(MIXED)).mean(1))),
        *(Row(near, f"squared distance to the {p}", mean(answers.apart(MODEL, p)[:, 1:].mean(1)))
          for p in (NOISY, WARY, MIXED)),
        Row(cost, "times the specialist's error", times(own), high=1.1),
        Row(cost, "times it from 2 examples on", times(own, min(2, half))),
        Row(cost, "the optimum pays", times(OWN, q=MIXED)),
        *(Row(cost, f"effective label noise of the {m} model", noise(m))
          for m in ("mixture", shown)),
        Row(fails, "times the mixture model's error", times(MODEL, q=theirs), low=2)]
    if shown == "dense":
        rows.append(Row("as good as least squares on dense functions", "times their error",
                        times("least squares"), high=1.1))
    if shown == "sparse":
        claim = "better than least squares, as good as the Lasso on sparse ones"
        rows += [Row(claim, "times the Lasso's error", times("Lasso"), high=1),
                 Row(claim, "times least squares'", times("least squares"), high=1)]
    return rows


def selection(e, on):
    """Rows on selection weights, at the worst number of examples of either class."""
    weight = {p: np.hstack([selection_weight(on[f"icl-{c}"], e.classes, p) for c in e.classes])
              for p in (MODEL, MIXED, NOISY)}
    claim = "its selection weights are those of Bayes (ours, stricter than the paper's)"
    return [Row(claim, "weight off the posterior's by", farthest(weight[MODEL] - weight[MIXED]),
                high=0.1),
            Row(claim, f"off the {NOISY}'s by", farthest(weight[MODEL] - weight[NOISY]))]


class Sweep:
    """A sweep: x (X,), and errors and distances (B, X), at a place (B,)."""
    def __init__(self, found, name, variance=lambda x: 1):
        self.x, predicted = sweep(found, name)
        self.answers, self.variance = Answers(predicted), variance(self.x)

    def at(self, values, *places):
        return values[:, [np.isclose(x, places).any() for x in self.x]].mean(1)

    def error(self, p):
        return self.answers.apart(p) / self.variance

    def excess(self, p, over=OWN):
        return self.error(p) - self.error(over)

    def nearest(self, claim, control, *places):
        """Whose predictions are the model's nearest to?"""
        return [Row(claim, f"at {w:g}, squared distance to the {p}",
                    mean(self.at(self.answers.apart(MODEL, p), w)))
                for w in places for p in (WARY, MIXED, control)]

    def blame(self, claim, *places, **bound):
        """Does the optimum of the mixture fail as the model does?"""
        return Row(claim, "its excess over the optimum, as a share of the model's", ratio(
            self.at(self.excess(MIXED), *places), self.at(self.excess(MODEL), *places)), **bound)


def nnz(found, noise):
    """Rows on every number of non-zeros; the paper singles out 3 to 7 of 20."""
    s, least, most = Sweep(found, "nnz"), found.e.size.nnz, found.e.size.n_dims
    known = [k for k in s.x if least < k <= min(7, most - 1)
             and not np.isnan(s.at(s.error(OWN), k)).any()]
    rows = []
    if known:
        where = f"at {' to '.join(str(k) for k in sorted({known[0], known[-1]}))} non-zeros"
        leaves = f"{where} it leaves the optimum"
        between = f"{where} its predictions lie between the specialists'"
        rows = [Row(leaves, f"excess over the {OWN}", mean(s.at(s.excess(MODEL), *known)),
                    low=0.02),
                *s.nearest(leaves, DENSE, *known[:2]),
                s.blame(f"{where} an ideal learner of the mixture fails, too", *known, low=0.5),
                *(Row(between, f"squared distance to the {p}, as a share of theirs", ratio(
                    s.at(s.answers.apart(MODEL, p), *known),
                    s.at(s.answers.apart(DENSE, SPARSE), *known)), high=1)
                  for p in (DENSE, SPARSE))]
    ends = "at both ends it predicts as the specialist does, the paper's sign of selection"
    wide = "trained on every number of non-zeros, it is near-optimal at each"
    return [*rows, *(
        Row(ends, f"at {k} non-zeros, squared distance to the {p}, as a share of the specialists'",
            ratio(s.at(s.answers.apart(MODEL, p), k), s.at(s.answers.apart(DENSE, SPARSE), k)),
            high=0.1) for k, p in ((least, SPARSE), (most, DENSE))),
        Row(wide, "effective label noise of the wide model", noise("wide"), high=0.1),
        Row(wide, "largest excess over its own optimum", farthest(s.excess(WIDE, WIDER)),
            high=0.05),
        *(Row(wide, f"at {k} non-zeros, excess over its own optimum",
              mean(s.at(s.excess(WIDE, WIDER), k))) for k in s.x),
        *(Row(wide, f"at {k} non-zeros, its error as a share of the mixture model's",
              ratio(s.at(s.error(WIDE), k), s.at(s.error(MODEL), k))) for k in s.x)]


def weights(found, noise):
    """Rows on what lies between lines, at weight 1, and sinusoids, at 0."""
    variance = lambda x: x**2 + (1 - x) ** 2  # so errors are shares of Var f
    s, again = Sweep(found, "weights", variance), Sweep(found, "again", variance)
    rises = "the error rises from both classes to the combination"
    half = "it fails on half of each"
    gone = "with half of each in pretraining, the failure between the classes is gone"
    denies = "between the classes it contradicts the examples that it was shown"
    return [
        *(Row(rises, f"at weight {w}, minus the {those}'",
              mean(s.at(s.error(MODEL), w) - s.at(s.error(MODEL), end)), low=0)
          for w, end, those in ((0.2, 0, "sinusoids"), (0.8, 1, "lines"))),
        Row(half, "excess over the optimum there", mean(s.at(s.excess(MODEL), 0.5)), low=0.02),
        Row(half, "times that on sinusoids",
            ratio(s.at(s.error(MODEL), 0.5), s.at(s.error(MODEL), 0))),
        Row(half, "excess of a Gaussian process", mean(s.at(s.excess(GP), 0.5))),
        Row(half, "the sinusoid specialist's error", mean(s.at(s.error(WAVES), 0.5))),
        *s.nearest(half, WAVES, 0.5),
        s.blame("at half of each an ideal learner of the mixture fails, too", 0.5, low=0.5),
        Row(gone, "effective label noise of the wide model", noise("wide")),
        *(Row(gone, f"at weight {w}, excess over the optimum, as a share of the mixture model's",
              ratio(s.at(s.excess(WIDE), w), s.at(s.excess(MODEL), w)), high=0.5)
          for w in (0.3, 0.5, 0.7)),
        *(Row(gone, f"at weight {w}, excess over its own optimum",
              mean(s.at(s.excess(WIDE, WIDER), w))) for w in (0.3, 0.5, 0.7)),
        *(Row(denies, f"at weight {w}, error at an x just shown, minus that on sinusoids",
              mean(again.at(again.error(MODEL), w) - again.at(again.error(MODEL), 0)), low)
          for w, low in ((0.3, -math.inf), (0.5, 0.02), (0.7, -math.inf))),
        *(Row(denies, f"at weight {w}, the same error of the {p}",
              mean(again.at(again.error(p), w)))
          for w in (0, 0.5, 1) for p in (MODEL, MIXED, GP))]


def frequency(found, noise):
    """Rows on frequencies that were common, at 1.5, and rare in pretraining."""
    s, fails = Sweep(found, "frequency"), "it fails at high frequencies, rare in pretraining"
    ours = s.error(MODEL)
    return [Row(fails, "at 10, times that at 1.5", ratio(s.at(ours, 10), s.at(ours, 1.5)), low=10),
            Row(fails, "at 0.1, times that at 1.5", ratio(s.at(ours, 0.1), s.at(ours, 1.5))),
            *s.nearest(fails, WAVES, 3, 5, 10),
            s.blame("at frequency 10 an ideal learner of the mixture does not fail", 10, high=0.1)]


def claims_of(found):
    """All rows that have a number, from what was found of an experiment."""
    e, on = found.e, {key: Answers(predicted) for key, predicted in found.on.items()}

    def noise(model, part="pretraining"):  # the margin is the interval's longer side
        s, low, high = found.facts.get(model, {}).get("noise", {}).get(part, [NAN] * 3)
        return s, max(high - s, s - low) if math.isfinite(s) else 0.0

    rows = [row for c in e.classes for row in within(e, c, on[f"icl-{c}"], noise)]
    rows += selection(e, on)
    for judge in (nnz,) if e.name == "sparse" else (weights, frequency):
        rows += judge(found, noise)
    return [replace(row, claim=f"{e.name}: {row.claim}") for row in rows
            if not math.isnan(row.number[0])]


def verdicts(rows):
    """Claim -> the worst verdict on its numbers that have a bound."""
    judged = {}
    for row in rows:
        if row.bound:
            judged.setdefault(row.claim, []).append(VERDICTS.index(row.verdict))
    return {claim: VERDICTS[min(found)] for claim, found in judged.items()}


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
        of = [judged[run].get(claim, "") for run in runs]
        lines.append(" | ".join([f"| **{claim}**", "", *of]) + " |")
        for (what, bound), found in numbers.items():
            lines.append(" | ".join([f"| {what}", bound, *(found.get(run, "") for run in runs)])
                         + " |")
    for run, found in judged.items():
        counts = [f"{list(found.values()).count(v)} {v}" for v in reversed(VERDICTS)]
        lines += ["", f"{run}, {len(found)} claims: {', '.join(counts)}"]
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
