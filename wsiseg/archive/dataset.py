"""The cells of all slides as one data set, partitioned by slide: ``cells/slide_id=<id>/``.

Each part is the slide's own ``cells.parquet`` under another name (a hard link, which takes no
space), so GeoPandas, DuckDB and dask read all of them at once, and prune by slide::

    geopandas.read_parquet("ARCHIVE/cells")
    duckdb: SELECT ... FROM read_parquet('ARCHIVE/cells/*/*.parquet', hive_partitioning = true)

Ids are quoted as URLs are, which readers undo.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from wsiseg.archive.ids import quoted
from wsiseg.atomic import atomic_path, make_folder, publish, temporary_name, writing

__all__ = ["CELLS", "PART", "add_part", "drop_part", "part_of"]

CELLS = "cells"
"""Folder of the data set in the archive."""
PART = "cells.parquet"


def part_of(root: Path, slide_id: str) -> Path:
    """Where the cells of a slide are in the data set of the archive ``root``."""
    return root / CELLS / f"slide_id={quoted(slide_id)}" / PART


def add_part(root: Path, slide_id: str, cells: Path) -> None:
    """Make ``cells`` (a GeoParquet file below ``root``) the part of a slide; OutputError."""
    target = part_of(root, slide_id)
    make_folder(target.parent)
    temporary = target.parent / temporary_name()
    with writing(target):
        try:
            os.link(cells, temporary)
        except OSError:  # a file system without links
            with atomic_path(target) as copy:
                shutil.copyfile(cells, copy)
            return
        publish(temporary, target)
        with suppress(FileNotFoundError):  # renaming a link over itself leaves both
            temporary.unlink()


def drop_part(root: Path, slide_id: str) -> None:
    """Take a slide out of the data set, if it is there; OutputError."""
    target = part_of(root, slide_id)
    with writing(target), suppress(FileNotFoundError):
        target.unlink()
    with suppress(OSError):  # it may hold files that others have put there
        target.parent.rmdir()
