"""The paper's claims, and some of our own, judged by a run's predictions.

    python results/claims.py results/small runs/seed-1     a column for each folder

A number is printed with ± half of its 95% interval over prompts. One with a bound holds where its
whole interval lies within the bound, and is undecided where the interval crosses it. A claim is as
good as the worst of its numbers. Comparisons are paired prompt by prompt. What needs a model that
is not there is left out. README.md says when the bounds were set, and which were changed since.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import argparse
import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from results import jobs
from results.experiments import GP, MIXED, NOISY, OWN, TRUTH, WARY, WIDE_OPTIMUM
from results.report import Found, absent, read, selection_weight, variance_of

# NOISY is the optimum of the mixture whose labels have the model's effective label noise; WARY
# believes in the same noise, and reads exact labels.
MODEL, WIDE, WAVES = "mixture model", "wide model", "sinusoid model"
DENSE, SPARSE = "dense model", "sparse model"
VERDICTS = "does not hold", "undecided", "holds"  # the worst first


def estimate(values, z=1.96):
    """Mean over prompts of values (B,), and half of its 95% interval."""
    return values.mean(), z * values.std(ddof=1) / len(values) ** 0.5


@np.errstate(invalid="ignore", divide="ignore")  # 0 / 0 is nan, and has no row
def ratio(a, b):
    """mean(a) / mean(b) over prompts, and half of its interval by the delta method. Where mean(b)
    may be zero or less, the interval has no end."""
    r, (bottom, margin) = a.mean() / b.mean(), estimate(b)
    if bottom <= margin:
        return r, math.inf
    return r, estimate(a - r * b)[1] / bottom


def residual(a, b):
    """Root mean square, over 1 example and more, of the difference of two mean error curves.
    a, b: errors, prompt by prompt (B, N). As squares add up, chance makes it larger: so "at most"
    is judged strictly.
    """
    difference = (a - b)[:, 1:]  # (B, N - 1)
    curve = difference.mean(0)  # (N - 1,)
    rms = math.sqrt(np.mean(curve**2)) + 1e-12  # never 0, to divide by
    # Delta method: a number for each prompt, with the mean mean(curve^2) / rms = rms, and with the
    # standard error that rms has.
    return estimate((difference * curve).mean(1) / rms)


def farthest(values):
    """An interval for the largest |mean| of the columns of values (B, X): middle, half its width.

    All columns' intervals are wider, so that they hold at once (Bonferroni). Then the largest is at
    least the highest of their lower ends, and at most the highest of their upper ends. Columns with
    nan are left out.
    """
    columns = values.T[~np.isnan(values).any(0)]
    if not len(columns):
        return math.nan, math.nan
    z = NormalDist().inv_cdf(1 - 0.025 / len(columns))
    means, margins = np.transpose([estimate(v, z) for v in columns])
    low, high = (abs(means) - margins).max(), (abs(means) + margins).max()
    return (low + high) / 2, (high - low) / 2


@dataclass
class Row:
    """A number, and the bound that a claim sets for it, if it sets one."""
    what: str
    number: tuple  # value, half of its interval
    at_most: float = None
    at_least: float = None

    @property
    def bound(self):
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def verdict(self):
        value, margin = self.number
        # How far outside the bound; negative inside.
        beyond = self.at_least - value if self.at_most is None else value - self.at_most
        if beyond + margin <= 0:
            return "holds"
        return "does not hold" if beyond - margin > 0 else "undecided"

    @property
    def missing(self):
        return math.isnan(self.number[0])

    def __str__(self):
        value, margin = self.number
        text = f"{digits(value, 3)} ± {digits(margin, 2)}"
        return f"{text}, {self.verdict}" if self.bound else text


def digits(x, n):
    """x to n significant digits: 1230, not 1.23e+03."""
    return f"{float(f'{x:.{n}g}'):g}"


def predictions_on(found, sheet):
    """Predictor -> predictions (B, A) on a sheet; nan of one that is not there."""
    predicted = found.on[sheet]
    return defaultdict(lambda: np.nan * predicted[TRUTH], predicted)


@dataclass
class Sweep:
    """What was answered along a sweep. A method's result is a number for each prompt, (B,), the
    mean over the places asked for; nan if a predictor is not there."""
    found: Found
    name: str

    def has(self, *places):
        """Whether it was asked at these places."""
        return all(f"{self.name}-{x:g}" in self.found.on for x in places)

    def distance(self, p, q, *places):
        """Squared distance between the predictions of p and of q."""
        at = [predictions_on(self.found, f"{self.name}-{x:g}") for x in places]
        return np.mean([((on[p] - on[q]) ** 2).mean(1) for on in at], axis=0)

    def error(self, p, *places):
        """Squared error of p, over Var f."""
        classes = [self.found.sheets[f"{self.name}-{x:g}"].function_class for x in places]
        return np.mean([self.distance(p, TRUTH, x) / variance_of(c)
                        for x, c in zip(places, classes)], axis=0)

    def excess(self, p, *places, over=OWN):
        """Error of p, minus that of an optimum."""
        return self.error(p, *places) - self.error(over, *places)

    def neighbours(self, control, *places):
        """Rows: whose predictions are the mixture model's nearest to?"""
        return [Row(f"at {x:g}, squared distance to the {p}",
                    estimate(self.distance(MODEL, p, x)))
                for x in places for p in (WARY, MIXED, control)]

    def optimum_fails(self, *places, **bound):
        """A row: does the optimum of the mixture fail as the mixture model does?"""
        return Row(f"excess of the {MIXED}, as a share of the model's",
                   ratio(self.excess(MIXED, *places), self.excess(MODEL, *places)), **bound)


