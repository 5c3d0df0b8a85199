"""Faults from outside, on real processes: nothing is lost, nothing torn, nobody else convicted."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsiseg.archive.journal import read_journal

FAILED, LOCKED, INTERRUPTED, TERMINATED = 1, 75, 130, 143

Truth = dict[str, dict[str, str]]
Poison = Callable[[Path, str], None]


@pytest.fixture
def many(small_slides: Path, tmp_path: Path) -> Path:
    """A folder of slides that a test may add to."""
    return Path(shutil.copytree(small_slides, tmp_path / "slides"))


@pytest.fixture
def one_big(big_slide: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder with one slide of 64 regions, and the settings for that."""
    (tmp_path / "in").mkdir()
    shutil.copyfile(big_slide, tmp_path / "in" / "big.tiff")
    config = tmp_path / "job.toml"
    config.write_text("region = 128\n[batch]\nbackoff_s = 0.1\n")
    return tmp_path / "in", config


@pytest.mark.timeout(600)
def test_bad_slides_fail_each_with_its_code_and_the_others_finish(
    many: Path, tmp_path: Path, truth: Truth, poison: Poison, kit: Any
) -> None:
    for what in ("segfault", "hang"):
        poison(many, what)
    whole = (many / "case-2.tiff").read_bytes()
    (many / "truncated.tiff").write_bytes(whole[: len(whole) // 2])
    (many / "empty.tiff").write_bytes(b"")
    (many / "text.tiff").write_text("no slide at all")
    (many / "error.tiff").write_bytes(b"POISON:error")
    os.mkfifo(many / "pipe.tiff")
    without_mpp(many / "no-mpp.tiff")
    out = tmp_path / "out"
    policy = ("--workers", 3, "--timeout", 8, "--attempts", 2)
    config = tmp_path / "job.toml"
    config.write_text("[batch]\nbackoff_s = 0.1\n")
    done = kit.batch(many, out, "--config", config, *policy)
    assert done.returncode == FAILED, done.stderr
    codes = {name: slide["code"] for name, slide in kit.status(out).items()}
    assert codes == {
        **dict.fromkeys(("case-0", "case-1", "case-2"), None),
        "segfault": "quarantine",
        "hang": "timeout",
        "truncated": "unreadable",
        "empty": "unreadable",
        "text": "unsupported-format",
        "pipe": "unsupported-format",
        "error": "unreadable",
        "no-mpp": "missing-mpp",
    }
    kit.all_as_undisturbed(out, truth)
    slides = kit.status(out)
    assert slides["segfault"]["cause"] == "SIGSEGV"
    assert {slides[name]["attempts"] for name in ("segfault", "hang")} == {2}
    assert {slides[name]["attempts"] for name in ("truncated", "empty", "no-mpp")} == {1}
    again = kit.batch(many, out)  # nothing is tried again unasked, and nothing forgotten
    assert again.returncode == FAILED
    assert {s["attempts"] for s in kit.status(out).values()} == {1, 2}


def without_mpp(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (301, 307), (220, 180, 210)).save(path)


def test_a_slide_that_was_mended_is_run_without_being_asked_for(
    many: Path, tmp_path: Path, truth: Truth, kit: Any
) -> None:
    slide = many / "case-0.tiff"
    whole = slide.read_bytes()
    slide.write_bytes(whole[:9000])
    assert kit.batch(many, tmp_path / "out", "--workers", 2).returncode == FAILED
    slide.write_bytes(whole)
    assert kit.batch(many, tmp_path / "out", "--workers", 2).returncode == 0
    kit.all_as_undisturbed(tmp_path / "out", truth)


def test_retry_failed_tries_again_and_a_missing_file_is_looked_for(
    many: Path, tmp_path: Path, truth: Truth, kit: Any
) -> None:
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    manifest.write_text("slide_id,path\ncase-0,slides/case-0.tiff\ncase-1,slides/later.tiff\n")
    done = kit.batch(manifest, out, "--workers", 1)
    assert done.returncode == FAILED
    assert "missing-file" in done.stderr
    assert kit.batch(manifest, out).returncode == FAILED
    shutil.move(many / "case-1.tiff", many / "later.tiff")
    assert kit.batch(manifest, out, "--retry-failed").returncode == 0
    kit.all_as_undisturbed(out, truth)


@pytest.mark.timeout(300)
def test_exhausted_memory_fails_the_slide_and_no_other(
    many: Path, tmp_path: Path, truth: Truth, poison: Poison, kit: Any
) -> None:
    poison(many, "memory")

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    out, config = tmp_path / "out", tmp_path / "job.toml"
    config.write_text("[batch]\nbackoff_s = 0.1\nattempts = 2\n")
    done = kit.batch(many, out, "--config", config, "--workers", 2, preexec_fn=bound)
    assert done.returncode == FAILED
    slides = kit.status(out)
    assert (slides["memory"]["state"], slides["memory"]["code"]) == ("failed", "out-of-memory")
    kit.all_as_undisturbed(out, truth)


@pytest.mark.timeout(300)
def test_whom_the_system_kills_for_the_memory_of_its_group_has_failed_for_memory(
    many: Path, tmp_path: Path, truth: Truth, poison: Poison, group_of: Any, kit: Any
) -> None:
    poison(many, "memory")
    out, join = tmp_path / "out", group_of(1200 << 20)
    done = kit.batch(many, out, "--attempts", 2, preexec_fn=join)
    assert done.returncode == FAILED
    slides = kit.status(out)
    assert (slides["memory"]["state"], slides["memory"]["code"]) == ("failed", "out-of-memory")
    kit.all_as_undisturbed(out, truth)


@pytest.mark.timeout(300)
def test_a_worker_that_is_stopped_for_ever_is_killed_and_its_slide_run_again(
    one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    process = kit.start(source, out, "--config", config, "--workers", 1, "--timeout", 8)
    kit.until(lambda: kit.regions(out) > 2)
    worker = kit.children(process)[0]
    worker.send_signal(signal.SIGSTOP)
    assert process.wait(120) == 0
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert kit.records(out)["big"].attempts >= 2
    assert kit.records(out)["big"].resumed > 2
    kit.all_as_undisturbed(out, truth)


def kill_workers(seed: int, one_big: tuple[Path, Path], out: Path, truth: Truth, kit: Any) -> None:
    """Kill whichever worker there is, twice, at random moments."""
    rng, (source, config) = random.Random(seed), one_big
    process = kit.start(source, out, "--config", config, "--workers", 1)
    for _ in range(2):
        before = kit.until(lambda: kit.regions(out) + 1)
        kit.until(lambda b=before: kit.regions(out) > b or process.poll() is not None)
        time.sleep(rng.random() * 0.5)
        if process.poll() is None:
            for child in kit.children(process):
                child.kill()
    assert process.wait(200) == 0
    kit.all_as_undisturbed(out, truth)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1))
def test_killed_workers_cost_no_finished_region(
    seed: int, one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    kill_workers(seed, one_big, tmp_path / "out", truth, kit)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 21))
