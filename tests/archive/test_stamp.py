"""Stamps: cheap, in order, and different whenever an input may have changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
import pytest

from wsiseg.archive.stamp import Look, Stamp, Unreachable, stamps_of
from wsiseg.image.parts import series_uid
from wsiseg.storage.remote import Info, UrlPath


def stamp(path: Path | str, *, full: bool = False) -> Look:
    (found,) = stamps_of([str(path)], full=full)
    return found


def test_stamps_come_in_order_and_none_for_what_is_not_there(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.svs" for i in range(3000)]
    for i, path in enumerate(paths):
        if i % 3:
            path.write_bytes(b"x" * (i % 50))
    found = list(stamps_of(map(str, paths)))
    assert [s is None for s in found] == [i % 3 == 0 for i in range(3000)]
    assert [s.bytes for s in found if s] == [i % 50 for i in range(3000) if i % 3]


@pytest.mark.parametrize("name", ["a.svs", "a.mrxs", "a.dcm", "a.zarr"])
def test_a_change_of_size_or_time_changes_the_stamp(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    target = path
    if name.endswith(".zarr"):
        path.mkdir()
        target = path / "0"
    target.write_bytes(b"x" * 50)
    first = stamp(path)
    assert stamp(path) == first
    os.utime(target, (1e9, 1e9))
    second = stamp(path)
    target.write_bytes(b"x" * 51)
    assert len({first, second, stamp(path)}) == 3


def test_the_folder_of_an_mrxs_slide_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"y" * 100)
    first = stamp(path)
    assert first is not None
    assert first.bytes == 101
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"y" * 90)
    assert stamp(path) != first


def test_a_full_stamp_sees_one_byte_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    data = bytearray(5 << 20)
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))
    quick, full = stamp(path), stamp(path, full=True)
    data[2 << 20] = 1
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))
    assert stamp(path) == quick
    assert stamp(path, full=True) != full


def test_odd_inputs_have_stamps_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere")
    assert stamp(tmp_path / "pipe.svs") is not None
    assert stamp(tmp_path / "gone.svs") is None
    assert stamp(Path("nul\0.svs")) is None


@pytest.mark.parametrize("full", [False, True])
def test_a_share_that_is_not_mounted_is_not_a_missing_file(full: bool, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    found = stamp(tmp_path / "mount" / "project" / "a.svs", full=full)
    assert isinstance(found, Unreachable)
    (tmp_path / "mount" / "other").write_bytes(b"")
    assert stamp(tmp_path / "mount" / "project" / "a.svs", full=full) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_storage_that_does_not_answer_is_not_a_missing_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")

    def silent(*_: object, **__: object) -> None:
        raise OSError(number, "SECRET")

    monkeypatch.setattr("wsiseg.archive.stamp.os.stat", silent)
    found = stamp(tmp_path / "a.svs")
    monkeypatch.undo()
    assert found == Unreachable(errno.errorcode[number])


def test_each_dicom_file_of_a_folder_is_looked_into_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(60):
        head = bytes(128) + b"DICM" + b"\x20\x00\x0e\x00UI\x04\x00" + f"1.{i // 2:02}".encode()
        (tmp_path / f"{i:02}.dcm").write_bytes(head + bytes(i))
    looked: list[Path] = []

    def counted(path: Path) -> bytes | None:
        looked.append(path)
        return series_uid(path)

    monkeypatch.setattr("wsiseg.archive.stamp.series_uid", counted)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    first = list(stamps_of(paths))
    assert sorted(looked) == sorted(tmp_path.iterdir())
    assert len(set(first)) == 30  # the two of a series are one slide
    os.utime(tmp_path / "07.dcm", (1e9, 1e9))
    second = list(stamps_of(paths))
    assert [i for i, pair in enumerate(zip(first, second, strict=True)) if len(set(pair)) > 1] == [
        6,
        7,
    ]


def test_objects_have_stamps_without_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    names = [f"{i:03}.svs" for i in range(200)]
    names += ["m.mrxs", "m/Data.dat", "z.zarr/.zattrs", "z.zarr/0/0", "d.dcm"]
    for name in names:
        memory.pipe(f"/stamps/{name}", b"x" * 50)
    listings = []

    def listed(self: UrlPath) -> object:
        listings.append(str(self))
        return real(self)

    real = UrlPath.listed
    monkeypatch.setattr(UrlPath, "listed", listed)
    monkeypatch.setattr(UrlPath, "read", lambda *_: pytest.fail("was opened"))
    monkeypatch.setattr(UrlPath, "ranges", lambda *_: pytest.fail("was opened"))
    urls = [f"memory://stamps/{n}" for n in (*names[:200], "m.mrxs", "z.zarr", "d.dcm", "none.svs")]
    first = list(stamps_of(urls))
    assert first[-1] is None
    assert {look.bytes for look in first[:200] if isinstance(look, Stamp)} == {50}
    assert len(listings) == 1  # of many in one folder
    assert list(stamps_of(urls)) == first == [stamp(url) for url in urls]
    for changed in ("007.svs", "m/Data.dat", "z.zarr/0/0", "d.dcm"):
        memory.pipe(f"/stamps/{changed}", b"x" * 50)
    second = list(stamps_of(urls))
    assert [i for i in range(204) if second[i] != first[i]] == [7, 200, 201, 202]
    memory.rm("/stamps", recursive=True)


@pytest.mark.parametrize(
    ("error", "reason", "most"),
    [
        (PermissionError("SECRET"), "access denied", 5000),
        (RuntimeError("SECRET"), "memory://stamps does not answer", 50),  # is not asked for ever
    ],
)
def test_a_store_that_refuses_or_is_silent_is_unreachable(
    error: Exception, reason: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = []

    def asked(*_: object, **__: object) -> None:
        questions.append(1)
        raise error

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", asked)
    urls = [f"memory://stamps/{i}/a.svs" for i in range(5000)]
    assert set(stamps_of(urls)) == {Unreachable(reason)}
    assert len(questions) <= most


def test_a_store_that_stumbles_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, questions = fsspec.filesystem("memory"), []
    memory.pipe("/stamps/a.svs", b"x")
    real = type(memory).info

    def stumbles(*args: object, **how: object) -> object:
        questions.append(1)
        if len(questions) < 4:
            raise RuntimeError
        return real(*args, **how)

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", stumbles)
    assert isinstance(stamp("memory://stamps/a.svs"), Stamp)


def test_one_object_that_cannot_be_looked_at_says_nothing_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = fsspec.filesystem("memory")
    urls = [f"memory://stamps/{i}/a.svs" for i in range(60)]
    for url in urls:
        memory.pipe(url, b"x")
    real = type(memory).info

    def refused(self: object, path: str, **how: object) -> object:
        if path.endswith("/7/a.svs"):
            raise RuntimeError
        return real(self, path, **how)

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", refused)
    found = list(stamps_of(urls))
    assert [i for i, look in enumerate(found) if not isinstance(look, Stamp)] == [7]
    assert isinstance(found[7], Unreachable)
    monkeypatch.undo()
    memory.rm("/stamps", recursive=True)


def test_web_servers_are_not_asked_for_listings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UrlPath, "listed", lambda *_: pytest.fail("was listed"))
    monkeypatch.setattr(UrlPath, "info", lambda _: Info(False, 50, "tag"))
    urls = [f"https://host/{i}.svs" for i in range(20)]
    assert list(stamps_of(urls)) == [Stamp(50, "50:tag")] * 20
