"""The last stage of a run: tables, figures and a page, from the predictions files in its folder.

    python results/report.py results/paper

writes results.csv, a figure each as EXPERIMENT-FIGURE.svg, and report.html into the folder, and
prints the tables. train.py ends with it. It reads predictions and nothing else: no model is needed,
and what is missing is a missing line.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import argparse
import csv
import html
import io
import math
import textwrap
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

import icl
from results import files, jobs
from results.drawing import Figure, draw, mean_and_error
from results.experiments import (EXPERIMENTS, GP, MIXED, NOISY, OWN, PICTURES, TRUTH, WARY,
                                 WIDE_OPTIMUM, Experiment, Size, make_experiment, sheets_of,
                                 untrained)
from tasks import ConvexCombination


# ---------------------------------------------------------------------------- what was predicted

@dataclass
class Found:
    """What a folder holds of an experiment."""
    e: Experiment
    on: dict      # sheet -> predictor -> predictions (B, A), and under TRUTH what is right
    sheets: dict  # name -> Sheet
    facts: dict   # predictor, as its file calls it -> facts


def arrange(e, measured):
    """Found, from the facts and arrays of each predictor that is measured."""
    sheets = sheets_of(e)
    on = {name: {TRUTH: sheet.ys[:, sheet.after].astype(float)} for name, sheet in sheets.items()}
    for name, (facts, arrays) in measured.items():
        labels = {"": f"{name} model" if name in e.pretraining else name,
                  "optimum": WIDE_OPTIMUM, "noisy": NOISY, "wary": WARY}  # of companions
        for key, predictions in arrays.items():
            sheet, _, kind = key.partition("/")
            if sheet in on:
                if predictions.shape != on[sheet][TRUTH].shape:
                    raise ValueError(f"{labels[kind]} has {predictions.shape} on {sheet}")
                on[sheet][labels[kind]] = predictions.astype(float)
    return Found(e, on, sheets, {name: facts for name, (facts, _) in measured.items()})


def shared_facts(facts):
    """Facts that predictions which stand beside each other must share."""
    keys = "experiment", "seed", "n_dims", "n_points"
    return facts["asked"], [facts["settings"].get(key) for key in keys]


def read(folder):
    """A list of Found, one for each experiment with predictions in a run's folder.

    icl.Refused, by name, if there are none, or files that cannot stand beside each other.
    """
    found = []
    for name in EXPERIMENTS:
        contents = [files.read_predictions(path)  # (facts, arrays) each
                    for path in files.predictions_in(Path(folder, name))]
        if not contents:
            continue
        first, _ = contents[0]
        if any(shared_facts(facts) != shared_facts(first) or facts["settings"]["experiment"] != name
               for facts, _ in contents):
            raise icl.Refused(f"{Path(folder, name)} holds predictions of several experiments, "
                              "seeds, dims or prompts")
        try:
            e = make_experiment(name, Size(**first["size"]), first["settings"]["seed"])
            if e.asked != first["asked"]:
                raise ValueError("they answer other prompts than today's program asks")
            measured = {facts["settings"]["model"]: (facts, arrays) for facts, arrays in contents}
            found.append(arrange(e, measured))
        except Exception as error:  # a file can hold anything
            raise icl.Refused(f"{Path(folder, name)} holds predictions that cannot be shown: "
                              f"{str(error) or repr(error)}") from error
    if not found:
        raise icl.Refused(f"{folder} holds no predictions of a run")
    return found


def absent(everything):
    """Labels of what has no predictions, but for wide models, which only coverage asks for."""
    return [f"{found.e.name}/{name}" for found in everything
            for name in [*found.e.pretraining, *untrained(found.e)]
            if name not in found.facts and name != "wide"]


def those(values, *predictors):
    """The values of these predictors, in this order, as far as there are any."""
    return {p: values[p] for p in predictors if p in values}


def errors(predicted, *predictors):
    """Predictor -> squared errors of its predictions, as far as there are any."""
    return {p: (v - predicted[TRUTH]) ** 2 for p, v in those(predicted, *predictors).items()}


def sweep(found, name):
    """Places (X,); predictor -> predictions (B, X, A), nan at places where it was not asked."""
    places = found.e.sweeps[name]
    sheets = [found.on[f"{name}-{x:g}"] for x in places]
    predictors = dict.fromkeys(p for predicted in sheets for p in predicted)
    return np.array(list(places)), {
        p: np.stack([predicted.get(p, np.nan * predicted[TRUTH]) for predicted in sheets], axis=1)
        for p in predictors}


def selection_weight(predicted, classes, predictor):
    """The weight that a predictor puts on the second class, after 1, 2, ... examples: (B, N - 1), a
    number for each prompt. Their mean is the weight, their spread gives its standard error.

    With a and b the optimal predictions for the two classes and m the predictor's, that weight is
    the w that best mixes them into m:

        minimise E (m - (1 - w) a - w b)^2:   w = E (m - a)(b - a) / E (b - a)^2  over prompts.

    An optimum of the mixture has m = (1 - p) a + p b, p the exact posterior probability of the
    second class, so its own w is the mean of p, weighted in the same way by (b - a)^2. Where the
    two optima agree, E (b - a)^2 < 0.05, there is nothing to choose and no weight.
    """
    # Without an example nothing is known of the class: place 0 is left out, (B, N - 1) each.
    a, b = (predicted[f"optimum of {name}"][:, 1:] for name in classes)
    m = predicted[predictor][:, 1:]
    top, bottom = (m - a) * (b - a), (b - a) ** 2
    least = np.where(bottom.mean(0) > 0.05, bottom.mean(0), np.nan)  # (N - 1,)
    w = top.mean(0) / least
    return w + (top - w * bottom) / least  # delta method: their mean is w, their spread w's


# --------------------------------------------------------------------------------------- figures

def figures_of(found):
    """Part of the report -> its figures that have a line, of an experiment."""
    e, inside, outside = found.e, [], []
    for shown in e.classes:
        inside += [icl_figure(found, shown), optimum_figure(found, shown),
                   selection_figure(found, shown)]
    outside += [icl_figure(found, shown) for shown in e.curves if shown not in e.classes]
    for draw_sweep in (nnz_figures, weights_figures, frequency_figures):
        outside += draw_sweep(found)
    parts = {"One function": [picture(found, name) for name in PICTURES if name in found.sheets],
             "Within pretraining": inside, "Outside pretraining": outside,
             "Training": [training_figure(found)]}
    with_lines = {part: [f for f in figures if f.lines] for part, figures in parts.items()}
    return {part: figures for part, figures in with_lines.items() if figures}


def picture(found, name):
    """One function, and what the mixture model predicts everywhere from ten examples of it."""
    sheet, predicted = found.sheets[name], found.on[name]
    # (101 prompts, 1 place) each; drawn as one prompt at 101 places.
    lines = {p: v.T for p, v in those(predicted, TRUTH, MIXED, "mixture model").items()}
    return Figure(
        name, f"After {sheet.after[0]} examples: {PICTURES[name][0]}",
        "Dots are the examples in the prompt. Does the model's curve follow the true function?",
        xlabel="x", x=sheet.xs[:, -1, 0], lines=lines, ylabel="f(x)", kind="function",
        dots=tuple(zip(sheet.xs[0, :-1, 0], sheet.ys[0, :-1])))


def specialists(e):
    """The models except the mixture model and the wide one, which have places of their own."""
    return [f"{m} model" for m in e.pretraining if m not in ("mixture", "wide")]


def controls(e):
    """The specialists that are shown outside pretraining."""
    return [f"{m} model" for m in e.controls]


def variance_of(c):
    """Var f(x) of a class: 1, but for combinations, which are not rescaled."""
    return c.weight**2 + (1 - c.weight) ** 2 if isinstance(c, ConvexCombination) else 1.0


def icl_figure(found, shown):
    """Errors by number of examples: the models beside least squares and the Lasso."""
    e, predicted = found.e, found.on[f"icl-{shown}"]
    if shown in e.classes:
        others = "least squares", "Lasso"
        caption = ("A specialist was trained on one class alone. Is the mixture model as good as "
                   f"the {shown} one, and better than the other?")
    else:
        others = OWN, GP
        caption = ("None of these models was trained on such functions. Their optimum shows what "
                   "the examples tell; a Gaussian process knows only that f is smooth.")
    lines = errors(predicted, *specialists(e), *others, "mixture model")
    return Figure(f"icl-{shown}", f"{shown.capitalize()} functions: who learns them?", caption,
                  xlabel="examples in the prompt", x=np.arange(e.n_points),
                  lines={p: v / variance_of(e.curves[shown]) for p, v in lines.items()},
                  ylabel="squared error / Var f", log="y" if e.mixture.n_dims == 1 else "")


def optimum_figure(found, shown):
    """Errors by number of examples: the mixture model beside what is possible."""
    e, predicted = found.e, found.on[f"icl-{shown}"]
    return Figure(
        f"optimum-{shown}", f"{shown.capitalize()} functions: how near is the optimum?",
        "The optimum of the mixture has the least error that is possible without being told the "
        "class. The noisy ideal learner is that optimum with labels so noisy that its error, "
        "averaged over prompts of both classes, is the mixture model's.",
        xlabel="examples in the prompt", x=np.arange(e.n_points),
        lines=errors(predicted, NOISY, MIXED, f"{shown} model", "mixture model"),
        log="y" if e.mixture.n_dims == 1 else "")


def selection_figure(found, shown):
    """Which class's optimum the predictions are like, by number of examples."""
    e, predicted, (first, second) = found.e, found.on[f"icl-{shown}"], found.e.classes
    lines = {}
    if {f"optimum of {first}", f"optimum of {second}"} <= predicted.keys():
        lines = {p: selection_weight(predicted, e.classes, p)
                 for p in those(predicted, NOISY, MIXED, "mixture model")}
    # A weight is nan of all prompts or of none. The figure ends at the last place that has one.
    measured = [n for v in lines.values() for n in np.flatnonzero(~np.isnan(v[0])) + 1]
    end = max(measured, default=1)
    return Figure(
        f"selection-{shown}", f"{shown.capitalize()} functions: which class is selected?",
        f"At 0, predictions are those of the optimum for {first} functions; at 1, for {second} "
        "ones. Where these two agree, no weight can be measured, and none is shown.",
        xlabel="examples in the prompt", x=np.arange(1, end + 1),
        lines={p: v[:, :end] for p, v in lines.items()},
        ylabel=f"weight on the {second} class", kind="weight")


