"""CSV tables with a header: rows by column name, every cell checked where it is used."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from wsiseg.errors import InputFileError

__all__ = ["Row", "columns_of", "read_table"]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table."""

    path: Path
    line: int
    values: dict[str, str]

    def text(self, *columns: str, default: str = "") -> str:
        """The first of the columns that is there and not empty."""
        return next((v for c in columns if (v := self.values.get(c, ""))), default)

    def number(self, column: str) -> float:
        """A finite number."""
        try:
            value = float(self.values[column])
        except ValueError:
            value = float("nan")
        if not isfinite(value):
            raise self.error(f"{column} must be a number, got {self.values[column]!r}")
        return value

    def error(self, what: str) -> InputFileError:
        """The error that says what is wrong with this line."""
        return InputFileError(f"{self.path}, line {self.line}: {what}")


def read_table(path: Path, required: Sequence[str]) -> list[Row]:
    """Rows of a CSV file (comma, semicolon or tab; UTF-8); names of columns in lower case.

    Raises InputFileError where the file is missing, is no text, lacks a column, or has a line of
    another length. Empty lines are passed over.
    """
    lines = _text(path).splitlines()
    columns = _columns(lines[0]) if lines else []
    missing = [name for name in required if name not in columns]
    if missing:
        raise InputFileError(
            f"{path}: expected the columns {', '.join(required)}; {', '.join(missing)} missing, "
            f"the first line has {', '.join(columns) or 'nothing'}"
        )
    rows = []
    for line, cells in _cells(path, lines):
        if not any(cell.strip() for cell in cells):
            continue
        row = Row(path, line, {})
        if len(cells) != len(columns):
            raise row.error(f"expected {len(columns)} cells, got {len(cells)}")
        row.values.update(zip(columns, map(str.strip, cells), strict=True))
        rows.append(row)
    return rows


def _cells(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line after the first; a cell cannot go on in the next line."""
    if not lines:
        return
    reader = csv.reader(lines[1:], delimiter=_delimiter(lines[0]), strict=True)
    while True:
        begin = reader.line_num + 2
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise Row(path, begin, {}).error(f"{error}: look for a stray quote") from error
        if cells is None:
            return
        if reader.line_num + 1 != begin:
            raise Row(path, begin, {}).error("a quote is not closed in its line")
        yield begin, cells


def columns_of(path: Path) -> list[str]:
    """Names of the columns, in lower case; none where the file cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return _columns(file.readline(4096))
    except (OSError, ValueError):
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputFileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path}: not a CSV table in UTF-8: {error}") from error


def _delimiter(head: str) -> str:
    return max(",;\t", key=head.count)


def _columns(head: str) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in head.strip().split(_delimiter(head))]
