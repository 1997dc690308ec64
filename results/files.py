"""What stands between the stages: a predictor's files, which of them a run can use, and which it
must refuse.

A run
- trains a model that has neither predictions nor a finished checkpoint;
- measures a predictor that has no predictions, or outdated ones: for other prompts, or older than
  its checkpoint (where nobody trains it: than baselines.py or tasks.py);
- uses all other predictions, even if the checkpoint is gone;
- refuses what was made with other settings, by name, and changes nothing of it.
"""
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import baselines
import icl
import tasks
from results.experiments import Experiment, untrained


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
        """What its files must have been made with."""
        e, share = self.experiment, self.experiment.size.curriculum
        return {"experiment": e.name, "model": self.name, "seed": e.seed, "steps": self.steps,
                "class": str(e.pretraining.get(self.name)), **asdict(e.config),
                **{k: getattr(e.size, k) for k in ("batch", "lr", "matrix_lr", "warmup")},
                "curriculum": [share, e.size.first_dims] if share else 0.0}

    def reached(self):
        """The step that its checkpoint has reached; 0 without one. Reads the whole checkpoint."""
        return load_model(self)[1]["step"] if self.path.exists() else 0


def entries_of(e, out):
    """All entries of an experiment whose files are in the folder out/EXPERIMENT."""
    steps = {model: e.steps_of(model) for model in e.pretraining}
    return [Entry(e, name, steps.get(name, 0), out / e.name / f"{name.replace(' ', '-')}.npz")
            for name in [*steps, *untrained(e)]]


def refuse_others(path, facts, settings):
    """icl.Refused, by name, if a file was made with other settings."""
    made = {"curriculum": 0.0}  # files of before the curriculum do not name it
    made |= facts["settings"] if isinstance(facts.get("settings"), dict) else {}
    for name, value in settings.items():
        if name not in made or made[name] != value:
            raise icl.Refused(f"{path} was made with {name} = {made.get(name)!r}, not {value!r}: "
                              "choose another --out, or the same settings")


def load_model(model, optimizer=None, rng=None):
    """Parameters and extra of a checkpoint; restores the optimiser and rng, if given.

    icl.Refused if the checkpoint is damaged, or another's, or no state that training can be in.
    """
    params, config, extra = icl.load_checkpoint(model.path, optimizer)
    refuse_others(model.path, extra, model.settings)
    try:
        step, losses = extra["step"], extra.get("losses", [])
        kept = 0 if step == model.steps else step  # a finished model keeps no losses
        if not (config == model.experiment.config and 0 <= step <= model.steps
                and 0 <= extra["seconds"] <= 1e5 * step and len(losses) == kept
                and all(type(loss) is float and 0 <= loss < 1e39 for loss in losses)):
            raise ValueError("its steps, seconds or losses cannot be")
        if optimizer:
            rng.bit_generator.state = extra["rng"]
            squares = [a for name, a in optimizer.state.items() if name.startswith("v.")]
            if (rng.bit_generator.state != extra["rng"]  # it took what it could
                    or optimizer.state["t"] != step or any((v < 0).any() for v in squares)):
                raise ValueError("its rng or optimiser cannot be after so many steps")
    except Exception as error:  # whatever a stranger's file can cause
        raise icl.Refused(f"{model.path} holds no state of training: {error!r}") from error
    return params, extra


def read_curve(path):
    """Rows (step, loss minus the optimum's) of a CSV file that train.write_curve wrote; none if it
    is gone, or no longer what it was."""
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
    np.savez(packed, header=np.array(json.dumps(facts, default=np.generic.item)), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    icl.write_whole(path, packed.getvalue())


def read_predictions(path):
    """The facts and arrays of a predictions file; icl.Refused if it is no such file."""
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        with np.load(path, allow_pickle=False) as npz:
            arrays = dict(npz)
        facts = json.loads(str(arrays.pop("header")))
        if missing := {"asked", "size", "made_by"} - facts.keys():
            raise ValueError(f"it lacks {min(missing)}")
        model, seconds = facts["settings"]["model"], facts.get("seconds", 0)
        if path.name != f"{model.replace(' ', '-')}.predictions.npz":
            raise ValueError(f"it has the predictions of {model}, by its name another's")
        noise, curve = facts.get("noise", {}).values(), facts.get("curve", [])
        numbers = [v for row in (*noise, *curve, [seconds]) for v in row]
        if (any(len(row) != 3 for row in noise) or any(len(row) != 2 for row in curve)
                or any(type(v) not in (int, float) or abs(v) > 1e300 and v != math.inf
                       for v in numbers)  # JSON can hold larger integers
                or not np.isfinite(curve).all() or not 0 <= seconds < 1e9):
            raise ValueError("its facts are not those of a model")
        if any(a.dtype.kind != "f" or np.isinf(a).any() for a in arrays.values()):
            raise ValueError("an answer is infinite or no real number")
    except Exception as error:  # whatever a stranger's file can cause
        raise icl.Refused(f"{path} is not a predictions file that can be used: "
                          f"{str(error) or repr(error)}") from error
    return facts, arrays


def needs_training(model):
    """Whether its checkpoint is unfinished, or gone, and it has no predictions either."""
    return model.reached() < model.steps and not model.predictions_path.is_file()


def needs_measuring(entry):
    """Whether it has no predictions, or outdated ones; of a model, only if it is finished."""
    if entry.reached() < entry.steps:
        return False
    if not entry.predictions_path.is_file():
        return True
    sources = [entry.path] if entry.is_model else [Path(m.__file__) for m in (baselines, tasks)]
    newest = max(path.stat().st_mtime for path in sources)
    return (newest > entry.predictions_path.stat().st_mtime
            or read_predictions(entry.predictions_path)[0]["asked"] != entry.experiment.asked)


def refuse_conflicts(entries, out):
    """icl.Refused, by name, if there are files in the way: damaged, or made with other settings."""
    for path in (out / "results.csv", out / "report.html", *out.glob("*.svg")):
        if path.exists() and not path.is_file():
            raise icl.Refused(f"{path} is not a regular file")
    for entry in entries:
        finished = entry.reached() == entry.steps  # refuses a checkpoint that is another's
        if entry.predictions_path.exists():
            facts, _ = read_predictions(entry.predictions_path)
            refuse_others(entry.predictions_path, facts, entry.settings)
            if facts["asked"] != entry.experiment.asked and not finished:
                raise icl.Refused(f"{entry.predictions_path} is for other prompts, and there is no "
                                  "finished model to answer these")
