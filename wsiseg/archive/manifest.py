"""Manifests: CSV, Parquet and JSONL tables of slides, read and written.

Columns: ``path`` (needed; a URL, or relative to the manifest), ``slide_id`` (by default the file's
stem), and where wanted ``mpp``, ``stain``, ``model``, ``group``. Other columns are not read, and
never passed on: they may hold what is nobody's business. Every row is checked before anything is
run.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

from wsiseg.archive.ids import check_id, ids_of
from wsiseg.archive.rows import OPTIONAL, SlideRow, name_or_path, once_each, with_known_ids
from wsiseg.atomic import atomic_write
from wsiseg.errors import InputFileError, SettingsError
from wsiseg.image.slide import MAX_MPP, MIN_MPP
from wsiseg.storage.remote import UrlPath
from wsiseg.storage.url import absolute, is_url
from wsiseg.training.readers.tables import read_table

__all__ = ["READERS", "read_manifest", "write_manifest"]

_log = logging.getLogger(__name__)

Line = tuple[str, dict[str, Any]]  # where it stands, and its values
_COLUMNS = ("slide_id", "path", *OPTIONAL)
_STAINS = ("default", "macenko")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SHOWN = 5  # mistakes that a message lists


def read_manifest(path: str | os.PathLike[str]) -> list[SlideRow]:
    """Slides of a manifest at a path or URL, in its order; a row that is there twice counts once.

    Raises InputFileError, naming the lines, for a file that is no table, columns that are missing
    or misspelt, ids that cannot be folders or stand for different slides, a pixel size outside
    0.05 to 20 µm per px, and stains that do not exist. Files of slides are not looked for.
    """
    text = absolute(path)
    if not is_url(text):
        found = Path(text if is_url(path) else path)
        return _read(found, str(found.parent))
    remote = UrlPath(text)
    with TemporaryDirectory(prefix="wsiseg-") as folder:
        copy = Path(folder) / remote.name
        try:
            copy.write_bytes(remote.read())
            return _read(copy, str(remote.parent))
        except InputFileError as error:
            raise InputFileError(str(error).replace(str(copy), text)) from error
        except OSError as error:
            raise InputFileError(f"{text}: cannot be read: {error.strerror or error}") from error


def write_manifest(
    rows: Iterable[SlideRow], path: str | os.PathLike[str], *, overwrite: bool = False
) -> int:
    """Write ``rows`` as the name says (.csv, .parquet, .jsonl); how many there are.

    ``read_manifest`` gives the same rows back. Paths are written as they are, absolute. Where a
    manifest is replaced (``overwrite``), slides that nobody named keep the ids that they have in
    it. Raises InputFileError for another ending, for a file that is there already, and where the
    name of a slide has a line break or is not UTF-8, which takes .jsonl.
    """
    path = Path(path)
    _reader_for(path)
    rows = list(rows)
    if os.path.lexists(path):
        if not overwrite:
            raise InputFileError(f"{path} is there already: --overwrite replaces it")
        with suppress(InputFileError):  # what is there may be anything
            rows = with_known_ids(rows, {row.path: row.slide_id for row in read_manifest(path)})
    table = [{k: v for k, v in asdict(r).items() if v not in (None, "")} for r in rows]
    table = [{k: values[k] for k in _COLUMNS if k in values} for values in table]
    data = _WRITERS[path.suffix.lower()](table)
    with atomic_write(path) as file:
        file.write(data)
    return len(table)


def _read(path: Path, base: str) -> list[SlideRow]:
    """Rows of the table at ``path``, in which paths are relative to ``base``."""
    lines = list(_reader_for(path)(path))
    _check_columns(path, {name for _, values in lines for name in values})
    if not lines:
        raise InputFileError(f"{path}: no slides: expected a row for each of them")
    ids = _default_ids([values for _, values in lines])
    rows, mistakes = [], []
    for (where, values), slide_id in zip(lines, ids, strict=True):
        try:
            rows.append(_row(where, values, slide_id, base))
        except InputFileError as error:
            mistakes.append(str(error))
    if mistakes:
        more = f" (and {len(mistakes) - _SHOWN} more)" if len(mistakes) > _SHOWN else ""
        raise InputFileError("; ".join(mistakes[:_SHOWN]) + more)
    return once_each(rows, str(path))


def _csv_lines(path: Path) -> Iterator[Line]:
    for row in read_table(path, ("path",)):
        yield f"{path}, line {row.line}", row.values


def _json_lines(path: Path) -> Iterator[Line]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputFileError(f"{where}: not a JSON object: {error}") from error
        if not isinstance(values, dict):
            raise InputFileError(f"{where}: expected a JSON object, got {line[:40]!r}")
        yield where, {name.lower(): value for name, value in values.items()}


def _parquet_lines(path: Path) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        wanted = [name for name in names if name.lower() in _COLUMNS]
        table = pq.read_table(path, columns=wanted).rename_columns([n.lower() for n in wanted])
    except (pa.ArrowException, OSError) as error:
        raise InputFileError(f"{path}: not a readable Parquet table: {error}") from error
    _check_columns(path, {name.lower() for name in names})
    for number, values in enumerate(table.to_pylist(), 1):
        yield f"{path}, row {number}", values


READERS: dict[str, Callable[[Path], Iterator[Line]]] = {
    ".csv": _csv_lines,
    ".tsv": _csv_lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet_lines,
}
"""End of the name of a manifest -> its lines."""


def _reader_for(path: Path) -> Callable[[Path], Iterator[Line]]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputFileError(
            f"{path}: a manifest is a file that ends in {', '.join(READERS)}, got {path.name!r}"
        )
    return reader


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise InputFileError(f"{path}: cannot be read: {reason}") from error


def _check_columns(path: Path, found: set[str]) -> None:
    if found and "path" not in found:
        raise InputFileError(
            f"{path}: the column path is missing; there are {', '.join(sorted(found))}"
        )
    others = sorted(found - set(_COLUMNS))
    for name in others:
        near = difflib.get_close_matches(name, set(OPTIONAL) - found, n=1, cutoff=0.66)
        if near:
            raise InputFileError(f"{path}: column {name!r} is unknown: did you mean {near[0]}?")
    if others:
        _log.info("%s: columns that are not used: %s", path, ", ".join(others))


def _default_ids(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Ids by file names, for the rows that have none."""
    without = [i for i, values in enumerate(lines) if values.get("slide_id") in (None, "")]
    ids = [str(values.get("slide_id")) for values in lines]
    paths = [str(lines[i].get("path")) for i in without]
    paths = [unquote(path) if path.lower().startswith("file://") else path for path in paths]
    names = [path.rpartition("://")[2].replace("\\", "/").strip("/") or "_" for path in paths]
    for i, slide_id in zip(without, ids_of(names), strict=True):
        ids[i] = slide_id
    return ids


