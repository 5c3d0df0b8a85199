"""cells.parquet: its columns, and reading it back in batches (GeoParquet 1.1, WKB).

Other GeoParquet files of polygons are read as well: ids and classes where they have them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch, uuids_from
from wsiseg.errors import InputFileError

__all__ = ["BBOX", "CLASS", "GEOMETRY", "ID", "NUCLEUS", "count_rows", "read_batches", "read_table"]

ID, CLASS, GEOMETRY, NUCLEUS, BBOX = "id", "class", "geometry", "nucleus", "bbox"

_log = logging.getLogger(__name__)


def count_rows(path: Path) -> int:
    """Number of cells in a GeoParquet file; InputFileError where it is not one."""
    with _opened(path) as (file, _):
        return int(file.metadata.num_rows)


def read_batches(
    path: str | Path, size: int = 20_000, meeting: Sequence[float] | None = None
) -> Iterator[CellBatch]:
    """Cells of a GeoParquet file in order, at most ``size`` at a time, memory bounded by that.

    ``meeting``, (xmin, ymin, xmax, ymax) in level-0 px, leaves out row groups of which no cell can
    meet it, as far as the file tells bounds. Every batch has the same classes and columns.

    Raises InputFileError where the file is not GeoParquet with polygons in WKB.
    """
    path = Path(path)
    with _opened(path) as (file, primary):
        classes = _classes(file)
        columns = _numeric(file, primary, path)
        present = {*file.schema_arrow.names}
        wanted = [c for c in (ID, CLASS, NUCLEUS) if c in present] + [primary, *columns]
        first = 0
        box = meeting if ID in present else None  # ids made for rows ask which row it is
        groups = [g for g in range(file.num_row_groups) if _may_meet(file.metadata, g, box)]
        for rows in file.iter_batches(batch_size=size, columns=wanted, row_groups=groups):
            yield _batch(rows, primary, classes, first)
            first += rows.num_rows


def read_table(path: Path) -> Any:
    """The class and the measurements of every cell: pandas, index ``id``."""
    with _opened(path) as (file, primary):
        columns = [c for c in (ID, CLASS) if c in file.schema_arrow.names]
        frame = file.read(columns=[*columns, *_numeric(file, primary, path)]).to_pandas()
    return frame.set_index(ID) if ID in frame else frame.rename_axis(ID)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, str]]:
    """The open file and the name of its geometry column; read errors become InputFileError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file, _primary(file, path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputFileError(f"{path}: not a readable Parquet file: {error}") from error


def _primary(file: Any, path: Path) -> str:
    stored = (file.metadata.metadata or {}).get(b"geo")
    try:
        geo = json.loads(stored) if stored else {}
        primary = str(geo["primary_column"])
        encoding = geo["columns"][primary]["encoding"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputFileError(
            f"{path}: expected GeoParquet (polygons with 'geo' metadata), got a Parquet file "
            "without it; write it with geopandas' to_parquet, or with wsiseg"
        ) from error
    if encoding != "WKB":
        raise InputFileError(f"{path}: geometry must be stored as WKB, got {encoding!r}")
    return primary


def _classes(file: Any) -> tuple[str, ...]:
    ours = (file.metadata.metadata or {}).get(b"wsiseg")
    if ours:
        return tuple(json.loads(ours)["classes"])
    if CLASS not in file.schema_arrow.names:
        return ()
    names = file.read(columns=[CLASS])[CLASS].unique().to_pylist()
    return tuple(str(name) for name in names if name is not None)


def _numeric(file: Any, primary: str, path: Path) -> list[str]:
    from pyarrow import types

    fields = [f for f in file.schema_arrow if f.name not in {ID, CLASS, primary, NUCLEUS, BBOX}]
    numbers = (types.is_floating, types.is_integer, types.is_boolean)
    numeric = [f.name for f in fields if any(is_kind(f.type) for is_kind in numbers)]
    left_out = [f.name for f in fields if f.name not in numeric]
    if left_out:
        _log.warning("%s: columns that are not numbers are left out: %s", path, left_out)
    return numeric


def _may_meet(metadata: Any, group: int, box: Sequence[float] | None) -> bool:
    """Whether cells of a row group can meet ``box`` by the bounds of their bounds."""
    if box is None:
        return True
    about, known = metadata.row_group(group), {}
    for k in range(about.num_columns):
        column = about.column(k)  # pyarrow's statistics must not outlive it
        found = column.statistics
        if found is not None and found.has_min_max:
            known[column.path_in_schema] = (found.min, found.max)
    try:
        x0, y0, x1, y1 = (known[f"{BBOX}.{name}"] for name in ("xmin", "ymin", "xmax", "ymax"))
    except KeyError:
        return True
    return bool(x0[0] <= box[2] and y0[0] <= box[3] and x1[1] >= box[0] and y1[1] >= box[1])


def _batch(rows: Any, primary: str, classes: tuple[str, ...], first: int) -> CellBatch:
    import shapely

    geometry = np.asarray(shapely.from_wkb(_objects(rows[primary])), dtype=object)
    names = rows.schema.names
    return CellBatch(
        id=np.array(rows[ID].to_pylist(), "U36") if ID in names else uuids_from(geometry, first),
        geometry=geometry,
        class_index=_class_index(rows, classes),
        classes=classes,
        measurements={
            name: _values(rows[name]).astype(np.float64)
            for name in names
            if name not in {ID, CLASS, primary, NUCLEUS}
        },
        nucleus=shapely.from_wkb(_objects(rows[NUCLEUS])) if NUCLEUS in names else None,
    )


def _class_index(rows: Any, classes: tuple[str, ...]) -> NDArray[np.int32]:
    if CLASS not in rows.schema.names:
        return np.full(rows.num_rows, -1, dtype=np.int32)
    column = rows[CLASS].dictionary_encode()
    names = column.dictionary.to_pylist()
    place = [-1 if name is None else classes.index(str(name)) for name in names]
    codes = column.indices
    codes = _values(codes.fill_null(len(names)) if codes.null_count else codes)
    return np.asarray(np.array([*place, -1], dtype=np.int32)[codes])


def _values(column: Any) -> NDArray[Any]:
    """Numbers of a column, NaN where there is none.

    Not by ``to_numpy`` if it can be helped: that imports pandas, for half a second and 50 MB.
    """
    if column.null_count or str(column.type) == "bool":
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return np.from_dlpack(column)


def _objects(column: Any) -> NDArray[Any]:
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values
