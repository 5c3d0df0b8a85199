"""Regions of a run: which are still to be computed, and the workers that compute them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsiseg.engine.clock import Clock
from wsiseg.engine.executor import Dask, Executor, Serial, Threads
from wsiseg.engine.fingerprint import fingerprint
from wsiseg.engine.infer import PatchMaps
from wsiseg.engine.numerics import numerics_class
from wsiseg.engine.segment import RegionWork, in_bands, region_grid, regions_to_do, warm_up
from wsiseg.engine.store import RegionStore, RunFolder
from wsiseg.engine.tiles import Tiles
from wsiseg.geometry import Tile, TileGrid
from wsiseg.image.open import ARRAY
from wsiseg.image.slide import Slide
from wsiseg.run.job import Job
from wsiseg.run.memory import Budget
from wsiseg.run.plan import Plan
from wsiseg.run.report import Progress, Report, peak_rss_bytes

__all__ = ["OnProgress", "Regions", "compute"]

_USUAL = 1536  # px: side of a region that workers of a cluster have their usual time for
_VIEWS = 8  # of each patch, at most, where maps are averaged over mirror images

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of a run, on the grid that its folder keeps."""

    grid: TileGrid
    """All regions."""
    todo: Tiles
    """Those that can hold an object, in row-major order."""

    @classmethod
    def of(cls, plan: Plan, folder: RunFolder) -> Regions:
        """Regions of ``plan`` in ``folder``."""
        grid = region_grid(plan.space, plan.spec, folder.grid["region"])
        return cls(grid, regions_to_do(grid, plan.space, plan.spec, plan.active))

    @property
    def numbers(self) -> list[int]:
        """Numbers of the regions to do."""
        return [int(number) for number in self.todo.numbers]


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker says of a region that it has stored."""

    number: int
    """The region."""
    fragments: int
    """Objects and parts of objects found in it."""
    seconds: dict[str, float]
    """Per stage."""
    process: tuple[int, int]
    """Process id, and its peak resident memory so far, bytes."""


@dataclass(frozen=True, slots=True)
class StoredRegion:
    """Segments a region and stores the result where it survives whatever happens next."""

    work: RegionWork
    """How."""
    store: RegionStore
    """Where."""
    slide: Slide
    """Of what."""

    def identity(self) -> dict[str, str | None]:
        """What must be the same on every machine, so that all of the run's regions fit together."""
        model = self.work.model
        return {
            "numerics": numerics_class(model),
            "model_sha256": model.spec.sha256,
            "slide": _content(self.slide),
        }

    def assist(self) -> None:
        """Help with the regions that are in work in this process; see ``PatchMaps.assist``."""
        self.work.maps.assist()

    def __call__(self, tile: Tile) -> Done:
        """Segment and store one region."""
        clock = Clock()
        found = self.work(tile, clock)
        number = self.work.grid.number(tile.index)
        with clock("store"):
            self.store.save(number, found.arrays(), {"seconds": clock.seconds})
        return Done(number, len(found.objects), clock.seconds, (os.getpid(), peak_rss_bytes()))


def _content(slide: Slide) -> str | None:
    """What the file is that this machine has at the path of ``slide``.

    None where it is no file: pixels in memory travel, what is read from a URL has the ETag that was
    seen first, and listing a folder of 100,000 chunks is too much for each of many workers.
    """
    if slide.format == ARRAY or not os.path.isfile(slide.uri):
        return None
    return str(fingerprint(slide.uri)["content"])


def compute(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    budget: Budget,
    report: Report,
    *,
    executor: Executor | None,
    on_progress: OnProgress | None,
    notice: Callable[[str], None],
) -> Regions:
    """Compute every region that the folder does not hold yet; all regions of the run."""
    regions = Regions.of(plan, folder)
    with report.clock("verify"):
        held = folder.verified()
    missing = Tiles(regions.grid, np.array([n for n in regions.numbers if n not in held], np.int64))
    total, resumed = len(regions.todo), len(regions.todo) - len(missing)
    report.regions(total=total, resumed=resumed, damaged=folder.recomputed)
    if missing:
        side = folder.grid["region"]
        budget.check(plan, side)  # it may be that of an earlier run
        maps = PatchMaps(plan.slide, plan.model, plan.space, plan.active, budget.memo)
        work = RegionWork(maps, plan.model, regions.grid)
        task = StoredRegion(work, folder.store, plan.slide)
        with _executor(job, plan, folder, budget, executor) as chosen:
            if not isinstance(chosen, Dask):
                warm_up(plan.model, plan.slide)
            elif chosen.dashboard:
                notice(f"dashboard: {chosen.dashboard}")
            report.started_regions()
            processes = chosen.processes if isinstance(chosen, Dask) else 1
            in_order = in_bands(missing, budget.band(plan, side), processes)
            # closed whatever happens, so that who is stopped here still stores what is at work
            with closing(chosen.map(task, in_order)) as results:
                for _, done in results:
                    report.region_done(done.seconds, done.process, done.fragments)
                    if on_progress:
                        on_progress(report.progress())
            report.facts["warnings"] += getattr(chosen, "left_out", {}).values()
    return regions


def _executor(
    job: Job, plan: Plan, folder: RunFolder, budget: Budget, given: Executor | None
) -> Any:
    """A context manager that gives the executor."""
    if given is not None:
        return nullcontext(given)
    if job.scheduler is not None or job.workers:
        # the workers of a cluster say what they have; those started here share what there is
        resource = "GPU" if job.device == "cuda" and job.scheduler is not None else None
        slowness = max(1.0, (folder.grid["region"] / _USUAL) ** 2) * (_VIEWS if job.tta else 1)
        how = {"tls": job.tls, "resource": resource, "slowness": slowness}
        return Dask(job.workers or 1, job.scheduler, **how)
    if job.workers == 0:
        return nullcontext(Serial())
    return nullcontext(Threads(budget.threads(plan, folder.grid["region"])))