def after_words(e):
    """The numbers of examples that sweeps measure after, in words."""
    return f"after {' to '.join(str(n) for n in sorted({e.after[0], e.after[-1]}))} examples"


def nnz_figures(found):
    """Errors on every number of non-zeros, and whose predictions they are."""
    e, d = found.e, found.e.size.n_dims
    if "nnz" not in e.sweeps:
        return []
    (x, predicted), when = sweep(found, "nnz"), after_words(e)
    along = {"xlabel": f"non-zero coefficients of {d}", "x": x}
    error_at = {p: v.mean(2) for p, v in errors(predicted, *predicted).items()}
    pairs = {p: (p, "mixture model") for p in ("dense model", "sparse model", MIXED)}
    pairs["dense to sparse model, for scale"] = "dense model", "sparse model"
    figures = [Figure(
        "nnz", f"From sparse to dense, {when}",
        f"Pretraining had functions with {e.size.nnz} and with all {d} non-zeros. In between, "
        "which specialist's error is the mixture model's like?", **along,
        lines=those(error_at, *controls(e), OWN, MIXED, "mixture model"))]
    figures.append(Figure(
        "nnz-distance", f"Nearest to the mixture model, {when}",
        "How far others' predictions are from the mixture model's. Near 0, it predicts as they "
        "do.", **along, ylabel="squared distance to it",
        lines={key: ((predicted[p] - predicted[q]) ** 2).mean(2) for key, (p, q) in pairs.items()
               if p in predicted and q in predicted}))
    if "wide model" in error_at:
        figures.append(Figure(
            "nnz-coverage", "All numbers of non-zeros in pretraining",
            f"The wide model was trained on functions with 1 to {d} non-zeros, the mixture model "
            "on two of these numbers. Beside each is the optimum of its own mixture.", **along,
            lines=those(error_at, OWN, WIDE_OPTIMUM, MIXED, "wide model", "mixture model")))
    return figures


