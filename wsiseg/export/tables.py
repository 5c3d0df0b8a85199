"""Cells as tables: GeoParquet 1.1 with a covering bbox, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.atomic import atomic_write
from wsiseg.cells.batch import CellBatch, concatenate, no_cells
from wsiseg.cells.parquet import BBOX, CLASS, GEOMETRY, ID, NUCLEUS
from wsiseg.errors import InputFileError
from wsiseg.export.decimals import decimals
from wsiseg.export.exportable import ids_as_bytes
from wsiseg.export.texts import Texts, chosen, of_width, woven
from wsiseg.export.wkb import wkb_of

__all__ = ["ROW_GROUP", "csv_sink", "parquet_sink"]

ROW_GROUP = 5_000
"""Rows of a row group: with rows in spatial order, a window reads only the groups it meets.

A window takes 0.6 times the time that it takes with 20,000, for 0.3 % more bytes.
"""

_CHUNK = 1 << 30  # bytes; a chunk of a column of Arrow's binary must stay below 2 GiB
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TYPE_NAMES = {3: "Polygon", 6: "MultiPolygon"}


@contextmanager
def parquet_sink(path: Path) -> Iterator[Callable[[CellBatch], None]]:
    """A function that appends exportable cells to a GeoParquet file.

    Columns: ``id`` and ``class`` (string, null for none), ``geometry`` (WKB, level-0 px, no CRS),
    ``bbox`` (xmin, ymin, xmax, ymax), ``nucleus`` (WKB) if the first batch has nuclei, then the
    measurements of the first batch as float32. zstd. Row groups have ``ROW_GROUP`` rows, however
    the rows arrive, so that bytes depend on the cells alone.
    Raises InputFileError where a later batch has columns that the first lacks, OutputError where
    the file cannot be written.
    """
    with atomic_write(path) as file:
        groups = _RowGroups(file)
        try:
            yield groups.add
            groups.finish()
        finally:
            groups.release()


class _RowGroups:
    """Gathers rows, and writes them by ``ROW_GROUP``."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._writer: Any = None
        self._waiting: list[CellBatch] = []
        self._columns: tuple[str, ...] = ()
        self._nuclei = False
        self._classes: dict[str, None] = {}
        self._summary = {name: _Summary() for name in (GEOMETRY, NUCLEUS)}

    def add(self, batch: CellBatch) -> None:
        if self._writer is None:
            self._start(batch)
        _check_columns(batch, self._columns, self._nuclei)
        self._classes |= dict.fromkeys(batch.classes)
        self._waiting.append(batch)
        while sum(map(len, self._waiting)) >= ROW_GROUP:
            whole = concatenate(self._waiting)
            self._write(whole.take(slice(ROW_GROUP)))
            self._waiting = [whole.take(slice(ROW_GROUP, None))]

    def finish(self) -> None:
        if self._writer is None:
            self._start(no_cells())
        elif sum(map(len, self._waiting)):
            self._write(concatenate(self._waiting))
        names = [GEOMETRY, NUCLEUS] if self._nuclei else [GEOMETRY]
        geo = _geo_metadata({name: self._summary[name] for name in names})
        ours = json.dumps({"classes": list(self._classes)}, ensure_ascii=False)
        self._writer.add_key_value_metadata({"geo": geo, "wsiseg": ours})
        self._writer.close()

    def release(self) -> None:
        """Let go of a writer that did not finish; its footer goes nowhere."""
        if self._writer is not None and self._writer.is_open:
            self._writer.is_open = False
            self._writer.writer = None

    def _start(self, first: CellBatch) -> None:
        import pyarrow.parquet as pq

        self._columns, self._nuclei = tuple(first.measurements), first.nucleus is not None
        self._writer = pq.ParquetWriter(
            self._file,
            _schema(self._columns, self._nuclei),
            compression="zstd",
            use_dictionary=[CLASS],
            write_statistics=[CLASS, *(f"{BBOX}.{c}" for c in _CORNERS), *self._columns],
            store_schema=False,  # its copy of the schema would hide the metadata added at the end
        )

    def _write(self, rows: CellBatch) -> None:
        self._writer.write_table(
            _table(rows, self._columns, self._nuclei), row_group_size=ROW_GROUP
        )
        self._summary[GEOMETRY].add(rows.geometry)
        if rows.nucleus is not None:
            self._summary[NUCLEUS].add(rows.nucleus)


