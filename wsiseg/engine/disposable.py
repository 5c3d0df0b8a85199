"""A process for one call: ``python -m wsiseg.engine.disposable``.

What may kill a process is run where nothing else is lost with it.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import IO, TypeVar

from wsiseg.errors import RegionError

__all__ = ["alone", "end_with_parent", "ended_by", "main"]

T = TypeVar("T")
R = TypeVar("R")

# -P: whatever lies in the folder that we were started in is data, not code
_COMMAND = [sys.executable, "-P", "-m", "wsiseg.engine.disposable"]


def alone(function: Callable[[T], R], item: T, deadline_s: float) -> R:
    """``function(item)`` in a process of its own; both travel by pickle.

    Raises RegionError, naming the item and the signal, where the process dies or takes longer
    than ``deadline_s`` seconds, and what the function raises.
    """
    where = getattr(item, "core", item)
    try:
        done = subprocess.run(
            _COMMAND,
            input=pickle.dumps(sys.path) + pickle.dumps((function, item)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries may quote what files say of patients
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        message = f"region {where} hangs: alone in a process it was not done in {deadline_s:g} s"
        raise _convicted(message, "timeout") from None
    if done.returncode != 0:
        raise _killed(where, done.returncode)
    error, result = pickle.loads(done.stdout)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _killed(where: object, status: int) -> RegionError:
    how = ended_by(status)
    message = f"region {where} kills the process that works on it ({how}), also when alone"
    return _convicted(message, how)


def _convicted(message: str, cause: str) -> RegionError:
    error = RegionError(message)
    error.cause = cause
    return error


def ended_by(status: int) -> str:
    """What ended a process, by the status that ``subprocess`` tells: a signal, or itself."""
    if status >= 0:
        return f"exit status {status}"
    known = {int(number): number.name for number in signal.Signals}
    return known.get(-status, f"signal {-status}")


def end_with_parent() -> None:
    """Have the system kill this process when its parent dies, even in a hung native call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)


def main() -> None:
    """Do the call that comes on standard input; the answer goes to standard output."""
    end_with_parent()
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # prints of libraries
    sys.path[:] = pickle.load(sys.stdin.buffer)  # before what only our parent can import
    with os.fdopen(answers, "wb") as file:
        file.write(_answer(sys.stdin.buffer))


def _answer(call: IO[bytes]) -> bytes:
    """(error, result), pickled; an error that cannot travel is told by its name."""
    try:
        function, item = pickle.load(call)
        return pickle.dumps((None, function(item)))
    except Exception as error:
        try:
            return pickle.dumps((error, None))
        except Exception:
            return pickle.dumps((RuntimeError(type(error).__name__), None))


if __name__ == "__main__":
    main()
