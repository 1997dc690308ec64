"""Run what README.md, lab.md and lesson.ipynb show, and compare the numbers that they print.

    python course/check_lab.py             in two minutes; exit status 1 if anything differs
    python course/check_lab.py README.md   one page, or several

Section by section, in a copy of the repository. A ```sh block holds commands, a ```python block a
file, if "Save this as" stands before it. A plain block must be what was printed, numbers to 2 units
of the last digit, and each decimal number in the text must be printed or stand in the code. What
students would write comes from the program or course/answers. Left out: a block after the comment
"not run", and what it would print; README's commands; and its numbers outside the lesson, which are
the record's. The notebook's cells run here, one after
the other, without Jupyter: what they print and the numbers that they draw must be those stored.
"""
import argparse
import ast
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"-?\d+(?:,\d{3})*\.?\d*(?:e-?\d+)?")
BLOCK = re.compile(r"(?:^(<!-- not run[^\n]*)\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
SAVE = re.compile(r"Save this as `(.+?)`:\s*\Z")
BY_HAND = ["0.707", "0.387"]  # half of sqrt(2), in exercise 7; what a wrong answer to 9 prints


def near(expected, got, units):
    """Whether a number agrees with one that was printed, to so many units of its last digit."""
    digits = len(expected.partition(".")[2])
    return abs(float(expected.replace(",", "")) - float(got.replace(",", ""))) <= (
        1.01 * units * 10**-digits if digits else 0)


def alike(expected, got):
    """Whether two lines hold the same words and nearly the same numbers."""
    words = NUMBER.sub("#", expected).split() == NUMBER.sub("#", got).split()
    numbers = zip(NUMBER.findall(expected), NUMBER.findall(got))
    return words and all(near(a, b, 2) for a, b in numbers)


class Page:
    """A page as it is read: what was run and printed in this section, and what is wrong."""
    def __init__(self, name, folder):
        self.name, self.folder, self.wrong = name, folder, []
        self.compared = self.left_out = 0
        self.script = ""  # README's lesson so far

    def check(self):
        text = (ROOT / self.name).read_text(encoding="utf-8")
        for section in re.split(r"^(?=##+ )", text, flags=re.M):
            self.title, self.skipped = section.split("\n")[0], False
            self.code, self.printed = [], []
            end, prose = 0, []
            for block in BLOCK.finditer(section):
                prose.append(section[end:block.start()])
                end = block.end()
                self.block(*block.groups(), SAVE.search(prose[-1]))
            if self.printed:
                self.prose("\n".join([*prose, section[end:]]))

    def block(self, not_run, kind, content, save):
        if kind == "" and self.skipped:
            self.code.append(content)
            self.left_out += 1
        elif kind == "":
            self.compare(content.splitlines())
        elif not_run or kind == "sh" and self.name == "README.md":
            self.skipped = True
        elif kind == "sh":
            self.skipped = False
            for command in content.splitlines():
                self.run(re.sub(r"^\S*python3? ", f"{sys.executable} ", command))
                if out := re.search(r"blank.py .*--out (\S+)", command):
                    for module in ROOT.glob("*.py"):  # what was blanked, as a student would
                        shutil.copy(module, self.folder / out[1])
            self.code.append(content)
        elif save:
            (self.folder / save[1]).write_text(self.answer(save[1], content), encoding="utf-8")
            self.code.append(content)
        else:
            self.script += content
            self.printed.clear()
            (self.folder / "lesson.py").write_text(self.script, encoding="utf-8")
            self.run(f"{sys.executable} lesson.py")
            self.code.append(content)

    def run(self, command):
        done = subprocess.run(command, shell=True, cwd=self.folder, capture_output=True, text=True)
        self.printed += (done.stdout + done.stderr).splitlines()
        if done.returncode:
            self.error(f"{command}: exit status {done.returncode}\n{done.stderr}")

    def answer(self, path, skeleton):
        """The instructor's file, if there is one; it must hold what the lab gives of it."""
        file = ROOT / "course/answers" / path.removeprefix("blank/")
        if not file.exists():
            return skeleton
        text = file.read_text(encoding="utf-8")
        rest = iter(text.splitlines())
        for line in skeleton.splitlines():
            if "yours" not in line and line not in rest:  # `in` reads on from the last line found
                self.error(f"course/answers has not, in this order: {line}")
                break
        return text

    def compare(self, lines):
        self.compared += len(lines)
        starts = range(len(self.printed) - len(lines) + 1)
        if not any(all(map(alike, lines, self.printed[i:])) for i in starts):
            self.error("\n".join(["not printed:", *lines, "but:", *self.printed[-20:]]))

    def prose(self, text):
        known = [*NUMBER.findall("\n".join([*self.code, *self.printed])), *BY_HAND]
        for number in re.findall(r"(?<![\w./-])(?<!within )\d+\.\d+(?![\w/]|\.\d)", text):
            self.compared += 1
            if not any(near(number, k, 1) for k in known):
                self.error(f"{number} stands in the text, and nothing printed it")

    def error(self, what):
        self.wrong.append(f"{self.name}, {self.title}: {what}")


def notebook(name):
    """What is wrong in a notebook: where a cell prints or draws something else than is stored."""
    display = types.SimpleNamespace(SVG=str)  # IPython's, of which the notebook uses no more
    sys.modules |= {"IPython": types.SimpleNamespace(display=display), "IPython.display": display}
    names, wrong, compared = {}, [], 0
    os.chdir((ROOT / name).parent)
    for number, cell in enumerate(json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        *lines, last = ast.parse("".join(cell["source"])).body
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(ast.Module(lines, []), name, "exec"), names)
            if isinstance(last, ast.Expr):  # its value is shown, if it has one
                svg = eval(compile(ast.Expression(last.value), name, "eval"), names) or ""
            else:
                exec(compile(ast.Module([last], []), name, "exec"), names)
                svg = ""
        stored = {"text": [], "image/svg+xml": []}
        for output in cell["outputs"]:
            content = output | output.get("data", {})
            for kind in stored:
                stored[kind] += "".join(content.get(kind, "")).splitlines()
        got = {"text": printed.getvalue().splitlines(), "image/svg+xml": svg.splitlines()}
        for kind, expected in stored.items():
            compared += len(expected)
            pairs = itertools.zip_longest(expected, got[kind], fillvalue="nothing")
            wrong += [f"{name}, cell {number}: stored: {a}\nbut: {b}" for a, b in pairs
                      if not alike(a, b)]
    print(f"{name}: {compared} lines compared")
    return wrong


LAB, NOTEBOOK = "course/lab.md", "course/lesson.ipynb"
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", default=["README.md", LAB, NOTEBOOK], metavar="page")
    pages = [os.path.relpath((ROOT / page).resolve(), ROOT) for page in parser.parse_args().pages]
    if missing := [page for page in pages if not (ROOT / page).is_file()]:
        parser.error(f"there is no page {missing[0]!r}")
    wrong = notebook(NOTEBOOK) if NOTEBOOK in pages else []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "program"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "blank", "runs"))
        for name in [p for p in pages if p != NOTEBOOK]:
            page = Page(name, copy)
            page.check()
            wrong += page.wrong
            print(f"{name}: {page.compared} lines and numbers compared; "
                  f"{page.left_out} blocks of output left out")
    print("\n".join(wrong) or "all agree")
    sys.exit(bool(wrong))