def weights_figures(found):
    """Errors between the two classes, at new x and at x that the prompt has shown before."""
    e = found.e
    if not {"weights", "again"} <= e.sweeps.keys():
        return []
    (x, predicted), (shown, repeated) = sweep(found, "weights"), sweep(found, "again")
    same = {"xlabel": "weight w of w line + (1 - w) sinusoid", "log": "y",
            "ylabel": "squared error / Var f"}
    variance, variance_shown = ([variance_of(c) for c in e.sweeps[name].values()]
                                for name in ("weights", "again"))
    error_at = {p: v.mean(2) / variance for p, v in errors(predicted, *predicted).items()}
    figures = [Figure(
        "weights", f"Between the two classes, {after_words(e)}",
        "Pretraining had only lines, at 1, and sinusoids, at 0. Does a model fail in between, "
        "where the optimum for these functions does not?", **same, x=x,
        lines=those(error_at, *controls(e), GP, OWN, MIXED, "mixture model"))]
    figures.append(Figure(
        "again", f"Asked an x shown before, after {e.after[-1]} examples",
        "The last x is one that the prompt has shown, together with its f(x). An error here "
        "contradicts the prompt's own examples.", **same, x=shown, low=1e-5,
        lines={p: v.mean(2) / variance_shown
               for p, v in errors(repeated, GP, OWN, MIXED, "mixture model").items()}))
    if "wide model" in error_at:
        figures.append(Figure(
            "weights-coverage", "Half-and-half in pretraining, too",
            "The wide model was trained on lines, sinusoids and half of each, the mixture model on "
            "the first two. Beside each is the optimum of its own mixture.", **same, x=x,
            lines=those(error_at, OWN, WIDE_OPTIMUM, MIXED, "wide model", "mixture model")))
    return figures


