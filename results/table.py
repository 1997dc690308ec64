"""Every claim at the small size with what was measured of it, a column for each seed.

    python results/table.py        prints seeds/table.txt from small/, seeds/*/ and paper/run.txt

A claim has one verdict where all seeds agree. Where they do not, it is undecided. The last column
is the paper's size, seed 0, and empty where that was not measured; no verdict depends on it.
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


def table(seeds, paper):
    """The table as Markdown, a column for each text of a run.txt in `seeds`, and for `paper`'s."""
    row = lambda *cells: f"| {' | '.join(cells)} |"
    columns = [f"seed {SEED.search(text)[1]}" for text in seeds]
    lines = [row("", "all seeds, or bound", *columns, "paper's size"),
             "|---" * (3 + len(seeds)) + "|"]
    runs, paper = [claims(text) for text in seeds], claims(paper)
    for claim in runs[0]:
        verdicts, measures = zip(*(run[claim] for run in runs))
        agreed = verdicts[0] if len(set(verdicts)) == 1 else "undecided"
        verdict, measured = paper.get(claim, ("", []))
        numbers = {what: number for what, number, _ in measured}
        lines.append(row(f"**{claim}**", f"**{agreed}**", *verdicts, verdict))
        for same in zip(*measures):
            what, _, bound = same[0]
            lines.append(row(what, bound, *(number for _, number, _ in same),
                             numbers.get(what, "")))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    read = lambda path: path.read_text(encoding="utf-8")
    print(table([read(HERE / "small/run.txt"), *map(read, sorted(HERE.glob("seeds/*/run.txt")))],
                read(HERE / "paper/run.txt")))
