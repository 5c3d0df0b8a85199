"""Slides that take a second, a plug-in of poison, and the command as users start it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

import wsiseg
from wsiseg.archive.journal import read_journal
from wsiseg.archive.records import Record
from wsiseg.engine.executor import Serial
from wsiseg.run.job import Job
from wsiseg.run.segment import run
from wsiseg.synth import he_slide, write_he_slide

CELL_FILES = ("cells.parquet", "cells.geojson.gz")

# a reader that does what the first bytes of a file say
POISON = """
import ctypes, time
import numpy as np
from wsiseg.image.level import Contents, Level
from wsiseg.image.open import Format

def slowly(box):
    time.sleep(1.5)
    return np.full((*box.shape, 3), 255, np.uint8)

def accepts(path, head):
    return head[:7] == b"POISON:"

def open_poison(path, scene, z):
    what = path.read_bytes()[7:].strip()
    if what == b"segfault":
        ctypes.string_at(0)
    if what == b"hang":
        time.sleep(3600)
    if what == b"slow":
        return Contents("poison", (Level((8000, 8000), (1.0, 1.0), slowly),), (0.5, 0.5))
    if what == b"memory":
        held = []
        while True:
            held.append(bytearray(1 << 26))
    raise ZeroDivisionError("PATIENT-TOKEN in a message of a library")

poison = Format("poison", accepts, open_poison)
"""


@pytest.fixture(scope="session")
def small_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three slides of different sizes that nothing divides."""
    folder = tmp_path_factory.mktemp("small")
    for i, (height, width) in enumerate([(331, 383), (397, 421), (449, 401)]):
        made = he_slide((height, width), np.random.default_rng(i))
        write_he_slide(folder / f"case-{i}.tiff", made)
    return folder


@pytest.fixture(scope="session")
def big_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of some dozens of regions of 128 px."""
    path = tmp_path_factory.mktemp("big") / "big.tiff"
    write_he_slide(path, he_slide((997, 1013), np.random.default_rng(4)))
    return path


@pytest.fixture(scope="session")
def truth(
    small_slides: Path, big_slide: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """Slide id -> hashes of the files of cells, as ``segment`` writes them undisturbed."""
    found = {}
    for slide in [*sorted(small_slides.iterdir()), big_slide]:
        out = tmp_path_factory.mktemp("truth") / "run"
        run(Job(slide=slide, out=out, model="hematoxylin"), executor=Serial())
        found[slide.stem] = Kit.digests(out)
    return found


@pytest.fixture(scope="session")
def archive(small_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the small slides that is done; tests do not write into it."""
    out = tmp_path_factory.mktemp("archive") / "out"
    assert wsiseg.batch(small_slides, out, model="hematoxylin", workers=2).ok
    return out


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], None]:
    """Installs the plug-in for child processes; writes slides that do harm."""
    site = tmp_path / "plugin"
    info = site / "wsiseg_poison-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "wsiseg_poison.py").write_text(POISON)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wsiseg-poison\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wsiseg.formats]\npoison = wsiseg_poison:poison\n")
    monkeypatch.setenv("PYTHONPATH", str(site))

    def write(folder: Path, what: str) -> None:
        path = folder / f"{what}.tiff"
        path.write_bytes(b"POISON:" + what.encode())

    return write


class Kit:
    """What tests do with the command and with what it leaves."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    def command(self, source: object, out: object, *more: object) -> list[str]:
        """A batch with the model that needs no weights."""
        words = ["batch", source, "--out", out, "--model", "hematoxylin", *more]
        return [sys.executable, "-m", "wsiseg", *map(str, words)]

    def wsiseg(self, *words: object, **how: Any) -> subprocess.CompletedProcess[str]:
        """Any command, to its end."""
        call = [sys.executable, "-m", "wsiseg", *map(str, words)]
        return subprocess.run(call, capture_output=True, text=True, check=False, **how)

    def batch(
        self, source: object, out: object, *more: object, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """A batch, to its end."""
        call = self.command(source, out, *more)
        return subprocess.run(call, capture_output=True, text=True, check=False, **how)

    def start(self, source: object, out: object, *more: object) -> subprocess.Popen[str]:
        """A batch in the background; what is left of it at the end of a test is killed."""
        process = subprocess.Popen(
            self.command(source, out, *more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    @staticmethod
    def digests(folder: Path) -> dict[str, str]:
        """Hashes of the files of cells of a run folder."""
        return {n: sha256((folder / n).read_bytes()).hexdigest() for n in CELL_FILES}

    @staticmethod
    def records(out: Path) -> dict[str, Record]:
        """What the journal says now."""
        return read_journal(out / ".wsiseg")

    @staticmethod
    def status(out: Path) -> dict[str, dict[str, Any]]:
        """Slide id -> its entry in status.json."""
        found = json.loads((out / "status.json").read_text())
        return {slide["slide_id"]: slide for slide in found["slides"]}

    def all_as_undisturbed(self, out: Path, truth: dict[str, dict[str, str]]) -> None:
        """Every slide of ``truth`` that is in the archive is done, its files are the same bytes,
        and no file at all is torn.
        """
        found = self.records(out)
        assert found
        for slide_id, record in found.items():
            if slide_id in truth:
                assert record.state == "done", record
                assert self.digests(out / "slides" / slide_id) == truth[slide_id]
        assert self.torn(out) == []

    @staticmethod
    def regions(out: Path) -> int:
        """How many regions of the big slide are stored."""
        return len(list(out.glob("slides/big/.wsiseg/regions/*.wsr")))

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
        """Wait for a condition, and give what it gave."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError("it did not happen in time")

    @staticmethod
    def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
        """Worker processes of a batch."""
        found = psutil.Process(process.pid).children()
        return [child for child in found if child.status() != psutil.STATUS_ZOMBIE]

    @staticmethod
    def torn(out: Path) -> list[Path]:
        """Files under a final name that their readers do not take."""
        return [path for path in out.rglob("*") if path.is_file() and not _is_whole(path)]


@pytest.fixture
def kit() -> Iterator[Kit]:
    """See ``Kit``."""
    made = Kit()
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".gz":
            gzip.decompress(path.read_bytes())
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
    except (OSError, EOFError, ValueError):
        return not path.exists()
    return True