# ---------------------------------------------- the claims, one by one: what is claimed -> its rows

def on_a_class(found, shown, noise):
    """Claims on the functions of one class. noise(model, part): see claims_of."""
    predicted, half = predictions_on(found, f"icl-{shown}"), found.e.n_points // 2
    other = next(c for c in found.e.classes if c != shown)

    def distance(p, q):
        return (predicted[p] - predicted[q]) ** 2  # (B, N)

    def error(p):
        return distance(p, TRUTH)

    def relative(p, base, first=0, last=None):
        """The error of p divided by that of base, after first to last - 1 examples."""
        return ratio(error(p)[:, first:last].mean(1), error(base)[:, first:last].mean(1))

    claims = {
        f"near-optimal on {shown} functions": [
            Row("effective label noise of the mixture model", noise("mixture"), at_most=0.1),
            Row("effective label noise on these functions alone", noise("mixture", shown)),
            Row(f"its curve beside the {NOISY}'s",
                residual(error(MODEL), error(NOISY)), at_most=0.03),
            Row("its curve beside the exact optimum's", residual(error(MODEL), error(MIXED))),
            Row(f"times the {NOISY}'s error, first half", relative(MODEL, NOISY, 1, half)),
            Row(f"times the {NOISY}'s error, second half", relative(MODEL, NOISY, half)),
            Row(f"excess over the {MIXED}", estimate((error(MODEL) - error(MIXED)).mean(1))),
            *(Row(f"squared distance to the {p}", estimate(distance(MODEL, p)[:, 1:].mean(1)))
              for p in (NOISY, WARY, MIXED))],
        f"no extra cost on {shown} functions for not knowing the class": [
            Row("times the specialist's error", relative(MODEL, f"{shown} model"), at_most=1.1),
            Row("times the specialist's error, from 2 examples on",
                relative(MODEL, f"{shown} model", 2)),
            Row(f"the {MIXED}'s error, times that of the {OWN}", relative(MIXED, OWN)),
            Row("effective label noise of the mixture model", noise("mixture")),
            Row(f"effective label noise of the {shown} model", noise(shown))],
        f"the {other} specialist fails on {shown} functions": [
            Row("times the mixture model's error", relative(f"{other} model", MODEL), at_least=2)]}
    if shown == "dense":
        claims["as good as least squares on dense functions"] = [
            Row("times least squares' error", relative(MODEL, "least squares"), at_most=1.1)]
    if shown == "sparse":
        claims["better than least squares, as good as the Lasso on sparse ones"] = [
            Row("times the Lasso's error", relative(MODEL, "Lasso"), at_most=1),
            Row("times least squares' error", relative(MODEL, "least squares"), at_most=1)]
    return claims


def on_selection(found):
    """A claim on selection weights, at the worst number of examples of either class."""
    sheets = [predictions_on(found, f"icl-{c}") for c in found.e.classes]
    model, mixed, noisy = (np.hstack([selection_weight(on, found.e.classes, p) for on in sheets])
                           for p in (MODEL, MIXED, NOISY))
    return {"its selection weights are those of Bayes (ours, stricter than the paper's)": [
        Row("weight off the posterior's by", farthest(model - mixed), at_most=0.1),
        Row(f"weight off the {NOISY}'s by", farthest(model - noisy))]}