class _Summary:
    """Types and extent of the geometries of a column, for its metadata."""

    def __init__(self) -> None:
        self.types: set[str] = set()
        self.bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def add(self, geometry: NDArray[Any]) -> None:
        found = geometry[~shapely.is_missing(geometry)]
        self.types |= {_TYPE_NAMES[t] for t in np.unique(shapely.get_type_id(found)).tolist()}
        low, high = self.bounds[:2], self.bounds[2:]
        bounds = shapely.bounds(found)
        np.minimum(low, bounds[:, :2].min(axis=0, initial=np.inf), out=low)
        np.maximum(high, bounds[:, 2:].max(axis=0, initial=-np.inf), out=high)

    def metadata(self) -> dict[str, Any]:
        # crs null, not absent: absent would mean longitude and latitude
        stated = {"encoding": "WKB", "geometry_types": sorted(self.types), "crs": None}
        return stated | ({"bbox": self.bounds.tolist()} if self.types else {})


def _geo_metadata(columns: dict[str, _Summary]) -> str:
    """The ``geo`` metadata of GeoParquet 1.1 (github.com/opengeospatial/geoparquet)."""
    stated = {name: summary.metadata() for name, summary in columns.items()}
    stated[GEOMETRY]["covering"] = {"bbox": {c: [BBOX, c] for c in _CORNERS}}
    return json.dumps({"version": "1.1.0", "primary_column": GEOMETRY, "columns": stated})


def _check_columns(batch: CellBatch, columns: tuple[str, ...], nuclei: bool) -> None:
    taken = {ID, CLASS, GEOMETRY, BBOX, NUCLEUS}.intersection(batch.measurements)
    if taken:
        raise InputFileError(f"measurements cannot be called {sorted(taken)}: rename them")
    more = [name for name in batch.measurements if name not in columns]
    if more or (batch.nucleus is not None and not nuclei):
        raise InputFileError(
            f"a later batch of cells has columns that the first lacks ({more or [NUCLEUS]}): "
            "give the first batch all columns, with NaN where there is no value"
        )


def _schema(columns: tuple[str, ...], nuclei: bool) -> Any:
    import pyarrow as pa

    box = pa.struct([pa.field(corner, pa.float64(), nullable=False) for corner in _CORNERS])
    return pa.schema(
        [
            pa.field(ID, pa.string(), nullable=False),
            pa.field(CLASS, pa.string()),
            pa.field(GEOMETRY, pa.binary(), nullable=False),
            pa.field(BBOX, box, nullable=False),
            *([pa.field(NUCLEUS, pa.binary())] if nuclei else []),
            *(pa.field(name, pa.float32()) for name in columns),
        ]
    )


def _table(rows: CellBatch, columns: tuple[str, ...], nuclei: bool) -> Any:
    import pyarrow as pa

    schema = _schema(columns, nuclei)
    corners = np.ascontiguousarray(shapely.bounds(rows.geometry).T)
    absent = np.full(len(rows), np.nan, dtype=np.float32)
    values = [rows.measurements.get(name, absent).astype(np.float32) for name in columns]
    arrays = [
        _arrow(of_width(ids_as_bytes(rows.id)), pa.string()),
        _arrow(_class_names(rows), pa.string(), rows.class_index >= 0),
        _arrow(wkb_of(rows.geometry), pa.binary()),
        pa.StructArray.from_arrays(
            [_numbers(c) for c in corners], fields=list(schema.field(BBOX).type)
        ),
    ]
    if nuclei:
        missing = np.full(len(rows), None, dtype=object)
        nucleus = missing if rows.nucleus is None else rows.nucleus
        arrays.append(pa.array(shapely.to_wkb(nucleus, byte_order=1), pa.binary()))
    return pa.Table.from_arrays([*arrays, *map(_numbers, values)], schema=schema)


