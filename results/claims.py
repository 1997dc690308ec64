"""The paper's claims, and some of our own, judged by a run's predictions.

    python results/claims.py results/small runs/seed-1     a column for each folder

Each number stands with half of its 95% interval over prompts. One with a bound holds where its
whole interval lies within the bound, and is undecided where the interval crosses it. A claim is as
good as the worst of its numbers. Comparisons are paired prompt by prompt. What needs a model that
is not there is left out. The bounds were set before the small size was first trained; README.md
says which were changed since, and why.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train  # before NumPy: it holds the BLAS to one thread
import argparse
import math
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


def verdict(number, at_least=-math.inf, at_most=math.inf):
    """One of VERDICTS on a number and half of its interval."""
    low, high = number[0] - number[1], number[0] + number[1]
    if at_least <= low and high <= at_most:
        return "holds"
    return "does not hold" if high < at_least or low > at_most else "undecided"


class Answers(dict):
    """Predictor -> predictions; those of a predictor that is not there are nan."""
    def __missing__(self, predictor):
        return np.nan * self[TRUTH]

    def error(self, predictor, other=TRUTH):
        return (self[predictor] - self[other]) ** 2


def class_claims(e, shown, at, noise):
    """Along prompts of one class: claim -> rows (what, number) or (what, number, bound)."""
    other, half = next(c for c in e.classes if c != shown), e.n_points // 2
    curve = {p: at.error(p) for p in (MODEL, MIXED, NOISY, OWN, f"{shown} model", f"{other} model",
                                      "least squares", "Lasso")}
    apart = {p: mean(at.error(MODEL, p)[:, 1:].mean(1)) for p in (NOISY, WARY, MIXED)}
    error = {p: v.mean(1) for p, v in curve.items()}

    def times(p, first, last=None):
        return ratio(curve[MODEL][:, first:last].mean(1), curve[p][:, first:last].mean(1))

    claims = {f"near-optimal on {shown} functions": [
        ("effective label noise of the mixture model", noise("mixture"), {"at_most": 0.1}),
        ("the same, on these functions alone", noise("mixture", shown)),
        (f"its curve beside the {NOISY}'s", residual(curve[MODEL], curve[NOISY]),
         {"at_most": 0.03}),
        ("beside the exact optimum's", residual(curve[MODEL], curve[MIXED])),
        ("times that learner's error, early", times(NOISY, 1, max(2, half))),
        ("times that learner's error, late", times(NOISY, half)),
        ("excess over the optimum of the mixture", mean(error[MODEL] - error[MIXED])),
        *((f"squared distance to the {p}", number) for p, number in apart.items())],
        f"no extra cost on {shown} functions for not knowing the class": [
        ("times the specialist's error", times(f"{shown} model", 0), {"at_most": 1.1}),
        ("times it from 2 examples on", times(f"{shown} model", min(2, half))),
        ("the optimum pays", ratio(error[MIXED], error[OWN])),
        *((f"effective label noise of the {m} model", noise(m)) for m in ("mixture", shown))],
        f"the {other} specialist fails on {shown} functions": [
        ("times the mixture model's error", ratio(error[f"{other} model"], error[MODEL]),
         {"at_least": 2})]}
    if shown == "dense":
        claims["as good as least squares on dense functions"] = [
            ("times their error", times("least squares", 0), {"at_most": 1.1})]
    if shown == "sparse":
        claims["better than least squares, as good as the Lasso on sparse ones"] = [
            ("times the Lasso's error", times("Lasso", 0), {"at_most": 1}),
            ("times least squares'", times("least squares", 0), {"at_most": 1})]
    return claims


def sweep_claims(e, name, x, at, noise):
    """Outside pretraining, as class_claims: does the model fail, and would an ideal learner?"""
    variance = x**2 + (1 - x) ** 2 if name in ("weights", "again") else 1
    error = {p: at.error(p).mean(2) / variance
             for p in (MODEL, MIXED, OWN, WAVES, GP, WIDE, WIDER)}  # (B, X) each
    ours, excess = error[MODEL], error[MODEL] - error[OWN]

    def apart(a, b):
        return at.error(a, b).mean(2)

    def place(values, where):
        return values[:, np.isclose(x, where)].mean(1)

    def nearest(control, *places):
        return [(f"at {w:g}, squared distance to the {p}", mean(place(apart(MODEL, p), w)))
                for w in places for p in (WARY, MIXED, control)]

    def failure(where, **bound):
        return [("its excess over the optimum, as a share of the model's",
                 ratio(place(error[MIXED] - error[OWN], where), place(excess, where)), bound)]

    if name == "nnz":  # the paper looks at up to 7 of 20
        known = x[(x > e.size.nnz) & (x <= min(7, len(x) - 1)) & ~np.isnan(error[OWN]).any(0)]
        if not len(known):
            return {}
        there = lambda values: values[:, np.isin(x, known)].mean(1)
        where = f"at {' to '.join(str(k) for k in sorted({known[0], known[-1]}))} non-zeros"
        to_dense, to_sparse, theirs = (there(apart(*pair)) for pair in (
            (MODEL, DENSE), (MODEL, SPARSE), (DENSE, SPARSE)))
        return {f"{where} it leaves the optimum": [
            (f"excess over the {OWN}", mean(there(excess)), {"at_least": 0.02}),
            *nearest(DENSE, *known[:2])],
            f"{where} an ideal learner of the mixture fails, too": [
            ("its excess over the optimum, as a share of the model's",
             ratio(there(error[MIXED] - error[OWN]), there(excess)), {"at_least": 0.5})],
            f"{where} its predictions lie between the specialists'": [
            ("squared distance to the dense model, as a share of theirs", ratio(to_dense, theirs),
             {"at_most": 1}), ("to the sparse model", ratio(to_sparse, theirs), {"at_most": 1})],
            "at both ends it predicts as the specialist does, the paper's sign of selection": [
            (f"at {k} non-zeros, squared distance to the {p}, as a share of the specialists'",
             ratio(place(apart(MODEL, p), k), place(apart(DENSE, SPARSE), k)), {"at_most": 0.1})
            for k, p in ((e.size.nnz, SPARSE), (len(x), DENSE))],
            "trained on every number of non-zeros, it is near-optimal at each": [
            ("effective label noise of the wide model", noise("wide"), {"at_most": 0.1}),
            ("largest excess over its own optimum", farthest(error[WIDE] - error[WIDER]),
             {"at_most": 0.05}),
            *((f"at {k} non-zeros, excess over its own optimum",
               mean(place(error[WIDE] - error[WIDER], k))) for k in x),
            *((f"at {k} non-zeros, its error as a share of the mixture model's",
               ratio(place(error[WIDE], k), place(ours, k))) for k in x)]}
    if name == "weights":
        return {"the error rises from both classes to the combination": [
            (f"at weight {w}, minus the {those}'", mean(place(ours, w) - place(ours, end)),
             {"at_least": 0}) for w, end, those in ((0.2, 0, "sinusoids"), (0.8, 1, "lines"))],
            "it fails on half of each": [
            ("excess over the optimum there", mean(place(excess, 0.5)), {"at_least": 0.02}),
            ("times that on sinusoids", ratio(place(ours, 0.5), place(ours, 0))),
            ("excess of a Gaussian process", mean(place(error[GP] - error[OWN], 0.5))),
            ("the sinusoid specialist's error", mean(place(error[WAVES], 0.5))),
            *nearest(WAVES, 0.5)],
            "at half of each an ideal learner of the mixture fails, too":
            failure(0.5, at_least=0.5),
            "with half of each in pretraining, the failure between the classes is gone": [
            ("effective label noise of the wide model", noise("wide")),
            *((f"at weight {w}, excess over the optimum there, as a share of the mixture model's",
               ratio(place(error[WIDE] - error[OWN], w), place(excess, w)), {"at_most": 0.5})
              for w in (0.3, 0.5, 0.7)),
            *((f"at weight {w}, excess over its own optimum",
               mean(place(error[WIDE] - error[WIDER], w))) for w in (0.3, 0.5, 0.7))]}
    if name == "again":  # at an x that the prompt has shown
        return {"between the classes it contradicts the examples that it was shown": [
            *((f"at weight {w}, error at an x just shown, minus that on sinusoids",
               mean(place(ours, w) - place(ours, 0)), {"at_least": 0.02} if w == 0.5 else {})
              for w in (0.3, 0.5, 0.7)),
            *((f"at weight {w}, the same error of the {p}", mean(place(error[p], w)))
              for w in (0, 0.5, 1) for p in (MODEL, MIXED, GP))]}
    common = place(ours, x[e.classes["sinusoid"].density(x).argmax()])  # at 1.5
    return {"it fails at high frequencies, rare in pretraining": [
        ("at 10, times that at 1.5", ratio(place(ours, 10), common), {"at_least": 10}),
        ("at 0.1, times that at 1.5", ratio(place(ours, 0.1), common)), *nearest(WAVES, 3, 5, 10)],
        "at frequency 10 an ideal learner of the mixture does not fail": failure(10, at_most=0.1)}


def claims_of(found):
    """Claim -> its rows that have a number, from what was found of an experiment."""
    e, on = found.e, {key: Answers(at) for key, at in found.on.items()}

    def noise(model, part="pretraining"):  # the margin is the interval's longer side
        s, low, high = found.facts.get(model, {}).get("noise", {}).get(part, [NAN] * 3)
        return s, max(high - s, s - low) if math.isfinite(s) else 0.0

    weight = {p: np.hstack([selection_weight(on[f"icl-{c}"], e.classes, p)
                            for c in e.classes]) for p in (MODEL, MIXED, NOISY)}
    groups = [class_claims(e, c, on[f"icl-{c}"], noise) for c in e.classes]
    groups.append({"its selection weights are those of Bayes (ours, stricter than the paper's)": [
        ("weight off the posterior's by", farthest(weight[MODEL] - weight[MIXED]),
         {"at_most": 0.1}),
        (f"off the {NOISY}'s by", farthest(weight[MODEL] - weight[NOISY]))]})
    for name in e.sweeps:
        x, at = sweep(found, name)
        groups.append(sweep_claims(e, name, x, Answers(at), noise))
    rows = {f"{e.name}: {claim}": [(*row, {})[:3] for row in rows if not math.isnan(row[1][0])]
            for group in groups for claim, rows in group.items()}
    return {claim: rows for claim, rows in rows.items() if rows}


def claims_in(folder):
    """The same of all experiments in a folder; icl.Refused if there are none."""
    if not (everything := read(folder)):
        raise icl.Refused(f"{folder} holds no predictions of a run")
    return {claim: rows for found in everything for claim, rows in claims_of(found).items()}


def table(runs):
    """Lines of text from name of a run -> its claims: a column a run, and counts of verdicts."""
    row, lines = "| {} |".format, []
    verdicts = {run: {claim: min((verdict(n, **bound) for _, n, bound in rows if bound),
                                 key=VERDICTS.index) for claim, rows in found.items()
                      if any(bound for *_, bound in rows)} for run, found in runs.items()}
    lines = [row(" | ".join(["", "bound", *runs])), "|---" * (2 + len(runs)) + "|"]
    for claim in dict.fromkeys(claim for found in runs.values() for claim in found):
        judged = [found.get(claim, "") for found in verdicts.values()]
        lines.append(row(" | ".join([f"**{claim}**", "", *judged])))
        numbers = {}
        for i, found in enumerate(runs.values()):
            for what, (value, margin), bound in found.get(claim, []):
                words = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in bound.items())
                cells = numbers.setdefault((what, words), [""] * len(runs))
                cells[i] = f"{float(f'{value:.3g}'):g} ± {float(f'{margin:.2g}'):g}" + (
                    f", {verdict((value, margin), **bound)}" if bound else "")
        lines += [row(" | ".join([*key, *cells])) for key, cells in numbers.items()]
    for run, found in verdicts.items():
        counts = [f"{list(found.values()).count(v)} {v}" for v in reversed(VERDICTS)]
        lines += ["", f"{run}, {len(found)} claims: {', '.join(counts)}"]
    return lines


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
