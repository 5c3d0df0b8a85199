"""Status files: how far an archive is, as JSON, Parquet and Markdown; each whole at any moment."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsiseg.archive.records import STATES, Record, now
from wsiseg.archive.status_text import markdown
from wsiseg.atomic import atomic_write
from wsiseg.errors import InputFileError

__all__ = ["StatusFiles", "read_status", "totals_of"]

SCHEMA = 1
_EVERY_S = 2.0
_SHARE = 0.05  # of the time that may go into writing them


class StatusFiles:
    """Writes the three files as often as that costs little."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cost = 0.0
        self._last = float("-inf")

    def due(self) -> bool:
        """Whether it is time to write them again."""
        return time.monotonic() - self._last >= max(_EVERY_S, self._cost / _SHARE)

    def write(self, records: Iterable[Record], live: Mapping[str, Any]) -> None:
        """Write all three; ``live``: what holds now, see ``status.json``."""
        began = time.monotonic()
        slides = sorted(records, key=lambda record: record.slide_id)
        found = {"schema": SCHEMA, "updated": now(), **live, "totals": totals_of(slides)}
        plain = [record.plain() for record in slides]
        data = {
            "status.json": _json(found | {"slides": plain}),
            "status.parquet": _parquet(plain),
            "status.md": markdown(found, slides).encode(errors="replace"),
        }
        for name, content in data.items():
            with atomic_write(self._root / name) as file:
                file.write(content)
        self._last = time.monotonic()
        self._cost = self._last - began


def read_status(root: Path) -> dict[str, Any]:
    """What ``status.json`` of an archive says; InputFileError where it cannot be read."""
    path = root / "status.json"
    try:
        found = json.loads(path.read_bytes())
        return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise InputFileError(f"{path}: cannot be read: {error}") from error


def totals_of(records: Sequence[Record]) -> dict[str, Any]:
    """Counts by state and code, and sums over slides that are done."""
    states, done = Counter(r.state for r in records), [r for r in records if r.state == "done"]
    codes = Counter(r.code for r in records if r.code and r.state in ("failed", "skipped"))
    return {
        "slides": len(records),
        **{state: states[state] for state in STATES},
        "codes": dict(sorted(codes.items())),
        "cells": sum(r.cells or 0 for r in done),
        "tissue_mm2": round(sum(r.tissue_mm2 or 0.0 for r in done), 6),
        "seconds": round(sum(r.seconds or 0.0 for r in done), 3),
        "input_bytes": sum(r.input_bytes or 0 for r in done),
        "output_bytes": sum(size for r in done for size, _ in r.outputs.values()),
    }


def _json(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, whole, real = pa.string(), pa.int64(), pa.float64()
    kinds = {
        **dict.fromkeys(("slide_id", "state", "code", "cause", "message", "path", "group"), texts),
        "attempts": whole,
        **dict.fromkeys(("host", "started", "finished", "updated"), texts),
        "seconds": real,
        **dict.fromkeys(("peak_memory_bytes", "input_bytes", "tiles", "resumed", "cells"), whole),
        **dict.fromkeys(("tissue_mm2", "analysed_mm2"), real),
        **dict.fromkeys(("model", "model_sha256", "numerics", "content_key"), texts),
        **dict.fromkeys(("input_sha256", "output_sha256", "restarted"), texts),
    }
    columns = {name: [_unicode(row[name]) for row in rows] for name in kinds}
    arrays = [pa.array(columns[name], kind) for name, kind in kinds.items()]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, names=list(kinds)), sink, compression="zstd")
    return sink.getvalue()


def _unicode(value: Any) -> Any:
    """File names of other encodings as Parquet can hold them."""
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="replace").decode()
    return value
