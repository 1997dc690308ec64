"""What stands between the stages: a predictor's files, which of them a run can use, and which it
must refuse.

A run
- trains a model that has neither predictions nor a finished checkpoint;
- measures a predictor that has no predictions, or outdated ones: they answer other prompts, or are
  older than the modules that make them or, of a model, its checkpoint;
- uses all other predictions, even if the checkpoint is gone;
- refuses, by name, what was made with other settings, or answers other prompts and cannot be
  measured again; it changes nothing of that.
"""
import io
import json
import math
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import icl
from results.experiments import Experiment, untrained

MAKE_MODELS = "icl.py", "tasks.py", "train.py"
MAKE_PREDICTIONS = *MAKE_MODELS, "baselines.py", "results/experiments.py"


@dataclass(frozen=True)
class Entry:
    """A predictor in the comparison: its name, its settings and its files. A *model* is an entry
    with steps: train.py trains it into a checkpoint. The others have 0 steps and no checkpoint."""
    experiment: Experiment
    name: str
    steps: int
    path: Path  # of the checkpoint; the predictions file is beside it

    @property
    def label(self):
        return f"{self.experiment.name}/{self.name}"

    @property
    def is_model(self):
        return self.steps > 0

    @property
    def predictions_path(self):
        return self.path.with_suffix(".predictions.npz")

    @property
    def settings(self):
        """What its files must have been made with; of an untrained predictor, too: all files in a
        folder are of one Size."""
        e, share = self.experiment, self.experiment.size.curriculum
        return {"experiment": e.name, "model": self.name, "seed": e.seed, "steps": self.steps,
                "class": str(e.pretraining.get(self.name)), **asdict(e.config),
                **{k: getattr(e.size, k) for k in ("batch", "lr", "matrix_lr", "warmup")},
                "curriculum": [share, e.size.first_dims] if share else 0.0}

    def reached(self):
        """The step that its checkpoint has reached; 0 without one. Reads the whole checkpoint."""
        return load_model(self)[1]["step"] if self.path.exists() else 0

    def divergence(self, step, error):
        """The error to raise where training fails. It says what a user can do."""
        return icl.Refused(f"{self.label} diverged at step {step} with seed "
                           f"{self.experiment.seed}: {error}; lower the Size's learning rates, or "
                           "train others with --only")


def entries_of(e, out):
    """All entries of an experiment whose files are in the folder out/EXPERIMENT."""
    steps = {model: e.steps_of(model) for model in e.pretraining}
    return [Entry(e, name, steps.get(name, 0), out / e.name / f"{name.replace(' ', '-')}.npz")
            for name in [*steps, *untrained(e)]]


def are_numbers(value, shape):
    """Whether what JSON held are numbers of that shape."""
    return np.shape(value) == shape and np.array(value).dtype.kind in "fi"


def refuse_others(path, facts, settings):
    """icl.Refused, by name, if a file was made with other settings."""
    made = {"curriculum": 0.0}  # what files lack that are older than the curriculum
    made |= facts["settings"] if isinstance(facts.get("settings"), dict) else {}
    for name, value in settings.items():
        if name not in made or made[name] != value:
            raise icl.Refused(f"{path} was made with {name} = {made.get(name)!r}, not {value!r}: "
                              "choose another --out, or the same settings")


def require(rules):
    """ValueError, by name, if one of the rules is broken: what -> whether it is valid."""
    for what, valid in rules.items():
        if not valid:
            raise ValueError(f"its {what} is not valid")


def load_model(model, optimizer=None, rng=None):
    """Parameters and extra of a checkpoint; restores the optimiser and rng, if given.

    icl.Refused if the checkpoint is damaged, was made with other settings, or training cannot have
    come to such a state.
    """
    params, config, extra = icl.load_checkpoint(model.path, optimizer)
    refuse_others(model.path, extra, model.settings)
    try:
        step, losses = extra["step"], extra.get("losses", [])
        require({
            "config": config == model.experiment.config,
            "step": 0 <= step <= model.steps,
            "seconds": 0 <= extra["seconds"] < 1e9,
            # A finished model keeps none.
            "number of losses": len(losses) == (0 if step == model.steps else step),
            "losses": all(type(loss) is float and 0 <= loss < math.inf for loss in losses)})
        if optimizer:
            rng.bit_generator.state = extra["rng"]
            squares = [a for name, a in optimizer.state.items() if name.startswith("v.")]
            require({
                "rng": rng.bit_generator.state == extra["rng"],  # it took all of it
                "optimiser's t": optimizer.state["t"] == step,
                "optimiser's v": all((v >= 0).all() for v in squares)})
    except Exception as error:  # a file can hold anything
        raise icl.Refused(f"{model.path} cannot be used or gone on from: "
                          f"{str(error) or repr(error)}") from error
    return params, extra


def save_model(model, state, optimum):
    """Write a model's curve and its checkpoint, from train.TrainingState; icl.Refused if another
    run is further along."""
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
    except ValueError as error:  # an array is not finite
        raise model.divergence(state.step, error) from error


