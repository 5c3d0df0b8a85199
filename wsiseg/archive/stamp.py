"""Stamp: has a slide changed since it was last looked at? As cheap as an archive of 10^5 needs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from wsiseg.engine.fingerprint import fingerprint
from wsiseg.errors import UnreadableSlideError
from wsiseg.image.parts import series_uid
from wsiseg.storage.remote import Info, UrlPath
from wsiseg.storage.url import is_url, parent_of

__all__ = ["EMPTY", "Look", "Stamp", "Unreachable", "hash_of", "stamps_of"]

EMPTY = "an empty folder, perhaps not mounted"
"""Reason of an input that is missing below a folder that holds nothing at all."""

_LOOKS = 16  # at once: a network file system answers many as fast as one
_SHARE = 64  # files that a thread looks at in a row
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_SILENT = (errno.EIO, errno.ETIMEDOUT)
_PATIENCE = 5  # questions for one slide, and slides in a row, that a store leaves unanswered
_MANY = 8  # of a share in one remote folder: then it is listed
_COUNTED = 2000  # files of a folder whose sizes are added up, to order slides by size


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of an input without opening it."""

    bytes: int
    """Size; of a folder, of its first files."""
    mark: str
    """Changes when the input does: size and time (ETag) of a file, listing of a folder."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Storage that does not answer now: an input of which nothing is known, not even its absence.

    An error other than "no such file", or a file missing below a folder that is empty, as the
    place of a share is that is not mounted. What is known of the input from earlier still stands.
    """

    reason: str
    """Such as "EACCES", or the kind of error; holds no key."""


Look = Stamp | Unreachable | None
"""What a look at an input found; None: there is no such file."""


def stamps_of(paths: Iterable[str], *, full: bool = False) -> Iterator[Look]:
    """A look at each of ``paths`` (or URLs), in order.

    ``full``: by every byte, as slow as reading all of it. Raises MissingExtraError where URLs need
    a package that is not installed, SettingsError where they cannot be.
    """
    folders = _Folders()
    left = iter(paths)
    with ThreadPoolExecutor(_LOOKS) as pool:
        while some := list(islice(left, _LOOKS * _SHARE)):
            folders.expect(some)
            shares = [some[i : i + _SHARE] for i in range(0, len(some), _SHARE)]
            looks = pool.map(lambda share: [_look(path, full, folders) for path in share], shares)
            for stamps in looks:
                yield from stamps


