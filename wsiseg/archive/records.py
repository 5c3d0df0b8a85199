"""Record: what an archive knows of one slide. States and codes are a contract, see ``STATES``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

__all__ = ["CODES", "STATES", "Record", "now"]

STATES = {
    "pending": "waits for its turn, or for another attempt",
    "running": "is at work",
    "done": "its files are there, and their hashes are known",
    "failed": "has failed for good, code and message say why; --retry-failed tries it again",
    "skipped": "was left out on request, code says by which",
    "preempted": "was at work when the batch was terminated; goes on from there",
    "interrupted": "was at work when the batch was interrupted; goes on from there",
}
CODES = {
    "missing-file": "there is no such file",
    "unreadable": "the file is empty, cut short or damaged",
    "unsupported-format": "no reader takes the file",
    "missing-mpp": "no believable pixel size: give mpp in the manifest",
    "settings": "a setting that cannot be, such as a memory bound that is too small",
    "model": "the model or its weights cannot be used",
    "foreign-folder": "its folder in the archive holds files of others",
    "timeout": "no progress for longer than allowed, in every attempt",
    "out-of-memory": "memory was exhausted, also with one region at work and no slide beside it",
    "input-io": "the storage of the slide failed, in every attempt",
    "input-changed": "the slide was replaced while it was read, in every attempt",
    "cluster": "no scheduler with a worker answered at the address of --scheduler",
    "worker": "worker processes cannot start: the installation is not complete, or the system full",
    "locked": "another run is at work in its folder",
    "disk-full": "the archive's disk or quota is full",
    "read-only": "the archive cannot be written",
    "output": "writing to the archive failed",
    "quarantine": "its process died, or failed unexpectedly, in every attempt: cause says how",
    "not-selected": "skipped: it is not in --only",
    "not-in-manifest": "skipped: an earlier manifest had it, this one has not",
    "max-failures": "skipped: --fail-fast or --max-failures stopped the batch",
}
"""Codes of ``failed``, and the last three of ``skipped``."""


def now() -> str:
    """The time, as records have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@dataclass(frozen=True, slots=True)
class Record:
    """A slide's line in ``status.json``. Values are None where they are not known."""

    slide_id: str
    state: str
    """A key of ``STATES``."""
    code: str | None = None
    """A key of ``CODES``."""
    cause: str | None = None
    """Of a failure, such as SIGSEGV or the name of an exception."""
    message: str | None = None
    """Of a failure, for people."""
    path: str = ""
    group: str = ""
    attempts: int = 0
    """How often it was started since it, or what it is to be run with, last changed."""
    host: str | None = None
    started: str | None = None
    finished: str | None = None
    updated: str = ""
    seconds: float | None = None
    """Of the last attempt."""
    peak_memory_bytes: int | None = None
    """Largest resident memory of its process while it was at work."""
    input_bytes: int | None = None
    tiles: int | None = None
    """Regions with tissue."""
    resumed: int | None = None
    """Those of them that an earlier attempt had done."""
    cells: int | None = None
    classes: dict[str, int] = field(default_factory=dict)
    """Cells of each class; {} where the model tells none apart."""
    tissue_mm2: float | None = None
    analysed_mm2: float | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    """Objects left out, by reason."""
    warnings: list[str] = field(default_factory=list)
    restarted: str | None = None
    """Why an earlier result was not gone on with."""
    model: str | None = None
    model_sha256: str | None = None
    numerics: str | None = None
    """Numerics class of the whole slide."""
    content_key: str | None = None
    """Key of the run: input, model, parameters and code."""
    input_sha256: str | None = None
    """Of the slide's fingerprint: size and samples, or all of it with full_hash."""
    output_sha256: str | None = None
    """Over the files of cells: equal for equal results."""
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    """File name -> [bytes, SHA-256]."""
    asked: str = ""
    """Hash of what is cheap to compare: the input's size and time, and all settings."""
    mark: str = ""
    """Of the input, as far as ``asked`` counts it."""
    lost: int = 0
    """How often in a row its batch died while it was at work, without a region more."""
    stored: int = 0
    """Regions that were stored when its batch last died."""
    change: int = 0
    """Counts changes: of two records of a slide, the higher is the newer."""

    def to(self, state: str, **values: Any) -> Record:
        """The next record, in ``state``; codes and messages go unless they are given."""
        assert state in STATES, state
        cleared: dict[str, Any] = {"code": None, "cause": None, "message": None}
        if state not in ("pending", "running"):
            cleared |= {"lost": 0, "stored": 0}
        stamp = {"updated": now(), "change": self.change + 1}
        return replace(self, state=state, **(cleared | values | stamp))

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Record:
        """From JSON values; those of a newer version that are not known here are left out.

        Raises TypeError or KeyError for what is no record.
        """
        known = {name: values[name] for name in _NAMES if name in values}
        if known["state"] not in STATES or not isinstance(known["slide_id"], str):
            raise KeyError("state")
        return cls(**known)


_NAMES = tuple(f.name for f in fields(Record))
