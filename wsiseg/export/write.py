"""One pass over the cells, into as many files as wanted: the format follows from the name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsiseg.atomic import writing
from wsiseg.cells.batch import CellBatch
from wsiseg.cells.layer import Cells
from wsiseg.cores import cores
from wsiseg.errors import InputFileError
from wsiseg.export.colors import RGB
from wsiseg.export.exportable import exportable
from wsiseg.export.geojson import geojson_sink
from wsiseg.export.in_order import in_order
from wsiseg.export.tables import csv_sink, parquet_sink

__all__ = [
    "WRITERS",
    "Written",
    "write",
    "write_all",
    "write_csv",
    "write_geojson",
    "write_parquet",
]

Add = Callable[[CellBatch], None]
Sink = Callable[[Path], AbstractContextManager[Add]]

WRITERS: dict[str, Sink] = {
    ".geojson.gz": geojson_sink,
    ".json.gz": geojson_sink,
    ".geojson": geojson_sink,
    ".json": geojson_sink,
    ".parquet": parquet_sink,
    ".csv": csv_sink,
}
"""End of the file name -> opens the file and gives a function that appends exportable cells."""

_PIECE = 2_500  # cells in work in one thread, whatever the size of the batches
_CHECKERS = 4  # threads, at most, that make cells exportable


@dataclass(frozen=True, slots=True)
class Written:
    """What went into the files."""

    cells: int
    """Number of cells in each file."""
    dropped: dict[str, int]
    """How many could not be written, by the reasons of ``exportable``."""


def write(cells: Cells | Iterable[CellBatch], path: str | Path) -> Written:
    """Write ``cells`` to ``path``; its name says how: see ``WRITERS``.

    Raises InputFileError for another name and for cells that no file can hold, OutputError where
    the file cannot be written; then nothing is left under that name.
    """
    return write_all(cells, [path])


def write_all(cells: Cells | Iterable[CellBatch], paths: Iterable[str | Path]) -> Written:
    """Write ``cells`` to every one of ``paths`` in one pass: all hold the same rows.

    An empty first batch is welcome: its classes and columns are those of files without cells.
    """
    return _pour(cells, [(Path(path), _sink_for(Path(path))) for path in paths])


def write_geojson(
    cells: Cells | Iterable[CellBatch],
    path: str | Path,
    *,
    colors: Mapping[str, RGB] | None = None,
) -> Written:
    """Write GeoJSON for QuPath 0.4 and later, gzipped where the name ends in ``.gz``.

    Detections with UUIDs, class and colour, measurements as a map, or cells with a
    ``nucleusGeometry`` where the batches have nuclei; every outline valid on the 0.01 px grid.
    ``colors`` overrides the colour (r, g, b) of a class.
    """
    return _pour(cells, [(Path(path), geojson_sink(Path(path), colors))])


def write_parquet(cells: Cells | Iterable[CellBatch], path: str | Path) -> Written:
    """Write GeoParquet 1.1; see ``parquet_sink``."""
    return _pour(cells, [(Path(path), parquet_sink(Path(path)))])


def write_csv(cells: Cells | Iterable[CellBatch], path: str | Path) -> Written:
    """Write centroids, classes and measurements as CSV; see ``csv_sink``."""
    return _pour(cells, [(Path(path), csv_sink(Path(path)))])


def _sink_for(path: Path) -> AbstractContextManager[Add]:
    for suffix, sink in WRITERS.items():
        if path.name.lower().endswith(suffix):
            return sink(path)
    raise InputFileError(
        f"no writer for {path.name!r}: the name must end in one of {', '.join(WRITERS)}"
    )


def _pour(
    cells: Cells | Iterable[CellBatch], sinks: Iterable[tuple[Path, AbstractContextManager[Add]]]
) -> Written:
    """Into every sink, each in a thread of its own; the bytes do not depend on the threads."""
    batches = cells.batches() if isinstance(cells, Cells) else cells
    count, dropped = 0, Counter[str]()
    with ExitStack() as files, ExitStack() as threads:  # files end well only if all threads did
        adds = []
        for path, sink in sinks:
            add = partial(_added, path, files.enter_context(sink))
            behind = threads.enter_context(in_order(lambda _: None, workers=1))
            adds.append(partial(behind, add))

        def take(made: tuple[CellBatch, dict[str, int]]) -> None:
            nonlocal count
            rows, lost = made
            dropped.update(lost)
            count += len(rows)
            for add in adds:
                add(rows)

        submit = threads.enter_context(in_order(take, min(cores(), _CHECKERS)))
        for piece in _pieces(batches):
            submit(exportable, piece)
    return Written(count, dict(sorted(dropped.items())))


def _added(path: Path, add: Add, rows: CellBatch) -> None:
    with writing(path):  # else the error would be taken for one of the file that was opened last
        add(rows)


def _pieces(batches: Iterable[CellBatch]) -> Iterator[CellBatch]:
    for batch in batches:
        starts = range(0, max(len(batch), 1), _PIECE)
        yield from (batch.take(slice(start, start + _PIECE)) for start in starts)