def frequency_figures(found):
    """Errors on sinusoids of one frequency, common in pretraining or rare."""
    e = found.e
    if "frequency" not in e.sweeps:
        return []
    x, predicted = sweep(found, "frequency")
    density = getattr(e.classes.get("sinusoid"), "density", None)  # a class of your own has none
    return [Figure(
        "frequency", f"Rare frequencies, {after_words(e)}",
        "The grey area shows how common a frequency was in pretraining. Where it was rare, does "
        "the model fail, and does the optimum of the mixture?",
        xlabel="frequency (radians per unit of x)", x=x, log="xy", low=1e-5,
        lines={p: v.mean(2)
               for p, v in errors(predicted, "sinusoid model", MIXED, "mixture model").items()},
        backdrop=("density in pretraining", density(x)) if density else ())]


def training_figure(found):
    """Every model's loss minus its optimum's, by the share of training that is done."""
    x = np.arange(1, 41) / 40  # shares of the steps
    lines = {}
    for name, facts in found.facts.items():
        curve = np.array(facts.get("curve", []))
        if len(curve) >= 40:
            step, over = curve.T
            ends = [np.searchsorted(step, round(share * step[-1]), "right") for share in x]
            # The mean of five rows up to there, as one batch's loss says little.
            lines[f"{name} model"] = np.array([[over[max(0, n - 5):n].mean() for n in ends]])
    return Figure(
        "training", f"{found.e.name.capitalize()}: how training went",
        "The loss minus that of the exact optimum: no training can bring it below 0, but for "
        "chance. Does it still fall at the end?",
        xlabel="share of the steps", x=x, lines=lines, ylabel="loss minus optimum's", log="y",
        low=1e-3)


