"""What a batch is told: settings of its jobs, and how it treats slides that fail.

``--config job.toml``: settings of ``wsiseg.run.job.Job`` at the top, the fields of ``Policy`` in
the table ``[batch]``, jobs of a queue in ``[cluster]`` (``wsiseg.archive.jobs``)::

    model = "nuclei-he"
    formats = ["geojson"]

    [batch]
    workers = 4
    timeout_s = 3600
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from wsiseg.archive.jobs import JobQueue
from wsiseg.archive.rows import name_or_path
from wsiseg.errors import SettingsError
from wsiseg.run.job import Job, parse_memory
from wsiseg.settings import fill, read_toml

__all__ = ["Policy", "checked_settings", "read_config"]

_FIXED = {
    "slide": "slides come from the manifest",
    "out": "each slide has its folder in the archive",
    "workers": "it belongs in [batch]",
    "scheduler": "it belongs in [batch]",
    "tls": "it belongs in [batch]",
    "staging": "it belongs in [batch]",
    "staging_bytes": "it belongs in [batch]",
    "fresh": "it is --fresh of the command",
    "resume": "a batch always resumes",
}


_OWN_TABLE = {"batch.cluster": "it is the table [cluster]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files (PEM) by which scheduler, workers and we know each other."""

    ca: str
    cert: str
    key: str

    def beside(self, folder: Path) -> Tls:
        """With paths that are relative to ``folder`` made absolute; SettingsError, if missing."""
        paths = {name: os.path.abspath(folder / file) for name, file in asdict(self).items()}
        for name, file in paths.items():
            if not os.path.isfile(file):
                raise SettingsError(f"batch.tls.{name}: there is no file {file}")
        return Tls(**paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How slides are run, and what becomes of those that fail. SettingsError for what cannot be."""

    workers: int | None = None
    """Slides at once, each in a process of its own; None: one per core, as memory allows."""
    timeout_s: float = 1800.0
    """A slide that shows no progress for so long hangs: its process is killed. Progress is a region
    done, a part of the slide looked at, a block hashed."""
    attempts: int = 3
    """How often a slide is tried where the fault may not be its own; the last time alone, but for
    1, which tries every slide once, beside others."""
    cpu_in_the_end: bool = False
    """Whether a slide that fails on another device for good is tried once more on the CPU, whole,
    unless the fault is its own. Its record's ``numerics`` tells of that: cells are not those of the
    device bit for bit."""
    backoff_s: float = 5.0
    """Pause before the second attempt; twice as long before each further one."""
    grace_s: float = 25.0
    """What regions at work get to finish when the batch is told to stop."""
    max_failures: int | None = None
    """Start no more slides after so many have failed; None: never mind."""
    scheduler: str | None = None
    """Address of a running dask scheduler (tcp://HOST:PORT, tls://HOST:PORT): its workers do small
    slides, and the regions of large ones, which processes here open, stitch and write."""
    tls: Tls | None = None
    """For a scheduler at tls://."""
    whole_below: int = 32_000_000
    """Bytes of a slide's input below which it is small: some dozens of regions."""
    cluster: JobQueue | None = None
    """The table ``[cluster]``: jobs of a queue to be started as workers."""
    staging: str | None = None
    """Folder on a disk of this machine (or of each worker) into which slides are copied before they
    are read, for storage that is slow; see ``wsiseg.storage.staging``."""
    staging_bytes: int | None = None
    """Bound of all copies in that folder."""
    work: str | None = None
    """Where an archive at a URL has its working folder; None: below the user's cache."""

    def __post_init__(self) -> None:
        if isinstance(self.tls, Mapping):  # as code writes it
            object.__setattr__(self, "tls", Tls(**self.tls).beside(Path()))
        lowest = {"workers": 1, "attempts": 1, "max_failures": 1, "whole_below": 0}
        for name, low in lowest.items():
            _expect(name, getattr(self, name), low, whole=True)
        for name, low in (("timeout_s", 1), ("backoff_s", 0), ("grace_s", 0)):
            _expect(name, getattr(self, name), low, whole=False)
        Job(slide="", out=Path(), scheduler=self.scheduler)  # says what an address looks like
        if self.scheduler is not None and self.cluster is not None:
            raise SettingsError("batch.scheduler and [cluster] cannot both be: one finds a cluster")
        Job(slide="", out=Path(), **self.copies)

    @property
    def on_cluster(self) -> bool:
        """Whether dask workers do the work, of a cluster that is running or is to be started."""
        return self.scheduler is not None or self.cluster is not None

    @property
    def copies(self) -> dict[str, Any]:
        """Settings of each Job that say where slides are copied to, if they are."""
        told = {"staging": self.staging, "staging_bytes": self.staging_bytes}
        return {name: value for name, value in told.items() if value is not None}


def read_config(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Policy]:
    """Settings of the jobs, and the policy, of a TOML file; paths are relative to its folder.

    Raises SettingsError, naming file and key, for unknown keys, wrong types and impossible
    values; InputFileError where the file cannot be read or is no TOML.
    """
    path = Path(path)
    table = read_toml(path)
    try:
        queue = table.pop("cluster", None)
        policy = fill(Policy, table.pop("batch", {}), "batch", fixed=_OWN_TABLE)
        if queue is not None:
            policy = replace(policy, cluster=fill(JobQueue, queue, "cluster"))
        if policy.tls is not None:
            policy = replace(policy, tls=policy.tls.beside(path.parent))
        if policy.staging is not None:
            policy = replace(policy, staging=os.path.abspath(path.parent / policy.staging))
        if policy.work is not None:
            policy = replace(policy, work=os.path.abspath(path.parent / policy.work))
        return _settings(table, path.parent), policy
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` of a Job as plain values that can go to another process.

    Raises SettingsError for those that a batch decides itself, that no Job has, and that cannot
    be; models and slides that are open already cannot travel.
    """
    known = {field.name for field in fields(Job)}
    for name in settings:
        if name in _FIXED:
            raise SettingsError(f"{name} cannot be set: {_FIXED[name]}")
        if name not in known:
            raise SettingsError(f"{name} is no setting of a job")
    plain = {name: _plain(name, value) for name, value in settings.items() if value is not None}
    Job(slide="", out=Path(), **plain)
    return plain


def _settings(table: dict[str, Any], base: Path) -> dict[str, Any]:
    if isinstance(table.get("max_memory"), str):
        table["max_memory"] = parse_memory(table["max_memory"])
    job = fill(Job, table, base=Job(slide="", out=Path()), fixed=_FIXED)
    found = {name: getattr(job, name) for name in table}
    for name in ("model", "tissue"):
        if name in found:
            found[name] = name_or_path(str(found[name]), base)
    return checked_settings(found)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.path.abspath(value)
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    if isinstance(value, str | int | float | bool):
        return value
    raise SettingsError(
        f"{name} must be a name, a path or a number, since every worker process loads its own; "
        f"got {type(value).__name__}"
    )


def _expect(name: str, value: Any, low: float, *, whole: bool) -> None:
    if value is None and whole and name != "attempts":
        return
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not low <= value < inf:
        kind = "a whole number" if whole else "a number"
        raise SettingsError(f"{name} must be {kind} of {low} or more, got {value!r}")
