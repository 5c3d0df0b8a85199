"""What every test may use: the real data, and a line that says where it is missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# compiling a kernel in the first example must not count as a slow one; CI repeats its examples
settings.register_profile("wsiseg", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("wsiseg")

# What is not about the models is tested with the one that needs no network, which is fast. Tests of
# the shipped weights ask for them: ``shipped_weights``.
os.environ["WSISEG_OPEN_ONLY"] = "1"

DATA = Path(os.environ.get("WSISEG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_report_header() -> str:
    state = "found" if DATA.is_dir() else "ABSENT: real-data tests are skipped (set WSISEG_DATA)"
    return f"wsiseg data: {state}"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real slides and labelled images."""
    if not DATA.is_dir():
        pytest.skip("the shared data folder is absent: set WSISEG_DATA")
    return DATA


@pytest.fixture(scope="session")
def slides(data: Path) -> Path:
    return data / "slides"


@pytest.fixture
def shipped_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test use all models of the package, as users do."""
    monkeypatch.delenv("WSISEG_OPEN_ONLY")


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB; where mounting is not permitted, skips and says so."""
    mount = tmp_path / "disk"
    mount.mkdir()

    def make(kib: int) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(mount)], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
        return mount

    yield make
    if mount.is_mount():
        subprocess.run(["umount", "-l", str(mount)], check=True)
