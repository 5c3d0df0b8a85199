"""Cluster: a connection to a dask scheduler, running elsewhere or started here on loopback."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

from wsiseg.errors import ClusterError, SettingsError

__all__ = ["TLS_FILES", "Cluster", "reached", "security", "still_wanted"]

TLS_FILES = ("ca", "cert", "key")
"""What TLS takes: files (PEM) of the authority, and of our certificate and its key."""


class Cluster:
    """A connection, for as long as the context is open.

    ``scheduler`` is the address of a running cluster (tcp://HOST:PORT, tls://HOST:PORT);
    otherwise a LocalCluster of ``workers`` single-threaded processes is started and stopped with
    the context. ``tls``: files by the names ``TLS_FILES``; by default what dask is configured to.
    ``needed``: workers to wait for. Raises ClusterError where none answers.
    """

    PATIENCE_S = 60
    """Seconds to wait for a scheduler and its first worker."""

    def __init__(
        self,
        workers: int = 1,
        scheduler: str | None = None,
        tls: Mapping[str, str] | None = None,
        *,
        needed: int = 1,
    ) -> None:
        self.workers, self.scheduler, self._tls, self._needed = workers, scheduler, tls, needed
        self._opened = ExitStack()
        self.client: Any = None

    def __enter__(self) -> Cluster:
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
            how = {} if self._tls is None else {"security": security(self._tls)}
            try:
                self.client = Client(address, timeout=self.PATIENCE_S, set_as_default=False, **how)
                opened.callback(self.client.close)
                if self._needed:
                    self.client.wait_for_workers(self._needed, timeout=self.PATIENCE_S)
            except (OSError, TypeError) as error:  # TimeoutError is one; TypeError: no certificate
                raise ClusterError(
                    f"--scheduler {self.scheduler} cannot be used: no scheduler with a worker "
                    f"answered there within {self.PATIENCE_S} s ({error}); start one, or use "
                    "--workers N"
                ) from error
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def processes(self) -> int:
        """Worker processes that there are now, at least 1."""
        with reached():
            return max(1, len(self.client.nthreads()))

    @property
    def dashboard(self) -> str | None:
        """Link to the scheduler's dashboard, where it has one."""
        host = re.sub(r"^\w+://|:\d+$", "", self.client.scheduler.address)
        port = self.client.scheduler_info(n_workers=0)["services"].get("dashboard")
        return f"http://{host}:{port}/status" if port else None

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


def security(tls: Mapping[str, str]) -> Any:
    """What distributed needs to speak TLS, and nothing but TLS, with ``tls`` of Cluster."""
    from distributed.security import Security

    roles = ("client", "scheduler", "worker")
    own = {f"tls_{role}_{part}": tls[part] for role in roles for part in ("cert", "key")}
    return Security(tls_ca_file=tls["ca"], require_encryption=True, **own)


def still_wanted(key: str) -> bool:
    """Inside of a task: whether anybody waits for the result of the task ``key``, this one."""
    from distributed import get_worker

    task = get_worker().state.tasks.get(key)
    return task is not None and task.state not in ("cancelled", "released", "forgotten")


@contextmanager
def reached() -> Iterator[None]:
    """What is asked of the scheduler, which may be gone in many ways; ClusterError."""
    try:
        yield
    except Exception as error:
        raise ClusterError(f"the scheduler of the cluster is lost: {error}") from error


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