def _class_names(rows: CellBatch) -> Texts:
    names = [*(name.encode() for name in rows.classes), b""]
    return woven([chosen(names, rows.class_index)])


# From buffers throughout: pa.array would import pandas, for 0.4 s and 50 MB.


def _numbers(values: NDArray[Any]) -> Any:
    """Arrow array of float32 or float64 ``values``, which it shares."""
    import pyarrow as pa

    kind = {4: pa.float32(), 8: pa.float64()}[values.dtype.itemsize]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _arrow(texts: Texts, kind: Any, present: NDArray[np.bool_] | None = None) -> Any:
    """Arrow column of ``texts`` that follow without a gap; in chunks where they are very long.

    Null where not ``present`` (N,).
    """
    import pyarrow as pa

    chunk = (texts.stops - texts.starts[:1]) // _CHUNK
    cuts = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(texts)]
    chunks = []
    for a, b in pairwise(cuts):
        data = texts.data[texts.starts[a] : texts.stops[b - 1]] if b > a else texts.data[:0]
        ends = texts.stops[a:b] - (texts.starts[a] if b > a else 0)
        offsets = np.concatenate(([0], ends)).astype(np.int32)
        valid = None if present is None else np.packbits(present[a:b], bitorder="little")
        bits = None if valid is None else pa.py_buffer(valid)
        buffers = [bits, pa.py_buffer(offsets), pa.py_buffer(data)]
        chunks.append(pa.Array.from_buffers(kind, b - a, buffers))
    return pa.chunked_array(chunks, kind)


@contextmanager
def csv_sink(path: Path) -> Iterator[Callable[[CellBatch], None]]:
    """A function that appends exportable cells to a CSV file (UTF-8, header line, LF line ends).

    Columns: ``id``, ``class``, ``x_px`` and ``y_px`` (centroid, level-0 px), then the measurements
    of the first batch; nothing where there is no value. A text that a spreadsheet would take for
    a formula (it begins with ``= + - @``, a tab or a carriage return) gets a ``'`` before it.
    Raises InputFileError and OutputError as ``parquet_sink`` does.
    """
    with atomic_write(path) as file:
        columns: tuple[str, ...] | None = None

        def add(batch: CellBatch) -> None:
            nonlocal columns
            if columns is None:
                columns = tuple(batch.measurements)
                file.write(_header(columns))
            _check_columns(batch, columns, nuclei=True)
            file.write(_csv_rows(batch, columns).joined())

        yield add
        if columns is None:
            file.write(_header(()))


def _header(columns: tuple[str, ...]) -> bytes:
    return _csv_row([ID, CLASS, "x_px", "y_px", *columns]) + b"\n"


def _csv_rows(batch: CellBatch, columns: tuple[str, ...]) -> Texts:
    every = np.zeros(len(batch), np.int64)
    centroids = np.round(shapely.get_coordinates(shapely.centroid(batch.geometry)), 2) + 0.0
    absent = np.full(len(batch), np.nan)
    values = [batch.measurements.get(name, absent).astype(np.float32) for name in columns]
    names = [*(_csv_row([name]) for name in batch.classes), b""]
    fields = [
        of_width(ids_as_bytes(batch.id)),
        chosen(names, batch.class_index),
        *map(decimals, (*centroids.T, *values)),
    ]
    ends = [chosen([end], every) for end in [b","] * (len(fields) - 1) + [b"\n"]]
    return woven([text for pair in zip(fields, ends, strict=True) for text in pair])


def _csv_row(texts: Sequence[str]) -> bytes:
    """Quoted where they must be, without the end of the line."""
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(map(_harmless, texts))
    return row.getvalue().encode()


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
