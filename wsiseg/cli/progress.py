"""What is told of work that takes a while: a bar in a terminal, plain lines without one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from wsiseg.cli.say import say

if TYPE_CHECKING:
    from wsiseg.run.report import Progress
    from wsiseg.training.outcome import TrainProgress

__all__ = ["image_progress", "run_progress", "training_progress"]


@contextmanager
def run_progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Of the regions of a slide; a line for each tenth of them."""
    with _teller("segmenting", "region", 10, quiet) as teller:

        def show(at: Progress) -> None:
            beside = f"{at.found:,} objects so far"
            teller.tell(at.done, at.total, beside, at.remaining)

        yield None if quiet else show


@contextmanager
def training_progress(quiet: bool) -> Iterator[Callable[[TrainProgress], None] | None]:
    """Of the steps of a training: what happened, and a line for each twentieth of them."""
    with _teller("training", "step", 20, quiet) as teller:

        def show(at: TrainProgress) -> None:
            if at.said:
                teller.note(at.said)
            else:
                teller.tell(at.step, at.steps, f"loss {at.loss:.3f}", at.remaining)

        yield None if quiet else show


@contextmanager
def image_progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Of images, done and all; a line for each tenth of them."""
    with _teller("evaluating", "image", 10, quiet) as teller:
        yield None if quiet else lambda done, total: teller.tell(done, total, "", None)


class _Teller(Protocol):
    """Tells people how far something is, and what happened."""

    def tell(self, done: int, total: int, beside: str, left: float | None) -> None: ...

    def note(self, text: str) -> None: ...


@contextmanager
def _teller(doing: str, one: str, parts: int, quiet: bool) -> Iterator[_Teller]:
    if quiet or not sys.stderr.isatty():
        yield _Lines(one, parts)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    words = TextColumn(f"{one}s"), Left(), TextColumn("{task.fields[beside]}")
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), *words)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class _Lines:
    """A line for each of ``parts`` equal parts of the work."""

    def __init__(self, one: str, parts: int) -> None:
        self._one, self._parts, self._last = one, parts, -1

    def tell(self, done: int, total: int, beside: str, left: float | None) -> None:
        part = self._parts * done // max(total, 1)
        if part == self._last:
            return
        self._last = part
        to_go = "" if left is None else f"about {left:.0f} s to go"
        say(", ".join(filter(None, (f"{self._one} {done} of {total}", beside, to_go))))

    def note(self, text: str) -> None:
        say(text)


class _Bar:
    """A bar of rich."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._task = bar, bar.add_task("", total=None, beside="")

    def tell(self, done: int, total: int, beside: str, left: float | None) -> None:
        self._bar.update(self._task, completed=done, total=total, beside=beside)

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)
