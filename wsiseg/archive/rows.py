"""SlideRow: one slide of an archive, as a manifest, a folder or a pattern names it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsiseg.archive.ids import folded, hashed
from wsiseg.errors import InputFileError
from wsiseg.storage.url import is_url

__all__ = ["OPTIONAL", "SlideRow", "name_or_path", "once_each", "with_known_ids"]

OPTIONAL = ("mpp", "stain", "model", "group")
"""Columns of a manifest beside ``slide_id`` and ``path``."""


@dataclass(frozen=True, slots=True)
class SlideRow:
    """A slide and what holds for it alone."""

    slide_id: str
    """Names its folder, see ``wsiseg.archive.ids``."""
    path: str
    """Absolute path or URL of the file or OME-Zarr folder."""
    mpp: float | None = None
    """µm per level-0 px, overriding the file's metadata."""
    stain: str | None = None
    """"default" or "macenko"; None: that of the batch."""
    model: str | None = None
    """Name or absolute path; None: that of the batch."""
    group: str = ""
    """For the cohort table: a centre, an arm of a study, ..."""
    named: bool = field(default=True, compare=False)
    """Whether somebody chose the id; otherwise it was made of the path, and of those beside it."""

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


def with_known_ids(
    rows: Iterable[SlideRow], known: Mapping[str, str], *, taken: Iterable[str] = ()
) -> list[SlideRow]:
    """``rows`` of which those that nobody named keep the id that is ``known`` for their path.

    Ids that are made of paths change when slides are added whose names are alike; without this a
    slide would be done a second time, under another id. A new one whose id one of the others has,
    or is ``taken``, gets a hash; one whose known id is now the name of another counts as new.
    """
    rows = list(rows)
    named = {folded(row.slide_id) for row in rows if row.named}
    known = {path: slide_id for path, slide_id in known.items() if folded(slide_id) not in named}
    kept = [row if row.named else replace(row, slide_id=known.get(row.path, "")) for row in rows]
    others = {folded(i) for i in (*taken, *(row.slide_id for row in kept)) if i}
    found = []
    for row, new in zip(kept, rows, strict=True):
        is_taken = not row.slide_id and folded(new.slide_id) in others
        made = hashed(new.slide_id, new.path) if is_taken else new.slide_id
        found.append(row if row.slide_id else replace(new, slide_id=made))
    return found


def name_or_path(text: str, base: str | os.PathLike[str]) -> str:
    """A path (it has a slash, or an ending) made absolute from ``base``; a name as it is.

    Raises InputFileError for one relative to a URL: what is not a slide lies on this machine.

    >>> name_or_path("nuclei-he", Path("/a")), name_or_path("./mine", Path("/a"))
    ('nuclei-he', '/a/mine')
    """
    is_path = "/" in text or os.sep in text or Path(text).suffix in (".safetensors", ".geojson")
    if is_path and is_url(base) and not os.path.isabs(text):
        raise InputFileError(f"{text!r} must be a name or an absolute path of this machine")
    return os.path.abspath(Path(base) / text) if is_path else text
