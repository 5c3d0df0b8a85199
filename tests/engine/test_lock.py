"""One living holder per folder, and a dead one never in the way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsiseg.engine import lock as module
from wsiseg.engine.lock import LOCK, Heartbeat, RunLock, clear, current_token, holder
from wsiseg.errors import LockedError, OutputError, RunFolderError

FAST = Heartbeat(every_s=0.05, stale_s=0.3)
HOLD = """
import sys, time
from pathlib import Path
from wsiseg.engine.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print(lock.token, flush=True)
time.sleep(60)
"""
RACE = """
import sys, time
from pathlib import Path
from wsiseg.engine.lock import RunLock
from wsiseg.errors import LockedError
folder, go = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    pass
try:
    lock = RunLock(folder)
    print("held", lock.token, flush=True)
    sys.stdin.read()
    print("mine" if lock.held else "lost", flush=True)
except LockedError as error:
    print("locked", flush=True)
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / ".wsiseg"
    folder.mkdir(parents=True)
    return folder


def start(code: str, *args: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def killed_holder(work: Path) -> None:
    """A lock whose holder was killed."""
    with start(HOLD, work) as process:
        line(process)
        process.kill()


def forge(work: Path, *, silent_s: float = 0.0, **changes: Any) -> None:
    """Another run's lock: that of this process, with changes, last touched silent_s ago."""
    mine = RunLock(work)
    record = json.loads((work / LOCK).read_bytes())
    mine.release()
    (work / LOCK).write_text(json.dumps({**record, "token": "a" * 32, **changes}))
    then = time.time() - silent_s
    os.utime(work / LOCK, (then, then))


def test_a_living_holder_is_named(work: Path) -> None:
    with start(HOLD, work) as process:
        token = line(process)[0]
        with pytest.raises(LockedError, match=rf"process {process.pid} on .*since 20\d\d-"):
            RunLock(work)
        assert current_token(work) == token
        process.kill()


def test_the_holder_is_found_within_the_same_process_too(work: Path) -> None:
    with RunLock(work) as held, pytest.raises(LockedError, match=str(os.getpid())):
        RunLock(work)
    assert not held.held
    assert os.listdir(work) == []


def test_a_killed_holder_is_succeeded_at_once(work: Path) -> None:
    killed_holder(work)
    before = time.monotonic()
    with RunLock(work) as lock:
        assert time.monotonic() - before < 1
        assert lock.held
        assert os.listdir(work) == [LOCK]


def test_a_killed_holder_that_nobody_has_reaped_is_dead(work: Path) -> None:
    process = start(HOLD, work)
    line(process)
    os.kill(process.pid, signal.SIGKILL)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with RunLock(work) as lock:
        assert lock.held
    process.communicate()


def test_a_number_that_another_process_got_is_no_holder(work: Path) -> None:
    forge(work, pid=os.getpid(), start=1.0)
    with RunLock(work) as lock:
        assert lock.held


def test_a_holder_of_a_former_boot_is_dead(work: Path) -> None:
    forge(work, boot="another", silent_s=time.time() - psutil.boot_time() + 10)
    with RunLock(work) as lock:
        assert lock.held


def test_a_living_namesake_of_another_machine_is_not_taken_for_a_former_boot(work: Path) -> None:
    forge(work, boot="another")
    with pytest.raises(LockedError, match="last sign of life 0 s ago"):
        RunLock(work)


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"pids": "pid:[1]"}])
def test_a_recent_sign_of_life_from_elsewhere_is_believed(work: Path, elsewhere: Any) -> None:
    forge(work, pid=1 << 30, **elsewhere)
    with pytest.raises(LockedError, match="120 s"):
        RunLock(work)
    assert current_token(work) == "a" * 32


def test_a_silent_holder_elsewhere_is_succeeded(work: Path) -> None:
    forge(work, host="elsewhere", silent_s=10)
    with RunLock(work, FAST) as lock:
        assert lock.held


@pytest.mark.parametrize("beats", [False, True])
def test_who_waits_learns_whether_a_holder_elsewhere_lives(work: Path, beats: bool) -> None:
    forge(work, host="elsewhere")
    told: list[str] = []

    def waiting(who: str) -> None:
        told.append(who)
        if beats and len(told) == 3:
            os.utime(work / LOCK)

    if beats:
        with pytest.raises(LockedError, match="elsewhere"):
            RunLock(work, FAST, waiting=waiting)
    else:
        with RunLock(work, FAST, waiting=waiting) as lock:
            assert lock.held
    assert len(told) > 2
    assert "elsewhere" in told[0]


