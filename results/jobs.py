"""Jobs side by side: how train.py shares the cores, and how it and the scripts end.

Nothing here is about learning. A job is a function of a module and its arguments. It runs in a
process of its own, writes its own results, and tells by `send`, its last argument, how far it is.
Through a pipe the parent gets what is sent, an exception if the job fails, and the pipe's end when
its process ends. The same pipe stops a job: once the parent has closed it, or was killed, send
raises BrokenPipeError.
"""
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

import icl

ROOT = Path(icl.__file__).parent


def side_by_side(jobs, processes, status, grace_seconds=0):
    """Run jobs (function, *arguments), each as function(*arguments, send) in its own process.

    status(working, sent) -> the text to show. working: indices of jobs under way; sent: index ->
    what a job sent last. A job's icl.Refused or OSError ends all, and is raised here. Then, as on
    Ctrl-C, jobs have grace_seconds until they are killed. A second Ctrl-C kills them at once.
    """
    spawn = multiprocessing.get_context("spawn")
    waiting = list(enumerate(jobs))
    working = {}  # receiving end of its pipe -> index, process
    sent = {}
    pause = 0.2 if on_terminal() else 10  # seconds between two lines of status
    shown = time.monotonic()
    try:
        while waiting or working:
            while waiting and len(working) < processes:
                i, job = waiting.pop(0)
                receiver, sender = spawn.Pipe(duplex=False)
                process = spawn.Process(target=run_job, args=(sender, *job), daemon=True)
                start(process)
                sender.close()  # only the process has it: where it ends, the pipe ends
                working[receiver] = i, process
            if time.monotonic() > shown + pause:
                shown = time.monotonic()
                show_status(status([i for i, _ in working.values()], sent))
            for receiver in multiprocessing.connection.wait(list(working), 0.2):
                i, process = working[receiver]
                try:
                    message = receiver.recv()
                except EOFError:  # its process has ended
                    del working[receiver]
                    check_end(process)
                    continue
                if isinstance(message, Exception):  # why the job could not be done
                    raise message
                sent[i] = message
    except KeyboardInterrupt:
        if grace_seconds:
            show_status("stopping: each model finishes its step and is saved")
        raise
    finally:
        stop(working, grace_seconds)
    show_status("")


def stop(working, grace_seconds):
    """Ask jobs to stop by closing their pipes, and kill those that have not ended in time."""
    for receiver in working:
        receiver.close()
    end = time.monotonic() + grace_seconds
    try:
        for _, process in working.values():
            process.join(max(0, end - time.monotonic()))
    finally:  # after a second Ctrl-C, too
        for _, process in working.values():
            process.kill()  # if it is still there
            process.join()


def check_end(process):
    """ChildProcessError, an OSError, if a process did not end well."""
    process.join()
    if process.exitcode:  # negative if it was killed
        raise ChildProcessError(f"a process ended with exit code {process.exitcode}; unless a "
                                "reason stands above, the same command goes on from there")


def start(process):
    """Start a process that Ctrl-C cannot reach, as it inherits this process's blocked signals."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return process.start()
    # A helper process of multiprocessing. If process.start() had to start it, that would unblock
    # the signal.
    multiprocessing.resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@np.errstate(all="ignore")  # what is not finite is told in words
def run_job(sender, function, *arguments):
    """Run a job in its process; an error is sent to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function(*arguments, sender.send)
    except (Exception, SystemExit) as error:  # a function class of the user's can raise any
        if not isinstance(error, (icl.Refused, OSError)):
            error = icl.Refused(where(error))
        try:
            sender.send(error)
        except BrokenPipeError:  # the parent no longer listens
            if not isinstance(error, BrokenPipeError):  # which is how the parent stopped the job
                print(error, file=sys.stderr)


def where(error):
    """An error as one line, with its last place in our files, unless it says enough itself."""
    if isinstance(error, icl.Refused):
        return str(error)
    places = traceback.extract_tb(error.__traceback__)
    ours = [place for place in places
            if ROOT in Path(place.filename).parents and "site-packages" not in place.filename]
    place = (ours or places)[-1]
    words = " ".join(str(error).splitlines())
    return (f"{words} ({type(error).__name__} in {place.name}, line {place.lineno} of "
            f"{Path(place.filename).name})")


def exit_status(program, run, stopped="stopped"):
    """Run a program: run(). Its exit status: 0; 2 after an error, told in one line; 130 after
    Ctrl-C, told as `stopped`."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what no text can
    try:
        run()
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    except (icl.Refused, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            # Nobody reads on: so that Python's exit does not write into the closed pipe.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        print(f"{program}: error: {str(error) or repr(error)}", file=sys.stderr)
        return 2
    return 0


def on_terminal():
    """Whether output is shown on a terminal; sys.stdout may be None, or a class of the user's."""
    return getattr(sys.stdout, "isatty", bool)()


def show_status(line):
    """Show a line that renews itself on a terminal, and a plain one elsewhere."""
    if on_terminal():
        print(f"{line[:shutil.get_terminal_size().columns - 1]}\x1b[K", end="\r", flush=True)
    elif line:
        print(line, flush=True)
