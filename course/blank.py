"""Copy the program into a new folder, with some functions blanked for you to write again.

    python course/blank.py icl.linear icl.layernorm     into the folder `blank`
    python course/blank.py icl.attention --out blank/5  into another folder, which must be new
    python course/blank.py --out blank/1                a whole copy, nothing blanked

Of a blanked function, the signature and the first paragraph of its docstring stay. Its tests in
the copy fail until it is written again: python blank/test_icl.py linear layernorm
"""
import argparse
import ast
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("*.py", "results/*.py", "results/small/*/*.npz")  # all that the tests read


def refuse(why):
    """Say in one line what is wrong, and end with exit status 2."""
    print(f"blank.py: error: {why}", file=sys.stderr)
    sys.exit(2)


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("names", nargs="*", metavar="module.function", help="such as icl.attention")
parser.add_argument("--out", type=Path, default=ROOT / "blank", help="default: %(default)s")
a = parser.parse_args()
if a.out.exists():
    refuse(f"{a.out} exists; name another folder with --out")
modules = {path.stem: path.read_text(encoding="utf-8").split("\n") for path in ROOT.glob("*.py")}
found = {f"{module}.{node.name}": node for module, lines in modules.items()
         for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.FunctionDef)}
if unknown := [name for name in a.names if name not in found]:
    refuse(f"no function is called {' or '.join(unknown)}; a name is like icl.attention")
for name in sorted(set(a.names), key=lambda name: -found[name].lineno):  # a file from its end up
    node, lines = found[name], modules[name.split(".")[0]]
    body, first = [f'    raise NotImplementedError("write {name} again")'], node.body[0]
    if ast.get_docstring(node):
        doc = lines[first.lineno - 1:first.end_lineno]
        body = ([*doc[:doc.index("")], '    """'] if "" in doc else doc) + body
    lines[first.lineno - 1:node.end_lineno] = body
for path in [path for pattern in FILES for path in ROOT.glob(pattern)]:
    copy = a.out / path.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
for module, lines in modules.items():
    (a.out / f"{module}.py").write_text("\n".join(lines), encoding="utf-8")
(a.out / ".gitignore").write_text("*\n")  # git leaves the copy alone
print(a.out)
