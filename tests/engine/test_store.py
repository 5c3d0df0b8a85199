"""A run folder keeps what is done, whatever ends the run, and never touches files of others."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsiseg.atomic import atomic_write, temporary_name
from wsiseg.engine import results as module
from wsiseg.engine.store import FINAL_FILES, WORK, RegionStore, RunFolder
from wsiseg.errors import (
    ForeignFolderError,
    KeyMismatchError,
    LockedError,
    OutputError,
    RunFolderError,
)

PARTS = {"slide": {"size": 10}, "model": "m", "mpp": 0.5}
GRID = {"region": [512, 512], "lattice": [997, 1013]}
ARRAYS = {
    "runs": np.arange(12, dtype=np.int64).reshape(4, 3),
    "area": np.array([1.5, 2.5], np.float32),
    "none": np.zeros((0, 5), np.int32),
    "flag": np.array([True, False]),
}


def start(path: Path, *, key: str = "k", **changes: Any) -> RunFolder:
    return RunFolder.open(path, **{"key": key, "parts": PARTS, "grid": GRID, **changes})


def saved(path: Path, *numbers: int) -> None:
    with start(path) as run:
        for number in numbers:
            run.save(number, ARRAYS, {"n": number})


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def region_file(path: Path, number: int) -> Path:
    return path / WORK / "regions" / f"{number:08d}.wsr"


# what is kept


def test_a_result_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    with start(tmp_path / "out") as run:
        run.save(7, ARRAYS, {"dropped": {"small": 3}})
        arrays, meta = run.load(7)
        assert run.done() == run.verified() == {7}
        assert not run.resumed
    assert meta == {"dropped": {"small": 3}}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_the_same_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    saved(tmp_path, 0, 3)
    with start(tmp_path) as run:
        assert run.resumed
        assert run.verified() == {0, 3}
        assert run.load(3)[1] == {"n": 3}
        run.save(4, ARRAYS, {})
    with start(tmp_path) as run:
        assert run.done() == {0, 3, 4}
        assert run.recomputed == 0


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    saved(tmp_path / "a", 5)
    saved(tmp_path / "b", 5, 5)
    assert (
        region_file(tmp_path / "a", 5).read_bytes() == region_file(tmp_path / "b", 5).read_bytes()
    )


def test_the_result_of_a_stage_is_kept_too(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.kept("tissue") is None
        run.keep("tissue", {"mask": np.ones((3, 2), bool)}, {"mm2": 1.5})
    with start(tmp_path) as run:
        arrays, meta = run.kept("tissue") or ({}, {})
        assert arrays["mask"].all()
        assert meta == {"mm2": 1.5}
        for name in ("../tissue", "Tissue", "", "00000001"):
            with pytest.raises(RunFolderError, match="a stage has a name"):
                run.keep(name, {}, {})


def test_a_resumed_run_keeps_its_grid_and_says_so(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with start(tmp_path, grid={**GRID, "region": (512, 512)}) as run:
        assert not run.grid_changed
    with start(tmp_path, grid={**GRID, "region": (1000, 1000)}) as run:
        assert run.grid_changed
        assert run.grid == GRID
        assert run.done() == {1}


def test_a_region_number_is_not_negative(tmp_path: Path) -> None:
    with start(tmp_path) as run, pytest.raises(RunFolderError, match="number >= 0, got -1"):
        run.save(-1, {}, {})


# what is not resumed


def test_another_key_says_which_parts_differ(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    before = snapshot(tmp_path)
    parts = {**PARTS, "slide": {"size": 11}}
    with pytest.raises(KeyMismatchError, match=r"\(slide\.size: 10 -> 11\).*--fresh") as caught:
        start(tmp_path, key="other", parts=parts)
    assert "mpp" not in str(caught.value)
    with pytest.raises(KeyMismatchError, match="key: k -> other"):
        start(tmp_path, key="other")
    assert snapshot(tmp_path) == before
    saved(tmp_path, 2)  # and it can still be resumed, so its lock is free


def test_a_run_that_must_not_be_resumed_is_refused(tmp_path: Path) -> None:
    start(tmp_path, resume=False).close()
    with pytest.raises(RunFolderError, match="already holds this run"):
        start(tmp_path, resume=False)


def test_fresh_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious"
    precious.write_text("precious")
    saved(out, 1, 2)
    with start(out) as run:
        run.keep("tissue", {}, {})
        for name in FINAL_FILES[:-1]:
            run.file(name).write_text("old")
    (out / FINAL_FILES[-1]).symlink_to(precious)
    (out / "notes.txt").write_text("mine")
    (out / "folder").mkdir()
    with start(out, key="other", grid={"region": [64]}, fresh=True) as run:
        assert run.done() == set()
        assert run.kept("tissue") is None
        assert run.grid == {"region": [64]}
        assert not run.resumed
        assert sorted(os.listdir(out)) == [WORK, "folder", "notes.txt"]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("text", ["", "{", '{"schema": 99}'])
def test_a_damaged_manifest_is_never_restarted_silently(tmp_path: Path, text: str) -> None:
    saved(tmp_path, 1)
    (tmp_path / WORK / "manifest.json").write_text(text)
    before = snapshot(tmp_path)
    with pytest.raises(RunFolderError, match="--fresh"):
        start(tmp_path)
    assert snapshot(tmp_path) == before
    with start(tmp_path, fresh=True) as run:
        assert run.done() == set()


def test_a_second_run_is_refused_while_the_first_works(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        for options in ({}, {"fresh": True}, {"key": "other"}):
            with pytest.raises(LockedError):
                start(tmp_path, **options)
        run.save(1, ARRAYS, {})


# folders and files of others


def foreign(tmp_path: Path, kind: str) -> tuple[Path, str]:
    """A path that is not ours, and what the error has to name."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    if kind == "file":
        out.write_text("a file")
        return out, "is a file"
    out.mkdir()
    elsewhere.mkdir()
    if kind == "stranger":
        (out / "thesis.docx").write_text("years of work")
        return out, "thesis.docx"
    if kind == "beside":
        (out / WORK).mkdir()
        (out / "cells.parquet").write_text("not by us")
        return out, "cells.parquet"
    if kind == "inside":
        (out / WORK).mkdir()
        (out / WORK / "config").write_text("another tool's")
        return out, "config"
    if kind == "work file":
        (out / WORK).write_text("")
        return out, WORK
    if kind == "work link":
        shutil.copytree(made(tmp_path) / WORK, elsewhere / WORK)
        (out / WORK).symlink_to(elsewhere / WORK)
        return out, WORK
    shutil.copytree(made(tmp_path) / WORK, out / WORK)
    shutil.rmtree(out / WORK / "regions")
    (out / WORK / "regions").symlink_to(elsewhere)
    return out, "regions"


