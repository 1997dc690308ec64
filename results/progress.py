"""How far training is, and how long it will take: train.py's status line."""
from datetime import timedelta
from typing import NamedTuple


class Progress(NamedTuple):
    """What a training process sends after each step."""
    step: int
    excess: float   # loss minus the optimum's, mean of the last 50 steps
    seconds: float  # that all steps so far took


def training_status(models, at_start, processes, working, sent):
    """Such as "1/6 done, 0:04:10 left: sine/linear 40% +0.012, sine/mixture starts".

    at_start: a Progress for each model. working: indices of models. sent: index -> Progress.
    """
    now = [sent.get(i, progress) for i, progress in enumerate(at_start)]
    finished = sum(progress.step == model.steps for model, progress in zip(models, now))
    text = f"{finished}/{len(models)} done"
    if sent:
        text += f", {time_left(models, at_start, now, processes)} left"
    parts = []
    for i in working:
        status = "starts"
        if i in sent:
            status = f"{now[i].step / models[i].steps:.0%} {now[i].excess:+.3f}"
        parts.append(f"{models[i].label} {status}")
    return f"{text}: {', '.join(parts)}"


def time_left(models, at_start, now, processes):
    """Time until all are trained. It assumes that this run's pace stays, and that a step's time is
    proportional to the length of its prompts."""
    points = [model.experiment.n_points for model in models]  # of a prompt
    points_done = sum(n * (p.step - before.step) for n, p, before in zip(points, now, at_start))
    seconds = sum(p.seconds - before.seconds for p, before in zip(now, at_start))
    left = [n * (model.steps - p.step) for n, model, p in zip(points, models, now)]
    # At least what the longest model needs, as one process trains it.
    work = max(max(left), sum(left) / min(processes, len(models)))
    return timedelta(seconds=round(seconds / points_done * work))
