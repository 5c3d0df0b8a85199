"""Fault: what became of an attempt that failed, and whether another one makes sense."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

from wsiseg.engine.disposable import ended_by
from wsiseg.errors import (
    ClusterError,
    ForeignFolderError,
    InputFileError,
    LockedError,
    MissingExtraError,
    MissingSpacingError,
    ModelError,
    OutputError,
    RegionError,
    RunFolderError,
    SettingsError,
    UnknownModelError,
    UnreadableSlideError,
    UnsupportedFormatError,
    WsisegError,
)

__all__ = ["AGAIN_NEXT_TIME", "Fault", "InputChangedError", "death", "fault_of", "shown", "told"]

AGAIN_NEXT_TIME = ("disk-full", "read-only", "output", "locked", "input-io", "cluster", "worker")
"""Codes of failures that are no property of the slide: the next batch tries it again unasked."""

_LONGEST = 600  # characters of a message
_BYTES = re.compile(r"""b(?:'[^']*'|"[^"]*")""")  # bytes of a file, as Python shows them
_STORAGE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
_STORAGE |= {errno.ECONNRESET, errno.ENODEV, errno.ENXIO, errno.EMFILE, errno.ENFILE}
_REFUSED = {errno.EACCES, errno.EPERM}  # to read: a permission, or credentials that have expired
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, *_REFUSED}


class InputChangedError(WsisegError, OSError):
    """The slide is not the file any more that it was when the run began."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an attempt failed."""

    code: str
    """A key of ``records.CODES``; "quarantine" where the cause is not known."""
    cause: str
    """Name of the signal or exception."""
    message: str
    """For people: one line, without anything that a file says of itself."""
    again: bool = False
    """Whether it may not be the slide's own fault, so that another attempt makes sense."""
    archive: bool = False
    """Whether the archive, not the slide, is at fault, so that other slides would fail too."""

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


# the first that fits: kind of error, code, whether to try again
_CODES: tuple[tuple[type[BaseException], str, bool], ...] = (
    (MissingSpacingError, "missing-mpp", False),
    (InputChangedError, "input-changed", True),
    (UnsupportedFormatError, "unsupported-format", False),
    (UnreadableSlideError, "unreadable", False),
    (SettingsError, "settings", False),
    (InputFileError, "settings", False),
    (UnknownModelError, "model", False),
    (MissingExtraError, "model", False),
    (ModelError, "model", False),
    (LockedError, "locked", True),
    (ForeignFolderError, "foreign-folder", False),
)


def fault_of(error: BaseException) -> Fault:
    """The fault behind an exception of a run."""
    chain = list(_chain(error))
    if any(isinstance(e, MemoryError) for e in chain):
        return Fault("out-of-memory", "MemoryError", "memory was exhausted", again=True)
    if isinstance(error, OutputError):
        return _of_output(error)
    numbers = {e.errno for e in chain if isinstance(e, OSError) and e.errno}
    if isinstance(error, UnreadableSlideError):
        if errno.ENOENT in numbers and len(chain) == 2:
            return Fault("missing-file", "FileNotFoundError", told(error))
        if numbers & (_STORAGE | _REFUSED):
            return Fault("input-io", _name(chain[-1]), told(error), again=True)
    if isinstance(error, ClusterError):
        return Fault("cluster", _name(chain[-1]), told(error), again=True, archive=True)
    if isinstance(error, RegionError) and error.cause:  # convicted; memory may have run out
        code = "timeout" if error.cause == "timeout" else "quarantine"
        return Fault(code, error.cause, told(error), again=error.cause == "SIGKILL")
    for kind, code, again in _CODES:
        if isinstance(error, kind):
            return Fault(code, _name(chain[-1]), told(error), again)
    return _unexpected(error, chain)


def death(status: int) -> Fault:
    """The fault of a process that ended by itself with the exit status ``status``."""
    cause = ended_by(status)
    hint = ", as the system does when memory runs out" if cause == "SIGKILL" else ""
    return Fault("quarantine", cause, f"its process ended by {cause}{hint}", again=True)


def told(error: BaseException) -> str:
    """The message of an error of ours as one line that is safe to show.

    What a library said of a file goes, since it may quote the file: ``wsiseg info`` shows it. Of
    errors of the system, what the system itself says of their number stays.
    """
    text = str(error)
    for cause in _behind(error):
        if isinstance(cause, WsisegError) or _is_of_system(cause):
            continue
        quotes = [str(cause), *(arg for arg in cause.args if isinstance(arg, str))]
        for said in [*quotes, *(repr(quote)[1:-1] for quote in quotes)]:
            text = text.replace(said, "...") if said else text
    return shown(_BYTES.sub("...", text))


def shown(text: str) -> str:
    """``text`` as one line without control characters, cut where it is too long."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_of_system(error: BaseException) -> bool:
    """Whether an error says no more than its number does, and perhaps a path."""
    if not isinstance(error, OSError) or not error.errno:
        return False
    return error.strerror == os.strerror(error.errno) and len(error.args) == 2


def _behind(error: BaseException) -> Iterator[BaseException]:
    """All errors that led to ``error``, also those that were being handled when it was raised."""
    seen, left = {id(error)}, [error.__cause__, error.__context__]
    while left:
        at = left.pop()
        if at is not None and id(at) not in seen:
            seen.add(id(at))
            left += [at.__cause__, at.__context__]
            yield at


def _of_output(error: OutputError) -> Fault:
    number = error.errno or 0
    code = "disk-full" if number in _FULL else "read-only" if number in _CLOSED else "output"
    shared = number in _FULL | _CLOSED | _STORAGE
    return Fault(code, errno.errorcode.get(number, "OutputError"), told(error), True, shared)


def _unexpected(error: BaseException, chain: list[BaseException]) -> Fault:
    """Messages of errors that are not ours may quote a file: their kind and place must do."""
    cause = chain[-1]
    if isinstance(error, RegionError):
        head = str(error).partition(" failed:")[0]
        text = f"{head} failed: {_name(cause)} {_place(cause)}"
    elif isinstance(error, RunFolderError):
        text = told(error)
    else:
        text = f"{_name(cause)} {_place(cause)}"
    return Fault("quarantine", _name(cause), shown(text), again=True)


def _place(error: BaseException) -> str:
    frames = extract_tb(error.__traceback__)
    if not frames:
        return "at an unknown place"
    frame = next((f for f in reversed(frames) if "wsiseg" in Path(f.filename).parts), frames[-1])
    return f"in {Path(frame.filename).name}, line {frame.lineno}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        yield at
        seen.add(id(at))
        at = at.__cause__


def _name(error: BaseException) -> str:
    return type(error).__name__
