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
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from wsiseg.archive.ids import quoted
from wsiseg.atomic import atomic_path, make_folder, publish, temporary_name, writing
from wsiseg.errors import ForeignFolderError

__all__ = ["CELLS", "PART", "add_part", "drop_part", "drop_parts", "part_of"]

CELLS = "cells"
"""Folder of the data set in the archive."""
PART = "cells.parquet"


def part_of(root: Path, slide_id: str) -> Path:
    """Where the cells of a slide are in the data set of the archive ``root``."""
    return root / CELLS / f"slide_id={quoted(slide_id)}" / PART


def add_part(root: Path, slide_id: str, cells: Path) -> None:
    """Make ``cells`` (a GeoParquet file below ``root``) the part of a slide; OutputError."""
    target = part_of(root, slide_id)
    _must_not_lead_out(target)
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
    _must_not_lead_out(target)
    with writing(target), suppress(FileNotFoundError):
        target.unlink()
    with suppress(OSError):  # it may hold files that others have put there
        target.parent.rmdir()


def drop_parts(root: Path, slide_ids: Iterable[str]) -> None:
    """``drop_part`` of many slides, most of which have none; OutputError."""
    try:
        there = set(os.listdir(root / CELLS))
    except FileNotFoundError:
        return
    for slide_id in slide_ids:
        if part_of(root, slide_id).parent.name in there:
            drop_part(root, slide_id)


def _must_not_lead_out(target: Path) -> None:
    for folder in (target.parent.parent, target.parent):
        if folder.is_symlink():
            raise ForeignFolderError(
                f"{folder} leads out of the archive, through a symbolic link: remove the link"
            )
