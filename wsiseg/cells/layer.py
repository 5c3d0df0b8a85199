"""Cells: all cells of a slide, read on demand."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch, concatenate, rechunk, uuids_from
from wsiseg.cells.parquet import count_rows, read_batches, read_table
from wsiseg.errors import InputFileError

__all__ = ["CellBatch", "Cells", "concatenate", "rechunk", "uuids_from"]

_log = logging.getLogger(__name__)


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
        path = Path(path)
        path = path / "cells.parquet" if path.is_dir() else path
        count_rows(path)  # a broken file is an error now, not at the first use
        return cls(path, _made_of(path.parent / "run.json"))

    @classmethod
    def from_geopandas(cls, frame: Any, made: dict[str, Any] | None = None) -> Cells:
        """Cells of a GeoDataFrame, in memory.

        ``id`` (UUIDs, as a column or the index) and ``class`` are used where present; numeric
        columns become measurements; other columns are left out, and a warning names them.
        """
        return cls([_batch_of(frame)], made)

    def __len__(self) -> int:
        if isinstance(self._source, Path):
            return count_rows(self._source)
        return sum(map(len, self._source))

    def __repr__(self) -> str:
        where = self._source if isinstance(self._source, Path) else "memory"
        return f"<Cells: {len(self)} in {where}>"

    def batches(self, size: int = 20_000) -> Iterator[CellBatch]:
        """All cells in order, at most ``size`` at a time."""
        if isinstance(self._source, Path):
            return read_batches(self._source, size)
        return rechunk(self._source, size)

    def meeting(self, box: tuple[float, float, float, float]) -> CellBatch:
        """Cells whose bounds meet ``box``, (xmin, ymin, xmax, ymax) in level-0 px, in order."""
        if isinstance(self._source, Path):
            batches = read_batches(self._source, meeting=box)
        else:
            batches = iter(self._source)
        return concatenate([batch.take(_meets(batch.geometry, box)) for batch in batches])

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
            return read_table(self._source)
        frame = self.to_geopandas()
        return frame.drop(columns=[c for c in ("geometry", "nucleus") if c in frame])

    @property
    def polygons(self) -> NDArray[Any]:
        """(N,) shapely outlines, level-0 px (x, y)."""
        parts = [batch.geometry for batch in self.batches()]
        return np.concatenate(parts) if parts else np.empty(0, dtype=object)


def _made_of(run: Path) -> dict[str, Any]:
    try:
        made = json.loads(run.read_bytes()) if run.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputFileError(f"{run}: not a readable record of a run: {error}") from error
    return dict(made)


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


def _meets(geometry: NDArray[Any], bbox: Sequence[float]) -> NDArray[np.bool_]:
    import shapely

    xmin, ymin, xmax, ymax = shapely.bounds(geometry).T
    return np.asarray((xmin <= bbox[2]) & (xmax >= bbox[0]) & (ymin <= bbox[3]) & (ymax >= bbox[1]))


def _frame_of(batches: Sequence[CellBatch], bbox: tuple[float, ...] | None) -> Any:
    import geopandas

    batch = concatenate(batches)
    if bbox is not None:
        batch = batch.take(_meets(batch.geometry, bbox))
    columns: dict[str, Any] = {"class": batch.class_names, **batch.measurements}
    if batch.nucleus is not None:
        columns["nucleus"] = geopandas.GeoSeries(batch.nucleus).array
    frame = geopandas.GeoDataFrame(columns, geometry=batch.geometry, index=batch.id)
    return frame.rename_axis("id")
