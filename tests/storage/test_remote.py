"""UrlPath: the same answers as pathlib.Path, and errors that quote nothing."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import fsspec
import pytest

from wsiseg.errors import MissingExtraError, SettingsError
from wsiseg.storage.remote import UrlPath, asking

DATA = bytes(range(256)) * 40


class FileExpired(OSError):  # noqa: N818
    """As that of s3fs, which says so where the ETag is another."""


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.pipe({"/remote/a/x.svs": DATA, "/remote/a/b/y.dat": b"yy", "/remote/c.mrxs": b""})
    yield files
    files.rm("/remote", recursive=True)


def test_it_answers_as_a_path_does(memory: Any) -> None:
    root = UrlPath("memory://remote")
    file = root / "a" / "x.svs"
    assert (str(file), file.name, file.suffix) == ("memory://remote/a/x.svs", "x.svs", ".svs")
    assert str(file.with_suffix("")) == "memory://remote/a/x"
    assert file.parent == root / "a"
    assert (file.is_file(), file.is_dir(), file.info().size) == (True, False, len(DATA))
    assert (file.parent.is_dir(), (root / "none").is_file(), (root / "none").is_dir()) == (
        *(True, False, False),
    )
    assert file.read(300, 7) == DATA[300:307]
    assert {name: info.is_dir for name, info in root.listed().items()} == {
        "a": True,
        "c.mrxs": False,
    }
    sizes = {"a/b/y.dat": 2, "a/x.svs": len(DATA), "c.mrxs": 0}
    assert {name: info.size for name, info in root.walked().items()} == sizes
    assert [i.mark for i in root.walked().values()] == [
        (root / name).info().mark for name in root.walked()
    ]


def test_ranges_are_read_by_many_threads_at_once(memory: Any) -> None:
    ranges = UrlPath("memory://remote/a/x.svs").ranges()
    offsets = [k * 7919 % len(DATA) for k in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: ranges.read_at(at, 100), offsets))
    assert found == [DATA[at : at + 100] for at in offsets]
    assert ranges.count == sum(map(len, found))
    assert ranges.read_at(len(DATA), 5) == b""
    assert b"".join(ranges.chunks()) == DATA


@pytest.mark.parametrize(
    ("raised", "kind", "number"),
    [
        (FileNotFoundError("SECRET"), FileNotFoundError, errno.ENOENT),
        (PermissionError("SECRET"), PermissionError, errno.EACCES),
        (TimeoutError("SECRET"), TimeoutError, errno.ETIMEDOUT),
        (FileExpired(errno.EBUSY, "SECRET"), OSError, errno.ESTALE),
        (OSError(errno.EBUSY, "SECRET"), OSError, errno.EIO),  # too many requests
        (ValueError("SECRET"), OSError, errno.EIO),
    ],
)
def test_errors_tell_the_kind_and_nothing_that_a_library_said(
    raised: Exception, kind: type[OSError], number: int
) -> None:
    with pytest.raises(kind) as caught, asking("s3://bucket/a"):
        raise raised
    assert caught.value.errno == number
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_storage_that_is_not_known_is_named() -> None:
    with pytest.raises(SettingsError, match="nowhere://"):
        UrlPath("nowhere://a/b").info()


@pytest.mark.parametrize(
    ("url", "remedy"),
    [("s3://bucket/a", r'pip install "wsiseg\[s3\]"'), ("gs://bucket/a", "gcsfs")],
)
def test_a_package_that_is_not_installed_is_named(
    url: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(protocol: str) -> None:
        raise ImportError(protocol)

    monkeypatch.setattr("fsspec.get_filesystem_class", absent)
    with pytest.raises(MissingExtraError, match=remedy):
        UrlPath(url).info()


Web = Callable[..., str]


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server of one file that does what it is told; gives the URL."""
    how: dict[str, Any] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first, last = 0, len(DATA)
            if how["ranges"] and "Range" in self.headers:
                first, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                last = end + 1
            self.send_response(how["status"] if (first, last) == (0, len(DATA)) else 206)
            for name, value in how["headers"].items():
                self.send_header(name, value)
            if how["size"]:
                self.send_header("Content-Length", str(last - first))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(DATA[first:last])

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()

    def told(
        headers: dict[str, str] | None = None,
        *,
        ranges: bool = True,
        size: bool = True,
        status: int = 200,
    ) -> str:
        how.update(headers=headers or {}, ranges=ranges, size=size, status=status)
        return f"http://127.0.0.1:{server.server_port}/a.svs"

    yield told
    server.shutdown()
    server.server_close()


def test_a_web_server_that_tells_only_a_time_marks_versions(web: Web) -> None:
    time = "Sat, 21 Nov 2026 20:00:00 GMT"
    url = web({"Last-Modified": time})
    assert UrlPath(url).info().mark == time
    with closing(UrlPath(url).ranges()) as ranges:
        assert (ranges.mark, ranges.read_at(300, 7)) == (time, DATA[300:307])


@pytest.mark.parametrize("headers", [{}, {"Accept-Ranges": "none"}])
def test_the_start_of_a_file_is_never_taken_for_a_range(web: Web, headers: dict[str, str]) -> None:
    path = UrlPath(web(headers, ranges=False))
    assert path.read(0, 7) == DATA[:7]
    with pytest.raises(OSError, match="ranges") as caught:
        path.read(300, 7)
    assert caught.value.errno == errno.ENOTSUP
    with closing(path.ranges()) as ranges, pytest.raises(OSError, match=r"ranges|ValueError"):
        ranges.read_at(300, 7)


def test_a_size_that_is_not_told_is_not_zero(web: Web) -> None:
    with pytest.raises(OSError, match="size") as caught:
        UrlPath(web(size=False)).info()
    assert caught.value.errno == errno.ENOTSUP


@pytest.mark.parametrize(
    ("status", "number"), [(404, errno.ENOENT), (403, errno.EACCES), (500, errno.EIO)]
)
def test_a_web_server_that_refuses_is_not_a_missing_file(
    web: Web, status: int, number: int
) -> None:
    with pytest.raises(OSError, match=":") as caught:
        UrlPath(web(status=status)).info()
    assert caught.value.errno == number


def test_a_web_server_that_is_gone_is_not_a_missing_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match=":") as caught:
        UrlPath(f"http://127.0.0.1:{port}/a.svs").info()
    assert caught.value.errno == errno.EIO
