"""Request: what a batch is asked for, checked once, before anything is written."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from wsiseg.archive.config import Policy, checked_settings, read_config
from wsiseg.archive.folder import Shard
from wsiseg.archive.ids import check_id
from wsiseg.archive.rows import SlideRow, once_each
from wsiseg.archive.scan import rows_of
from wsiseg.archive.stamp import hash_of
from wsiseg.cores import cores
from wsiseg.engine.numerics import ALGORITHM
from wsiseg.errors import SettingsError
from wsiseg.model.shipped import shipped
from wsiseg.model.weights import FILE_NAME
from wsiseg.model.zoo import model_info
from wsiseg.run.job import Job

__all__ = ["Request", "parse_shard"]

_ON_CLUSTER = 3  # slides: while one is opened and one is written, there are regions of another
_PER_WORKER = 3 << 30  # bytes: libraries, a network, and a region at work
_CELLS = ("mpp", "scene", "z", "tissue", "stain", "device", "precision", "batch", "tta", "simplify")
"""Settings that change cells; others may differ from one batch of an archive to the next."""


@dataclass(frozen=True, slots=True)
class Request:
    """Slides, settings and choices of one call."""

    rows: tuple[SlideRow, ...]
    """All slides of the manifest."""
    settings: dict[str, Any]
    """Of every Job."""
    policy: Policy
    only: frozenset[str] = frozenset()
    """Ids of the slides to run; none: all."""
    retry_failed: bool = False
    fresh: bool = False
    shard: Shard | None = None

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str] | Iterable[SlideRow],
        *,
        config: str | os.PathLike[str] | None = None,
        only: Iterable[str] = (),
        retry_failed: bool = False,
        fail_fast: bool = False,
        fresh: bool = False,
        shard: str | Shard | None = None,
        **settings: Any,
    ) -> Request:
        """Read and check everything; see ``wsiseg.batch`` for the arguments.

        Raises SettingsError, InputFileError, UnknownModelError, ModelError.
        """
        own, policy = read_config(config) if config is not None else ({}, Policy())
        chosen = {f.name: settings.pop(f.name) for f in fields(Policy) if f.name in settings}
        chosen |= {"max_failures": 1} if fail_fast else {}
        policy = replace(policy, **{k: v for k, v in chosen.items() if v is not None})
        job = own | checked_settings(settings)
        if fresh and shard:
            raise SettingsError("--fresh is for a whole batch, not for a shard of it")
        rows = rows_of(source) if isinstance(source, str | os.PathLike) else _checked(source)
        request = cls(
            rows=tuple(rows),
            settings=job,
            policy=policy,
            only=_known(only, rows),
            retry_failed=retry_failed,
            fresh=fresh,
            shard=parse_shard(shard) if isinstance(shard, str) else shard,
        )
        for model in {row.model or request.model for row in rows}:
            model_info(model)  # an unknown one is an error before the night, not in it
        return request

    @property
    def model(self) -> str:
        """Name or path of the model of slides that have none of their own."""
        return str(Job(slide="", out=Path(), **self.settings).model)

    @property
    def workers(self) -> int:
        """Slides at once."""
        if self.policy.workers is not None:
            return self.policy.workers
        if self.policy.scheduler is not None:
            return _ON_CLUSTER
        if self.settings.get("device", "cpu") != "cpu":
            return 1
        fitting = psutil.virtual_memory().available // _PER_WORKER
        return int(max(1, min(cores(), fitting, len(self.rows))))

    @property
    def threads(self) -> int | None:
        """Regions at once of each slide; None: its own process decides."""
        if self.workers == 1 or self.policy.scheduler is not None:
            return None
        return 1 if "max_memory" in self.settings else max(1, cores() // self.workers)

    def job_settings(self, row: SlideRow) -> dict[str, Any]:
        """Settings of the Job of a slide."""
        settings = {"model": self.model} | self.settings | row.settings
        on_cluster = self.policy.scheduler is not None
        if "max_memory" in settings:  # of a cluster, it is that of each of its workers
            share = 1 if on_cluster else self.workers
            settings["max_memory"] = _bytes(settings["max_memory"]) // share
        return settings | ({"scheduler": self.policy.scheduler} if on_cluster else {})

    def parts(self) -> dict[str, Any]:
        """What all slides of an archive share, and what its results depend on."""
        job = Job(slide="", out=Path(), **self.settings)
        settings = {name: getattr(job, name) for name in _CELLS}
        model = {"model": Path(self.model).name, "model_sha256": _identity(self.model)}
        return settings | model | {"algorithm": ALGORITHM}

    def asked(self, row: SlideRow, mark: str, shared: str) -> str:
        """Hash of all that the result of a slide follows from, ``shared`` being that of parts."""
        own = row.settings
        if row.model is not None:
            own = own | {"model_sha256": _identity(row.model)}
        formats = sorted(Job(slide="", out=Path(), **self.settings).files)
        return hash_of({"own": own, "input": mark, "shared": shared, "formats": formats})

    def mine(self, row: SlideRow) -> bool:
        """Whether a slide belongs to this shard, which depends on its id alone."""
        if self.shard is None:
            return True
        index, count = self.shard
        number = int.from_bytes(hashlib.sha256(row.slide_id.encode()).digest()[:8], "big")
        return number % count == index - 1


def parse_shard(text: str) -> Shard:
    """(i, N) of "i/N", i from 1; SettingsError.

    >>> parse_shard("3/16")
    (3, 16)
    """
    first, _, last = text.partition("/")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        return int(first), int(last)
    raise SettingsError(f"--shard must be i/N with i from 1 to N, such as 3/16, got {text!r}")


def _checked(rows: Iterable[SlideRow]) -> list[SlideRow]:
    """Rows from code by the rules of those of a manifest."""
    sound = (
        replace(row, slide_id=check_id(row.slide_id, "rows"), path=os.path.abspath(row.path))
        for row in rows
    )
    return once_each(sound, "rows")


def _known(only: Iterable[str], rows: Sequence[SlideRow]) -> frozenset[str]:
    wanted, ids = frozenset(only), {row.slide_id for row in rows}
    for slide_id in sorted(wanted - ids):
        near = difflib.get_close_matches(slide_id, ids, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise SettingsError(f"--only {slide_id!r}: no slide has that id{hint}")
    return wanted


@cache
def _identity(model: str) -> str | None:
    """Hash of the file of weights; None for a model that is code."""
    path = shipped().get(model) or Path(model)
    path = path / FILE_NAME if path.is_dir() else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _bytes(value: Any) -> int:
    memory = Job(slide="", out=Path(), max_memory=value).max_memory
    assert memory is not None
    return memory
