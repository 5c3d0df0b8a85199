"""Store: the objects below one URL of an object store; each is put whole and verified, or not.

An object store has no rename, no append and no locks, but one put is all or nothing, and a put may
depend on what is there ("create", "replace"). Credentials and endpoints are those of the library
(environment, profiles); no message of ours repeats what a library said.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wsiseg.errors import OutputError, SettingsError, WsisegError
from wsiseg.hashing import sha256_of
from wsiseg.storage.remote import UrlPath

__all__ = ["Seen", "Store"]

_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Protocols of stores in which an object appears whole or not at all."""
_CHUNK = 16 << 20  # bytes; of a larger file so many go in one request
_AT_ONCE = 4  # of such requests
_CHANGED = ("PreconditionFailed", "NoSuchKey", "ConditionalRequestConflict")
_OWN = (errno.EINVAL, errno.ENAMETOOLONG, errno.EMSGSIZE)  # of one object, not of the store


@dataclass(frozen=True, slots=True)
class Seen:
    """What a store says of an object."""

    size: int
    tag: str
    """Changes with the content; of S3 it mostly is its MD5."""
    modified: datetime | None
    """By the clock of the store."""


class Store:
    """Objects by names relative to a URL (see ``wsiseg.storage.url.absolute``), with slashes.

    Raises SettingsError for a URL that cannot hold an archive, MissingExtraError where the library
    for it is not installed. All that follows raises OutputError where the store cannot be reached
    or refuses; its ``errno`` tells whether that is about one object, or about all of them.
    """

    def __init__(self, url: str) -> None:
        protocol, _, place = url.partition("://")
        if protocol not in _WHOLE or not place or "?" in place:
            raise SettingsError(
                f"{protocol}://... cannot hold an archive: expected a folder, or a URL such as "
                f"s3://bucket/archive ({', '.join(_WHOLE)})"
            )
        self.url = url
        self._is_s3 = protocol in ("s3", "s3a")
        self._files, root = UrlPath(url).opened()
        self._root = root.strip("/")

    def names(self) -> list[str]:
        """What lies directly below the URL, as a folder would list it."""
        with self._reaching(), suppress(FileNotFoundError):
            found = self._files.ls(self._root, detail=False)
            return [name.rsplit("/", 1)[-1] for name in map(_bare, found) if name != self._root]
        return []

    def listing(self, prefix: str) -> dict[str, Seen]:
        """All objects whose names begin with ``prefix``, a folder that ends with a slash."""
        with self._reaching(prefix):
            found = self._files.find(self._path(prefix.rstrip("/")), detail=True)
            start = len(self._root) + 1
            return {_bare(name)[start:]: _seen(info) for name, info in found.items()}

    def get(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        with self._reaching(name), suppress(FileNotFoundError):
            return bytes(self._files.cat_file(self._path(name)))
        return None

    def look(self, name: str) -> Seen | None:
        """What the store says of an object; None if there is none."""
        with self._reaching(name), suppress(FileNotFoundError):
            return _seen(self._files.info(self._path(name)))
        return None

    def sha256(self, name: str) -> str:
        """Hash of an object, read in pieces; FileNotFoundError if there is none."""
        digest = hashlib.sha256()
        with self._reaching(name):
            with self._files.open(self._path(name), "rb", block_size=_CHUNK) as file:
                while data := file.read(_CHUNK):
                    digest.update(data)
            return digest.hexdigest()

    def put(self, name: str, data: bytes) -> None:
        """Put ``data``, and see that it arrived."""
        pieces = (data[i : i + _CHUNK] for i in range(0, len(data), _CHUNK))
        expected = _Expected(pieces, len(data), lambda: hashlib.sha256(data).hexdigest())
        with self._reaching(name):
            self._files.pipe_file(self._path(name), data, **self._in_chunks())
        self._must_hold(name, expected)

    def put_file(self, name: str, path: Path, seen: Seen | None = None) -> None:
        """Put the file ``path``, unless it is what was ``seen`` there, and see that it arrived.

        Raises OSError where the file cannot be read.
        """
        expected = _Expected(_pieces(path), path.stat().st_size, lambda: sha256_of(path))
        if seen is not None and (seen.size, seen.tag) == (expected.size, expected.tag):
            return
        with self._reaching(name):
            self._files.put_file(str(path), self._path(name), **self._in_chunks())
        self._must_hold(name, expected)

    def create(self, name: str, data: bytes) -> bool:
        """Put ``data`` where there is no object of that name; False where there is one."""
        with self._reaching(name):
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except OSError as error:  # not every store says which condition failed, as S3 does
                if isinstance(error, FileExistsError) or _code(error) in _CHANGED:
                    return False
                raise
            return True

    def replace(self, name: str, data: bytes, tag: str) -> bool:
        """Put ``data`` in place of the object with that ``tag``; False where it has changed.

        Only S3 can be asked for both in one request; of others it is looked up just before.
        """
        with self._reaching(name):
            try:
                if not self._is_s3 and (self.look(name) or _NOTHING).tag != tag:
                    return False
                more = {"IfMatch": tag} if self._is_s3 else {}
                self._files.pipe_file(self._path(name), data, **more)
            except OSError as error:
                if _code(error) in _CHANGED:
                    return False
                raise
            return True

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._reaching(name), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _in_chunks(self) -> dict[str, Any]:
        return {"chunksize": _CHUNK, "max_concurrency": _AT_ONCE} if self._is_s3 else {}

    def _must_hold(self, name: str, expected: _Expected) -> None:
        """Compare the object by its tag, or, where that is no MD5, by reading it."""
        seen = self.look(name)
        same = seen is not None and seen.size == expected.size
        if same and (seen or _NOTHING).tag != expected.tag:
            same = self.sha256(name) == expected.sha256()
        if not same:
            raise OutputError(f"{self.url}/{name}: what arrived is not what was sent")

    @contextmanager
    def _reaching(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (WsisegError, FileNotFoundError) as error:
            if isinstance(error, WsisegError) or _code(error) != "NoSuchBucket":
                raise
            raise self._error(error, name) from error
        except Exception as error:  # the libraries of stores share no kind of error
            raise self._error(error, name) from error

    def _error(self, error: Exception, name: str) -> OutputError:
        reason = _code(error) or type(error).__name__
        number = _number(error)
        remedy = "check the network, and the endpoint, region and bucket"
        if number == errno.EACCES:
            remedy = "check the credentials, and what they permit"
        where = f"{self.url}/{name}".rstrip("/")
        found = OutputError(
            f"cannot reach {where}: {reason}; {remedy}. Nothing was lost: after that, run the same "
            "command again"
        )
        found.errno = number
        return found


class _Expected:
    """Size and hash of what is sent, and the tag that S3 gives to it where that is an MD5."""

    def __init__(self, pieces: Iterable[bytes], size: int, sha256: Callable[[], str]) -> None:
        self.size, self.sha256 = size, sha256
        whole, parts = _md5(), list[bytes]()
        for data in pieces:  # of _CHUNK bytes
            if size < 2 * _CHUNK:
                whole.update(data)
            else:
                parts.append(_md5(data).digest())
        # of an object that went in parts S3 has the hash of their hashes
        joined = f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"
        self.tag = joined if parts else whole.hexdigest()


_NOTHING = Seen(0, "", None)


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _bare(name: str) -> str:
    return name.strip("/")


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            yield data


def _seen(info: dict[str, Any]) -> Seen:
    tag = info.get("ETag") or info.get("etag") or ""
    modified = info.get("LastModified") or info.get("last_modified")
    return Seen(
        int(info["size"]),
        str(tag).strip('"'),
        modified if isinstance(modified, datetime) else None,
    )


def _code(error: BaseException | None) -> str | None:
    """What a store calls the error, such as AccessDenied; None where it did not answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", "")) or None
        error = error.__cause__
    return None


def _number(error: Exception) -> int:
    """An errno by which others tell a fault of one object from one of the whole store."""
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return errno.EACCES
    if isinstance(error, OSError) and error.errno in _OWN:
        return error.errno
    return errno.ENOTCONN
