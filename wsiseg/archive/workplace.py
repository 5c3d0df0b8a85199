"""Workplace: which pool runs the slides of a batch, and what is started and ended with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from wsiseg.archive.cluster_pool import ClusterPool
from wsiseg.archive.pool import Pool, Processes
from wsiseg.archive.remote import Whole
from wsiseg.archive.request import Request
from wsiseg.engine.cluster import Cluster
from wsiseg.interrupt import Stop

__all__ = ["workplace"]


@contextmanager
def workplace(
    request: Request,
    given: Pool | None,
    logs: Path,
    stop: Stop,
    notice: Callable[[str], None],
    needed: bool,
) -> Iterator[tuple[Pool, Request]]:
    """The pool that ``request`` asks for, and the request with the scheduler that it then has.

    ``given`` goes before it. ``logs``: folder for what jobs of a queue print. Where it is not
    ``needed``, nothing is started. Raises ClusterError, MissingExtraError.
    """
    with ExitStack() as opened:
        if given is not None or not needed:
            yield given or Processes(request.workers, request.policy.timeout_s), request
            return
        if request.policy.cluster is not None:
            from wsiseg.archive.jobs import started

            logs.mkdir(parents=True, exist_ok=True)
            address = opened.enter_context(started(request.policy.cluster, logs, request.tls))
            policy = replace(request.policy, scheduler=address, cluster=None)
            request = replace(request, policy=policy)
            _wait_for_jobs(address, request, stop, notice)
        policy = request.policy
        split = Processes(request.workers, policy.timeout_s)
        opened.callback(split.close)
        if policy.scheduler is None:
            yield split, request
            return
        cluster = opened.enter_context(Cluster(scheduler=policy.scheduler, tls=request.tls))
        if cluster.dashboard:
            notice(f"dashboard: {cluster.dashboard}")
        whole = Whole(request.model, policy.timeout_s, policy.grace_s)
        resource = "GPU" if request.settings.get("device") == "cuda" else None
        pool = ClusterPool(split, cluster, whole, resource)
        opened.callback(pool.close)
        yield pool, request


def _wait_for_jobs(
    address: str, request: Request, stop: Stop, notice: Callable[[str], None]
) -> None:
    """Until the first worker is there, however long the queue is, or a signal comes."""
    cluster = Cluster(scheduler=address, tls=request.tls, needed=0)
    with cluster:
        notice(f"scheduler {address}: waiting for the first of the jobs to start")
        while not cluster.client.nthreads():
            stop.check()
            time.sleep(1.0)