def on_numbers_of_non_zeros(found, noise):
    """Claims on every number of non-zeros; the paper singles out 3 to 7 of 20."""
    nnz, least, most = Sweep(found, "nnz"), found.e.size.nnz, found.e.size.n_dims
    if not nnz.has(least, most):
        return {}
    numbers = list(found.e.sweeps["nnz"])
    # From above the sparse class's number to 7, where there is an optimum: of 20 dims, only to 5.
    between = [k for k in numbers if least < k < min(most, 8) and OWN in found.on[f"nnz-{k}"]]

    def share(p, *places):
        """The model's distance to a specialist, as a share of that between the specialists."""
        return ratio(nnz.distance(MODEL, p, *places), nnz.distance(DENSE, SPARSE, *places))

    claims = {}
    if between:
        claims["at numbers of non-zeros between it leaves the optimum"] = [
            Row(f"at {', '.join(map(str, between))}, excess over the {OWN}",
                estimate(nnz.excess(MODEL, *between)), at_least=0.02),
            *nnz.neighbours(DENSE, *between[:2])]
        claims["at numbers of non-zeros between an ideal learner of the mixture fails, too"] = [
            nnz.optimum_fails(*between, at_least=0.5)]
        # Nearer to each specialist than these are to each other.
        claims["at numbers of non-zeros between its predictions lie between the specialists'"] = [
            Row(f"squared distance to the {p}, as a share of theirs", share(p, *between), at_most=1)
            for p in (DENSE, SPARSE)]
    claims["at both ends it predicts as the specialist does, the paper's sign of selection"] = [
        Row(f"at {k} non-zeros, squared distance to the {p}, as a share of the specialists'",
            share(p, k), at_most=0.1) for k, p in ((least, SPARSE), (most, DENSE))]

    own_excess = [nnz.excess(WIDE, k, over=WIDE_OPTIMUM) for k in numbers]
    rows = [Row("effective label noise of the wide model", noise("wide"), at_most=0.1),
            Row("largest excess over its own optimum", farthest(np.stack(own_excess, axis=1)),
                at_most=0.05)]
    for k, values in zip(numbers, own_excess):
        rows.append(Row(f"at {k} non-zeros, excess over its own optimum", estimate(values)))
    for k in numbers:
        rows.append(Row(f"at {k} non-zeros, its error as a share of the mixture model's",
                        ratio(nnz.error(WIDE, k), nnz.error(MODEL, k))))
    claims["trained on every number of non-zeros, it is near-optimal at each"] = rows
    return claims


def on_combinations(found, noise):
    """Claims on what lies between lines, at weight 1, and sinusoids, at 0."""
    sweep, again, between = Sweep(found, "weights"), Sweep(found, "again"), (0.3, 0.5, 0.7)
    if not sweep.has(0, 0.2, *between, 0.8, 1) or not again.has(0, *between, 1):
        return {}
    claims = {}
    claims["the error rises from both classes to the combination"] = [
        Row(f"error at weight {w}, minus that on {those}",
            estimate(sweep.error(MODEL, w) - sweep.error(MODEL, end)), at_least=0)
        for w, end, those in ((0.2, 0, "sinusoids"), (0.8, 1, "lines"))]
    claims["it fails on half of each"] = [
        Row("excess over the optimum", estimate(sweep.excess(MODEL, 0.5)), at_least=0.02),
        Row("error, times that on sinusoids",
            ratio(sweep.error(MODEL, 0.5), sweep.error(MODEL, 0))),
        Row("excess of a Gaussian process", estimate(sweep.excess(GP, 0.5))),
        Row("the sinusoid specialist's error", estimate(sweep.error(WAVES, 0.5))),
        *sweep.neighbours(WAVES, 0.5)]
    claims["at half of each an ideal learner of the mixture fails, too"] = [
        sweep.optimum_fails(0.5, at_least=0.5)]

    rows = [Row("effective label noise of the wide model", noise("wide"))]
    for w in between:
        what = f"at weight {w}, excess over the optimum, as a share of the mixture model's"
        share = ratio(sweep.excess(WIDE, w), sweep.excess(MODEL, w))
        rows.append(Row(what, share, at_most=0.5))
    for w in between:
        rows.append(Row(f"at weight {w}, excess over its own optimum",
                        estimate(sweep.excess(WIDE, w, over=WIDE_OPTIMUM))))
    claims["with half of each in pretraining, the failure between the classes is halved"] = rows

    rows = []
    for w in between:
        rows.append(Row(f"at weight {w}, error at an x shown before, minus that on sinusoids",
                        estimate(again.error(MODEL, w) - again.error(MODEL, 0)),
                        at_least=0.02 if w == 0.5 else None))
    for w in (0, 0.5, 1):
        for p in (MODEL, MIXED, GP):
            rows.append(Row(f"at weight {w}, error at an x shown before of the {p}",
                            estimate(again.error(p, w))))
    claims["between the classes it contradicts the examples that it was shown"] = rows
    return claims


