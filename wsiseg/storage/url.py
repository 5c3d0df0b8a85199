"""Where a thing lies: a path of this machine, or a URL of a protocol that fsspec knows.

``file://`` is a path of this machine, unquoted as URLs are. Keys of storage come from the
environment and from the configuration of fsspec, never from a URL, since URLs are written down.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from urllib.request import url2pathname

from wsiseg.errors import SettingsError

__all__ = ["absolute", "is_url", "name_of", "parent_of"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_SQUEEZED = re.compile(r"(s3|s3a|gs|gcs|az|abfs|abfss|https?|file|memory):/(?!/)")
# user:password@; a password may have slashes, and what follows a colon may be a port, or an ARN
_KEYS = re.compile(r"://([^/]*:[^/]*@|(?!arn:)[^/:]*:(?!\d*/)[^@]*@)")
_SIGNED = re.compile(
    r"[?&](x-(amz|goog)-)?(sig|signature|credential|(security-)?token|delegation|password)=", re.I
)
_HTTP = ("http", "https")


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether ``text`` is a URL, that of a local file included.

    >>> is_url("s3://bucket/a.svs"), is_url("a.svs"), is_url("C:/a.svs")
    (True, False, False)
    """
    return isinstance(text, str) and _URL.match(text) is not None


def absolute(text: str | os.PathLike[str], base: str | os.PathLike[str] = "") -> str:
    """``text``, relative to ``base`` (a folder, or the URL of one), as absolute path or URL.

    Raises SettingsError for a URL that carries keys, for ``file://`` of another host, and for a
    Path made of a URL, which has lost a slash.

    >>> absolute("file:///a%20b.svs"), absolute("x/a.svs", "s3://bucket/slides")
    ('/a b.svs', 's3://bucket/slides/x/a.svs')
    """
    if isinstance(text, PurePath) and _SQUEEZED.match(str(text)):
        raise SettingsError(f"{text} was a URL before it became a Path: give it as text")
    text = os.fspath(text)
    match = _URL.match(text)
    if match is None:
        if is_url(base) and not os.path.isabs(text):
            return absolute(f"{str(base).rstrip('/')}/{text.removeprefix('./')}")
        return os.path.abspath(os.path.join(base, text))
    scheme, rest = match[1].lower(), text[match.end() :]
    if scheme == "file":
        return _local(text, rest)
    signed = _SIGNED.search(rest) or (scheme in _HTTP and "?" in rest)
    if signed or _KEYS.match(text, len(match[1])):
        where = re.split("[/?]", rest.rpartition("@")[2])[0]
        shown = f"{where}/..." if "@" not in rest or "?" not in rest else "..."
        raise SettingsError(
            f"{scheme}://{shown}: a URL with a password or a signature in it would be written into "
            "results: leave it out, and give keys by the environment or the configuration of fsspec"
        )
    return f"{scheme}://{rest.rstrip('/')}"


def name_of(text: str) -> str:
    """The last part of an absolute path or URL."""
    return text.rstrip("/").rpartition("/")[2] if is_url(text) else Path(text).name


def parent_of(text: str) -> str:
    """The folder of an absolute path or URL.

    >>> parent_of("s3://bucket/a/b.svs"), parent_of("/a/b.svs")
    ('s3://bucket/a', '/a')
    """
    return text.rstrip("/").rpartition("/")[0] if is_url(text) else str(Path(text).parent)


def _local(text: str, rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise SettingsError(f"{text}: a file:// URL of this machine is file:///FOLDER/NAME")
    return os.path.abspath(url2pathname(f"/{path}"))
