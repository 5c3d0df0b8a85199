"""SlideRow: one slide of an archive, as a manifest, a folder or a pattern names it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.archive.ids import folded
from wsiseg.errors import InputFileError

__all__ = ["OPTIONAL", "SlideRow", "name_or_path", "once_each"]

OPTIONAL = ("mpp", "stain", "model", "group")
"""Columns of a manifest beside ``slide_id`` and ``path``."""


@dataclass(frozen=True, slots=True)
class SlideRow:
    """A slide and what holds for it alone."""

    slide_id: str
    """Names its folder, see ``wsiseg.archive.ids``."""
    path: str
    """Absolute path of the file or OME-Zarr folder."""
    mpp: float | None = None
    """µm per level-0 px, overriding the file's metadata."""
    stain: str | None = None
    """"default" or "macenko"; None: that of the batch."""
    model: str | None = None
    """Name or absolute path; None: that of the batch."""
    group: str = ""
    """For the cohort table: a centre, an arm of a study, ..."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a Job that this row overrides."""
        own = {"mpp": self.mpp, "stain": self.stain, "model": self.model}
        return {name: value for name, value in own.items() if value is not None}


def once_each(rows: Iterable[SlideRow], where: str) -> list[SlideRow]:
    """``rows`` without repetitions of a whole row.

    Raises InputFileError, with examples, where one id stands for different rows.
    """
    first: dict[str, SlideRow] = {}
    clashes = []
    for row in rows:
        other = first.setdefault(folded(row.slide_id), row)
        if other is not row and other != row:
            clashes.append((other, row))
    if clashes:
        a, b = clashes[0]
        raise InputFileError(
            f"{where}: {len(clashes)} slide_id(s) stand for more than one slide, such as "
            f"{a.slide_id!r} ({a.path}) and {b.slide_id!r} ({b.path}); ids must differ in more "
            "than upper and lower case"
        )
    return list(first.values())


def name_or_path(text: str, base: Path) -> str:
    """A path (it has a slash, or an ending) made absolute from ``base``; a name as it is.

    >>> name_or_path("nuclei-he", Path("/a")), name_or_path("./mine", Path("/a"))
    ('nuclei-he', '/a/mine')
    """
    is_path = "/" in text or os.sep in text or Path(text).suffix in (".safetensors", ".geojson")
    return os.path.abspath(base / text) if is_path else text
