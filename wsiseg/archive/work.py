"""What a worker process does with a slide: segment it, or only say what that would take."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from wsiseg.archive.faults import InputChangedError
from wsiseg.archive.tasks import Task
from wsiseg.engine.executor import Threads
from wsiseg.engine.fingerprint import fingerprint
from wsiseg.engine.infer import PatchMaps
from wsiseg.engine.segment import RegionWork, region_grid, regions_to_do, warm_up
from wsiseg.engine.store import FINAL_FILES
from wsiseg.errors import DamagedFolderError, KeyMismatchError, RunFolderError
from wsiseg.hashing import sha256_of
from wsiseg.model.base import Model
from wsiseg.model.zoo import load_model
from wsiseg.pulse import beat
from wsiseg.run.job import Job
from wsiseg.run.plan import Plan, plan_of
from wsiseg.run.report import Progress, peak_rss_bytes
from wsiseg.run.segment import run

__all__ = ["CELL_FILES", "Models", "measure", "segment_slide"]

CELL_FILES = ("cells.parquet", "cells.geojson.gz", "cells.csv")
"""Files that are equal byte for byte whenever their slides and settings are."""

OnProgress = Callable[[int, int], None]
_TRIAL = 512  # px of the lattice: side of the region that is tried


class Models:
    """The models of this process: loaded once, however many slides come."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Model] | None = None
        self.loaded = 0
        """How often one was loaded."""

    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``settings`` with the model itself in place of its name.

        Not where a slide has a model of its own, made for its stain.
        """
        if settings.get("stain") == "macenko":
            return settings
        how = {"device": settings.get("device", "cpu")}
        how |= {"precision": settings.get("precision", "auto")}
        more = {"batch": settings["batch"]} if settings.get("batch") else {}
        more |= {"mirrored": True} if settings.get("tta") else {}
        wanted = (settings.get("model"), how, more)
        if self._kept is None or self._kept[0] != wanted:
            self._kept = None  # never two in memory
            self._kept = (wanted, load_model(wanted[0], **how, **more))
            self.loaded += 1
        rest = {name: v for name, v in settings.items() if name != "tta"}
        return rest | {"model": self._kept[1]}


def segment_slide(task: Task, models: Models, show: OnProgress, threads: Threads) -> dict[str, Any]:
    """Segment a slide into its run folder; what its record should say.

    ``threads`` run its regions, unless the task says that its job decides.

    A folder that holds the result of another input, or of other settings, is started over.
    Raises what ``wsiseg.run.segment.run`` raises, and InputChangedError.
    """
    _forget_peak_memory()
    began, clock = time.time(), time.monotonic()
    restarted = None

    def told(progress: Progress) -> None:
        show(progress.done, progress.total)

    def done(fresh: bool) -> dict[str, Any]:
        job = Job(
            slide=task.path, out=Path(task.out), fresh=fresh, **models.settings(task.settings)
        )
        # not Serial, even for one: the main thread must be free to be stopped
        executor = None if task.threads is None else threads
        report = run(
            job,
            told,
            executor=executor,
            notice=lambda _: None,
            began=began,
            waiting=lambda _: beat(),  # a lost worker elsewhere: only its lock's silence tells
        )
        return report.facts

    try:
        facts = done(task.fresh)
    except (KeyMismatchError, RunFolderError) as error:
        if task.fresh or not _is_outdated(error):
            raise
        restarted = str(error).partition(": start over")[0]
        facts = done(True)
    _must_be_unchanged(task, facts)
    seconds = round(time.monotonic() - clock, 3)  # not of the day's clock, which may step back
    return {"seconds": seconds} | _told(task, facts) | {"restarted": restarted}


def measure(task: Task, models: Models) -> dict[str, Any]:
    """What segmenting a slide would take: areas, regions, and the speed of a region in its middle.

    Raises what ``plan_of`` raises, which is what the slide would fail with.
    """
    began = time.perf_counter()
    job = Job(slide=task.path, out=Path(task.out), **models.settings(task.settings))
    plan = plan_of(job)
    grid = region_grid(plan.space, plan.spec, job.region)
    tiles = len(regions_to_do(grid, plan.space, plan.spec, plan.active))
    return {
        "tissue_mm2": plan.tissue_mm2,
        "analysed_mm2": plan.analysed_mm2,
        "tiles": tiles,
        "seconds": time.perf_counter() - began,
        **(_trial(plan) if tiles else {"trial_mm2": 0.0, "trial_seconds": 0.0, "trial_cells": 0}),
    }


def _trial(plan: Plan) -> dict[str, Any]:
    """One small region in the middle of the tissue, really done."""
    warm_up(plan.model, plan.slide)
    grid = region_grid(plan.space, plan.spec, _TRIAL)
    todo = regions_to_do(grid, plan.space, plan.spec, plan.active)
    tile = todo[len(todo) // 2]
    work = RegionWork(PatchMaps(plan.slide, plan.model, plan.space, plan.active), plan.model, grid)
    began = time.perf_counter()
    found = work(tile)
    pixel_mm2 = prod(plan.space.spacing) / 1e6
    return {
        "trial_mm2": tile.core.size * pixel_mm2,
        "trial_seconds": time.perf_counter() - began,
        "trial_cells": len(found.objects),
    }


def _is_outdated(error: RunFolderError) -> bool:
    """Whether the folder is ours, and nothing in it is of use to this run."""
    return isinstance(error, KeyMismatchError | DamagedFolderError)


def _must_be_unchanged(task: Task, facts: dict[str, Any]) -> None:
    """InputChangedError where the slide is not what it was; its result is taken back."""
    full = bool(task.settings.get("full_hash"))
    if fingerprint(task.path, full=full)["key"] == facts["parameters"]["slide"]:
        return
    for name in FINAL_FILES:
        (Path(task.out) / name).unlink(missing_ok=True)
    raise InputChangedError(
        f"{task.path} was replaced or written to while it was read: its result would be a mix, "
        "and was removed"
    )


def _told(task: Task, facts: dict[str, Any]) -> dict[str, Any]:
    outputs = {name: _size_and_hash(Path(task.out) / name) for name in facts["files"]}
    cells = {name: value[1] for name, value in outputs.items() if name in CELL_FILES}
    return {
        "host": socket.gethostname(),
        "peak_memory_bytes": peak_rss_bytes(),
        "tiles": facts["regions"]["total"],
        "resumed": facts["regions"]["resumed"],
        "cells": facts["cells"],
        "classes": _classes(Path(task.out) / "cells.parquet", facts["model"]["classes"]),
        "tissue_mm2": facts["tissue_mm2"],
        "analysed_mm2": facts["analysed_mm2"],
        "dropped": facts["dropped"],
        "warnings": facts["warnings"],
        "model": facts["model"]["name"],
        "model_sha256": facts["model"]["sha256"],
        "numerics": facts["parameters"]["numerics"],
        "content_key": facts["key"],
        "input_sha256": fingerprint(task.path)["content"],
        "output_sha256": hashlib.sha256(repr(sorted(cells.items())).encode()).hexdigest(),
        "outputs": outputs,
    }


def _classes(parquet: Path, names: list[str]) -> dict[str, int]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not names:
        return {}
    counted = pc.value_counts(pq.read_table(parquet, columns=["class"])["class"]).to_pylist()
    found = {row["values"]: row["counts"] for row in counted}
    return {name: found.get(name, 0) for name in names}


def _size_and_hash(path: Path) -> list[Any]:
    return [path.stat().st_size, sha256_of(path)]


def _forget_peak_memory() -> None:
    """Let the peak of this process begin anew, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError:
        return
