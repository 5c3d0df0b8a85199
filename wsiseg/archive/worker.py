"""The worker process of a batch: ``python -m wsiseg.archive.worker``.

Tasks come as JSON lines on standard input, answers go as JSON lines to what was standard output;
nothing else is written anywhere but into the archive, whatever libraries wish to say. It ends
when its parent does, and on SIGTERM after the regions that are at work are stored.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any, NoReturn

__all__ = ["main"]

_ENDED_WITH_PARENT = 3


class Stopped(BaseException):
    """SIGTERM arrived."""


def main() -> NoReturn:
    """Serve tasks until standard input ends."""
    _end_with_parent()
    answers = _private_output()
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGTERM, _stop)
    try:
        serve(tasks, answers)
    except Stopped:
        _say(answers, {"event": "stopped"})
    except BaseException as error:
        from wsiseg.archive.faults import fault_of

        _say(answers, {"event": "unfit", "fault": fault_of(error).plain()})
    os._exit(0)  # Python itself would wait for the thread that listens


def serve(tasks: queue.SimpleQueue[dict[str, Any]], answers: int) -> NoReturn:
    """Do one task after the other."""
    from wsiseg.archive.faults import fault_of
    from wsiseg.archive.tasks import Task
    from wsiseg.archive.work import Models, measure, segment_slide

    def show(done: int, total: int) -> None:
        _say(answers, {"event": "progress", "done": done, "total": total})

    models = Models()
    _say(answers, {"event": "ready"})
    while True:
        task = Task(**_next(tasks))
        _say(answers, {"event": "began"})
        try:
            if task.kind == "measure":
                facts = measure(task, models)
            else:
                facts = segment_slide(task, models, show)
            _trim_memory()
            _say(answers, {"event": "done", "facts": facts, "loaded": models.loaded})
        except Exception as error:
            _say(answers, {"event": "failed", "fault": fault_of(error).plain()})


def _next(tasks: queue.SimpleQueue[dict[str, Any]]) -> dict[str, Any]:
    while True:  # a wait without an end would not hear of signals on every system
        with suppress(queue.Empty):
            return tasks.get(timeout=1.0)


def _listen(tasks: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Hand tasks on; when the parent is gone, so is this process, in the midst of whatever."""
    for line in sys.stdin.buffer:
        tasks.put(json.loads(line))
    os._exit(_ENDED_WITH_PARENT)


def _private_output() -> int:
    """A descriptor for answers; prints of libraries go nowhere."""
    warnings.simplefilter("ignore")
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return answers


def _end_with_parent() -> None:
    """Have the system kill this process when its parent dies, even in a hung native call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)


def _trim_memory() -> None:
    """Give freed memory back, which glibc would keep in pieces, more with every slide."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _stop(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def _say(answers: int, what: dict[str, Any]) -> None:
    data = json.dumps(what).encode() + b"\n"
    while data:
        data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
