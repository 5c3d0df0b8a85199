"""CellBatch: cells as columns, the currency of every exporter. Cells: all of them, on demand."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError

__all__ = ["CellBatch", "Cells", "concatenate", "rechunk", "uuids_from"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CellBatch:
    """N cells, in canonical order (see ``wsiseg.engine.collect``)."""

    id: NDArray[np.str_]
    """(N,) UUIDs, the same in every run."""
    geometry: NDArray[Any]
    """(N,) shapely Polygon or MultiPolygon, level-0 px (x, y), rounded to 0.01 px, OGC-valid."""
    class_index: NDArray[np.int32]
    """(N,) index into ``classes``; -1: no class."""
    classes: tuple[str, ...]
    """Names of the classes."""
    measurements: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Column name (unit in the name) -> (N,) values; NaN where there is none."""
    nucleus: NDArray[Any] | None = None
    """(N,) shapely nuclei of whole cells (None where a cell has none), or None: the geometries
    are the nuclei."""

    def __len__(self) -> int:
        return len(self.id)

    @property
    def class_names(self) -> NDArray[Any]:
        """(N,) name of the class of each cell, None where it has none."""
        names = np.array([*self.classes, None], dtype=object)
        return np.asarray(names[self.class_index])

    def take(self, rows: Any) -> CellBatch:
        """The cells of a slice, a mask (N,) or an array of row numbers."""
        return replace(
            self,
            id=self.id[rows],
            geometry=self.geometry[rows],
            class_index=self.class_index[rows],
            measurements={name: column[rows] for name, column in self.measurements.items()},
            nucleus=None if self.nucleus is None else self.nucleus[rows],
        )


def concatenate(batches: Sequence[CellBatch]) -> CellBatch:
    """All cells of one or more ``batches``, in order.

    Classes and columns are united in order of appearance; NaN fills a column that a batch lacks.
    """
    if len(batches) == 1:
        return batches[0]
    classes = tuple(dict.fromkeys(name for b in batches for name in b.classes))
    columns = dict.fromkeys(name for b in batches for name in b.measurements)
    return CellBatch(
        id=np.concatenate([b.id for b in batches]),
        geometry=np.concatenate([b.geometry for b in batches]),
        class_index=np.concatenate([_reindexed(b, classes) for b in batches]),
        classes=classes,
        measurements={name: _column(batches, name) for name in columns},
        nucleus=_nuclei(batches),
    )


