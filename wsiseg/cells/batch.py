"""CellBatch: cells as columns, the currency of every exporter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

__all__ = ["CellBatch", "concatenate", "no_cells", "rechunk", "uuids_from"]


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
    sound: bool = field(default=False, init=False)
    """Whether outlines are known to be fit for writing as they are, see `vouched_for`."""

    def __len__(self) -> int:
        return len(self.id)

    @property
    def class_names(self) -> NDArray[Any]:
        """(N,) name of the class of each cell, None where it has none."""
        names = np.array([*self.classes, None], dtype=object)
        return np.asarray(names[self.class_index])

    def vouched_for(self, sound: bool = True) -> CellBatch:
        """The same cells; ``sound``: how they were made tells that no outline needs a look.

        Then ``wsiseg.export.exportable`` takes them as they are. The word does not pass to a copy
        by ``dataclasses.replace``, whose outlines may be others.
        """
        same = replace(self)
        object.__setattr__(same, "sound", sound)
        return same

    def take(self, rows: Any) -> CellBatch:
        """The cells of a slice, a mask (N,) or an array of row numbers."""
        taken = replace(
            self,
            id=self.id[rows],
            geometry=self.geometry[rows],
            class_index=self.class_index[rows],
            measurements={name: column[rows] for name, column in self.measurements.items()},
            nucleus=None if self.nucleus is None else self.nucleus[rows],
        )
        return taken.vouched_for(self.sound)


def no_cells() -> CellBatch:
    """A batch of nothing, without classes and measurements."""
    nothing = np.empty(0, dtype=object)
    return CellBatch(np.empty(0, "U36"), nothing, np.empty(0, np.int32), ())


def concatenate(batches: Sequence[CellBatch]) -> CellBatch:
    """All cells of ``batches``, in order.

    Classes and columns are united in order of appearance; NaN fills a column that a batch lacks.
    """
    if len(batches) < 2:
        return batches[0] if batches else no_cells()
    classes = tuple(dict.fromkeys(name for b in batches for name in b.classes))
    columns = dict.fromkeys(name for b in batches for name in b.measurements)
    every = CellBatch(
        id=np.concatenate([b.id for b in batches]),
        geometry=np.concatenate([b.geometry for b in batches]),
        class_index=np.concatenate([_reindexed(b, classes) for b in batches]),
        classes=classes,
        measurements={name: _column(batches, name) for name in columns},
        nucleus=_nuclei(batches),
    )
    return every.vouched_for(all(b.sound for b in batches))


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
    import shapely

    def one(row: int, wkb: bytes) -> str:
        raw = bytearray(blake2b(wkb + row.to_bytes(8, "little"), digest_size=16).digest())
        raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
        return str(UUID(bytes=bytes(raw)))

    ids = [one(row, wkb) for row, wkb in enumerate(shapely.to_wkb(geometry, byte_order=1), first)]
    return np.array(ids, dtype="U36")


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
