"""Write the playground: a page with a trained model beside its exact optimum, to be tried out.

    python course/playground.py                               course/playground.html
    python course/playground.py runs/tiny/sine/mixture.npz    runs/tiny/sine/mixture.html

The first holds the model in results/small. A page opens from disk and needs nothing else. Its
source is playground_template.html; added are the weights of a mixture model of the `sine`
experiment, its effective label noise, its errors on many prompts, and predictions that the page
makes again to check itself.
"""
import argparse
import base64
import json
import os
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # faster on matrices this small
import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
import baselines
import icl
from results.jobs import exit_status
from tasks import ConvexCombination, DenseLinear, Mixture, Sinusoid, sample_prompts

LINE, SINUSOID = DenseLinear(1), Sinusoid()
MIXTURE, HALF = Mixture((LINE, SINUSOID)), ConvexCombination(LINE, SINUSOID, 0.5)
MANY, KINDS = 1000, {"lines": LINE, "sinusoids": SINUSOID, "half of each": HALF,
                     "frequency 5": Sinusoid(frequency=5.0)}


def page_data(path):
    """All that the page must know of the model; icl.Refused if it is of another kind."""
    params, config, extra = icl.load_checkpoint(path)
    if (str(MIXTURE) not in str(extra.get("settings"))  # names the class it was trained on
            or config.n_dims != 1 or config.n_points < 2):
        raise icl.Refused(f"{path} is not a model of the 1-D mixture of lines and sinusoids")
    N, model = config.n_points, lambda xs, ys: icl.predict(params, config, xs, ys)

    stream = np.random.default_rng([0, zlib.crc32(b"sine/noise/mixture")])  # train.py's, seed 0
    noise, interval, _ = baselines.effective_noise(model, MIXTURE, stream, N)
    s, low, high = (f"{v:.3f}" if v < 1 else "over 1" for v in (noise, *interval))
    rng = np.random.default_rng(0)
    half = {name: np.float32(np.float16(p)) for name, p in params.items()}
    xs, ys = sample_prompts(MIXTURE, rng, 1000, N)
    rounding = np.abs(icl.predict(half, config, xs, ys) - model(xs, ys)).max()

    errors = []
    for kind, c in KINDS.items():
        xs, ys = sample_prompts(c, rng, MANY, N)
        both = [((p(xs, ys) - ys)[:, -5:] ** 2).mean() for p in (model, baselines.bayes(MIXTURE))]
        errors.append([kind, *(f"{error:.4f}" for error in both)])
    references = []
    for c, label_noise in ((LINE, 0), (SINUSOID, 0.1), (HALF, 0)):
        xs, ys = sample_prompts(c, rng, 1, N)
        optimum = baselines.bayes(MIXTURE, label_noise)(xs, ys)
        references.append({"xs": xs[0, :, 0].tolist(), "ys": ys[0].tolist(), "noise": label_noise,
                           "model": model(xs, ys)[0].tolist(), "optimum": optimum[0].tolist()})
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    line, sinusoid = ({"prior": h.prior.tolist(), "noise": h.noise} for h in MIXTURE.hypotheses())
    sine, cosine = MIXTURE.hypotheses()[1].features(np.array([[0.1]]))  # of 0.1 times frequency
    return {
        "config": asdict(config), "noise": noise, "references": references,
        "errors": errors, "many": f"{MANY:,}",
        "hypotheses": {"line": line, "sinusoid": sinusoid,
                       "OMEGA": (np.arctan2(sine, cosine)[:, 0] / 0.1).tolist()},
        "effective": f"Orange: the model’s effective label noise, {s} (95% interval {low} to "
                     f"{high}). An ideal learner that reads labels with noise of this standard "
                     "deviation has the same mean error.",
        "about": f"Model: {shown}, {config.n_layer} layers, {config.n_embd} channels. Its weights "
                 "are float32. As float16 the page would be half as big, but predictions would "
                 f"change by up to {rounding:.1g} on 1,000 prompts.",
        "params": {name: base64.b64encode(p.astype("<f4")).decode() for name, p in params.items()}}


def main():
    """Write the page. icl.Refused for a checkpoint that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("checkpoint", nargs="?", type=Path)
    add("--out", type=Path, help="the page; by default it goes beside the checkpoint")
    a = parser.parse_args()
    checkpoint = a.checkpoint or ROOT / "results/small/sine/mixture.npz"
    if not checkpoint.is_file():
        raise icl.Refused(f"{checkpoint} is not a regular file")
    page = a.out or (checkpoint.with_suffix(".html") if a.checkpoint else HERE / "playground.html")
    if (page.exists() and not page.is_file() or not page.absolute().parent.is_dir()
            or os.path.realpath(page) == os.path.realpath(checkpoint)):
        raise icl.Refused(f"{page} cannot be written, or is the checkpoint: choose another --out")
    data = json.dumps(page_data(checkpoint)).replace("<", "\\u003c")  # no tag ends the script
    template = (HERE / "playground_template.html").read_text(encoding="utf-8")
    icl.write_whole(page, template.replace('"DATA";', f"{data};").encode())
    print(page)


if __name__ == "__main__":
    sys.exit(exit_status("playground.py", main))
