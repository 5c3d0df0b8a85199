"""A file appears whole or not at all, whatever fails."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wsiseg.atomic import (
    atomic_path,
    atomic_write,
    make_folder,
    output_error,
    remove_temporaries,
    temporary_name,
    write_new,
)
from wsiseg.errors import LockedError, OutputError


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    """A file system of 64 KiB."""
    return disk_of(64)


def test_the_new_content_replaces_the_old_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_file_is_synced_before_its_renaming_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noted_replace(old: Path, new: Path) -> None:
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"1")
    assert calls == ["file", "rename", "folder"]


def test_an_error_in_the_block_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(bytes([1 // (file.write(b"half") - 4)]))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_writer_that_opens_files_itself_is_atomic_too(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_is_replaced_and_never_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside.txt", tmp_path / "inside.txt"
    outside.write_text("precious")
    inside.symlink_to(outside)
    with atomic_write(inside) as file:
        file.write(b"ours")
    assert outside.read_text() == "precious"
    assert not inside.is_symlink()
    assert inside.read_text() == "ours"


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with atomic_write(path) as file:
        file.write(b"1")
    assert path.read_bytes() == b"1"


def test_a_full_disk_ends_in_a_typed_error_and_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "a.bin"
    path.write_bytes(b"old")
    with (
        pytest.raises(OutputError, match=r"ENOSPC.*free some space") as caught,
        atomic_write(path) as file,
    ):
        file.write(bytes(1 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["a.bin"]


def test_a_new_file_that_does_not_fit_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        write_new(small_disk / "a", [bytes(1 << 20)])
    assert os.listdir(small_disk) == []
    write_new(small_disk / "a", [b"1", b"2"])
    assert (small_disk / "a").read_bytes() == b"12"
    with pytest.raises(FileExistsError):
        write_new(small_disk / "a", [b"3"])
    assert (small_disk / "a").read_bytes() == b"12"


def test_a_read_only_file_system_ends_in_a_typed_error(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match=r"EROFS.*read-only"), atomic_write(small_disk / "a") as f:
        f.write(b"1")
    with pytest.raises(OutputError, match="EROFS"):
        make_folder(small_disk / "new")


def test_a_file_size_limit_ends_in_a_typed_error(tmp_path: Path) -> None:
    code = """
import resource, sys
from wsiseg.atomic import atomic_write
from wsiseg.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with atomic_write(sys.argv[1]) as file:
        file.write(bytes(10_000))
except OutputError as error:
    print(error)
"""
    path = tmp_path / "a.bin"
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "EFBIG" in run.stdout
    assert "ulimit -f" in run.stdout
    assert os.listdir(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096  # the limit was the child's only


def test_a_folder_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="ENOTDIR"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="EEXIST"):
        make_folder(tmp_path / "file")


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="EISDIR"), atomic_write(tmp_path / "a") as file:
        file.write(b"1")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_every_error_names_the_path_the_reason_and_what_to_do(code: int) -> None:
    text = str(output_error(OSError(code, "whatever"), "a/b"))
    assert "a/b" in text
    assert errno.errorcode[code] in text
    assert "--out" in text


def test_errors_of_ours_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(LockedError, match="mine"), atomic_write(tmp_path / "a"):
        raise LockedError("mine")


def test_only_our_temporaries_are_swept(tmp_path: Path) -> None:
    keep = ["a.tmp", ".wsiseg-notes.tmp", ".hidden"]
    for name in [*keep, temporary_name(), temporary_name("ab12")]:
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(keep)
