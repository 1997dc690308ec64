"""Grade a student's folder: run each exercise's checks on it, and say the points.

    python course/grade.py blank/5 5                   exercise 5, which was written in blank/5
    python course/grade.py blank                       all: exercise N in blank/N, if that is there
    python course/grade.py blank --json results.json   the same, for Gradescope

A student's file runs in a process of its own and sends back numbers alone. They are judged here, in
the repository's program and by its test_icl.py, so what the file prints, patches or ends changes
nothing. It may not write files or read the original of what it should hold. Only the file that the
exercise names is graded. This stops shortcuts, not attackers: keep strangers' code in a container.
"""
import argparse
import functools
import io
import json
import multiprocessing
import os
import pickle
import sys
import textwrap
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60  # at most, for one check
POINTS = 10   # for an exercise; its checks share them


# -------------------------------------------------------------------------- the student's process

class Answer(pickle.Pickler):
    """Writes numbers and arrays. A function stays here: its place in `kept` is sent."""
    kept = []

    def persistent_id(self, value):
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            self.kept.append(value)
            return f"kept[{len(self.kept) - 1}]"


def serve(connection, folder, module):
    """Import the student's file, then evaluate in it what is asked, until the process is killed."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)  # what it prints is not looked at
    import numpy  # before the student's folder can put another in its place
    sys.path[:] = [str(folder), *sys.path, str(ROOT)]
    sys.addaudithook(functools.partial(guard, folder, module))
    names, message = {}, pickle.dumps(("lambda: 0", ()))
    while True:
        file = io.BytesIO()
        try:
            names = names or vars(__import__(module)) | {"kept": Answer.kept}
            code, arguments = pickle.loads(message)
            result = eval(code, names)(*arguments)
            after = [a if isinstance(a, (dict, numpy.ndarray)) else None for a in arguments]
            Answer(file, 4).dump((result, after))  # arguments, too: the call may change them
        except BaseException as error:  # sys.exit(), too
            file = io.BytesIO()
            Answer(file, 4).dump((f"{type(error).__name__}: {error}", None))
        connection.send_bytes(file.getvalue())
        message = connection.recv_bytes()


def guard(folder, module, event, arguments):
    """Refuse the student's file to write, to start programs, and to open the original."""
    if event == "open" and not isinstance(arguments[0], int):
        path = Path(os.path.realpath(os.fsdecode(arguments[0])))
        ours = path.is_relative_to(ROOT) and not path.is_relative_to(folder)
        if (arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                or ours and (path.name.split(".")[0] == module
                             or "course" in path.relative_to(ROOT).parts)):
            raise PermissionError(f"grade.py does not let it open {path}")
    elif (event.split(".")[0] in ("os", "subprocess", "ctypes", "shutil", "socket")
          and event not in ("os.listdir", "os.scandir", "os.putenv")):
        raise PermissionError(f"grade.py does not let it use {event}")


# -------------------------------------------------------------------------------- the grader's own

class Student:
    """The student's file in its process: student(code, *arguments) evaluates code and calls it."""
    def __init__(self, folder, module):
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, folder, module), daemon=True)
        self.process.start()
        theirs.close()
        self.seconds = SECONDS  # left to wait for it
        self.answer()  # once the file is imported

    def __call__(self, code, *arguments):
        self.connection.send((code, arguments))
        result, after = self.answer()
        for mine, theirs in zip(arguments, after):  # what it did to them
            if isinstance(mine, dict):
                mine.update(theirs)
            elif hasattr(mine, "tobytes") and mine.tobytes() != theirs.tobytes():
                mine[...] = theirs
        return result

    def answer(self):
        begin = time.monotonic()
        if not self.connection.poll(self.seconds):
            raise AssertionError(f"no answer within {SECONDS} seconds")
        self.seconds -= min(self.seconds, time.monotonic() - begin)
        try:
            message = Numbers(io.BytesIO(self.connection.recv_bytes()))
        except EOFError:
            raise AssertionError("the student's file ended its process") from None
        message.student = self
        result, after = message.load()
        if after is None:
            raise AssertionError(result)  # what went wrong there
        return result, after


class Numbers(pickle.Unpickler):
    """Reads numbers and arrays. Functions become calls to the student's process."""
    def find_class(self, module, name):
        allowed = "_reconstruct", "scalar", "ndarray", "dtype"
        if module.split(".")[0] == "numpy" and name in allowed:
            return super().find_class(module, name)
        raise AssertionError(f"it returned a {name}, where numbers were asked for")

    def persistent_load(self, code):
        return functools.partial(self.student, code)


def grade(folder, exercise):
    """The results of an exercise's checks, as Gradescope reads them."""
    if (folder / str(exercise)).is_dir():
        folder /= str(exercise)
    for module, name, check in CHECKS[exercise]:
        points, student = POINTS / len(CHECKS[exercise]), None
        result = {"name": f"{exercise} {name}", "score": 0, "max_score": points}
        try:
            if not (folder / f"{module}.py").exists():
                raise FileNotFoundError(f"there is no {folder / module}.py")
            student = Student(folder, module)
            result |= {"output": check(student) or "ok", "score": points}
        except Exception as error:
            result["output"] = " ".join(f"{error}"[:500].split()) or type(error).__name__
        if student:
            student.process.kill()
        yield result


def main():
    """Grade and print; exit status 2 if that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("exercises", nargs="*", type=int, metavar="exercise", help="1 to 11")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write Gradescope's results.json")
    a = parser.parse_args()
    while os.open(os.devnull, os.O_RDWR) < 3:  # where stdin, stdout or stderr is closed, a pipe to
        pass                                   # the student's process must not get its number
    if not a.folder.is_dir():
        parser.error(f"{str(a.folder)!r} is not a folder")
    if unknown := {*a.exercises} - {*CHECKS}:
        parser.error(f"there is no exercise {min(unknown)}")
    if a.json and (a.json.exists() and not a.json.is_file()
                   or not a.json.absolute().parent.is_dir()):
        parser.error(f"{str(a.json)!r} cannot be a file")
    results = []
    for exercise in a.exercises or CHECKS:
        for result in grade(a.folder.resolve(), exercise):
            results.append(result)
            line = "{score:4.3g} of {max_score:.3g}  {name}: {output}".format(**result)
            print(textwrap.fill(line, 100, subsequent_indent=" " * 12), flush=True)
    total, most = (sum(r[key] for r in results) for key in ("score", "max_score"))
    print(f"{total:4.3g} of {most:.3g}")
    if a.json:
        try:
            icl.write_whole(a.json, json.dumps({"tests": results}, indent=1).encode())
        except OSError as error:
            parser.error(f"{a.json}: {error}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    # Not in the student's process, which reads this file, too. With -O, test_icl.py refuses.
    from checks import CHECKS
    import icl
    from results.jobs import exit_status
    sys.exit(exit_status("grade.py", main))