def made(tmp_path: Path) -> Path:
    saved(tmp_path / "made", 1)
    return tmp_path / "made"


@pytest.mark.parametrize(
    "kind", ["file", "stranger", "beside", "inside", "work file", "work link", "regions link"]
)
@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_not_ours_is_never_written(tmp_path: Path, kind: str, fresh: bool) -> None:
    out, named = foreign(tmp_path, kind)
    before = snapshot(tmp_path)
    with pytest.raises(ForeignFolderError, match=rf"{named}.*--out"):
        start(out, fresh=fresh)
    assert snapshot(tmp_path) == before
    assert not list(tmp_path.rglob("lock"))


def test_a_run_killed_before_its_first_manifest_is_ours(tmp_path: Path) -> None:
    (tmp_path / WORK / "regions").mkdir(parents=True)
    (tmp_path / WORK / temporary_name()).touch()
    with start(tmp_path) as run:
        assert not run.resumed
        assert sorted(os.listdir(tmp_path / WORK)) == ["lock", "manifest.json", "regions"]


def test_a_folder_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with start(tmp_path / "link") as run:
        assert run.path == tmp_path / "real"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "x", ".wsiseg/lock", ""])
def test_final_files_have_known_names(tmp_path: Path, name: str) -> None:
    with start(tmp_path) as run:
        assert run.file("run.json") == tmp_path / "run.json"
        with pytest.raises(RunFolderError, match=r"run\.json"):
            run.file(name)


def test_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for folder in (tmp_path, tmp_path / WORK, tmp_path / WORK / "regions"):
        (folder / temporary_name("ab")).write_bytes(b"half a result")
    with start(tmp_path):
        assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]


# damage


