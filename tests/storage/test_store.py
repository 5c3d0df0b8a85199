"""Objects of a store: put whole and verified, created and replaced under conditions."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from wsiseg.errors import OutputError, SettingsError
from wsiseg.storage.store import Store

MIB = 1 << 20


@pytest.fixture
def store(bucket: Any) -> Store:
    return Store("s3://archives/night/one")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("size", [0, 997, 33 * MIB + 7])
def test_a_file_arrives_as_it_is_in_one_piece_or_in_parts(
    bucket: Any, store: Store, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    names = ("a [1] é#%+&/x.parquet", "b")
    puts: list[str] = []
    store.put_file(names[0], path)
    store.put(names[1], path.read_bytes())
    for name in names:
        assert bucket.get(name) == path.read_bytes()
        assert store.sha256(name) == sha256(path.read_bytes()).hexdigest()
    assert {name: seen.size for name, seen in store.listing("").items()} == dict.fromkeys(
        names, size
    )
    bucket.before = lambda method, _: puts.append(method)
    store.put_file(names[0], path, store.listing("")[names[0]])  # it is there
    assert "PUT" not in puts


@pytest.mark.timeout(100)
def test_what_arrives_as_something_else_is_an_error(
    bucket: Any, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"sound")

    def damage(method: str, where: str) -> None:
        if method == "HEAD":
            bucket.before = lambda *_: None
            bucket.put("x", b"wrong")

    bucket.before = damage
    with pytest.raises(OutputError, match="not what was sent"):
        store.put("x", b"sound")
    store.put_file("x", path)
    assert bucket.get("x") == b"sound"


@pytest.mark.timeout(100)
def test_create_and_replace_keep_what_others_have_put(bucket: Any, store: Store) -> None:
    assert store.create("x", b"1")
    assert not store.create("x", b"2")
    seen = store.look("x")
    assert seen is not None
    assert store.replace("x", b"3", seen.tag)
    assert not store.replace("x", b"4", seen.tag)
    assert not store.replace("y", b"5", seen.tag)
    assert bucket.names() == ["x"]
    assert bucket.get("x") == b"3"
    assert (store.get("y"), store.look("y")) == (None, None)
    store.remove("y")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "answer",
    [
        ("412 Precondition Failed", b"<Error><Code>PreconditionFailed</Code></Error>"),
        ("409 Conflict", b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
    ],
)
def test_a_refused_creation_is_told_however_the_store_words_it(
    bucket: Any, store: Store, answer: tuple[str, bytes]
) -> None:
    bucket.answer = answer
    assert not store.create("x", b"1")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/archive", "s3://", "https://host/archive", "s3://bucket/a?versionId=1"),
        "memory://archive",
    ],
)
def test_a_place_where_objects_may_be_torn_or_do_not_stay_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="cannot hold an archive"):
        Store(url)


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(bucket: Any) -> None:
    with pytest.raises(OutputError, match=r"s3://nowhere/a.*NoSuchBucket"):
        Store("s3://nowhere/a").put("x", b"")