def hash_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of plain values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class _Folders:
    """What lies in folders that many of the paths are in, asked once for all of them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, _Once] = {}
        self._expected: set[str] = set()
        self._unanswered: defaultdict[str, set[str]] = defaultdict(set)

    def answered(self, store: str) -> None:
        """Tell that a store has answered."""
        self._unanswered[store] = set()

    def unanswered(self, store: str, path: str) -> None:
        """Tell that it has not, when it was asked for ``path``."""
        self._unanswered[store].add(path)

    def is_silent(self, store: str) -> bool:
        """Whether it has answered for none of so many that to ask for each would take hours."""
        return len(self._unanswered[store]) >= _PATIENCE

    def expect(self, paths: Iterable[str]) -> None:
        """Prepare for looks at ``paths``: a listing is cheaper than many single questions.

        Web servers are asked for each: what they list, if at all, has neither sizes nor times.
        """
        listed = (p for p in paths if is_url(p) and not p.startswith(("http://", "https://")))
        counts = Counter(map(parent_of, listed))
        self._expected |= {folder for folder, count in counts.items() if count >= _MANY}

    def info(self, path: UrlPath) -> Info:
        """As ``path.info()``."""
        if str(path.parent) not in self._expected:
            return path.info()
        listed = self.listed(path.parent)
        if path.name not in listed:
            raise FileNotFoundError(errno.ENOENT, "no such file", path.url)
        return listed[path.name]

    def listed(self, folder: UrlPath) -> Mapping[str, Info]:
        """As ``folder.listed()``."""
        found: Mapping[str, Info] = self._once(str(folder)).get(folder.listed)
        return found

    def series(self, path: Path) -> Any:
        """Name, size and time of each DICOM file of the series of ``path``, and beside it."""
        found = self._once(str(path.parent)).get(partial(_dicom_files, path.parent))
        uid = next((entry[0] for entry in found if entry[1] == path.name), None)
        return [entry[1:] for entry in found if entry[0] == uid]

    def _once(self, folder: str) -> _Once:
        with self._lock:
            return self._known.setdefault(folder, _Once())


class _Once:
    """The answer to a question that many threads ask."""

    def __init__(self) -> None:
        self._lock, self._answer = Lock(), None

    def get(self, ask: Callable[[], Any]) -> Any:
        with self._lock:
            if self._answer is None:
                self._answer = ask()
            return self._answer


def _look(path: str, full: bool, folders: _Folders) -> Look:
    if is_url(path):
        return _look_at_url(path, full, folders)
    try:
        return _by_all(path, full=True) if full else _quick(path, folders)
    except ValueError:  # a NUL in the name
        return None
    except OSError as error:
        return _absent(path, error)


def _look_at_url(path: str, full: bool, folders: _Folders) -> Look:
    store = "/".join(path.split("/")[:3])
    for _ in range(_PATIENCE):
        if folders.is_silent(store):
            break
        try:
            found: Look = _at_url(UrlPath(path), full, folders)
        except OSError as error:
            if error.errno in _SILENT:
                folders.unanswered(store, path)
                continue
            found = _absent(path, error)
        folders.answered(store)
        return found
    return Unreachable(f"{store} does not answer")


def _quick(path: str, folders: _Folders) -> Look:
    found = os.stat(path)
    is_file = stat.S_ISREG(found.st_mode)
    if is_file and path.lower().endswith(".dcm"):
        series = folders.series(Path(path))
        return Stamp(sum(size for _, size, _ in series), hash_of({"series": series}))
    if is_file and not path.lower().endswith(".mrxs"):
        return Stamp(found.st_size, f"{found.st_size}:{found.st_mtime_ns}")
    if is_file or stat.S_ISDIR(found.st_mode):
        return _by_all(path, full=False)
    return Stamp(0, "no file")  # a pipe, a socket: the reader says what it thinks of it


def _by_all(path: str, *, full: bool, size: int | None = None) -> Look:
    try:
        key = fingerprint(path, full=full)["key"]
        return Stamp(_size(Path(path)) if size is None else size, key)
    except UnreadableSlideError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        return Stamp(0, "unreadable") if os.path.lexists(path) else None


def _at_url(path: UrlPath, full: bool, folders: _Folders) -> Look:
    info = folders.info(path)
    if full:
        return _by_all(path.url, full=True, size=info.size)
    listed: Mapping[str, Info] = {}
    if info.is_dir:
        listed = path.walked()
    elif path.suffix.lower() == ".mrxs":
        listed = path.with_suffix("").walked()
    elif path.suffix.lower() == ".dcm":  # which of them are of its series takes opening them
        listed = folders.listed(path.parent)
    if not listed:
        return Stamp(info.size, f"{info.size}:{info.mark}")
    told = [[name, each.size, each.mark] for name, each in listed.items()]
    size = info.size if path.suffix.lower() == ".dcm" else sum(i.size for i in listed.values())
    return Stamp(size, hash_of({"own": [info.size, info.mark], "listed": told}))


def _dicom_files(folder: Path) -> list[tuple[bytes | None, str, int, int]]:
    """Series, name, size and time of the DICOM files of a folder, sorted by name."""
    found = []
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == ".dcm":
            told = file.stat()
            found.append((series_uid(file), file.name, told.st_size, told.st_mtime_ns))
    return found


def _absent(path: str, error: OSError) -> Unreachable | None:
    """None where the file is not there, and the folder that should hold it can be looked into."""
    if error.errno not in _NOT_THERE:
        return Unreachable(_kind(error, path))
    if is_url(path):
        return None
    folder = Path(path)
    try:
        while not folder.is_dir():
            folder = folder.parent
        with os.scandir(folder) as inside:
            return None if any(inside) else Unreachable(EMPTY)
    except OSError as fault:
        return Unreachable(_kind(fault, path))


def _kind(error: OSError, path: str) -> str:
    if is_url(path):
        return error.strerror or type(error).__name__
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _size(path: Path) -> int:
    """Bytes of a file and of the folder that belongs to it."""
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path
    own = path.stat().st_size if path.is_file() else 0
    if not folder.is_dir():
        return own
    files = (Path(where) / name for where, _, names in os.walk(folder) for name in names)
    return own + sum(file.lstat().st_size for file in islice(files, _COUNTED))
