"""Request: what a batch is asked for, checked once, before anything is written."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import compress
from pathlib import Path
from typing import Any

from wsiseg.archive.config import Policy, checked_settings, read_config
from wsiseg.archive.folder import Shard
from wsiseg.archive.ids import check_id, folded, stem_of
from wsiseg.archive.records import Record
from wsiseg.archive.rows import SlideRow, once_each, with_known_ids
from wsiseg.archive.scan import rows_of
from wsiseg.archive.stamp import EMPTY, Unreachable, hash_of, stamps_of
from wsiseg.cores import cores
from wsiseg.engine.numerics import ALGORITHM
from wsiseg.errors import SettingsError
from wsiseg.hashing import sha256_of
from wsiseg.limits import free_memory
from wsiseg.model.shipped import shipped
from wsiseg.model.weights import FILE_NAME
from wsiseg.model.zoo import model_info
from wsiseg.run.job import Job
from wsiseg.storage.url import absolute, name_of

__all__ = ["Request", "parse_shard", "weights_sha256"]

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
    workers: int
    """Slides at once; decided once, so that all slides have equal shares of a memory bound."""
    threads: int | None
    """Regions at once of each slide; None: its own process decides."""
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
        workers = _workers(policy, job, len(rows))
        request = cls(
            rows=tuple(rows),
            settings=job,
            policy=policy,
            workers=workers,
            threads=_threads(workers, policy, job),
            only=_known(only, rows, {stem_of(name_of(r.path)) for r in rows if not r.named}),
            retry_failed=retry_failed,
            fresh=fresh,
            shard=parse_shard(shard) if isinstance(shard, str) else shard,
        )
        for model in {row.model or request.model for row in rows}:
            model_info(model)  # an unknown one is an error before the night, not in it
        return request

    def keeping(self, known: Mapping[str, Record]) -> Request:
        """The same with the ids that the archive has for slides that nobody named.

        An id that it has for another file, which is still there, is not taken from that. Raises
        SettingsError where ``only`` names none of the slides.
        """
        records = sorted(known.values(), key=lambda record: record.state == "done")
        ids = {record.path: record.slide_id for record in records}
        new = {folded(r.slide_id) for r in self.rows if not r.named and r.path not in ids}
        paths = {row.path for row in self.rows}
        alike = [r for r in records if folded(r.slide_id) in new and r.path not in paths]
        looks = stamps_of(record.path for record in alike)
        there = (look is not None and look != Unreachable(EMPTY) for look in looks)
        taken = (record.slide_id for record in compress(alike, there))
        rows = with_known_ids(self.rows, ids, taken=taken)
        final = {row.slide_id for row in rows}
        made = {a.slide_id: b.slide_id for a, b in zip(self.rows, rows, strict=True)}
        only = (i if i in final else made.get(i, i) for i in self.only)
        return replace(self, rows=tuple(rows), only=_known(only, rows))

    @property
    def model(self) -> str:
        """Name or path of the model of slides that have none of their own."""
        return str(Job(slide="", out=Path(), **self.settings).model)

    @property
    def tls(self) -> dict[str, str] | None:
        """Files for a scheduler at tls://."""
        return None if self.policy.tls is None else asdict(self.policy.tls)

    def whole(self, input_bytes: int | None) -> bool:
        """Whether a slide is small enough to be done by one worker of a cluster."""
        return input_bytes is not None and input_bytes < self.policy.whole_below

    def job_settings(self, row: SlideRow) -> dict[str, Any]:
        """Settings of the Job of a slide."""
        settings = {"model": self.model} | self.settings | row.settings | self.policy.copies
        on_cluster = self.policy.on_cluster
        if "max_memory" in settings:  # of a cluster, it is that of each of its workers
            share = 1 if on_cluster else self.workers
            settings["max_memory"] = _bytes(settings["max_memory"]) // share
        tls = {"tls": self.tls} if self.tls else {}
        return settings | ({"scheduler": self.policy.scheduler} | tls if on_cluster else {})

    def parts(self) -> dict[str, Any]:
        """What all slides of an archive share, and what its results depend on."""
        job = Job(slide="", out=Path(), **self.settings)
        settings = {name: getattr(job, name) for name in _CELLS}
        model = {"model": Path(self.model).name, "model_sha256": weights_sha256(self.model)}
        region = None if job.tissue in ("auto", "none") else _sha256(Path(job.tissue))
        tissue = {"tissue_sha256": region} if region else {}
        return settings | model | tissue | {"algorithm": ALGORITHM}

    def asked(self, row: SlideRow, mark: str, shared: str) -> str:
        """Hash of all that the result of a slide follows from, ``shared`` being that of parts."""
        own = row.settings
        if row.model is not None:
            own = own | {"model_sha256": weights_sha256(row.model)}
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
        replace(row, slide_id=check_id(row.slide_id, "rows"), path=absolute(row.path))
        for row in rows
    )
    return once_each(sound, "rows")


def _known(
    only: Iterable[str], rows: Sequence[SlideRow], perhaps: Set[str] = frozenset()
) -> frozenset[str]:
    """``only`` if all of it are ids of ``rows``, or ``perhaps`` ids that the archive knows."""
    wanted, ids = frozenset(only), {row.slide_id for row in rows}
    for slide_id in sorted(wanted - ids - perhaps):
        near = difflib.get_close_matches(slide_id, ids, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise SettingsError(f"--only {slide_id!r}: no slide has that id{hint}")
    return wanted


def weights_sha256(model: str) -> str | None:
    """Hash of the file of weights; None for a model that is code."""
    path = shipped().get(model) or Path(model)
    return _sha256(path / FILE_NAME if path.is_dir() else path)


def _sha256(path: Path) -> str | None:
    """Hash of a file as it is now; None where there is none."""
    if not path.is_file():
        return None
    found = path.stat()
    return _sha256_of(path, found.st_size, found.st_mtime_ns, found.st_ino)


@cache
def _sha256_of(path: Path, *_: int) -> str:
    """Hash of a file; what else is given says when it must be read again."""
    return sha256_of(path)


def _workers(policy: Policy, settings: Mapping[str, Any], slides: int) -> int:
    if policy.workers is not None:
        return policy.workers
    if policy.on_cluster:
        return _ON_CLUSTER
    if settings.get("device", "cpu") != "cpu":
        return 1
    memory = free_memory()
    if "max_memory" in settings:
        memory = min(memory, _bytes(settings["max_memory"]))
    return max(1, min(cores(), memory // _PER_WORKER, slides))


def _threads(workers: int, policy: Policy, settings: Mapping[str, Any]) -> int | None:
    if workers == 1 or policy.on_cluster:
        return None
    return 1 if "max_memory" in settings else max(1, cores() // workers)


def _bytes(value: Any) -> int:
    memory = Job(slide="", out=Path(), max_memory=value).max_memory
    assert memory is not None
    return memory
