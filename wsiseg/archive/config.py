"""What a batch is told: settings of its jobs, and how it treats slides that fail.

``--config job.toml``: settings of ``wsiseg.run.job.Job`` at the top, the fields of ``Policy`` in
the table ``[batch]``::

    model = "nuclei-he"
    formats = ["geojson"]

    [batch]
    workers = 4
    timeout_s = 3600
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from typing import Any

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
    "fresh": "it is --fresh of the command",
    "resume": "a batch always resumes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How slides are run, and what becomes of those that fail. SettingsError for what cannot be."""

    workers: int | None = None
    """Slides at once, each in a process of its own; None: one per core, as memory allows."""
    timeout_s: float = 1800.0
    """A slide that shows no progress for so long hangs: its process is killed."""
    attempts: int = 3
    """How often a slide is tried where the fault may not be its own; the last time alone."""
    backoff_s: float = 5.0
    """Pause before the second attempt; twice as long before each further one."""
    grace_s: float = 25.0
    """What regions at work get to finish when the batch is told to stop."""
    max_failures: int | None = None
    """Start no more slides after so many have failed; None: never mind."""
    scheduler: str | None = None
    """Address of a running dask scheduler (tcp://HOST:PORT): regions of the slides at work run on
    all of its workers; the processes here open slides, stitch and write."""

    def __post_init__(self) -> None:
        for name, low in (("workers", 1), ("attempts", 1), ("max_failures", 1)):
            _expect(name, getattr(self, name), low, whole=True)
        for name, low in (("timeout_s", 1), ("backoff_s", 0), ("grace_s", 0)):
            _expect(name, getattr(self, name), low, whole=False)
        Job(slide="", out=Path(), scheduler=self.scheduler)  # says what an address looks like


def read_config(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Policy]:
    """Settings of the jobs, and the policy, of a TOML file; paths are relative to its folder.

    Raises SettingsError, naming file and key, for unknown keys, wrong types and impossible
    values; InputFileError where the file cannot be read or is no TOML.
    """
    path = Path(path)
    table = read_toml(path)
    try:
        policy = fill(Policy, table.pop("batch", {}), "batch")
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
