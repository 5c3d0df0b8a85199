"""Executors: how regions are run. They differ in speed, never in what comes out.

The only file that knows dask.distributed.
"""

from __future__ import annotations

import logging
import pickle
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import islice, repeat
from multiprocessing import resource_tracker
from typing import Any, Protocol, TypeVar

from wsiseg.engine.shares import Shares
from wsiseg.errors import RegionError, SettingsError, WsisegError

__all__ = ["Dask", "Executor", "Serial", "Threads"]

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs one function over many items.

    - Yields (item, result) for each item exactly once, in any order, as they finish.
    - Holds a bounded number of items in flight.
    - Raises with the item named: a WsisegError as it is, anything else as RegionError.
    - Leaves nothing running once the iterator is closed.
    """

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)) for each of ``items``."""
        ...


class Serial:
    """One item after the other, in this thread."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)), in order."""
        for item in items:
            yield item, named(function, item)


class Threads:
    """``workers`` threads of this process; kernels, readers and networks let go of the GIL."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)), as they finish."""
        queue = iter(items)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="wsiseg")
        running: dict[Future[R], T] = {}
        try:
            while True:
                for item in islice(queue, self.workers - len(running)):
                    running[pool.submit(named, function, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Dask:
    """Worker processes of a dask.distributed cluster; one function, hence one model, per worker.

    Items that follow each other go to the same worker as far as that keeps all of them busy.

    ``scheduler`` is the address of a running cluster (tcp://HOST:PORT); otherwise a LocalCluster
    of ``workers`` single-threaded processes is started and stopped with the context.
    """

    AHEAD = 2
    """Regions in flight per worker: one at work, one waiting."""
    PATIENCE_S = 60
    """Seconds to wait for a scheduler and its first worker."""

    def __init__(self, workers: int = 1, scheduler: str | None = None) -> None:
        self.workers, self.scheduler = workers, scheduler
        self._client: Any = None
        self._opened = ExitStack()

    def __enter__(self) -> Dask:
        from dask import config
        from distributed import Client

        with ExitStack() as opened:
            # a worker that died is started again; on a busy machine that takes longer than the
            # 15 s after which a LocalCluster would by default go on without it
            opened.enter_context(config.set({"distributed.deploy.lost-worker-timeout": "600 s"}))
            address: Any = self.scheduler
            if address is None:
                address = self._local_cluster()
                opened.callback(address.close)
            try:
                self._client = Client(address, timeout=self.PATIENCE_S)
                opened.callback(self._client.close)
                self._client.wait_for_workers(1, timeout=self.PATIENCE_S)
            except OSError as error:  # TimeoutError is one
                raise SettingsError(
                    f"--scheduler {self.scheduler} cannot be used: no scheduler with a worker "
                    f"answered there within {self.PATIENCE_S} s ({error}); start one, or use "
                    "--workers N"
                ) from error
            self._opened = opened.pop_all()
        return self

    def _local_cluster(self) -> Any:
        from distributed import LocalCluster

        try:
            with _children_deaf_to_ctrl_c():
                return LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",  # None would mean port 8787, on every address
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,  # failures arrive as exceptions
                )
        except (RuntimeError, OSError) as error:
            raise SettingsError(
                f"--workers {self.workers}: the worker processes could not start ({error}); in a "
                'script, make the call under `if __name__ == "__main__":`, or leave workers out'
            ) from error

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)), as they finish; a region of a lost worker runs on another."""
        from distributed import as_completed

        # Loaded by a task, not scattered: what is lost with a worker is made again elsewhere.
        loaded = self._client.submit(pickle.loads, pickle.dumps(function), pure=False)
        shares = Shares(list(items), list(self._client.nthreads()))
        running: dict[Any, tuple[T, str]] = {}
        done = as_completed()
        try:
            while True:
                for worker in self._with_room(running):
                    for item in shares.take(worker):
                        near = {"workers": [worker], "allow_other_workers": True} if worker else {}
                        future = self._client.submit(named, loaded, item, pure=False, **near)
                        running[future] = (item, worker)
                        done.add(future)
                if not running:
                    return
                future = next(done)
                item, _ = running.pop(future)
                yield item, named(_result_of(future), item)
        finally:
            self._client.cancel([*running, loaded])

    def _with_room(self, running: dict[Any, tuple[Any, str]]) -> Iterator[str]:
        """Workers that are to get an item, as often as they are; "" while there are none."""
        busy = Counter(worker for _, worker in running.values())
        for worker in list(self._client.nthreads()) or [""]:
            yield from repeat(worker, self.AHEAD - busy[worker])


def _result_of(future: Any) -> Callable[[Any], Any]:
    return lambda _: future.result()


@contextmanager
def _children_deaf_to_ctrl_c() -> Iterator[None]:
    """Threads and processes started here leave Ctrl-C to the one who started them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would lift the block again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def named(function: Callable[[T], R], item: T) -> R:
    """``function(item)``, its unexpected errors turned into RegionError naming ``item``."""
    try:
        return function(item)
    except WsisegError:
        raise
    except Exception as error:
        where = getattr(item, "core", item)
        raise RegionError(f"region {where} failed: {type(error).__name__}: {error}") from error
