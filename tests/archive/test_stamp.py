"""Stamps: cheap, in order, and different whenever an input may have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsiseg.archive.stamp import Stamp, stamps_of


def stamp(path: Path, *, full: bool = False) -> Stamp | None:
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
