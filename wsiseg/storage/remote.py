"""UrlPath: a file or folder at a URL, with what readers need of pathlib.Path.

Nothing that was asked is kept, since objects may be replaced at any time. Every failure is an
OSError that names the URL and the kind of the failure: FileNotFoundError, PermissionError, ESTALE
(replaced since it was opened), ETIMEDOUT, ENOTSUP (a web server without ranges, or that tells no
size), otherwise EIO. What the library said is dropped: it may quote addresses and keys.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from wsiseg.errors import MissingExtraError, SettingsError, WsisegError
from wsiseg.storage.url import absolute, name_of, parent_of

__all__ = ["Info", "Ranges", "UrlPath", "asking"]

_TAGS = ("ETag", "etag", "content_md5", "md5Hash")
_TIMES = (
    *("LastModified", "last_modified", "Last-Modified"),
    *("mtime", "updated", "modified", "created"),
)
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> extra of ours that brings its package
_CHUNK = 8 << 20  # bytes of one request, where all of an object is read


@dataclass(frozen=True, slots=True)
class Info:
    """What storage says of a file or folder without opening it."""

    is_dir: bool
    size: int
    """Bytes."""
    mark: str
    """Changes when the file does: its ETag, otherwise its time; "" where neither is told."""

    @classmethod
    def of(cls, told: dict[str, Any]) -> Info:
        """From what fsspec tells."""
        tag = next((str(told[name]) for name in _TAGS if told.get(name)), "")
        time = next((_time(told[name]) for name in _TIMES if told.get(name)), "")
        size = told.get("size")
        return cls(told.get("type") == "directory", int(size or 0), tag.strip('"') or time)


@dataclass(frozen=True, slots=True)
class UrlPath:
    """A file or folder at an absolute URL, see ``wsiseg.storage.url.absolute``."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> UrlPath:
        return UrlPath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """Its last part."""
        return name_of(self.url)

    @property
    def suffix(self) -> str:
        """The ending of its name, with the dot."""
        return os.path.splitext(self.name)[1]

    @property
    def parent(self) -> UrlPath:
        """The folder that it lies in."""
        return UrlPath(parent_of(self.url))

    def with_suffix(self, suffix: str) -> UrlPath:
        """Its neighbour of another ending."""
        return self.parent / (os.path.splitext(self.name)[0] + suffix)

    def info(self) -> Info:
        """What it is now; FileNotFoundError where there is nothing."""
        with asking(self.url):
            files, path = self.opened()
            told = files.info(path)
        if told.get("size") is None and told.get("type") != "directory":  # some web servers
            raise OSError(errno.ENOTSUP, "its server does not tell its size", self.url)
        return Info.of(told)

    def is_file(self) -> bool:
        """Whether it is a file."""
        try:
            return not self.info().is_dir
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether anything lies below it."""
        try:
            return self.info().is_dir
        except FileNotFoundError:
            return False

    def read(self, offset: int = 0, count: int | None = None) -> bytes:
        """At most ``count`` bytes from ``offset`` of what it is now; all of them by default."""
        with asking(self.url):
            files, path = self.opened()
            if offset == 0 and count is None:
                return bytes(files.cat_file(path))
            end = None if count is None else offset + count
            data = bytes(files.cat_file(path, start=offset, end=end))
        if count is None or len(data) <= count:
            return data
        return _must_begin(data, offset, self.url)[:count]

    def listed(self) -> dict[str, Info]:
        """Name -> what it is, of the files and folders in it."""
        with asking(self.url):
            files, path = self.opened()
            told = {str(e["name"]).strip("/"): e for e in files.ls(path, detail=True)}
            told.pop(path.strip("/"), None)  # an empty object that stands for the folder
            return {name_of(name): Info.of(told[name]) for name in sorted(told)}

    def walked(self) -> dict[str, Info]:
        """Name relative to it, with slashes -> what it is, of all files below it; sorted."""
        with asking(self.url):
            files, path = self.opened()
            root = str(path).strip("/") + "/"
            found = {}
            for name, told in files.find(path, detail=True).items():
                inside = str(name).lstrip("/").removeprefix(root)
                if told.get("type") == "file" and inside and not inside.endswith("/"):
                    found[inside] = Info.of(told)
            return dict(sorted(found.items()))

    def matches(self) -> dict[str, Info]:
        """URL -> what it is, of all that match it as a pattern (``*``, ``**``, ``?``); sorted."""
        with asking(self.url):
            files, path = self.opened()
            found = files.glob(path, detail=True)
            return {absolute(files.unstrip_protocol(k)): Info.of(found[k]) for k in sorted(found)}

    def ranges(self) -> Ranges:
        """Positional reads of what it is now."""
        return Ranges(self)

    def opened(self) -> tuple[Any, str]:
        """The fsspec file system, and the path in it. Raises MissingExtraError, SettingsError."""
        protocol = self.url.partition("://")[0]
        kind = _kind(protocol)
        options = tuple(sorted(kind._get_kwargs_from_urls(self.url).items()))
        files = _filesystem(protocol, options, os.getpid())
        return files, str(kind._strip_protocol(self.url))


class Ranges:
    """Positional reads of one version of a file at a URL; thread-safe, and nothing is kept.

    Where storage can tell versions apart (S3 can), a read of a file that was replaced fails with
    ESTALE instead of returning bytes of another.
    """

    def __init__(self, path: UrlPath) -> None:
        self._path = path
        with asking(path.url):
            files, inside = path.opened()
            self._file = files.open(inside, "rb", cache_type="none")
            told = getattr(self._file, "details", None)
            info = Info.of(told if isinstance(told, dict) else {})
            if not info.mark:  # not all tell it when a file is opened
                info = Info.of(files.info(inside))
        self.size = info.size
        """Bytes."""
        self.mark = info.mark
        self._fetch = getattr(getattr(self._file, "cache", None), "fetcher", None)
        self.count = 0
        """Bytes that were fetched so far."""

    def read_at(self, offset: int, count: int) -> bytes:
        """``count`` bytes at ``offset``, fewer only at the end of the file."""
        stop = min(offset + count, self.size)
        if stop <= offset:
            return b""
        if self._fetch is None:
            data = self._path.read(offset, stop - offset)
        else:
            with asking(self._path.url):
                data = bytes(self._fetch(offset, stop))
        self.count += len(data)
        if len(data) > stop - offset:
            _must_begin(data, offset, self._path.url)
        return data[: stop - offset]

    def chunks(self) -> Iterator[bytes]:
        """All of it, in pieces of some MiB; EIO where it is shorter than was told."""
        for offset in range(0, self.size, _CHUNK):
            data = self.read_at(offset, _CHUNK)
            if len(data) != min(_CHUNK, self.size - offset):
                raise OSError(errno.EIO, "cut short while it was read", self._path.url)
            yield data

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Turn whatever fsspec raises in the block into an OSError that is safe to show."""
    try:
        yield
    except WsisegError:
        raise
    except Exception as error:
        raise _told(error, url) from None


