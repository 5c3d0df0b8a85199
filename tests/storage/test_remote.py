"""UrlPath: the same answers as pathlib.Path, and errors that quote nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pytest

from wsiseg.errors import MissingExtraError, SettingsError
from wsiseg.storage.remote import UrlPath, asking

DATA = bytes(range(256)) * 40


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
        (OSError(errno.EBUSY, "SECRET"), OSError, errno.ESTALE),
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
