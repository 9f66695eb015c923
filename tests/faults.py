"""What the fault battery shares: how often it tries, and programs that are watched.

FASTDROP_FAULT_TRIES=200 runs the long form (`make faults`); other numbers scale it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LONG = int(os.environ.get("FASTDROP_FAULT_TRIES") or 0)
TIMEOUT = 120  # seconds after which a program hangs; the long form takes longer


def tries(short: int, long: int) -> int:
    """Return how often to try something: `short`, or `long` times in the long form."""
    return max(short, long * LONG // 200)


# What each program below begins with. A child ends by SIGALRM if it hangs.
PRELUDE = """
import gc, os, random, re, signal, sys, threading, time, warnings, zlib
warnings.simplefilter("ignore", DeprecationWarning)  # of forks
import numpy as np, fastdrop as fd
signal.signal(signal.SIGINT, signal.default_int_handler)
def fork(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(WATCH)
        try:
            code = work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 99
        os._exit(code)
    return pid
def ended(pid):  # the code of a child, or minus the signal that killed it
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def helpers():  # the threads of the pool
    found = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                found += file.read().startswith("fastdrop-")
        except OSError:  # it has just ended
            pass
    return found
def comes(value, wanted, seconds=20.0):  # whether value() becomes what is wanted
    deadline = time.monotonic() + seconds
    while value() != wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    return value() == wanted
"""


def run(code: str, *arguments: object, **environment: str) -> str:
    """Return what a program prints; it must end well and write no word to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE.replace("WATCH", str(TIMEOUT)) + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": _path(), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT * (1 + LONG),
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stderr[-3000:]}"
    return done.stdout


def _path() -> str:
    """Return where programs find the modules of the tests."""
    here = str(Path(__file__).parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
