"""Staging: copies of slides from slow or remote storage in a local folder of bounded size.

::

    STAGING/lock                   held for moments, by whoever looks for a copy or makes room
    STAGING/<hash>/lock            shared by those who read the copy, exclusive while it is made
    STAGING/<hash>/entry.json      sizes and SHA-256 of its files; not there while it is made
    STAGING/<hash>/data/<name>     the slide, under its own name, and what belongs to it

The hash is of where the slide lies and of its version there. Locks are those of the system
(flock), so whatever dies lets go of them; the folder must lie on a disk of this machine. A copy in
use is never removed, the least recently used of the others go first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from wsiseg.atomic import atomic_write, make_folder
from wsiseg.errors import OutputError, SettingsError, UnreadableSlideError, WsisegError
from wsiseg.hashing import sha256_of
from wsiseg.pulse import beat
from wsiseg.storage.remote import UrlPath

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Member", "Staged", "Staging"]

_log = logging.getLogger(__name__)

FOLDER_VARIABLE, BYTES_VARIABLE = "WSISEG_STAGING", "WSISEG_STAGING_BYTES"
DEFAULT_BYTES = 64 << 30  # or half of the disk, if that is less
PATIENCE_S = 600.0  # for others to let go of copies that fill the folder
_CHUNK = 8 << 20
_NAME = re.compile(r"[0-9a-f]{32}")  # of a copy: other folders are somebody's
_checked: set[tuple[str, int]] = set()  # copies whose bytes this process has compared
_checked_lock = Lock()


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a slide."""

    path: Path | UrlPath
    name: str
    """Relative to the slide's folder, with slashes."""
    size: int
    """Bytes."""
    mark: str
    """Changes when the file does."""


