"""Copy the program into a new folder, with some functions blanked for you to write again.

    python course/blank.py icl.linear icl.layernorm     into blank/linear, next time linear-2
    python course/blank.py icl.attention --out blank/5  into another folder, which must be new
    python course/blank.py --out blank/1                a whole copy, nothing blanked

Of a blanked function, the signature and the first paragraph of its docstring stay. Its tests in
the copy fail until it is written again.
"""
import argparse
import ast
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = "icl", "tasks", "baselines", "train"
OTHERS = "results/*.py", "results/small/*/*.npz"  # that the tests read
CONFTEST = """# Tells pytest, where it runs in another folder, to leave this copy's tests alone.
import os
collect_ignore = [] if os.path.samefile(os.getcwd(), os.path.dirname(__file__)) else ["test_icl.py"]
"""


def refuse(why):
    """Say in one line what is wrong, and end with exit status 2."""
    parser.exit(2, f"blank.py: error: {' '.join(str(why).splitlines())}\n")


def blanked(module, text, names):
    """The text of a module with the functions called module.function blanked."""
    lines = text.split("\n")
    for node in reversed(functions(module, text)):  # from the end, so line numbers stay right
        name, first = f"{module}.{node.name}", node.body[0]
        if name in names:
            body = [f'    raise NotImplementedError("write {name} again")']
            if ast.get_docstring(node):
                doc = lines[first.lineno - 1:first.end_lineno]
                body = ([*doc[:doc.index("")], '    """'] if "" in doc else doc) + body
            lines[first.lineno - 1:node.end_lineno] = body
    new = "\n".join(lines)
    try:
        left = [node.name for node in functions(module, new)]
    except SyntaxError:
        left = []
    if left != [node.name for node in functions(module, text)]:
        refuse(f"{module}.py has a function whose first lines are laid out in a way that this "
               "program cannot blank")
    return new


def read(module):
    """The text of a module."""
    try:
        return (ROOT / f"{module}.py").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        refuse(f"{module}.py: {error}")


def functions(module, text):
    """The functions that a module defines at its top level, as syntax trees."""
    tree = ast.parse(text, f"{module}.py")
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def free_folder(names):
    """blank/linear for icl.linear; blank/linear-2 if that is there, and so on."""
    folder, number = ROOT / "blank" / (names[0].split(".")[-1] if names else "whole"), 2
    path = folder
    while os.path.lexists(path):
        path, number = Path(f"{folder}-{number}"), number + 1
    return path


def test_words(names, tests):
    """What to give test_icl.py: words that choose the functions' tests, or nothing for all."""
    words = [name.split(".")[-1].strip("_") for name in names]
    return words if all(re.search(f"def test_.*{word}", tests) for word in words) else []


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.error = refuse
parser.add_argument("names", nargs="*", metavar="module.function", help="such as icl.attention")
parser.add_argument("--out", type=Path, help="a new folder, by default blank/FUNCTION")
a = parser.parse_args()
if sys.stdout:
    sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what cannot be printed
try:
    texts = {m: read(m) for m in (*MODULES, "test_icl")}
    known = {f"{m}.{node.name}" for m in MODULES for node in functions(m, texts[m])}
    if unknown := sorted({*a.names} - known):
        refuse(f"no function is called {' or '.join(unknown)}; a name is like icl.attention")
    others = {str(path.relative_to(ROOT)): path.read_bytes() for pattern in OTHERS
              for path in ROOT.glob(pattern) if path.is_file()}
    files = {f"{m}.py": blanked(m, text, a.names).encode() for m, text in texts.items()} | others
    files |= {"conftest.py": CONFTEST.encode(), ".gitignore": b"*\n"}  # git leaves it alone, too
    out = a.out or free_folder(a.names)
    out.mkdir(parents=True)
except FileExistsError:
    refuse(f"{out} exists; name another folder, such as --out {out}-2")
except (OSError, SyntaxError) as error:
    refuse(error)
try:
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
except OSError as error:  # a full disk
    shutil.rmtree(out, ignore_errors=True)
    refuse(f"{out}: {error}")
shown = os.path.relpath(out)
if a.names:
    print(f"{shown} is a copy without {', '.join(a.names)}. Write again what is missing, then:")
    print(f"python {shown}/test_icl.py", *test_words(a.names, texts["test_icl"]))
else:
    print(f"{shown} is a whole copy")
