"""Jobs of a queue (SLURM, PBS, ...) as the workers of a batch, by dask-jobqueue.

``--config job.toml``, table ``[cluster]``::

    [cluster]
    kind = "slurm"
    interface = "ib0"
    workers = 10
    cores = 8
    memory = "32GB"
    walltime = "08:00:00"
    queue = "normal"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.engine.cluster import security
from wsiseg.errors import ClusterError, MissingExtraError, SettingsError

__all__ = ["KINDS", "JobQueue", "script", "started"]

KINDS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "htcondor": "HTCondorCluster",
}
"""Kinds of queues, and their classes in dask_jobqueue."""

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQueue:
    """Which jobs to ask for. SettingsError for what cannot be."""

    kind: str
    """A key of ``KINDS``."""
    workers: int = 1
    """Jobs at once; one that ends is asked for again."""
    cores: int = 1
    """Of each job: so many regions at once."""
    memory: str = "16GB"
    """Of each job."""
    walltime: str | None = None
    """Of each job, HH:MM:SS or D-HH:MM:SS; its worker leaves in time for regions to be done."""
    margin_s: float = 300.0
    """By how much before the end of the walltime at the latest; at most half of it is used."""
    interface: str | None = None
    """Network interface, such as ib0, by which workers and scheduler speak."""
    host: str | None = None
    """Address of this machine for workers, instead of an interface."""
    queue: str | None = None
    """Queue or partition."""
    account: str | None = None
    """Account or project that is charged."""
    resources: str | None = None
    """Of each worker, such as GPU=1 for ``device = "cuda"``."""
    directives: tuple[str, ...] = ()
    """More lines for the head of the job script, such as --gres=gpu:1."""
    prologue: tuple[str, ...] = ()
    """Commands before the worker starts, such as module load."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"cluster.kind must be one of {', '.join(KINDS)}: {self.kind!r}")
        if min(self.workers, self.cores, self.margin_s) < 1:
            raise SettingsError("cluster.workers, cores and margin_s must be 1 or more")
        if (self.interface is None) == (self.host is None):
            raise SettingsError(
                "[cluster] needs interface (such as ib0) or host: by which the workers of the jobs "
                "find the scheduler, which would otherwise listen on loopback alone"
            )
        if self.walltime is not None:
            _seconds(self.walltime)

    @property
    def leaving(self) -> list[str]:
        """Options by which a worker leaves before its job is ended, not all at the same time."""
        if self.walltime is None:
            return []
        walltime = _seconds(self.walltime)
        margin = min(self.margin_s, walltime / 4)
        lifetime, stagger = walltime - 2 * margin, margin  # at most by so much more or less
        return ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]


def script(jobs: JobQueue, logs: Path, tls: Mapping[str, str] | None = None) -> str:
    """The script of a job; it names files of certificates, and holds nothing of them."""
    with _cluster(jobs, logs, tls) as cluster:
        return str(cluster.job_script())


@contextmanager
def started(jobs: JobQueue, logs: Path, tls: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a scheduler in this process, whose workers are jobs, which end with it.

    ``logs``: folder for what the jobs print.
    """
    with _cluster(jobs, logs, tls) as cluster:
        # a job that has ended is asked for again, which scale() would not do
        cluster.adapt(minimum_jobs=jobs.workers, maximum_jobs=jobs.workers)
        yield str(cluster.scheduler_address)


@contextmanager
def _cluster(jobs: JobQueue, logs: Path, tls: Mapping[str, str] | None) -> Iterator[Any]:
    try:
        import dask_jobqueue
    except ImportError as error:
        raise MissingExtraError(
            "[cluster] needs dask-jobqueue: pip install 'wsiseg[cluster]'"
        ) from error
    kind = getattr(dask_jobqueue, KINDS[jobs.kind])
    try:
        cluster = kind(**_options(jobs, logs, tls))
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ClusterError(f"[cluster] of kind {jobs.kind} cannot be started: {error}") from error
    with cluster:
        yield cluster


def _options(jobs: JobQueue, logs: Path, tls: Mapping[str, str] | None) -> dict[str, Any]:
    need = ["--resources", jobs.resources] if jobs.resources else []
    options = {
        "cores": jobs.cores,
        "processes": 1,  # one model for all cores of a job
        "memory": jobs.memory,
        "walltime": jobs.walltime,
        "queue": jobs.queue,
        "account": jobs.account,
        "interface": jobs.interface,
        "log_directory": str(logs),
        "worker_extra_args": [*jobs.leaving, *need, "--no-dashboard"],
        "job_extra_directives": list(jobs.directives),
        # what lies in the folder that we were started in is data, not code
        "job_script_prologue": ["export PYTHONSAFEPATH=1", *jobs.prologue],
        "scheduler_options": {"dashboard_address": f"{_LOOPBACK}:0", **_place(jobs)},
        "security": None if tls is None else security(tls),
    }
    return {name: value for name, value in options.items() if value is not None}


def _place(jobs: JobQueue) -> dict[str, str]:
    return {"interface": jobs.interface} if jobs.interface else {"host": jobs.host or _LOOPBACK}


def _seconds(walltime: str) -> float:
    """Of HH:MM:SS or D-HH:MM:SS.

    >>> _seconds("1-02:00:30")
    93630.0
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d)(?::([0-5]\d))?", walltime)
    if found is None:
        raise SettingsError(f"cluster.walltime must be HH:MM:SS or D-HH:MM:SS: {walltime!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
