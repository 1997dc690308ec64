"""Every claim at the small size with what was measured of it, three seeds side by side.

    python results/table.py        prints seeds/table.txt from small/run.txt and seeds/*/run.txt

A claim has one verdict where all seeds agree. Where they do not, it is undecided.
"""
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLAIM = re.compile(r"^\[(?P<verdict>.+)\] (?P<claim>.+)\n    (?P<measures>.+)$", re.M)
MEASURE = re.compile(r"(?P<what>.+?) (?P<number>\S+ ± \S+)(?P<bound>| \(.+\))$")


def claims(path):
    """Claim -> (verdict, list of (what, number, bound)) of a run.txt."""
    return {c["claim"]: (c["verdict"], [MEASURE.match(m).groups()
                                        for m in c["measures"].split("; ")])
            for c in CLAIM.finditer(path.read_text(encoding="utf-8"))}


def table(paths):
    """The table as text, a column for each run.txt."""
    runs, lines = [claims(path) for path in paths], []
    for claim in runs[0]:
        verdicts, measures = zip(*(run[claim] for run in runs))
        agreed = verdicts[0] if len(set(verdicts)) == 1 else "undecided"
        lines.append(f"[{agreed}] {claim}" + (f"  ({', '.join(verdicts)})"
                                              if len(set(verdicts)) > 1 else ""))
        for row in zip(*measures):
            what, _, bound = row[0]
            numbers = "".join(f"{number:>20s}" for _, number, _ in row)
            lines.append(f"    {what + bound:78s}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    print(table([HERE / "small/run.txt", *sorted(HERE.glob("seeds/*/run.txt"))]))
