r"""Slide ids: they name a folder below the archive, so they must be fit for one on any system.

Rules: 1 to 200 bytes of UTF-8, and at most 240 as a URL quotes them; no control character, none of
``/ \ : * ? " < > |``; not beginning with a dot, a blank or one of ``= + - @`` (a spreadsheet would
compute it, a command line take it for an option), not ending with a dot or a blank; no name that
Windows reserves, such as NUL. Ids that differ only in case or in Unicode composition are one id: on
some file systems they are one folder.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from wsiseg.errors import InputFileError

__all__ = ["check_id", "folded", "hashed", "ids_of", "quoted", "stem_of"]

_LONGEST = 200  # bytes; file systems take 255, and a hash may be added
_LONGEST_QUOTED = 240  # bytes; the data set of all cells quotes ids, and adds "slide_id="
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\ud800-\udfff\u2028\u2029]')
_FIRST = ".=+-@ "
_LAST = ". "
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr")


def check_id(slide_id: str, where: str) -> str:
    """``slide_id`` if it can name a folder; InputFileError with the rule that it breaks."""
    broken = _broken_rule(slide_id)
    if broken:
        raise InputFileError(
            f"{where}: slide_id {slide_id[:80]!r} {broken}: it names a folder of the archive, so "
            "choose letters, digits and . _ -"
        )
    return slide_id


def folded(slide_id: str) -> str:
    """What is equal for ids that may share a folder.

    >>> folded("Case-1") == folded("CASE-1")
    True
    """
    if slide_id.isascii():
        return slide_id.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", slide_id).casefold())


def quoted(slide_id: str) -> str:
    """``slide_id`` with what is special in URLs quoted as there; other scripts stay as they are.

    >>> quoted("50 % é")
    '50 %25 é'
    """
    return re.sub(r"[\x00-\x7f]+", lambda plain: quote(plain[0], safe=" "), slide_id)


def stem_of(name: str) -> str:
    """A file name without its ending; ``.ome.tif`` and its kin are one ending.

    >>> stem_of("a.b.ome.tif"), stem_of("x.svs")
    ('a.b', 'x')
    """
    lower = name.lower()
    suffix = next((s for s in _SUFFIXES if lower.endswith(s)), None)
    stem = name[: -len(suffix)] if suffix else PurePosixPath(name).stem
    return stem or name


def ids_of(paths: Sequence[str]) -> list[str]:
    """Ids of files, by their paths relative to a folder (with slashes): all different, all fit.

    The stem; where stems are equal, the folder before it; where that is equal too, the ending
    after it; at last a hash of the path. What cannot be a part of an id becomes ``_``.

    >>> ids_of(["a.svs", "x/b.svs", "y/b.svs", "y/b.tif"])
    ['a', 'x__b', 'y__b.svs', 'y__b.tif']
    """
    level = [0] * len(paths)
    ids = [_candidate(path, 0) for path in paths]
    while True:
        groups: dict[str, list[int]] = defaultdict(list)
        for i, slide_id in enumerate(ids):
            groups[folded(slide_id)].append(i)
        equal = [i for group in groups.values() if len(group) > 1 for i in group]
        equal = [i for i in equal if level[i] < 3]
        if not equal:
            return ids
        for i in equal:
            level[i] += 1
            ids[i] = _candidate(paths[i], level[i])


def hashed(slide_id: str, path: str) -> str:
    """An id that no other path has, which begins as ``slide_id`` does."""
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:8]
    while _is_long(slide_id, spare=20):
        slide_id = slide_id[:-1]
    return f"{slide_id.rstrip(_LAST)}~{digest}"


def _candidate(path: str, level: int) -> str:
    *folders, name = PurePosixPath(path).parts
    last = stem_of(name) if level < 2 else name
    made = _fit("__".join([*folders, last]) if level else last)
    return hashed(made, path) if level == 3 or _is_long(made) else made


def _is_long(text: str, spare: int = 0) -> bool:
    limits = ((text, _LONGEST), (quoted(text), _LONGEST_QUOTED))
    return any(len(form.encode()) > limit - spare for form, limit in limits)


def _fit(text: str) -> str:
    text = _UNFIT.sub("_", text)
    if text[:1] in _FIRST:
        text = f"_{text[1:]}"
    if text[-1:] in _LAST:
        text = f"{text[:-1]}_"
    return f"_{text}" if _RESERVED.fullmatch(text) else text


def _broken_rule(slide_id: str) -> str:
    if not slide_id:
        return "is empty"
    unfit = _UNFIT.search(slide_id)
    if unfit:
        return f"holds {unfit[0]!r}"
    if slide_id[0] in _FIRST:
        return f"begins with {slide_id[0]!r}"
    if slide_id[-1] in _LAST:
        return f"ends with {slide_id[-1]!r}"
    if _is_long(slide_id):
        return f"has more than {_LONGEST} bytes, or {_LONGEST_QUOTED} as a URL quotes them"
    return "is a name that Windows reserves" if _RESERVED.fullmatch(slide_id) else ""
