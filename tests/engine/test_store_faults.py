"""Full and read-only disks, limits and kills leave a run folder that can be resumed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsiseg.engine.store import WORK, RunFolder
from wsiseg.errors import OutputError

PARTS = {"slide": {"size": 10}, "model": "m", "mpp": 0.5}
GRID = {"region": [512, 512], "lattice": [997, 1013]}
ARRAYS = {"runs": np.arange(12, dtype=np.int64).reshape(4, 3)}


def start(path: Path, *, key: str = "k", **changes: Any) -> RunFolder:
    return RunFolder.open(path, **{"key": key, "parts": PARTS, "grid": GRID, **changes})


def saved(path: Path, *numbers: int) -> None:
    with start(path) as run:
        for number in numbers:
            run.save(number, ARRAYS, {"n": number})


# disks


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    """A file system of 128 KiB."""
    return disk_of(128)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


def test_a_full_disk_leaves_a_resumable_folder(small_disk: Path) -> None:
    big = {"x": np.zeros(2500, np.float64)}
    out = small_disk / "out"
    with start(out) as run:
        with pytest.raises(OutputError, match=r"ENOSPC.*same command again"):
            save_many(run, big)
        full = len(run.done())
    assert 2 <= full < 8
    with pytest.raises(OutputError, match="ENOSPC"):
        fill_and_open(small_disk, out)
    (small_disk / "filler").unlink()
    remount(small_disk, "size=4m")
    with start(out) as run:
        assert run.verified() == set(range(full))
        run.save(full, big, {})
        assert run.verified() == set(range(full + 1))


def save_many(run: RunFolder, arrays: dict[str, Any]) -> None:
    for number in range(100):
        run.save(number, arrays, {})


def fill_and_open(disk: Path, out: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                break
    start(out)


def test_a_read_only_folder_is_a_typed_error(small_disk: Path) -> None:
    saved(small_disk / "old", 1)
    remount(small_disk, "ro")
    for out in (small_disk / "new", small_disk / "old"):
        with pytest.raises(OutputError, match=r"EROFS.*--out"):
            start(out)
    remount(small_disk, "rw")
    with start(small_disk / "old") as run:
        assert run.verified() == {1}


def test_a_file_size_limit_leaves_a_resumable_folder(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
from wsiseg.engine.store import RunFolder
from wsiseg.errors import OutputError
parts, grid = eval(sys.argv[2])
with RunFolder.open(sys.argv[1], key="k", parts=parts, grid=grid) as run:
    run.save(0, {"x": np.zeros(100)}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        run.save(1, {"x": np.zeros(1000)}, {})
    except OutputError as error:
        print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), repr((PARTS, GRID))],
        capture_output=True,
        text=True,
    )
    assert "EFBIG" in ran.stdout, ran.stderr
    with start(tmp_path) as run:
        assert run.verified() == {0}
        assert not list((tmp_path / WORK / "regions").glob(".*"))


@pytest.mark.parametrize(
    ("path", "code"), [("/proc/wsiseg", "ENOENT"), ("/sys/wsiseg", "E"), ("/dev/null/x", "ENOTDIR")]
)
def test_a_place_that_takes_no_folder_is_a_typed_error(path: str, code: str) -> None:
    with pytest.raises(OutputError, match=rf"{code}.*--out"):
        start(Path(path))


def test_a_path_with_a_nul_or_too_long_a_name_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a path"):
        start(tmp_path / "a\0b")
    with pytest.raises(OutputError, match="ENAMETOOLONG"):
        start(tmp_path / ("x" * 256))


# kills

SAVER = """
import sys
import numpy as np
from wsiseg.engine.store import RunFolder
parts, grid = eval(sys.argv[2])
with RunFolder.open(sys.argv[1], key="k", parts=parts, grid=grid) as run:
    print("open", flush=True)
    done = run.done()
    for number in range(100_000):
        if number not in done:
            run.save(number, {"x": np.full(number * 997 % 50_000, number)}, {"n": number})
"""


def kill_savers(out: Path, kills: int, seed: int) -> int:
    """Kill a saving process again and again, checking the folder each time; regions done."""
    chance = random.Random(seed)
    before: set[int] = set()
    for _ in range(kills):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(out), repr((PARTS, GRID))], stdout=subprocess.PIPE
        )
        assert saver.stdout is not None
        if chance.random() < 0.7:  # else it dies while it starts
            saver.stdout.readline()
        time.sleep(chance.random() * 0.2)
        saver.kill()
        saver.communicate()
        before = check_after_kill(out, before)
    return len(before)


def check_after_kill(out: Path, before: set[int]) -> set[int]:
    with start(out) as run:
        done = run.done()
        assert run.verified() == done >= before
        for number in done - before:
            arrays, meta = run.load(number)
            assert meta == {"n": number}
            assert arrays["x"].tolist() == [number] * (number * 997 % 50_000)
        assert run.recomputed == 0
        names = os.listdir(out / WORK / "regions")
    assert sorted(names) == [f"{number:08d}.wsr" for number in sorted(done)]
    return done


def test_nothing_partial_has_a_final_name_after_kills(tmp_path: Path) -> None:
    assert kill_savers(tmp_path / "out", kills=4, seed=2) > 0


@pytest.mark.soak
def test_nothing_partial_has_a_final_name_after_many_kills(tmp_path: Path) -> None:
    assert kill_savers(tmp_path / "out", kills=100, seed=3) > 0