class Staged:
    """A copy that stays where it is for as long as this is not closed or forgotten."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        """Of the copy of the slide."""
        self.close = weakref.finalize(self, os.close, descriptor)
        """Let go of it."""


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder of copies; ``Staging.of`` knows where it is by default."""

    folder: Path
    limit: int
    """Bytes that all copies may take."""

    @classmethod
    def of(cls, folder: str | os.PathLike[str] | None = None, limit: int | None = None) -> Staging:
        """The folder and bound that are given, else those of WSISEG_STAGING and
        WSISEG_STAGING_BYTES, else 64 GB or half of the disk below the user's cache.
        """
        given = folder or os.environ.get(FOLDER_VARIABLE)
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(os.path.abspath(given or Path(cache) / "wsiseg" / "staging"))
        make_folder(path)
        return cls(path, limit or _bound(path))

    def copy(
        self, members: Sequence[Member], where: str, on_full: Callable[[], None] = lambda: None
    ) -> Staged:
        """A copy of the slide at ``where``, of which ``members[0]`` is the file that is opened.

        ``on_full`` is called where copies in use leave no room: it may let go of some.
        Copies that are there are compared with their checksums first. Raises SettingsError for a
        slide larger than the bound, UnreadableSlideError where it cannot be read or no room
        becomes free, OutputError where the folder cannot be written.
        """
        size = sum(member.size for member in members)
        astray = [m.name for m in members if ".." in m.name.split("/") or m.name.startswith("/")]
        if astray:
            raise UnreadableSlideError(f"{where}: {astray[0]!r} leads out of the slide's folder")
        if size > self.limit:
            raise SettingsError(
                f"{where} must be copied before it can be read, and has {size} bytes: "
                f"{self.folder} may hold {self.limit} (staging_bytes of a batch, "
                f"{BYTES_VARIABLE}): allow more, or another folder (staging, {FOLDER_VARIABLE})"
            )
        parts = [where, *([m.name, m.size, m.mark] for m in members)]
        entry = self.folder / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        deadline = time.monotonic() + PATIENCE_S
        with _writing(self.folder):
            while True:
                held = self._claimed(entry, size)
                if isinstance(held, tuple):
                    found = self._filled(entry, members, held)
                    if found is not None:
                        return found
                elif held == "made":  # by another process, which may take as long as it takes
                    deadline = time.monotonic() + PATIENCE_S
                elif time.monotonic() > deadline:
                    full = OSError(errno.ETIMEDOUT, "all copies are in use", str(self.folder))
                    raise UnreadableSlideError(f"{where}: no room in {self.folder}") from full
                else:
                    on_full()
                time.sleep(0.2)

    def _claimed(self, entry: Path, size: int) -> tuple[int, bool] | str:
        """A lock on ``entry``, and whether it is to be made; or why it has to wait."""
        with _locked(self.folder / "lock"):
            if (entry / "entry.json").exists():
                held = _try(entry / "lock", exclusive=False)
                return "made" if held is None else (held, False)
            if entry.exists():
                held = _try(entry / "lock", exclusive=True)
                if held is None:
                    return "made"
                os.close(held)
                _remove(entry)  # somebody died over it
            if not self._made_room(size):
                return "full"
            entry.mkdir(mode=0o700)  # slides show labels of patients
            (entry / "data").mkdir()
            (entry / "size").write_text(str(size))
            held = _try(entry / "lock", exclusive=True)
            assert held is not None
            return held, True

    def _filled(
        self, entry: Path, members: Sequence[Member], held: tuple[int, bool]
    ) -> Staged | None:
        """The copy, made or checked; None where it was damaged, and is gone."""
        descriptor, empty = held
        try:
            if empty:
                _fill(entry, members)
                with _locked(self.folder / "lock"):
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
            elif not _is_sound(entry):
                _log.warning("a copy in %s was damaged, and is made again", self.folder)
                self._dropped(entry, descriptor)
                return None
            os.utime(entry / "lock")
        except BaseException:
            with suppress(OSError):
                if empty:
                    with _locked(self.folder / "lock"):  # others would take it for a dead one's
                        _remove(entry)
            with suppress(OSError):
                os.close(descriptor)
            raise
        return Staged(entry / "data" / members[0].name, descriptor)

    def _dropped(self, entry: Path, descriptor: int) -> None:
        """Make a damaged copy one that is not there; its last reader keeps its open files."""
        with _locked(self.folder / "lock"):
            (entry / "entry.json").unlink(missing_ok=True)
            os.close(descriptor)

    def _made_room(self, size: int) -> bool:
        ours = (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        entries = [path for path in ours if (path / "size").exists()]
        sizes = {path: int((path / "size").read_text() or 0) for path in entries}
        total = sum(sizes.values())
        for path in sorted(entries, key=_last_use):
            if total + size <= self.limit:
                break
            held = _try(path / "lock", exclusive=True)
            if held is not None:
                try:
                    _remove(path)
                finally:
                    os.close(held)
                total -= sizes[path]
        return total + size <= self.limit


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block, unless it is one of ours, into an OutputError."""
    try:
        yield
    except OutputError as error:
        raise _no_room(folder, error) from error
    except WsisegError:
        raise
    except OSError as error:
        raise _no_room(folder, error) from error


def _no_room(folder: Path, error: OSError) -> OutputError:
    number = error.errno or 0
    name = errno.errorcode.get(number, type(error).__name__)
    found = OutputError(
        f"cannot copy slides to {folder}: {os.strerror(number)} ({name}): free some space, or "
        f"choose another folder (staging of a batch, {FOLDER_VARIABLE})"
    )
    found.errno = error.errno
    return found


def _fill(entry: Path, members: Sequence[Member]) -> None:
    told: dict[str, Any] = {}
    for member in members:
        target = entry / "data" / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as file:
            for chunk in _chunks(member):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        told[member.name] = [member.size, digest.hexdigest()]
    with atomic_write(entry / "entry.json") as file:
        file.write(json.dumps(told).encode())


def _chunks(member: Member) -> Iterator[bytes]:
    """All bytes of a file; UnreadableSlideError where it is not what it was said to be."""
    copied = 0
    try:
        for chunk in _stream(member):
            copied += len(chunk)
            yield chunk
            beat()
        if copied != member.size:
            raise OSError(errno.ESTALE, "replaced while it was read", str(member.path))
    except UnreadableSlideError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableSlideError(f"{member.path}: cannot be copied: {reason}") from error


def _stream(member: Member) -> Iterator[bytes]:
    if isinstance(member.path, UrlPath):
        with closing(member.path.ranges()) as ranges:
            if ranges.mark != member.mark:
                raise OSError(errno.ESTALE, "replaced while it was read", str(member.path))
            yield from ranges.chunks()
        return
    with member.path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _is_sound(entry: Path) -> bool:
    """Whether the files of a copy are what was copied; told once in each process."""
    key = (str(entry), (entry / "entry.json").stat().st_mtime_ns)
    with _checked_lock:
        if key in _checked:
            return True
    try:
        told: Mapping[str, Any] = json.loads((entry / "entry.json").read_bytes())
        for name, (size, digest) in told.items():
            path = entry / "data" / name
            if path.stat().st_size != size:
                return False
            if sha256_of(path) != digest:
                return False
    except (OSError, ValueError, TypeError, AttributeError):
        return False
    with _checked_lock:
        _checked.add(key)
    return True


def _remove(entry: Path) -> None:
    """Remove a copy, its size at last: what is left by one killed over it still counts."""
    (entry / "entry.json").unlink(missing_ok=True)
    shutil.rmtree(entry / "data", ignore_errors=True)
    shutil.rmtree(entry)


def _last_use(entry: Path) -> float:
    try:
        return (entry / "lock").stat().st_mtime
    except OSError:
        return 0.0


def _bound(folder: Path) -> int:
    text = os.environ.get(BYTES_VARIABLE)
    if not text:
        return min(DEFAULT_BYTES, shutil.disk_usage(folder).total // 2)
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"{BYTES_VARIABLE} must be a number of bytes, got {text!r}")
    return int(text)


def _try(path: Path, *, exclusive: bool) -> int | None:
    """A descriptor that holds the lock at ``path``; None where others hold it."""
    if fcntl is None:
        raise SettingsError("staging needs locks of files that this system does not have")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if fcntl is None:
        raise SettingsError("staging needs locks of files that this system does not have")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