def _must_begin(data: bytes, offset: int, url: str) -> bytes:
    """``data``, of which there is more than was asked for: all of the file, so from its start."""
    if offset:
        raise OSError(errno.ENOTSUP, "its server does not give ranges of bytes", url)
    return data


def _told(error: BaseException, url: str) -> OSError:
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and _is_of_http(cause):
        return _told(cause, url)  # fsspec calls so whatever a web server says
    number = error.errno if isinstance(error, OSError) else None
    status = getattr(error, "status", None)  # of HTTP
    if isinstance(error, FileNotFoundError | NotADirectoryError) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "no such file", url)
    if isinstance(error, PermissionError) or status in (401, 403):
        return PermissionError(errno.EACCES, "access denied", url)
    if type(error).__name__ == "FileExpired" or number == errno.ESTALE:  # s3fs: another ETag
        return OSError(errno.ESTALE, "replaced while it was read", url)
    if isinstance(error, TimeoutError):
        return OSError(errno.ETIMEDOUT, "no answer", url)
    busy = number == errno.EBUSY  # s3fs: too many requests
    return OSError(errno.EIO, "the storage is busy" if busy else type(error).__name__, url)


def _is_of_http(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or type(error).__module__.startswith("aiohttp")


def _kind(protocol: str) -> Any:
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    try:
        return get_filesystem_class(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = known_implementations.get(protocol, {}).get("err", f"{protocol}:// needs a package")
        raise MissingExtraError(
            f'{protocol}:// needs s3fs: pip install "wsiseg[{extra}]"' if extra else hint
        ) from error
    except ValueError as error:
        raise SettingsError(f"{protocol}:// is no storage that fsspec knows") from error


@lru_cache(maxsize=64)
def _filesystem(protocol: str, options: tuple[tuple[str, Any], ...], process: int) -> Any:
    # ours alone, since it must not remember listings, as fsspec's shared ones do
    files = _kind(protocol)(**dict(options), skip_instance_cache=True)
    files.dircache.use_listings_cache = False
    return files


def _time(value: Any) -> str:
    # the same text for the same time, which file systems tell in different ways
    seconds = value.timestamp() if isinstance(value, datetime) else value
    return f"{seconds:.6f}" if isinstance(seconds, int | float) else str(seconds)
