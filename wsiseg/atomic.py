"""Files that appear whole or not at all, and what an OSError means to the one who must free space.

A file is written under a temporary name in its own folder, synced, and renamed: whoever kills the
process or pulls the plug finds the former file, or the new one, and never a part under its name.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from wsiseg.errors import OutputError, WsisegError

__all__ = [
    "atomic_path",
    "atomic_write",
    "make_folder",
    "output_error",
    "publish",
    "remove_temporaries",
    "sync_folder",
    "temporary_name",
    "write_new",
    "writing",
]

_TEMPORARY = re.compile(r"\.wsiseg-\d+-[0-9a-f]{8}-[0-9a-f]*\.tmp")

_REMEDY = {
    errno.ENOSPC: "free some space or choose another --out",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another --out",
    errno.EFBIG: "a file-size limit is in force (ulimit -f): raise it or choose another --out",
    errno.EROFS: "the file system is read-only: choose another --out",
    errno.EACCES: "no permission to write there: change it or choose another --out",
    errno.EPERM: "writing is not permitted there: choose another --out",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another --out",
    errno.EEXIST: "a file of that name is in the way: move it or choose another --out",
    errno.EISDIR: "a folder of that name is in the way: move it or choose another --out",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter --out",
    errno.ELOOP: "the path is a loop of symbolic links: choose another --out",
    errno.EIO: "the device failed: check the disk, or choose another --out",
    errno.ESTALE: "the network mount went away: mount it again, or choose another --out",
    errno.ENOENT: "the folder is gone: create or mount it again, or choose another --out",
}


def output_error(error: OSError, path: str | os.PathLike[str]) -> OutputError:
    """The OutputError that says what failed at ``path`` and what to do; keeps ``errno``."""
    code = error.errno or 0
    name = errno.errorcode.get(code, "unknown error")
    reason = os.strerror(code) if code else str(error)
    remedy = _REMEDY.get(code, "check the disk and its permissions, or choose another --out")
    found = OutputError(
        f"cannot write {os.fspath(path)}: {reason} ({name}); {remedy}. No half-written file "
        "was left: after that, run the same command again"
    )
    found.errno = error.errno
    return found


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the block, unless it is one of ours, into an OutputError for ``path``."""
    try:
        yield
    except WsisegError:
        raise
    except OSError as error:
        raise output_error(error, path) from error


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path``, for a writer that opens files itself.

    It is renamed to ``path`` at the end of the block, and removed if the block raises. A symbolic
    link at ``path`` is replaced, never followed.

    Raises OutputError where the disk, the quota or the permissions do not allow it.
    """
    target = Path(path)
    temporary = target.parent / temporary_name()
    with writing(target):
        try:
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            publish(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the name ``path`` when the block ends well; see atomic_path."""
    with atomic_path(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()


def temporary_name(token: str = "") -> str:
    """A name that no other thread, process or host uses, and that carries a run's ``token``."""
    return f".wsiseg-{os.getpid()}-{uuid4().hex[:8]}-{token}.tmp"


def write_new(path: Path, parts: Iterable[bytes], *, durable: bool = True) -> None:
    """Create ``path``, write ``parts`` and sync it; nothing is left behind if that fails.

    Without ``durable`` it is not synced: a power cut may lose it, or what it holds.
    """
    with path.open("xb") as file:
        try:
            file.writelines(parts)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise


def publish(temporary: Path, target: Path) -> None:
    """Rename a synced file to its final name in the same folder, durably."""
    os.replace(temporary, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable, where the file system knows how to."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents; OutputError where that is not possible."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what dead writers left in ``folder``: only its lock holder may call this."""
    for entry in os.scandir(folder):
        if _TEMPORARY.fullmatch(entry.name):
            with suppress(FileNotFoundError):
                os.unlink(entry.path)