# ------------------------------------------------------------------------------ page and tables

REPORT = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>What a transformer learns in context</title>
<style>
:root{{color-scheme:light dark}}
body{{font:17px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem}}
p,ul,details{{max-width:46rem}} summary{{cursor:pointer}} .wide{{overflow-x:auto}}
.figures{{display:grid;gap:2rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr))}}
figure{{margin:0;break-inside:avoid}}
figure>svg{{width:100%;border:1px solid #8884;border-radius:6px}}
table{{border-collapse:collapse;font-size:15px}} td,th{{padding:.15rem .6rem;text-align:right}}
td:first-child,th:first-child{{text-align:left}} tr+tr{{border-top:1px solid #8884}}
</style>
<h1>What a transformer learns in context</h1>
<p>A transformer reads examples (x, f(x)) of a function f in its prompt and predicts f at the next
x. No weight changes while it reads. {trained} For each experiment you see what they learned within
their pretraining, then what they do with functions from outside it.</p>
<ul>
<li>A <em>predictor</em> is whatever predicts: a trained model, least squares, the Lasso.</li>
<li>A <em>specialist</em> was trained on one class of functions, the <em>mixture model</em> on two
of them, half of its prompts from each; a <em>wide model</em> also on what lies between.</li>
<li>An <em>optimum</em> is the best that is possible, the exact posterior mean. The one <em>for
these functions</em> knows their class; the one <em>of the mixture</em> has to find it out.</li>
<li>The <em>effective label noise</em> of a model says how near its optimum it is: that optimum
would make errors as large as the model's if its labels had noise of this size. 0 is perfect.</li>
</ul>
<p>Errors are squared, and divided by the variance of f: predicting zero costs 1. Bands in the
figures are 95% intervals over prompts. A line on the lower edge of a figure has values below the
axis.</p>
{body}
<details><summary>Settings of every model</summary><ul><li>{settings}</ul></details></html>
"""


def html_table(rows):
    """Rows of cells as an HTML table; the first row is its head."""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    head = lines[0].replace("td>", "th>")
    return f'<div class="wide"><table><tr>{"</tr><tr>".join([head, *lines[1:]])}</tr></table></div>'


def summary(found):
    """The table that opens an experiment: a row a class, mean errors over the prompt, by Var f."""
    names = ["mixture model", *specialists(found.e), MIXED, OWN]
    rows = [["mean error over the prompt", *names]]
    for shown, c in found.e.curves.items():
        mean = {p: f"{v.mean() / variance_of(c):.3f}"
                for p, v in errors(found.on[f"icl-{shown}"], *names).items()}
        rows.append([f"{shown} functions", *(mean.get(p, "") for p in names)])
    return html_table(rows)


def figure_html(f):
    """A figure with its caption, and its numbers in a table to unfold."""
    few = sorted({round(i) for i in np.linspace(0, len(f.x) - 1, min(len(f.x), 8))})
    rows = [[f.xlabel, *(f"{f.x[i]:.4g}" for i in few)]]
    rows += [[p, *(f"{mean:.3g}" for mean in mean_and_error(v)[0][few])]
             for p, v in f.lines.items()]
    return (f"<figure>{draw(f)}<figcaption>{html.escape(f.caption)}<details><summary>Numbers"
            f"</summary>{html_table(rows)}</details></figcaption></figure>")


def noise_words(facts):
    """Effective label noise of each model, with its interval: "mixture 0.063 (0.053 to 0.073)".

    "above 1" is worse than every ideal learner that was tried.
    """
    parts = [(name if part == "pretraining" else f"{name} on {part} functions", number)
             for name, f in facts.items() for part, number in f.get("noise", {}).items()
             if not math.isnan(number[0])]  # it is nan where there was only one prompt
    return [f"{what} {s:.3f} ({low:.3f} to {high:.3f})" if math.isfinite(s) else f"{what} above 1"
            for what, (s, low, high) in parts]


def unfinished_note(found):
    """A paragraph, if the mixture model is too far from its optimum for the paper's findings."""
    e = found.e
    enough = 0.1 if e.name == "sparse" else 0.5  # tiny's `sine`, at 0.2, shows the main findings
    noise = found.facts.get("mixture", {}).get("noise", {})  # on all, and on each class
    if not any(value > enough for value, *_ in noise.values()):
        return ""
    return ("<p>This experiment only begins: its mixture model is not near the optimum yet. The "
            "figures in results/small show a finished one.</p>")


def page(everything, drawn):
    """The report: what was trained, a section an experiment, and the settings, folded. drawn: what
    figures_of returned, of each experiment."""
    models = {f"{found.e.name}/{name}": facts for found in everything
              for name, facts in found.facts.items() if "seconds" in facts}
    trained = f"{len(models) or 'No'} models were trained."
    body = []
    for found, parts in zip(everything, drawn):
        e = found.e
        body += [f"<h2>{e.name.capitalize()}: {' and '.join(e.classes)} functions</h2>",
                 summary(found), "<p>Effective label noise, and its 95% interval:</p><ul><li>",
                 "<li>".join(map(html.escape, noise_words(found.facts))) or "no model is trained",
                 "</ul>",
                 unfinished_note(found)]
        for part, figures in parts.items():
            body.append(f'<h3>{part}</h3>\n<div class="figures">'
                        f'{"".join(figure_html(f) for f in figures)}</div>')
    settings = []
    for label, facts in models.items():
        words = ", ".join(f"{k} {v}" for k, v in facts["settings"].items())
        took = timedelta(seconds=round(facts["seconds"]))
        settings.append(html.escape(f"{label}: {took} of training; {words}; {facts['made_by']}"))
    return REPORT.format(trained=trained, body="\n".join(body), settings="<li>".join(settings))


def tables(found):
    """ICL curves as lines of text, a table a class, and each model's effective label noise."""
    e, lines = found.e, []
    places = sorted({n for n in (0, 1, 2, 3, 5, 10, 20, 40, e.n_points - 1) if n < e.n_points})
    for shown in e.classes:
        curves = errors(found.on[f"icl-{shown}"], *(f"{m} model" for m in e.pretraining),
                        "least squares", "Lasso", MIXED, OWN)
        lines.append(f"{shown + ' functions, examples':29s}" + "".join(f"{n:6d}" for n in places))
        lines += [f"{p:29s}" + "".join(f"{error:6.2f}" if error < 99 else f"{error:6.0f}"
                                       for error in v.mean(0)[places])
                  for p, v in curves.items()] + [""]
    words = ", ".join(noise_words(found.facts)) or "no model is trained"
    return [*lines, *textwrap.wrap(f"effective label noise: {words}", 80), ""]


def csv_rows(e, figures):
    """All that figures draw, as rows, but for what has no number."""
    return [[e.name, f.name, p, f"{x:.6g}", f"{value:.6g}", f"{error:.3g}", f.ylabel]
            for f in figures for p, values in f.lines.items()
            for x, value, error in zip(f.x, *mean_and_error(values)) if not math.isnan(value)]


def show(folder):
    """Write figures, results.csv and the report of a run's folder, and print the tables."""
    everything = read(folder)
    drawn, text = [figures_of(found) for found in everything], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("experiment figure predictor x value standard_error quantity".split())
    for found, parts in zip(everything, drawn):
        figures = [f for part in parts.values() for f in part]
        writer.writerows(csv_rows(found.e, figures))
        for f in figures:
            icl.write_whole(folder / f"{found.e.name}-{f.name}.svg", draw(f).encode())
        print("\n".join(tables(found)))
    icl.write_whole(folder / "results.csv", text.getvalue().encode())
    icl.write_whole(folder / "report.html",
                    page(everything, drawn).encode(errors="backslashreplace"))
    print(f"{folder / 'report.html'} shows it all", flush=True)
    if missing := absent(everything):
        print(f"without predictions, so not shown: {', '.join(missing)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of a run, such as results/paper")
    sys.exit(jobs.exit_status("report.py", lambda: show(parser.parse_args().folder)))