def rechunk(batches: Iterable[CellBatch], size: int) -> Iterator[CellBatch]:
    """The same cells in batches of exactly ``size``, the last of what is left (never empty)."""
    waiting: list[CellBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= size:
            whole = concatenate(waiting)
            full = len(whole) // size * size
            yield from (whole.take(slice(i, i + size)) for i in range(0, full, size))
            waiting = [whole.take(slice(full, None))]
    if sum(map(len, waiting)):
        yield concatenate(waiting)


def uuids_from(geometry: NDArray[Any], first: int = 0) -> NDArray[np.str_]:
    """(N,) UUIDs (RFC 9562, version 8) for cells that came without: hashed from outline and row.

    ``first`` is the row number of the first one.
    """
    from hashlib import blake2b
    from uuid import UUID

    import shapely

    def one(row: int, wkb: bytes) -> str:
        raw = bytearray(blake2b(wkb + row.to_bytes(8, "little"), digest_size=16).digest())
        raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
        return str(UUID(bytes=bytes(raw)))

    ids = [one(row, wkb) for row, wkb in enumerate(shapely.to_wkb(geometry, byte_order=1), first)]
    return np.array(ids, dtype="U36")


class Cells:
    """The cells of one slide: a ``cells.parquet`` that is read on demand, or cells in memory.

    >>> Cells.open("run/cells.parquet").to_geopandas(bbox=(0, 0, 2048, 2048))  # doctest: +SKIP
    """

    def __init__(
        self, source: Path | Sequence[CellBatch], made: dict[str, Any] | None = None
    ) -> None:
        self._source = source if isinstance(source, Path) else tuple(source)
        self.made: dict[str, Any] = made or {}
        """How they were made: the ``run.json`` beside the file, {} where there is none."""

    @classmethod
    def open(cls, path: str | Path) -> Cells:
        """Cells of a GeoParquet file, or of a run folder that holds ``cells.parquet``.

        Raises InputFileError where it cannot be read.
        """
        from wsiseg.cells.parquet import count_rows

        path = Path(path)
        path = path / "cells.parquet" if path.is_dir() else path
        count_rows(path)  # a broken file is an error now, not at the first use
        run = path.parent / "run.json"
        return cls(path, json.loads(run.read_bytes()) if run.is_file() else None)

    @classmethod
    def from_geopandas(cls, frame: Any, made: dict[str, Any] | None = None) -> Cells:
        """Cells of a GeoDataFrame, in memory.

        ``id`` (UUIDs, as a column or the index) and ``class`` are used where present; numeric
        columns become measurements; other columns are left out, and a warning names them.
        """
        return cls([_batch_of(frame)], made)

    def __len__(self) -> int:
        if isinstance(self._source, Path):
            from wsiseg.cells.parquet import count_rows

            return count_rows(self._source)
        return sum(map(len, self._source))

    def __repr__(self) -> str:
        where = self._source if isinstance(self._source, Path) else "memory"
        return f"<Cells: {len(self)} in {where}>"

    def batches(self, size: int = 20_000) -> Iterator[CellBatch]:
        """All cells in order, at most ``size`` at a time."""
        if isinstance(self._source, Path):
            from wsiseg.cells.parquet import read_batches

            return read_batches(self._source, size)
        return rechunk(self._source, size)

    def to_geopandas(self, bbox: tuple[float, float, float, float] | None = None) -> Any:
        """A GeoDataFrame (index ``id``, columns ``class``, ``geometry``, the measurements).

        ``bbox`` is (xmin, ymin, xmax, ymax), level-0 px: only cells whose bounding box meets it.
        """
        import geopandas

        if isinstance(self._source, Path):
            frame = geopandas.read_parquet(self._source, bbox=bbox)
            return frame.set_index("id") if "id" in frame else frame.rename_axis("id")
        return _frame_of(self._source, bbox)

    @property
    def table(self) -> Any:
        """A pandas DataFrame (index ``id``): the class and the measurements, without outlines."""
        if isinstance(self._source, Path):
            from wsiseg.cells.parquet import read_table

            return read_table(self._source)
        frame = self.to_geopandas()
        return frame.drop(columns=[c for c in ("geometry", "nucleus") if c in frame])

    @property
    def polygons(self) -> NDArray[Any]:
        """(N,) shapely outlines, level-0 px (x, y)."""
        parts = [batch.geometry for batch in self.batches()]
        return np.concatenate(parts) if parts else np.empty(0, dtype=object)


def _reindexed(batch: CellBatch, classes: tuple[str, ...]) -> NDArray[np.int32]:
    place = np.array([*(classes.index(name) for name in batch.classes), -1], dtype=np.int32)
    return place[batch.class_index]


def _column(batches: Sequence[CellBatch], name: str) -> NDArray[np.float64]:
    return np.concatenate([b.measurements.get(name, np.full(len(b), np.nan)) for b in batches])


def _nuclei(batches: Sequence[CellBatch]) -> NDArray[Any] | None:
    if all(b.nucleus is None for b in batches):
        return None
    empty = [np.full(len(b), None, dtype=object) if b.nucleus is None else None for b in batches]
    return np.concatenate(
        [b.nucleus if e is None else e for b, e in zip(batches, empty, strict=True)]
    )


def _batch_of(frame: Any) -> CellBatch:
    geometry = np.asarray(frame.geometry.array, dtype=object)
    if frame.geometry.isna().any():
        row = int(np.flatnonzero(frame.geometry.isna())[0])
        raise InputFileError(f"row {row} of the frame has no geometry: drop such rows first")
    known = {frame.geometry.name, "id", "class", "nucleus"}
    numeric = [c for c in frame.select_dtypes(("number", "bool")).columns if c not in known]
    left_out = [str(c) for c in frame.columns if c not in known and c not in numeric]
    if left_out:
        _log.warning("columns that are not numbers are left out: %s", ", ".join(left_out))
    names = (
        frame["class"].astype(object).where(frame["class"].notna(), None)
        if "class" in frame
        else []
    )
    classes = tuple(dict.fromkeys(str(n) for n in names if n is not None))
    index = [-1 if n is None else classes.index(str(n)) for n in names] or [-1] * len(frame)
    return CellBatch(
        id=_ids_of(frame, geometry),
        geometry=geometry,
        class_index=np.array(index, dtype=np.int32),
        classes=classes,
        measurements={str(c): frame[c].to_numpy(np.float64, na_value=np.nan) for c in numeric},
        nucleus=np.asarray(frame["nucleus"], dtype=object) if "nucleus" in frame else None,
    )


def _ids_of(frame: Any, geometry: NDArray[Any]) -> NDArray[np.str_]:
    if "id" in frame:
        return np.array(frame["id"].astype(str), dtype=np.str_)
    if frame.index.name == "id":
        return np.array(frame.index.astype(str), dtype=np.str_)
    return uuids_from(geometry)


def _frame_of(batches: Sequence[CellBatch], bbox: tuple[float, ...] | None) -> Any:
    import geopandas
    import shapely

    batch = concatenate(batches)
    if bbox is not None:
        xmin, ymin, xmax, ymax = shapely.bounds(batch.geometry).T
        meets = (xmin <= bbox[2]) & (xmax >= bbox[0]) & (ymin <= bbox[3]) & (ymax >= bbox[1])
        batch = batch.take(meets)
    columns: dict[str, Any] = {"class": batch.class_names, **batch.measurements}
    if batch.nucleus is not None:
        columns["nucleus"] = geopandas.GeoSeries(batch.nucleus).array
    frame = geopandas.GeoDataFrame(columns, geometry=batch.geometry, index=batch.id)
    return frame.rename_axis("id")