def _row(where: str, values: dict[str, Any], slide_id: str, base: str) -> SlideRow:
    given = values.get("path")
    try:
        path = absolute(given, base) if isinstance(given, str) and given else "\0"
    except SettingsError as error:
        raise InputFileError(f"{where}: {error}") from error
    if "\0" in path:
        raise InputFileError(f"{where}: path must be that of a slide, got {given!r}")
    model = values.get("model") or None
    return SlideRow(
        check_id(slide_id, where),
        path,
        _mpp(where, values.get("mpp")),
        _stain(where, values.get("stain")),
        None if model is None else name_or_path(str(model), base),
        _shown("" if values.get("group") is None else str(values["group"])),
        named=values.get("slide_id") not in (None, ""),
    )


def _mpp(where: str, value: Any) -> float | None:
    if value in (None, ""):
        return None
    try:
        mpp = float(value)
    except (TypeError, ValueError):
        mpp = float("nan")
    if isinstance(value, float) and value != value:  # how pandas writes an empty cell
        return None
    if not isfinite(mpp) or not MIN_MPP <= mpp <= MAX_MPP or isinstance(value, bool):
        raise InputFileError(
            f"{where}: mpp must be a number from {MIN_MPP:g} to {MAX_MPP:g} (µm per px), such as "
            f"0.25, got {value!r}"
        )
    return mpp


def _stain(where: str, value: Any) -> str | None:
    if value in (None, ""):
        return None
    if value not in _STAINS:
        raise InputFileError(f"{where}: stain must be {' or '.join(_STAINS)}, got {value!r}")
    return str(value)


def _csv(table: Sequence[dict[str, Any]]) -> bytes:
    _refuse(table, lambda path: "\n" in path or "\r" in path, "a line break")
    _refuse(table, _is_odd, "bytes that are not UTF-8")
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(t | {"group": _harmless(t.get("group", ""))} for t in table)
    return text.getvalue().encode()


def _refuse(table: Sequence[dict[str, Any]], is_so: Callable[[str], bool], what: str) -> None:
    """InputFileError where names of slides cannot be written in this form."""
    found = [values["path"] for values in table if is_so(values["path"])]
    if found:
        raise InputFileError(
            f"{len(found)} of {len(table)} names have {what}, such as {found[0]!r}: write the "
            "manifest as .jsonl, which can hold them"
        )


def _is_odd(path: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in path)


def _harmless(text: str) -> str:
    """``text`` so that no spreadsheet computes it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _shown(text: str) -> str:
    """What ``_harmless`` was given."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA) else text


def _jsonl(table: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(values) + "\n" for values in table).encode()


def _parquet(table: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _refuse(table, _is_odd, "bytes that are not UTF-8")
    kinds = dict.fromkeys(_COLUMNS, pa.string()) | {"mpp": pa.float64()}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(table), pa.schema(kinds)), sink)
    return sink.getvalue()


_WRITERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