def test_a_flipped_bit_at_any_position_is_found_and_counted(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    whole = region_file(tmp_path, 1).read_bytes()
    with start(tmp_path) as run:
        for at in range(len(whole)):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            region_file(tmp_path, 1).write_bytes(damaged)
            with pytest.raises(RunFolderError, match="damaged"):
                run.load(1)
            if at % 16 == 0:  # each count is a synced manifest
                assert not run.verify(1)
        assert run.recomputed == -(-len(whole) // 16)
    with start(tmp_path) as run:
        assert run.recomputed == -(-len(whole) // 16)


def test_a_damaged_result_is_computed_anew(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    whole = region_file(tmp_path, 2).read_bytes()
    region_file(tmp_path, 2).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    region_file(tmp_path, 3).write_bytes(whole[:50])
    with start(tmp_path) as run:
        assert run.done() == {1, 2}
        assert run.verified() == {1}
        assert not run.verify(9)  # absent, which is no damage
        assert run.recomputed == 1
        run.save(2, ARRAYS, {"n": 2})
        assert run.verified() == {1, 2}
    assert region_file(tmp_path, 2).read_bytes() == whole


def test_results_of_another_key_grid_or_place_are_ignored_and_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    saved(out, 1)
    for name, options in [("a", {"key": "other"}), ("b", {"grid": {"region": [64]}})]:
        with start(tmp_path / name, **options) as run:
            run.save(2, ARRAYS, {})
        shutil.copy(region_file(tmp_path / name, 2), region_file(out, 2 if name == "a" else 3))
    shutil.copy(region_file(out, 1), region_file(out, 4))
    region_file(out, 5).with_name("²³.wsr").write_bytes(b"")
    with start(out) as run:
        assert run.done() == {1}
    assert os.listdir(out / WORK / "regions") == ["00000001.wsr"]


def test_what_cannot_be_read_today_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with start(tmp_path) as run:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", fail)
            patch.setattr(Path, "read_bytes", fail)
            assert run.done() == set()
            assert not run.verify(1)
        assert run.verified() == {1}
        assert run.recomputed == 0


# workers and fences

WORKER = """
import pickle, sys
import numpy as np
store = pickle.load(sys.stdin.buffer)
store.save(11, {"x": np.arange(3)}, {"by": "worker"})
"""


def work(store: RegionStore) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", WORKER], input=pickle.dumps(store), capture_output=True
    )


def test_a_worker_process_saves_for_its_run_and_for_no_other(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert work(run.store).returncode == 0
        assert run.load(11)[1] == {"by": "worker"}
    ended = work(run.store)
    assert ended.returncode == 1
    assert b"fenced" in ended.stderr


@pytest.mark.parametrize("options", [{}, {"fresh": True}, {"fresh": True, "key": "other"}])
def test_a_late_writer_is_fenced_off(tmp_path: Path, options: dict[str, Any]) -> None:
    old = start(tmp_path)
    old.close()
    with start(tmp_path, **options) as new:
        with pytest.raises(RunFolderError, match="fenced"):
            old.save(1, ARRAYS, {})
        assert new.done() == set()
    assert os.listdir(tmp_path / WORK / "regions") == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_succeeded_while_it_writes_is_fenced_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its file is swept by the successor, or comes after the sweep: neither is published."""
    old, successors = start(tmp_path), []
    write_new = module.write_new

    def slow_write(path: Path, parts: list[bytes], **how: bool) -> None:
        if when == "after":
            write_new(path, parts, **how)
        old.close()
        monkeypatch.setattr(module, "write_new", write_new)
        successors.append(start(tmp_path))
        if when == "before":
            write_new(path, parts, **how)

    monkeypatch.setattr(module, "write_new", slow_write)
    with pytest.raises(RunFolderError, match="fenced"):
        old.save(1, ARRAYS, {})
    assert os.listdir(tmp_path / WORK / "regions") == []
    successors[0].close()


def test_a_folder_removed_under_a_run_is_a_typed_error(tmp_path: Path) -> None:
    with start(tmp_path / "out") as run:
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(RunFolderError, match="the folder was removed"):
            run.save(1, ARRAYS, {})
        with pytest.raises(OutputError, match="ENOENT"), atomic_write(run.file("run.json")):
            pass
        assert run.done() == set()


def test_the_manifest_lists_every_run_by_its_token(tmp_path: Path) -> None:
    tokens = []
    for _ in range(3):
        with start(tmp_path) as run:
            tokens.append(run.token)
    manifest = json.loads((tmp_path / WORK / "manifest.json").read_text())
    assert manifest["tokens"] == tokens
    assert manifest["parts"] == PARTS
    assert manifest["grid"] == GRID
