"""Every claim at the small size with what was measured of it, a column for each seed.

    python results/table.py        prints seeds/table.txt from small/run.txt and seeds/*/run.txt

A claim has one verdict where all seeds agree. Where they do not, it is undecided.
"""
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = re.compile(r", seed (\d+),")
CLAIM = re.compile(r"^\[(?P<verdict>.+)\] (?P<claim>.+)\n    (?P<measures>.+)$", re.M)
MEASURE = re.compile(r"(?P<what>.+?) (?P<number>\S+ ± \S+)(?: \((?P<bound>.+)\))?$")


def claims(text):
    """Claim -> (verdict, list of (what, number, bound)) of a run.txt."""
    return {c["claim"]: (c["verdict"], [MEASURE.match(m).groups("")
                                        for m in c["measures"].split("; ")])
            for c in CLAIM.finditer(text)}


def table(texts):
    """The table as Markdown, a column for each text of a run.txt."""
    row = lambda *cells: f"| {' | '.join(cells)} |"
    lines = [row("", "bound", *(f"seed {SEED.search(text)[1]}" for text in texts)),
             "|---" * (2 + len(texts)) + "|"]
    runs = [claims(text) for text in texts]
    for claim in runs[0]:
        verdicts, measures = zip(*(run[claim] for run in runs))
        agreed = verdicts[0] if len(set(verdicts)) == 1 else "undecided"
        lines.append(row(f"**{claim}**", f"**{agreed}**", *verdicts))
        lines += [row(same[0][0], same[0][2], *(number for _, number, _ in same))
                  for same in zip(*measures)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    paths = [HERE / "small/run.txt", *sorted(HERE.glob("seeds/*/run.txt"))]
    print(table([path.read_text(encoding="utf-8") for path in paths]))