def test_who_waits_is_not_kept_from_ending(work: Path) -> None:
    forge(work, host="elsewhere")

    def waiting(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunLock(work, waiting=waiting)


def test_a_look_at_a_lock_judges_as_who_wants_it(work: Path) -> None:
    assert holder(work) is None
    with RunLock(work):
        found = holder(work)
        assert found
        assert str(os.getpid()) in found
        with pytest.raises(LockedError):
            clear(work)
    forge(work, start=1.0)
    assert holder(work) is None
    forge(work, host="elsewhere")
    assert "elsewhere" in (holder(work) or "")
    os.utime(work / LOCK, (1, 1))
    assert holder(work) is None


def test_the_lock_of_the_dead_is_cleared_away_and_fences_them_off(work: Path) -> None:
    with RunLock(work) as lock:
        record = json.loads((work / LOCK).read_bytes())
        (work / LOCK).write_text(json.dumps(record | {"start": 1.0}))
        clear(work)
        assert not lock.held
    assert os.listdir(work) == []
    clear(work)


def test_a_heartbeat_that_moves_is_believed_whatever_its_clock_says(work: Path) -> None:
    forge(work, host="elsewhere", silent_s=3600)  # its clock is an hour slow, but it runs
    code = """
import os, sys, time
for beat in range(10_000):
    then = time.time() - 3600
    os.utime(sys.argv[1], (then, then))
    if not beat: print("beats", flush=True)
    time.sleep(0.02)
"""
    with start(code, work / LOCK) as process:
        line(process)
        with pytest.raises(LockedError, match="elsewhere"):
            RunLock(work, FAST)
        process.kill()


def test_a_holder_keeps_its_heart_beating(work: Path) -> None:
    with RunLock(work, FAST):
        os.utime(work / LOCK, (0, 0))
        deadline = time.monotonic() + 5
        while (work / LOCK).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert abs((work / LOCK).stat().st_mtime - time.time()) < 5


def test_a_holder_that_was_succeeded_touches_nothing_of_its_successor(work: Path) -> None:
    lock = RunLock(work, FAST)
    (work / LOCK).unlink()
    forge(work, host="elsewhere")
    os.utime(work / LOCK, (1, 1))
    time.sleep(0.2)
    assert not lock.held
    lock.release()
    assert current_token(work) == "a" * 32
    assert (work / LOCK).stat().st_mtime == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": "../../x"}', '{"pid": 3}'])
def test_a_damaged_lock_counts_as_that_of_a_silent_stranger(work: Path, text: str) -> None:
    (work / LOCK).write_text(text)
    with pytest.raises(LockedError, match="cannot be read"):
        RunLock(work)
    os.utime(work / LOCK, (1, 1))
    with RunLock(work, FAST) as lock:
        assert lock.held
        assert os.listdir(work) == [LOCK]


def test_a_token_is_never_used_as_a_path(work: Path) -> None:
    forge(work, token="/../../x", start=1.0)
    os.utime(work / LOCK, (1, 1))
    with RunLock(work, FAST):
        pass
    assert os.listdir(work.parent) == [".wsiseg"]


def test_a_claimant_that_died_on_the_way_is_succeeded(work: Path) -> None:
    forge(work, start=1.0)
    dead = json.loads((work / LOCK).read_text())
    (work / f"{LOCK}.{'a' * 32}").write_text(json.dumps({**dead, "token": "b" * 32}))
    (work / f"{LOCK}.{'b' * 32}").write_text(json.dumps({**dead, "token": "c" * 32}))
    with RunLock(work) as lock:
        assert lock.held
        assert os.listdir(work) == [LOCK]


def test_a_living_claimant_is_respected(work: Path) -> None:
    forge(work, start=1.0)
    stale = (work / LOCK).read_text()
    (work / LOCK).unlink()
    with start(HOLD, work) as process:
        line(process)
        os.rename(work / LOCK, work / f"{LOCK}.{'a' * 32}")
        (work / LOCK).write_text(stale)
        with pytest.raises(LockedError, match=str(process.pid)):
            RunLock(work)
        process.kill()


def test_a_claimant_that_comes_too_late_gives_way(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a claimant's judgement and its claim, a faster one has finished."""
    forge(work, start=1.0)
    judge, faster = RunLock._must_be_dead, []

    def slow_judge(self: RunLock, *args: Any) -> None:
        judge(self, *args)
        if not faster:
            faster.append(None)
            faster[0] = RunLock(work)

    monkeypatch.setattr(RunLock, "_must_be_dead", slow_judge)
    with pytest.raises(LockedError):
        RunLock(work)
    assert faster[0].held
    assert os.listdir(work) == [LOCK]
    faster[0].release()


def test_of_eight_processes_that_race_for_a_stale_lock_one_wins(work: Path) -> None:
    killed_holder(work)
    race(work, rounds=1)


@pytest.mark.soak
def test_every_race_has_one_winner(work: Path) -> None:
    race(work, rounds=40)


def race(work: Path, rounds: int) -> None:
    for turn in range(rounds):
        go = work.parent / f"go-{turn}"
        runners = [start(RACE, work, go) for _ in range(8)]
        assert all(line(runner) == ["ready"] for runner in runners)
        go.touch()
        said = [line(runner)[0] for runner in runners]
        assert sorted(said) == ["held"] + ["locked"] * 7
        winner = runners[said.index("held")]
        assert winner.stdin is not None
        winner.stdin.close()
        assert line(winner) == ["mine"]
        for runner in runners:  # the winner ends without release: a stale lock for the next round
            runner.wait()
            runner.stdout.close()  # type: ignore[union-attr]
            runner.stdin.close()  # type: ignore[union-attr]


def test_a_file_system_without_links_is_served(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    killed_holder(work)
    with RunLock(work) as lock:
        assert lock.held
        with pytest.raises(LockedError):
            RunLock(work)
    assert os.listdir(work) == []


def test_a_hidden_process_is_believed_to_live(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(work)
    monkeypatch.setattr(module, "_process", lambda pid: None)
    with pytest.raises(LockedError):
        RunLock(work)


def test_release_works_after_the_folder_is_gone(work: Path) -> None:
    lock = RunLock(work, FAST)
    (work / LOCK).unlink()
    work.rmdir()
    time.sleep(0.1)
    assert not lock.held
    lock.release()
    lock.release()


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"lock.*--out") as caught:
        RunLock(Path("/sys/kernel"))
    assert isinstance(caught.value, RunFolderError)
