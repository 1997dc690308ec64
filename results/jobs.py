"""Jobs side by side: how train.py shares the cores, and how Ctrl-C ends it.

Nothing here is about learning. A job is a function of a module and its arguments; it runs in a
process of its own and writes its own results, so that it can be ended at any time.
"""
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np

import icl

GRACE_SECONDS = 30  # before a process is killed that was told to end: a step, and a save


class Ended(Exception):
    """Raised by a job's send, if the job ends itself: it was told to end, or its parent is gone.
    (On Windows, a job that is told to end is killed.)"""


def side_by_side(jobs, processes, status, ends_itself=False):
    """Run jobs (function, *arguments), each as function(*arguments, send) in its own process.

    status(working, sent) -> the text to show. working: indices of jobs under way; sent: index ->
    what a job sent last. A job's icl.Refused or OSError ends all, and is raised here. A job that is
    to end is told so: it stops at once, or, if ends_itself, gets Ended where it next sends.
    """
    spawn = multiprocessing.get_context("spawn")
    waiting = list(enumerate(jobs))
    working = {}  # receiving end of its pipe -> index, process
    sent = {}
    interrupted = threading.Event()  # by Ctrl-C
    pause = 0.2 if sys.stdout and sys.stdout.isatty() else 10  # seconds between two lines of status
    said = time.monotonic()
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:  # Ctrl-C reaches no other
        before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        while (waiting or working) and not interrupted.is_set():
            while waiting and len(working) < processes:
                i, job = waiting.pop(0)
                receiver, sender = spawn.Pipe(duplex=False)
                process = spawn.Process(target=work, args=(sender, ends_itself, *job), daemon=True)
                start(process)
                sender.close()  # only the process has it: where it ends, the pipe ends
                working[receiver] = i, process
            if time.monotonic() > said + pause:
                said = time.monotonic()
                show_status(status([i for i, _ in working.values()], sent))
            for receiver in multiprocessing.connection.wait(list(working), 0.2):
                i, process = working[receiver]
                try:
                    message = receiver.recv()
                except EOFError:
                    del working[receiver]
                    check_end(process)
                    continue
                if isinstance(message, Exception):  # why the job could not be done
                    raise message
                sent[i] = message
    finally:
        for receiver, (_, process) in working.items():
            receiver.close()  # so that none waits to send
            process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        for _, process in working.values():
            process.join(max(0, end - time.monotonic()))
            process.kill()  # if it has not ended in time
            process.join()
        if in_main:
            signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt
    show_status("")


def check_end(process):
    """ChildProcessError, an OSError, if a process did not end well."""
    process.join()
    if process.exitcode:  # negative if it was killed
        raise ChildProcessError(f"a process ended with exit code {process.exitcode}; unless it "
                                "said why, the same command goes on")


def start(process):
    """Start a process with Ctrl-C blocked, which it inherits: only the parent handles that."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return process.start()
    multiprocessing.resource_tracker.ensure_running()  # which would unblock it, if it came later
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@np.errstate(all="ignore")  # what is not finite is told in words
def work(sender, ends_itself, function, *arguments):
    """Run a job in its process; an error is sent to the parent."""
    told = threading.Event()  # to end

    def end(*_):
        told.set()
        if not ends_itself:
            sys.exit()  # after every `finally`

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)

    def send(message):
        try:
            sender.send(message)
        except BrokenPipeError:  # the parent was killed
            told.set()
        if told.is_set():
            raise Ended

    try:
        function(*arguments, send)
        if told.is_set():  # so it is not done; a parent that told it no longer listens
            raise icl.Refused("a process was told to end; the same command goes on")
    except (Exception, SystemExit) as error:  # a class of one's own can cause any
        if not isinstance(error, (icl.Refused, OSError)):
            error = icl.Refused(where(error))
        with contextlib.suppress(BrokenPipeError):  # the parent was killed
            sender.send(error)


def where(error):
    """An error and its place as one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{place.name}, line {place.lineno} of {Path(place.filename).name}: {error!r}"


def show_status(line):
    """Show a line that renews itself on a terminal, and a plain one elsewhere."""
    if sys.stdout and sys.stdout.isatty():
        print(f"{line[:shutil.get_terminal_size().columns - 1]}\x1b[K", end="\r", flush=True)
    elif line:
        print(line, flush=True)
