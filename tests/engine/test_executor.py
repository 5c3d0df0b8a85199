"""Executors differ in speed, never in what comes out."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from wsiseg.engine.executor import Dask, Executor, Serial, Threads
from wsiseg.errors import ClusterError, OutputError, RegionError, SettingsError


def square(x: int) -> int:
    return x * x


def fail_at_three(x: int) -> int:
    if x == 3:
        raise KeyError("three")
    return x


def disk_full(x: int) -> int:
    raise OutputError(f"no space at {x}")


def die_once(path: str) -> int:
    """Kill the worker at the first call; the second one finds the mark."""
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def segfault_at_seven(x: int) -> int:
    if x == 7:
        ctypes.string_at(0)
    time.sleep(0.01)
    return x


def hang_at_seven(x: int) -> int:
    time.sleep(1000 if x == 7 else 0.01)
    return x


class Crowd:
    """How many are at work at once; the first waits until all of ``enough`` are."""

    def __init__(self, enough: int) -> None:
        self.enough, self.now, self.most = enough, 0, 0
        self._changed = threading.Condition()

    def __call__(self, x: int) -> int:
        with self._changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self.enough, timeout=30)
            self.now -= 1
        return x


def place(_: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def place_but_die_once(item: tuple[str, int]) -> int:
    """As ``place``, but the worker of the tenth item is killed once."""
    return die_once(item[0]) if item[1] == 10 else place(item[1])


@pytest.fixture(scope="module")
def dask() -> Dask:
    with Dask(2) as executor:
        yield executor


@pytest.fixture(params=["serial", "threads", "dask"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "dask":
        return request.getfixturevalue("dask")
    return Serial() if request.param == "serial" else Threads(3)


def test_every_item_comes_once_with_its_result(executor: Executor) -> None:
    assert sorted(executor.map(square, range(40))) == [(x, x * x) for x in range(40)]


def test_no_items_give_nothing(executor: Executor) -> None:
    assert list(executor.map(square, [])) == []


def test_an_unexpected_error_names_the_item(executor: Executor) -> None:
    with pytest.raises(RegionError, match=r"region 3 failed: KeyError: 'three'"):
        list(executor.map(fail_at_three, range(9)))


def test_an_error_of_ours_keeps_its_type(executor: Executor) -> None:
    with pytest.raises(OutputError, match="no space"):
        list(executor.map(disk_full, [1, 2]))


class Assisted:
    """The last of its items is done when somebody has assisted."""

    def __init__(self, last: int) -> None:
        self.last, self.helped = last, threading.Event()

    def __call__(self, x: int) -> bool:
        return self.helped.wait(30) if x == self.last else self.helped.is_set()

    def assist(self) -> None:
        self.helped.set()


@pytest.mark.parametrize("workers", [0, -1])
def test_no_number_of_threads_leaves_items_out(workers: int) -> None:
    assert sorted(Threads(workers).map(square, range(3))) == [(0, 0), (1, 1), (2, 4)]


def test_threads_without_an_item_assist_the_others() -> None:
    found = dict(Threads(2).map(Assisted(8), range(9)))
    assert found[8]
    assert not any(found[x] for x in range(7))  # not before


def test_threads_hold_a_bounded_number_of_items() -> None:
    taken = 0

    def items() -> object:
        nonlocal taken
        for x in range(100):
            taken += 1
            yield x

    stream = Threads(3).map(square, items())
    next(stream)
    assert taken <= 6
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("wsiseg")]


def test_threads_take_more_or_fewer_items_at_once_while_they_run() -> None:
    executor, crowd = Threads(1), Crowd(2)
    threading.Timer(0.1, setattr, (executor, "workers", 2)).start()
    found = executor.map(crowd, range(20))
    next(found)
    assert crowd.most == 2
    executor.workers, crowd.enough = 1, 0
    for _ in range(2):  # what was at work already
        next(found)
    crowd.most = 0
    assert len(list(found)) == 17
    assert crowd.most == 1


@pytest.mark.timeout(120)
def test_an_item_that_kills_its_process_is_convicted_and_all_others_are_done(dask: Dask) -> None:
    done: list[int] = []
    with pytest.raises(RegionError, match=r"region 7 kills .*SIGSEGV") as caught:
        done.extend(x for x, _ in dask.map(segfault_at_seven, range(12)))
    assert caught.value.cause == "SIGSEGV"
    assert sorted(done) == [x for x in range(12) if x != 7]


@pytest.mark.timeout(120)
def test_an_item_that_hangs_is_convicted_and_its_worker_started_again(
    dask: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "DEADLINE_S", 6)
    done: list[int] = []
    with pytest.raises(RegionError, match=r"region 7 hangs") as caught:
        done.extend(x for x, _ in dask.map(hang_at_seven, range(12)))
    assert caught.value.cause == "timeout"
    assert sorted(done) == [x for x in range(12) if x != 7]
    assert len(list(dask.map(square, range(4)))) == 4


@pytest.mark.timeout(120)
def test_workers_that_are_at_work_for_others_do_not_hang(
    dask: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "DEADLINE_S", 4)
    there = set(dask.client.nthreads())
    stream = dask.map(place, range(20))
    next(stream)
    how = {"priority": 100, "pure": False, "allow_other_workers": False}
    others = [dask.client.submit(time.sleep, 9, workers=[w], **how) for w in there]
    assert len(list(stream)) == 19
    assert all(other.done() for other in others)
    assert set(dask.client.nthreads()) == there  # none was started again


def test_a_pause_of_who_takes_the_results_is_no_fault_of_workers(
    dask: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "DEADLINE_S", 4)
    there = set(dask.client.nthreads())
    stream = dask.map(place, range(20))
    next(stream)
    time.sleep(5)
    assert len(list(stream)) == 19
    assert set(dask.client.nthreads()) == there


def test_what_cannot_go_to_another_process_is_named(dask: Dask) -> None:
    with pytest.raises(SettingsError, match=r"cannot go to another process .*lambda"):
        list(dask.map(lambda x: x, [1]))


def test_the_region_of_a_killed_worker_runs_on_another(dask: Dask, tmp_path: Path) -> None:
    ((_, pid),) = dask.map(die_once, [str(tmp_path / "mark")])
    assert pid != os.getpid()
    assert (tmp_path / "mark").exists()


def test_neighbours_go_to_one_worker(dask: Dask) -> None:
    where = dict(dask.map(place, range(60)))
    changes = sum(where[a] != where[b] for a, b in pairwise(range(60)))
    assert changes < 15  # at random it would be 30


def test_what_a_lost_worker_was_to_do_is_done_by_others(dask: Dask, tmp_path: Path) -> None:
    items = [(str(tmp_path / "mark"), x) for x in range(40)]
    found = dict(dask.map(place_but_die_once, items))
    assert sorted(found) == items


def test_a_running_scheduler_is_used(tmp_path: Path) -> None:
    code = (
        "from distributed import LocalCluster\n"
        "import sys\n"
        "if __name__ == '__main__':\n"
        "    c = LocalCluster(n_workers=1, threads_per_worker=1, host='127.0.0.1',"
        " dashboard_address=None)\n"
        "    print(c.scheduler_address, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    (tmp_path / "cluster.py").write_text(code)
    cluster = subprocess.Popen(
        [sys.executable, str(tmp_path / "cluster.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert cluster.stdout is not None
    try:
        with Dask(scheduler=cluster.stdout.readline().strip()) as executor:
            assert sorted(executor.map(abs, [-1, 2])) == [(-1, 1), (2, 2)]
    finally:
        cluster.communicate("")


def test_two_clusters_run_side_by_side_and_listen_on_loopback_alone(dask: Dask) -> None:
    with Dask(1) as other:
        assert sorted(other.map(abs, [-1])) == [(-1, 1)]
        ports = [c for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]
        assert ports
        assert {c.laddr.ip for c in ports} == {"127.0.0.1"}


def test_workers_started_by_an_unguarded_script_are_a_named_error(tmp_path: Path) -> None:
    code = "from wsiseg.engine.executor import Dask\nwith Dask(1):\n    pass\n"
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=False
    )
    assert "SettingsError" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_a_scheduler_that_is_lost_before_the_first_item_is_named() -> None:
    class Lost:
        def nthreads(self) -> None:
            raise OSError("ConnectionPool closing.")

    executor = Dask(scheduler="tcp://127.0.0.1:1")
    executor.client = Lost()
    with pytest.raises(ClusterError, match="lost: ConnectionPool closing"):
        _ = executor.processes


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dask, "PATIENCE_S", 1)
    with (
        pytest.raises(ClusterError, match=r"127\.0\.0\.1:1 cannot be used"),
        Dask(scheduler="tcp://127.0.0.1:1"),
    ):
        pass