def test_twenty_times_killed_workers_cost_no_finished_region(
    seed: int, one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    kill_workers(seed, one_big, tmp_path / "out", truth, kit)


@pytest.mark.timeout(300)
def test_after_everything_was_killed_the_same_command_goes_on(
    one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    process = kit.start(source, out, "--config", config, "--workers", 1)
    kit.until(lambda: kit.regions(out) > 5)
    workers = kit.children(process)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []  # no worker outlives its batch
    assert kit.torn(out) == []
    assert kit.records(out)["big"].state == "running"
    shown = kit.wsiseg("status", out).stdout
    assert "no batch is at work here: 1 slides are left" in shown
    assert json.loads(kit.wsiseg("status", out, "--json").stdout)["at_work"] == []
    stored = kit.regions(out)
    assert kit.batch(source, out, "--config", config).returncode == 0
    assert kit.records(out)["big"].resumed >= stored
    kit.all_as_undisturbed(out, truth)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_whenever_everything_is_killed_nothing_is_torn(
    kills: int, many: Path, big_slide: Path, tmp_path: Path, truth: Truth, kit: Any
) -> None:
    shutil.copyfile(big_slide, many / "big.tiff")
    config = tmp_path / "job.toml"
    config.write_text("region = 256\n")
    out, rng = tmp_path / "out", random.Random(kills)
    for _ in range(kills):
        process = kit.start(many, out, "--config", config, "--workers", 2)
        kit.until(lambda p=process: kit.children(p) or p.poll() is not None)
        time.sleep(2 + 6 * rng.random())
        workers = kit.children(process) if process.poll() is None else []
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []
        assert kit.torn(out) == []
    assert kit.batch(many, out, "--config", config).returncode == 0
    kit.all_as_undisturbed(out, truth)
    assert kit.wsiseg("verify", out).returncode == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGTERM, TERMINATED, "preempted"), (signal.SIGINT, INTERRUPTED, "interrupted")],
)
def test_a_signal_stops_within_its_grace_and_loses_no_finished_region(
    number: int,
    code: int,
    state: str,
    one_big: tuple[Path, Path],
    tmp_path: Path,
    truth: Truth,
    kit: Any,
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    process = kit.start(source, out, "--config", config, "--workers", 1)
    kit.until(lambda: kit.regions(out) > 2)
    process.send_signal(number)
    assert process.wait(30) == code
    assert kit.status(out)["big"]["state"] == state
    assert state in (out / "status.md").read_text()
    stored = kit.regions(out)
    assert kit.batch(source, out, "--config", config).returncode == 0
    assert kit.records(out)["big"].resumed >= stored
    kit.all_as_undisturbed(out, truth)


def test_a_scheduler_that_terminates_every_process_preempts_the_batch(
    one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    process = kit.start(source, out, "--config", config, "--workers", 1, "--attempts", 1)
    kit.until(lambda: kit.regions(out) > 2)
    for one in kit.children(process):
        one.terminate()
        one.wait(20)
    process.terminate()  # a while later, as by who goes from process to process
    assert process.wait(30) == TERMINATED
    assert kit.status(out)["big"]["state"] == "preempted"
    stored = kit.regions(out)
    assert kit.batch(source, out, "--config", config).returncode == 0
    assert kit.records(out)["big"].resumed >= stored
    kit.all_as_undisturbed(out, truth)


def test_a_worker_that_does_not_stop_is_killed_when_grace_is_over(
    one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    config.write_text("region = 128\n[batch]\ngrace_s = 1\n")
    process = kit.start(source, out, "--config", config, "--workers", 1)
    kit.until(lambda: kit.regions(out) > 2)
    worker = kit.children(process)[0]
    worker.send_signal(signal.SIGSTOP)
    process.terminate()
    assert process.wait(30) == TERMINATED
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert kit.status(out)["big"]["state"] == "preempted"
    assert kit.batch(source, out, "--config", config).returncode == 0
    kit.all_as_undisturbed(out, truth)


def test_a_second_batch_in_the_folder_is_refused_and_the_first_goes_on(
    one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    process = kit.start(source, out, "--config", config, "--workers", 1)
    kit.until(lambda: kit.regions(out) > 0)
    worker = kit.children(process)[0]
    worker.suspend()  # so that the first is at work for as long as we look
    second = kit.batch(source, out, "--config", config)
    assert second.returncode == LOCKED
    assert str(process.pid) in second.stderr
    shard = kit.batch(source, out, "--config", config, "--shard", "1/2")
    assert shard.returncode == LOCKED
    worker.resume()
    assert process.wait(200) == 0
    kit.all_as_undisturbed(out, truth)


def test_a_slide_that_is_replaced_while_it_is_read_leaves_no_mixed_result(
    one_big: tuple[Path, Path], small_slides: Path, tmp_path: Path, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    config.write_text("region = 128\n[batch]\nbackoff_s = 0.1\n")
    process = kit.start(source, out, "--config", config, "--workers", 1)
    kit.until(lambda: kit.regions(out) > 2)
    other = tmp_path / "other.tiff"
    shutil.copyfile(source / "big.tiff", other)
    os.utime(other, (1e9, 1e9))
    os.replace(other, source / "big.tiff")  # equal pixels, but who could know
    assert process.wait(200) == 0
    record = kit.records(out)["big"]
    assert record.attempts == 2
    assert record.restarted is not None


@pytest.mark.timeout(300)
def test_a_full_disk_is_named_and_nothing_is_lost(
    many: Path, tmp_path: Path, truth: Truth, disk_of: Callable[[int], Path], kit: Any
) -> None:
    out = disk_of(3000) / "out"
    config = tmp_path / "job.toml"
    config.write_text("[batch]\nbackoff_s = 0.1\nattempts = 2\n")
    done = kit.batch(many, out, "--config", config, "--workers", 1)
    assert done.returncode == FAILED
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert kit.torn(out) == []
    subprocess.run(["mount", "-o", "remount,size=60m", str(out.parent)], check=True)
    assert kit.batch(many, out, "--config", config, "--workers", 1).returncode == 0
    kit.all_as_undisturbed(out, truth)


def test_a_limit_of_file_sizes_fails_by_name(many: Path, tmp_path: Path, kit: Any) -> None:
    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    more = ("--workers", 2, "--attempts", 1)
    done = kit.batch(many, tmp_path / "out", *more, preexec_fn=bound)
    assert done.returncode == FAILED
    assert {s["code"] for s in kit.status(tmp_path / "out").values()} == {"output"}
    assert kit.torn(tmp_path / "out") == []


def test_a_read_only_archive_is_refused(
    many: Path, tmp_path: Path, disk_of: Callable[[int], Path], kit: Any
) -> None:
    disk = disk_of(9000)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = kit.batch(many, disk / "out")
    assert done.returncode == FAILED
    assert "read-only" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(300)
def test_a_folder_that_may_not_be_written_any_more_is_named_and_nothing_is_lost(
    one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    config.write_text("region = 128\n[batch]\nbackoff_s = 0.1\nattempts = 2\n")
    command = kit.command(source, out, "--config", config, "--workers", 1)
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_permissions
    )
    kit.processes.append(process)
    kit.until(lambda: kit.regions(out) > 2)
    folder = out / "slides" / "big" / ".wsiseg" / "regions"
    folder.chmod(0o555)
    _, said = process.communicate(timeout=100)
    folder.chmod(0o755)
    assert process.returncode == FAILED
    assert kit.records(out)["big"].code == "read-only"
    assert "no permission" in said
    assert "Traceback" not in said
    stored = kit.regions(out)
    assert kit.torn(out) == []
    assert kit.batch(source, out, "--config", config).returncode == 0
    assert kit.records(out)["big"].resumed >= stored > 2
    kit.all_as_undisturbed(out, truth)


def heed_permissions() -> None:
    """Let permissions of files hold for root, too."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: capabilities(7)
        ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


@pytest.mark.timeout(300)
def test_shards_under_load_at_once_of_which_one_is_killed(
    many: Path, big_slide: Path, tmp_path: Path, truth: Truth, kit: Any
) -> None:
    shutil.copyfile(big_slide, many / "big.tiff")
    config, out = tmp_path / "job.toml", tmp_path / "out"
    config.write_text("region = 128\n")
    more = ("--config", config, "--workers", 1, "--shard")
    shards = [kit.start(many, out, *more, f"{i}/2") for i in (1, 2)]
    kit.until(lambda: kit.regions(out) > 2)
    owner = next(i for i in (1, 2) if "big" in read_journal(out / f".wsiseg/shard-{i}-of-2"))
    shards[owner - 1].kill()
    shards[owner - 1].wait()
    assert shards[2 - owner].wait(200) == 0
    stored, status = kit.regions(out), kit.status(out)
    assert sorted(status) == sorted(truth)
    assert status["big"]["state"] == "running"  # as its shard has left it
    assert kit.torn(out) == []
    assert kit.batch(many, out, *more, f"{owner}/2").returncode == 0
    slides = kit.status(out)
    assert {name: slide["state"] for name, slide in slides.items()} == dict.fromkeys(truth, "done")
    assert slides["big"]["resumed"] >= stored
    assert all(kit.digests(out / "slides" / name) == truth[name] for name in truth)
    assert kit.wsiseg("verify", out).returncode == 0


def test_workers_that_cannot_start_end_the_batch_at_once(
    many: Path, tmp_path: Path, truth: Truth, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation that lacks a library; mended, the next batch asks for nothing."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\nif '-m' in sys.orig_argv and 'wsiseg.archive.worker' in sys.orig_argv:\n"
        "    sys.modules['numba'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken))
    done = kit.batch(many, tmp_path / "out", "--workers", 1)
    assert done.returncode == FAILED
    assert "worker processes cannot start" in done.stderr
    codes = [(r.state, r.code) for r in kit.records(tmp_path / "out").values()]
    assert sorted(codes, key=str) == [("failed", "worker"), ("pending", None), ("pending", None)]
    monkeypatch.delenv("PYTHONPATH")
    assert kit.batch(many, tmp_path / "out", "--workers", 1).returncode == 0
    kit.all_as_undisturbed(tmp_path / "out", truth)


def test_one_flipped_bit_in_a_stored_region_is_found_and_mended(
    one_big: tuple[Path, Path], tmp_path: Path, truth: Truth, kit: Any
) -> None:
    out, (source, config) = tmp_path / "out", one_big
    process = kit.start(source, out, "--config", config, "--workers", 1)
    kit.until(lambda: kit.regions(out) > 5)
    process.kill()
    process.wait()
    blob = sorted((out / "slides" / "big" / ".wsiseg" / "regions").glob("*.wsr"))[2]
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 4
    blob.write_bytes(data)
    assert kit.batch(source, out, "--config", config).returncode == 0
    found = json.loads((out / "slides" / "big" / "run.json").read_text())["regions"]
    assert found["damaged"] == 1  # and not one more: it is the only one that was made again
    kit.all_as_undisturbed(out, truth)
