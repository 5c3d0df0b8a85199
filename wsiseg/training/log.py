"""The log of a training: a CSV file that a resumed run continues, and TensorBoard where it is.

A row has means of the losses since the row before, or the scores of a validation. Rows after the
step that a run resumes from are dropped, so that each step is told of once.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsiseg.atomic import atomic_write, writing
from wsiseg.training.loop import Report

__all__ = ["TrainLog"]

_log = logging.getLogger(__name__)


class TrainLog:
    """Writes ``log.csv``; ``columns`` are the losses and scores that there can be."""

    def __init__(self, path: Path, columns: Sequence[str], *, step: int, every: int) -> None:
        self.columns = ("step", "rate", "seconds", *columns)
        self._path, self._every = path, every
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0
        self._board = _board(path.parent / "tensorboard", step)
        _cut(path, self.columns, step)

    def step(self, report: Report) -> None:
        """Count a step in; every so many, a row is written."""
        for name, value in report.losses.items():
            self._sums[f"loss.{name}"] += value
        self._sums["seconds"] += report.seconds
        self._count += 1
        if (report.step + 1) % self._every == 0:
            self.flush(report)

    def flush(self, report: Report) -> None:
        """Write what has been counted in since the last row; nothing where there is none."""
        if not self._count:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums.clear()
        self._count = 0
        self._row(report.step + 1, means | {"rate": report.rate})

    def scores(self, step: int, sets: dict[str, dict[str, float | None]]) -> None:
        """Write a row with the scores of a validation."""
        flat = {f"val.{s}.{k}": v for s, scores in sets.items() for k, v in scores.items()}
        self._row(step, {k: v for k, v in flat.items() if v is not None})

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _row(self, step: int, values: dict[str, float]) -> None:
        texts = {name: f"{value:.6g}" for name, value in values.items() if name in self.columns}
        line = io.StringIO()
        csv.DictWriter(line, self.columns, lineterminator="\n").writerow(texts | {"step": step})
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line.getvalue())
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name.replace(".", "/"), value, step)


def _cut(path: Path, columns: Sequence[str], step: int) -> None:
    """Write the header, and of the rows that are there those up to ``step``."""
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = [row for row in csv.DictReader(file) if _counts(row, columns, step)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with writing(path), atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _counts(row: dict[Any, Any], columns: Sequence[str], step: int) -> bool:
    """Whether a row is whole, and not of a step that will be taken again."""
    whole = list(row) == list(columns) and None not in row.values()
    return whole and str(row["step"]).isdecimal() and int(row["step"]) <= step


def _board(folder: Path, step: int) -> Any:
    """A TensorBoard writer; None, and a line in the log, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.info("tensorboard is not installed, log.csv has it all (pip install 'wsiseg[train]')")
        return None
    return SummaryWriter(str(folder), purge_step=step or None)