def on_frequencies(found):
    """Claims on frequencies that were common, at 1.5, and rare in pretraining."""
    sweep = Sweep(found, "frequency")
    if not sweep.has(0.1, 1.5, 3, 5, 10):
        return {}
    return {
        "it fails at high frequencies, rare in pretraining": [
            Row("error at 10, times that at 1.5",
                ratio(sweep.error(MODEL, 10), sweep.error(MODEL, 1.5)), at_least=10),
            Row("error at 0.1, times that at 1.5",
                ratio(sweep.error(MODEL, 0.1), sweep.error(MODEL, 1.5))),
            *sweep.neighbours(WAVES, 3, 5, 10)],
        "at frequency 10 an ideal learner of the mixture does not fail": [
            sweep.optimum_fails(10, at_most=0.1)]}


def claims_of(found):
    """Claim -> its rows that have a number, from what was found of an experiment. A claim is left
    out if one of its numbers with a bound is missing (nan)."""
    e, claims = found.e, {}

    def noise(model, part="pretraining"):
        """Effective label noise, and the longer side of its interval."""
        nothing = [math.nan] * 3
        s, low, high = found.facts.get(model, {}).get("noise", {}).get(part, nothing)
        # s = inf, worse than all that were tried, lies outside each bound; inf - inf would be nan.
        margin = max(high - s, s - low) if math.isfinite(s) else 0.0
        return s, margin

    for c in e.classes:
        claims |= on_a_class(found, c, noise)
    claims |= on_selection(found)
    claims |= on_numbers_of_non_zeros(found, noise)
    claims |= on_combinations(found, noise)
    claims |= on_frequencies(found)
    return {f"{e.name}: {claim}": [row for row in rows if not row.missing]
            for claim, rows in claims.items()
            if not any(row.bound and row.missing for row in rows)}


# -------------------------------------------------------------------------------------- the table

def verdicts(claims):
    """Claim -> the worst verdict on its numbers that have a bound."""
    return {claim: VERDICTS[min(VERDICTS.index(row.verdict) for row in rows if row.bound)]
            for claim, rows in claims.items()}


def union(groups):
    """All that is in any of them, once, in order."""
    return list(dict.fromkeys(item for group in groups for item in group))


def table(runs):
    """Lines of text from name of a run -> its claims: a column a run, and counts of verdicts."""
    def line(*cells):
        return f"| {' | '.join(cells)} |"

    lines = [line("", "bound", *runs), "|---" * (2 + len(runs)) + "|"]
    judged = {run: verdicts(claims) for run, claims in runs.items()}
    for claim in union(runs.values()):
        lines.append(line(f"**{claim}**", "", *(judged[run].get(claim, "") for run in runs)))
        columns = [{(row.what, row.bound): str(row) for row in claims.get(claim, [])}
                   for claims in runs.values()]
        for what, bound in union(columns):
            lines.append(line(what, bound, *(column.get((what, bound), "") for column in columns)))
    for run, verdict_of in judged.items():
        counts = [f"{list(verdict_of.values()).count(v)} {v}" for v in reversed(VERDICTS)]
        lines += ["", f"{run}, {len(verdict_of)} claims: {', '.join(counts)}"]
    return lines


def claims_in(run):
    """The claims of all experiments in a run, as claims_of. run: a list of Found."""
    return {claim: rows for found in run for claim, rows in claims_of(found).items()}


def main(folders):
    """Print the table of the claims in these folders, and on stderr what they lack."""
    runs = {folder: read(folder) for folder in folders}
    print("\n".join(table({folder: claims_in(run) for folder, run in runs.items()})), flush=True)
    for folder, run in runs.items():
        if missing := absent(run):
            print(f"{folder} has no predictions of {', '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    if sys.stdout:
        sys.stdout.reconfigure(encoding="utf-8")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", help="of a run, such as results/small")
    sys.exit(jobs.exit_status("claims.py", lambda: main(parser.parse_args().folders)))
