"""Child: the parent's end of one worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wsiseg
from wsiseg.archive.tasks import SHARE

if TYPE_CHECKING:
    from wsiseg.archive.tasks import Task

__all__ = ["Child"]

# -P: whatever lies in the folder that the batch was started in is data, not code
_COMMAND = [sys.executable, "-P", "-m", "wsiseg.archive.worker"]
_LAST_WORDS_S = 5.0


class Child:
    """A worker process, and the task it is at, if any."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries may quote what files say of patients
            env=_environment(),
            start_new_session=True,  # Ctrl-C in the terminal is for the parent
        )
        self.task: Task | None = None
        self.done = 0
        """Tasks so far."""
        self.ready = False
        """Whether it has loaded its libraries."""
        self.sign = time.monotonic()
        """When it last showed that it lives."""
        self._begun = b""
        self._threads: int | None = None

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid

    @property
    def output(self) -> int:
        """Descriptor on which answers come."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def give(self, task: Task) -> None:
        """Send it a task; should it be dead, ``answers`` tells."""
        self.task, self.sign, self._threads = task, time.monotonic(), task.threads
        self._tell(asdict(task))

    def share(self, threads: int) -> None:
        """Let its task work on so many regions at once from now on."""
        if threads != self._threads:
            self._threads = threads
            self._tell({"kind": SHARE, "threads": threads})

    def _tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def answers(self) -> Iterator[dict[str, Any]]:
        """What it has said; at its end a last answer ``{"event": "ended", "status": ...}``."""
        data = os.read(self.output, 1 << 16)
        self.sign = time.monotonic()
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            with suppress(ValueError):  # cut short by a signal
                yield json.loads(line)
        if not data:
            yield {"event": "ended", "status": self._status()}

    def stop(self) -> None:
        """Ask it to end once what it is at is stored."""
        with suppress(OSError):
            self._process.terminate()

    def kill(self) -> None:
        """Kill it, whatever it does."""
        with suppress(OSError):
            self._process.kill()

    def close(self, within_s: float = _LAST_WORDS_S) -> None:
        """Kill it and let go of it; waits for its end, but not for longer than ``within_s``."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel ends when it can
            self._process.wait(within_s)

    def _status(self) -> int:
        try:
            return self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:  # it has closed its output, and goes on
            return 0


def _environment() -> dict[str, str]:
    """Ours, with this package to be found by the child as well."""
    home = str(Path(wsiseg.__file__).parents[1])
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), home]
    # every slide has new threads; glibc would give each of them a heap of its own, up to 8 per
    # core, and keep all: 690 MB after 45 small slides, against a steady 410 with two of them
    return {"MALLOC_ARENA_MAX": "2"} | os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
