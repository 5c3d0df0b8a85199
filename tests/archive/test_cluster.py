"""Regions of an archive on a running dask cluster: its scheduler and workers are real processes."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.request import Request
from wsiseg.archive.rows import SlideRow

Truth = dict[str, dict[str, str]]


class Cluster:
    """A scheduler and its workers, each a process that a test may kill."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self._dask("scheduler", "--port", str(self.port), "--no-dashboard")
        self.workers = [self.worker() for _ in range(2)]

    def worker(self) -> subprocess.Popen[bytes]:
        how = ("--nthreads", "1", "--nworkers", "1", "--no-dashboard", "--no-nanny")
        return self._dask("worker", self.address, *how)

    def _dask(self, *words: str) -> subprocess.Popen[bytes]:
        call = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1"]
        return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def slides_of(small_slides: Path, big_slide: Path, tmp_path: Path) -> tuple[Path, Path]:
    source = Path(shutil.copytree(small_slides, tmp_path / "in"))
    shutil.copyfile(big_slide, source / "big.tiff")
    config = tmp_path / "job.toml"
    config.write_text("region = 128\n[batch]\nbackoff_s = 0.1\n")
    return source, config


def all_as_undisturbed(out: Path, truth: Truth, kit: Any) -> None:
    records = kit.records(out)
    assert {r.state for r in records.values()} == {"done"}, records
    assert {name: kit.digests(out / "slides" / name) for name in records} == truth


@pytest.mark.timeout(600)
def test_a_cluster_gives_the_same_files(
    cluster: Cluster,
    small_slides: Path,
    big_slide: Path,
    tmp_path: Path,
    truth: Truth,
    kit: Any,
) -> None:
    source, config = slides_of(small_slides, big_slide, tmp_path)
    out = tmp_path / "out"
    done = kit.batch(source, out, "--config", config, "--scheduler", cluster.address)
    assert done.returncode == 0, done.stderr
    all_as_undisturbed(out, truth, kit)


@pytest.mark.timeout(600)
def test_a_killed_worker_of_a_cluster_costs_the_regions_that_it_had(
    cluster: Cluster,
    small_slides: Path,
    big_slide: Path,
    tmp_path: Path,
    truth: Truth,
    kit: Any,
) -> None:
    source, config = slides_of(small_slides, big_slide, tmp_path)
    out = tmp_path / "out"
    process = kit.start(source, out, "--config", config, "--scheduler", cluster.address)
    kit.until(lambda: len(list(out.glob("slides/big/.wsiseg/regions/*.wsr"))) > 3)
    cluster.workers[0].send_signal(signal.SIGKILL)
    assert process.wait(300) == 0
    all_as_undisturbed(out, truth, kit)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_without_its_scheduler_a_batch_ends_and_goes_on_with_another(
    cluster: Cluster,
    small_slides: Path,
    big_slide: Path,
    tmp_path: Path,
    truth: Truth,
    kit: Any,
) -> None:
    source, config = slides_of(small_slides, big_slide, tmp_path)
    out = tmp_path / "out"
    process = kit.start(source, out, "--config", config, "--scheduler", cluster.address)
    kit.until(lambda: len(list(out.glob("slides/big/.wsiseg/regions/*.wsr"))) > 3)
    cluster.scheduler.send_signal(signal.SIGKILL)
    assert process.wait(500) == 1
    states = {record.state for record in kit.records(out).values()}
    assert states <= {"done", "failed", "pending"}
    assert {r.code for r in kit.records(out).values() if r.state == "failed"} == {"cluster"}
    assert kit.torn(out) == []
    other = Cluster()
    try:
        again = kit.batch(source, out, "--config", config, "--scheduler", other.address)
    finally:
        other.close()
    assert again.returncode == 0, again.stderr
    all_as_undisturbed(out, truth, kit)


def test_memory_is_that_of_each_worker_of_a_cluster() -> None:
    rows = [SlideRow("a", "/a.svs")]
    request = Request.of(rows, scheduler="tcp://host:8786", max_memory="4GB")
    settings = request.job_settings(rows[0])
    assert (settings["scheduler"], settings["max_memory"]) == ("tcp://host:8786", 4 * 10**9)
    assert request.threads is None
