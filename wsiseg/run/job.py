"""Job: what to do with one slide, and the key that says when two jobs give the same cells."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from wsiseg.errors import SettingsError
from wsiseg.image.slide import MAX_MPP, MIN_MPP
from wsiseg.model.base import Model
from wsiseg.model.zoo import default_model

__all__ = ["FORMATS", "Job", "key_of", "parse_memory"]

FORMATS = {"geojson": "cells.geojson.gz", "parquet": "cells.parquet", "csv": "cells.csv"}
"""Formats of the cells, and their files in the run folder; parquet is always written."""

_CHOICES = {
    "stain": ("default", "macenko"),
    "device": ("cpu", "cuda", "mps", "openvino"),
    "precision": ("auto", "fp32", "bf16", "int8"),
}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything a run is told. Raises SettingsError, naming the setting, for what cannot be."""

    slide: Any
    """Path or URL of a slide, or a Slide that is already open."""
    out: Path
    """Run folder."""
    model: str | Path | Model | None = None
    """Name or path of a model, or a model that is already loaded; None: ``default_model()``."""
    mpp: float | None = None
    """µm per level-0 px, overriding the file's metadata."""
    scene: int | None = None
    """Scene of a file that holds several."""
    z: int | None = None
    """Plane of a z-stack."""
    tissue: str = "auto"
    """"auto" (find it), "none" (the whole slide), or a GeoJSON file that limits the run."""
    stain: str = "default"
    """"default" (the model's own vectors) or "macenko" (estimated from the slide's tissue)."""
    region: int = 1536
    """Side of a region, px of the model's lattice: speed and memory, never the result."""
    workers: int | None = None
    """None: threads on all cores; 0: one thread; N: N dask worker processes."""
    scheduler: str | None = None
    """Address of a running dask scheduler (tcp://HOST:PORT, tls://HOST:PORT)."""
    tls: dict[str, str] | None = None
    """Files (PEM) for a scheduler at tls://: ``ca``, ``cert`` and ``key``; None: what dask is
    configured to use."""
    device: str = "cpu"
    """"cpu", "cuda", "mps" or "openvino"."""
    precision: str = "auto"
    """"auto", "fp32", "bf16" or "int8"."""
    batch: int | None = None
    """Patches of one forward; None: the model's own."""
    tta: bool = False
    """Average over mirror images of each patch: slower by 4, slightly better."""
    max_memory: int | None = None
    """Bytes (or "4GB") that all processes of the run on this machine may take together; fewer or
    smaller regions at once keep to it."""
    simplify: float = 0.0
    """Largest distance, px of the model's lattice, by which outlines may be simplified."""
    formats: tuple[str, ...] = ("geojson", "parquet")
    """Files of cells to write."""
    fresh: bool = False
    """Start over, removing an earlier run of ours in the folder."""
    resume: bool = True
    """Go on with an earlier run of the same key; otherwise it is an error."""
    full_hash: bool = False
    """Hash the whole slide file, not only its size, time, head and tail."""
    staging: str | None = None
    """Folder on a disk of this machine: slides of slow storage are copied there, and read there.
    None: only slides at URLs whose format cannot be read by ranges, see wsiseg.storage.staging."""
    staging_bytes: int | None = None
    """Bound of all copies in that folder; None: 64 GB, or half of the disk if that is less."""

    def __post_init__(self) -> None:
        self._normalise()
        _require(self.region >= 64, "region", "at least 64 px", self.region)
        _require(0 <= self.simplify < inf, "simplify", "0 or more px", self.simplify)
        _require(self.workers is None or self.workers >= 0, "workers", "0 or more", self.workers)
        _require(self.batch is None or self.batch >= 1, "batch", "1 or more", self.batch)
        _require(self.max_memory is None or self.max_memory > 0, "max-memory", "more than 0", 0)
        _require(
            self.mpp is None or MIN_MPP <= self.mpp <= MAX_MPP,
            "mpp",
            f"{MIN_MPP:g} to {MAX_MPP:g} µm per px",
            self.mpp,
        )
        bound = self.staging_bytes is None or (self.staging_bytes > 0 and self.staging is not None)
        _require(bound, "staging-bytes", "more than 0, with a staging folder", self.staging_bytes)
        for name, allowed in _CHOICES.items():
            got = getattr(self, name)
            _require(got in allowed, name, " or ".join(allowed), got)
        unknown = [f for f in self.formats if f not in FORMATS]
        _require(not unknown, "format", f"some of {', '.join(FORMATS)}", ", ".join(unknown))
        address = self.scheduler is None or re.match(r"(tcp|tls)://.+:\d+$", self.scheduler)
        _require(bool(address), "scheduler", "tcp://HOST:PORT", self.scheduler)
        files = self.tls is None or sorted(self.tls) == ["ca", "cert", "key"]
        _require(files, "tls", "files of ca, cert and key", self.tls)

    def _normalise(self) -> None:
        """Accept what people write: no model, one format as text, memory as "4GB", any integer."""
        put = partial(object.__setattr__, self)
        put("out", Path(self.out))
        put("model", default_model() if self.model is None else self.model)
        put("tissue", self.tissue if isinstance(self.tissue, str) else _path(self.tissue))
        formats = self.formats
        put("formats", (formats,) if isinstance(formats, str) else tuple(formats))
        if isinstance(self.max_memory, str):
            put("max_memory", parse_memory(self.max_memory))
        for name in ("region", "workers", "batch", "scene", "z"):
            value = getattr(self, name)
            whole = value is None or hasattr(value, "__index__")
            _require(whole, name, "a whole number", value)

    @property
    def files(self) -> dict[str, str]:
        """Format -> file name of what is asked for; parquet first, since the others follow it."""
        wanted = dict.fromkeys(("parquet", *self.formats))
        return {name: FORMATS[name] for name in wanted}


def key_of(parts: dict[str, Any]) -> str:
    """Hash of everything that changes the cells, as plain JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse_memory(text: str) -> int:
    """Bytes of "4GB", "800M", "1.5 GiB" or a plain number."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    try:
        value = float(match[1]) if match else float("nan")
    except ValueError:
        value = float("nan")
    _require(value == value and match is not None, "max-memory", "such as 4GB or 800MB", text)
    assert match is not None
    unit = _UNITS[match[2]]
    return int(value * (_binary(unit) if match[3] else unit))


def _binary(unit: int) -> int:
    return 1 << (10 * ((len(str(unit)) - 1) // 3))


def _path(value: Any) -> str:
    _require(isinstance(value, os.PathLike), "tissue", "auto, none or a GeoJSON file", value)
    return str(os.fspath(value))


def _require(ok: bool, name: str, expected: str, got: object) -> None:
    if not ok:
        raise SettingsError(f"--{name} must be {expected}, got {got!r}")
