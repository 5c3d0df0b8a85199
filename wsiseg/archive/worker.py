"""The worker process of a batch: ``python -m wsiseg.archive.worker``.

Tasks come as JSON lines on standard input, answers go as JSON lines to what was standard output;
nothing else is written anywhere but into the archive, whatever libraries wish to say. It ends
when its parent does, and on SIGTERM after the regions that are at work are stored.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any, NoReturn

from wsiseg.archive.tasks import SHARE
from wsiseg.engine.disposable import end_with_parent
from wsiseg.engine.executor import Threads

__all__ = ["main"]

_ENDED_WITH_PARENT = 3
_SIGN_S = 1.0  # between signs of life

_saying = threading.Lock()  # threads that work say that they live


class Stopped(BaseException):
    """SIGTERM arrived."""


def main() -> NoReturn:
    """Serve tasks until standard input ends."""
    end_with_parent()
    answers = _private_output()
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threads = Threads(1)
    threading.Thread(target=_listen, args=(tasks, threads), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGTERM, _stop)
    try:
        serve(tasks, threads, answers)
    except Stopped:
        os.write(answers, b"\n")  # it may have cut a line short
        _say(answers, {"event": "stopped"})
    except BaseException as error:
        from wsiseg.archive.faults import fault_of

        _say(answers, {"event": "unfit", "fault": fault_of(error).plain()})
    os._exit(0)  # Python itself would wait for the thread that listens


def serve(tasks: queue.SimpleQueue[dict[str, Any]], threads: Threads, answers: int) -> NoReturn:
    """Do one task after the other; ``threads`` run its regions, as many as we are told."""
    from wsiseg.archive.faults import fault_of
    from wsiseg.archive.tasks import Task
    from wsiseg.archive.work import Models, measure, segment_slide
    from wsiseg.heap import trim
    from wsiseg.pulse import felt

    def show(done: int, total: int) -> None:
        _say(answers, {"event": "progress", "done": done, "total": total})

    last = time.monotonic()

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last >= _SIGN_S:
            last = time.monotonic()
            _say(answers, {"event": "alive"})

    models = Models()
    _say(answers, {"event": "ready"})
    while True:
        task = Task(**_next(tasks))
        _say(answers, {"event": "began"})
        try:
            if task.kind == "measure":
                with felt(alive):
                    facts = measure(task, models)
            else:
                with felt(alive):
                    facts = segment_slide(task, models, show, threads)
            trim()  # glibc would keep it in pieces, more with every slide
            _say(answers, {"event": "done", "facts": facts, "loaded": models.loaded})
        except Exception as error:
            _say(answers, {"event": "failed", "fault": fault_of(error).plain()})


def _next(tasks: queue.SimpleQueue[dict[str, Any]]) -> dict[str, Any]:
    while True:  # a wait without an end would not hear of signals on every system
        with suppress(queue.Empty):
            return tasks.get(timeout=1.0)


def _listen(tasks: queue.SimpleQueue[dict[str, Any]], threads: Threads) -> None:
    """Hand tasks on, and set how many regions run at once, also of the slide that is at work.

    When the parent is gone, so is this process, in the midst of whatever.
    """
    for line in sys.stdin.buffer:
        told = json.loads(line)
        threads.workers = told["threads"] or 1
        if told["kind"] != SHARE:
            tasks.put(told)
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


def _stop(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def _say(answers: int, what: dict[str, Any]) -> None:
    data = json.dumps(what).encode() + b"\n"
    with _saying:
        while data:
            data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