def write_curve(path, losses, optimum):
    """Write a CSV file. A row is a stretch of about 1/200 of the steps: its last step, its mean
    loss, and that minus the optimum's. losses: of the steps so far. optimum: (steps,), of all.
    """
    every = max(1, len(optimum) // 200)
    rows = ["step,loss,over_optimum\n"]
    for step in range(every, len(losses) + 1, every):
        last = slice(step - every, step)
        loss, least = np.mean(losses[last]), np.mean(optimum[last])
        rows.append(f"{step},{loss:.9g},{loss - least:.9g}\n")
    icl.write_whole(path, "".join(rows).encode())


def read_curve(path):
    """Rows (step, loss minus the optimum's) of a file that write_curve wrote; none if it is gone,
    or no longer what it was."""
    if not path.is_file():
        return []
    try:
        rows = [line.split(",") for line in path.read_text().split("\n")[1:-1]]
        curve = [[float(step), float(over)] for step, _, over in rows]
    except ValueError:
        return []
    return curve if np.isfinite(curve).all() else []


def write_predictions(path, facts, arrays):
    """Write what a predictor answered: facts, which JSON can hold, and name -> array."""
    if infinite := [name for name, a in arrays.items() if np.isinf(a).any()]:
        raise ValueError(f"{path} would be infinite on {infinite[0]}")
    packed = io.BytesIO()
    np.savez(packed, header=np.array(json.dumps(facts, default=lambda a: a.tolist())), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    icl.write_whole(path, packed.getvalue())


def predictions_in(folder):
    """Paths of the predictions files in a folder."""
    return sorted(folder.glob("[!.]*.predictions.npz"))


def read_predictions(path):
    """The facts and arrays of a predictions file; icl.Refused if it is no such file."""
    try:
        if not path.is_file() or not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz file")
        with np.load(path, allow_pickle=False) as npz:
            arrays = dict(npz)
        facts = json.loads(str(arrays.pop("header")))
        needed = {"asked", "size", "made_by", "experiment", "seed"}
        if missing := needed - facts.keys() - facts["settings"].keys():
            raise ValueError(f"it lacks {min(missing)}")
        model, seconds = facts["settings"]["model"], facts.get("seconds", 0)
        if path.name != f"{model.replace(' ', '-')}.predictions.npz":
            raise ValueError(f"it has the predictions of {model}, and its name says otherwise")
        noise, curve = list(facts.get("noise", {}).values()), facts.get("curve", [])
        require({
            "noise": not noise or are_numbers(noise, (len(noise), 3)),
            "curve": not curve or are_numbers(curve, (len(curve), 2)) and np.isfinite(curve).all(),
            "seconds": are_numbers(seconds, ()) and 0 <= seconds < 1e9,
            "answers": all(a.dtype.kind == "f" and not np.isinf(a).any()
                           for a in arrays.values())})
    except Exception as error:  # a file can hold anything
        raise icl.Refused(f"{path} is not a predictions file that can be used: "
                          f"{str(error) or repr(error)}") from error
    return facts, arrays


def edited_since(path, modules):
    """Those of the modules that were edited after the file was written, but for ten seconds: a
    fresh clone writes all its files within seconds."""
    root, written = Path(icl.__file__).parent, path.stat().st_mtime
    return [name for name in modules if (root / name).stat().st_mtime > written + 10]


def needs_training(model):
    """Whether it has neither a finished checkpoint nor predictions."""
    return model.reached() < model.steps and not model.predictions_path.is_file()


def needs_measuring(entry):
    """Whether it has no predictions, or outdated ones; of a model, only if it is finished."""
    if entry.reached() < entry.steps:  # nothing to measure with
        return False
    if not entry.predictions_path.is_file():
        return True
    if entry.is_model and entry.path.stat().st_mtime > entry.predictions_path.stat().st_mtime:
        return True
    return (bool(edited_since(entry.predictions_path, MAKE_PREDICTIONS))
            or read_predictions(entry.predictions_path)[0]["asked"] != entry.experiment.asked)


def refuse_conflicts(entries, out):
    """icl.Refused, by name, if there are files in the way: damaged, or made with other settings."""
    curves = [entry.path.with_suffix(".csv") for entry in entries if entry.is_model]
    for path in (out / "results.csv", out / "report.html", *out.glob("*.svg"), *curves):
        if path.exists() and not path.is_file():
            raise icl.Refused(f"{path} is not a regular file")
    for folder in {entry.path.parent for entry in entries}:
        for path in predictions_in(folder):
            read_predictions(path)
    for entry in entries:
        # reached() refuses a checkpoint of other settings.
        finished = entry.reached() == entry.steps
        if entry.predictions_path.exists():
            facts, _ = read_predictions(entry.predictions_path)
            refuse_others(entry.predictions_path, facts, entry.settings)
            if facts["asked"] != entry.experiment.asked and not finished:
                raise icl.Refused(f"{entry.predictions_path} is for other prompts, and there is no "
                                  "finished model to answer these")
