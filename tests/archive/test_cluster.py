"""An archive on a running dask cluster: its scheduler and workers are real processes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsiseg.archive.request import Request
from wsiseg.archive.rows import SlideRow

FAILED, TERMINATED = 1, 143

Truth = dict[str, dict[str, str]]
Work = tuple[Path, Path]


@pytest.fixture
def workers(dask_cluster: Any) -> list[subprocess.Popen[bytes]]:
    """Two workers that are alive."""
    dead = [process for process in dask_cluster.workers if process.poll() is not None]
    dask_cluster.workers = [w for w in dask_cluster.workers if w not in dead]
    while len(dask_cluster.workers) < 2:
        dask_cluster.worker()
    return dask_cluster.workers  # type: ignore[no-any-return]


@pytest.fixture
def work(small_slides: Path, big_slide: Path, tmp_path: Path) -> Iterator[Work]:
    """A folder of three small slides and a large one, and the settings for them."""
    source = Path(shutil.copytree(small_slides, tmp_path / "in"))
    shutil.copyfile(big_slide, source / "big.tiff")
    config = tmp_path / "job.toml"
    small = max(path.stat().st_size for path in small_slides.iterdir()) + 1
    config.write_text(
        f"region = 128\n[batch]\nbackoff_s = 0.1\nwhole_below = {small}\nattempts = 2\n"
    )
    return source, config


def slides_at(workers: list[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    """Child processes of workers, which have a small slide each."""
    alive = [psutil.Process(worker.pid) for worker in workers if worker.poll() is None]
    return [child for worker in alive for child in worker.children()]


@pytest.mark.timeout(300)
def test_a_cluster_gives_the_same_files_also_after_a_stop(
    dask_cluster: Any, workers: Any, work: Work, tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", work
    call = (source, out, "--config", config, "--scheduler", dask_cluster.address)
    process = kit.start(*call)
    kit.until(lambda: slides_at(workers) and kit.regions(out))
    process.terminate()
    assert process.wait(40) == TERMINATED
    kit.until(lambda: not slides_at(workers))
    assert "preempted" in {record.state for record in kit.records(out).values()}
    assert kit.torn(out) == []
    done = kit.batch(*call)
    assert done.returncode == 0, done.stderr
    assert "dashboard: http://127.0.0.1:" in done.stderr
    kit.all_as_undisturbed(out, truth)
    assert not slides_at(workers)


@pytest.mark.timeout(300)
def test_a_killed_worker_of_a_cluster_costs_what_it_had_and_an_unlike_one_nothing(
    dask_cluster: Any, workers: Any, work: Work, tmp_path: Path, truth: Truth, kit: Any
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import wsiseg\nwsiseg.__version__ = '0.0.9'\n")
    unlike = dask_cluster.worker(PYTHONPATH=str(tmp_path))
    dask_cluster.workers.remove(unlike)
    out, (source, config) = tmp_path / "out", work
    process = kit.start(source, out, "--config", config, "--scheduler", dask_cluster.address)
    kit.until(lambda: kit.regions(out) > 3)
    workers[0].send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    unlike.kill()
    unlike.wait()
    assert process.returncode == 0, said
    assert "is not of our kind" in said
    (why,) = kit.records(out)["big"].warnings
    assert 'wsiseg: "0.1.0" -> "0.0.9"' in why
    kit.all_as_undisturbed(out, truth)


@pytest.mark.timeout(300)
def test_a_small_slide_that_kills_or_hangs_is_convicted_and_no_worker_dies_of_it(
    dask_cluster: Any,
    work: Work,
    tmp_path: Path,
    truth: Truth,
    poison: Callable[[Path, str], None],
    kit: Any,
) -> None:
    source, config = work
    (source / "big.tiff").unlink()
    for what in ("segfault", "hang"):
        poison(source, what)
    while dask_cluster.workers:  # those that do not know the plug-in
        worker = dask_cluster.workers.pop()
        worker.kill()
        worker.wait()
    workers = [dask_cluster.worker() for _ in range(2)]
    out = tmp_path / "out"
    call = (source, out, "--config", config, "--scheduler", dask_cluster.address)
    done = kit.batch(*call, "--timeout", 6)
    assert done.returncode == FAILED, done.stderr
    slides = kit.status(out)
    assert {name: s["code"] for name, s in slides.items()} == {
        **dict.fromkeys(("case-0", "case-1", "case-2"), None),
        "segfault": "quarantine",
        "hang": "timeout",
    }
    assert slides["segfault"]["cause"] == "SIGSEGV"
    assert {slides[name]["attempts"] for name in ("segfault", "hang")} == {2}
    assert [worker.poll() for worker in workers] == [None, None]
    kit.all_as_undisturbed(out, truth)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_without_its_scheduler_a_batch_ends_and_goes_on_with_another(
    new_dask_cluster: Callable[..., Any], work: Work, tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", work
    clusters = [new_dask_cluster(), new_dask_cluster()]
    for cluster in clusters:
        cluster.worker()
    process = kit.start(source, out, "--config", config, "--scheduler", clusters[0].address)
    kit.until(lambda: kit.regions(out) > 3)
    clusters[0].scheduler.send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=500)
    assert process.returncode == FAILED, said
    states = {record.state for record in kit.records(out).values()}
    assert states <= {"done", "failed", "pending"}, said
    assert {r.code for r in kit.records(out).values() if r.state == "failed"} == {"cluster"}
    assert kit.torn(out) == []
    again = kit.batch(source, out, "--config", config, "--scheduler", clusters[1].address)
    assert again.returncode == 0, again.stderr
    kit.all_as_undisturbed(out, truth)


def test_memory_is_that_of_each_worker_of_a_cluster() -> None:
    rows = [SlideRow("a", "/a.svs")]
    request = Request.of(rows, scheduler="tcp://host:8786", max_memory="4GB")
    settings = request.job_settings(rows[0])
    assert (settings["scheduler"], settings["max_memory"]) == ("tcp://host:8786", 4 * 10**9)
    assert request.threads is None
