"""One slide from pixels to files: the main job, resumable at every step."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch
from wsiseg.cells.build import cells_of, sized
from wsiseg.cells.layer import Cells
from wsiseg.cells.objects import Objects
from wsiseg.engine.clock import Clock
from wsiseg.engine.collect import in_canonical_order
from wsiseg.engine.executor import Dask, Executor, Serial, Threads
from wsiseg.engine.infer import PatchMaps
from wsiseg.engine.segment import RegionWork, region_grid, regions_to_do, warm_up
from wsiseg.engine.stitch import Fragments
from wsiseg.engine.store import RegionStore, RunFolder
from wsiseg.export.write import write_all
from wsiseg.geometry import Tile, TileGrid
from wsiseg.image.slide import Slide
from wsiseg.run.job import Job
from wsiseg.run.memory import fitted
from wsiseg.run.plan import Plan, plan_of
from wsiseg.run.preview import write_run_preview
from wsiseg.run.report import Progress, Report, peak_rss_bytes

__all__ = ["run", "segment"]

_log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]


def segment(
    slide: str | os.PathLike[str] | Slide,
    out: str | os.PathLike[str],
    *,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> Cells:
    """Segment a slide into cells, written to the run folder ``out`` and read from it on demand.

    ``settings`` are the fields of ``wsiseg.run.job.Job``: model, mpp, tissue, region, workers, ...
    The same call goes on where an earlier one was stopped. Raises the errors of ``wsiseg.errors``:
    MissingSpacingError where the slide has no believable pixel size, UnreadableSlideError,
    SettingsError, and RunFolderError and its kin for the folder.
    """
    run(Job(slide=slide, out=Path(out), **settings), on_progress)
    return Cells.open(Path(out))


def run(
    job: Job,
    on_progress: OnProgress | None = None,
    *,
    executor: Executor | None = None,
    notice: Callable[[str], None] = _log.info,
    began: float | None = None,
) -> Report:
    """Do ``job`` and return its record, which is also in ``run.json``.

    ``executor`` overrides the one that follows from the job's workers and scheduler. ``notice``
    is told what the user should know while it runs. ``began`` is the time (epoch seconds) from
    which ``total`` and ``startup`` are counted; now by default.
    """
    began = began or time.time()
    plan = plan_of(job)
    for warning in plan.warnings:
        notice(f"warning: {warning}")
    with RunFolder.open(
        job.out,
        key=plan.key,
        parts=plan.parts,
        grid=plan.grid(fitted(job, plan).region),
        fresh=job.fresh,
        resume=job.resume,
    ) as folder:
        if folder.grid_changed:
            notice(f"the regions of the earlier run are kept: {folder.grid['region']} px")
        report = Report.begin(job, plan, folder, began)
        _regions(job, plan, folder, report, executor, on_progress)
        _files(job, plan, folder, report)
        report.finish(peak_rss_bytes())
        report.write(folder.file("run.json"))
        return report


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

    def __call__(self, tile: Tile) -> Done:
        """Segment and store one region."""
        clock = Clock()
        found = self.work(tile, clock)
        number = self.work.grid.number(tile.index)
        with clock("store"):
            self.store.save(number, found.arrays(), {"seconds": clock.seconds})
        return Done(number, len(found.objects), clock.seconds, (os.getpid(), peak_rss_bytes()))


def _regions(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    report: Report,
    executor: Executor | None,
    on_progress: OnProgress | None,
) -> None:
    """Compute every region that the folder does not hold yet."""
    grid = region_grid(plan.space, plan.spec, folder.grid["region"])
    tiles = regions_to_do(grid, plan.space, plan.spec, plan.active)
    held = folder.verified()
    missing = [t for t in tiles if grid.number(t.index) not in held]
    resumed = len(tiles) - len(missing)
    report.regions(total=len(tiles), resumed=resumed, damaged=folder.recomputed)
    if not missing:
        return
    work = RegionWork(PatchMaps(plan.slide, plan.model, plan.space, plan.active), plan.model, grid)
    task = StoredRegion(work, folder.store)
    with _executor(job, plan, executor) as chosen:
        if not isinstance(chosen, Dask):
            warm_up(plan.model, plan.slide)
        report.started_regions()
        for _, done in chosen.map(task, missing):
            report.region_done(done.seconds, done.process, done.fragments)
            if on_progress:
                on_progress(report.progress())


def _executor(job: Job, plan: Plan, given: Executor | None) -> Any:
    """A context manager that gives the executor."""
    if given is not None:
        return nullcontext(given)
    if job.scheduler is not None or job.workers:
        return Dask(job.workers or 1, job.scheduler)
    if job.workers == 0:
        return nullcontext(Serial())
    return nullcontext(Threads(fitted(job, plan).threads))


def _files(job: Job, plan: Plan, folder: RunFolder, report: Report) -> None:
    """Stitch and write every file of the run."""
    grid = region_grid(plan.space, plan.spec, folder.grid["region"])
    tiles = regions_to_do(grid, plan.space, plan.spec, plan.active)
    paths = [folder.file(name) for name in job.files.values()]
    written = write_all(_batches(plan, folder, grid, tiles, report), paths)
    report.written(written.cells, written.dropped)
    with report.clock("preview"):
        write_run_preview(plan, Cells.open(folder.path), folder.file("preview.png"))


def _batches(
    plan: Plan, folder: RunFolder, grid: TileGrid, tiles: list[Tile], report: Report
) -> Iterator[CellBatch]:
    """Cells in canonical order; the first batch is empty and tells the columns."""
    recipe = plan.recipe
    sums = 1 + len(plan.spec.classes)
    yield cells_of(Objects.none(2, sums), recipe)
    numbers = [grid.number(t.index) for t in tiles]

    def load(number: int) -> Fragments:
        return Fragments.from_arrays(folder.load(number)[0])

    batches = in_canonical_order(load, numbers, grid, recipe.scale, sums)
    for objects in report.iterate("stitch", batches):
        keep, dropped = sized(objects, plan.spec.min_object, plan.spec.max_object)
        report.drop(dropped)
        objects = objects.take(keep)
        if plan.region is not None:
            inside = _inside(objects, plan)
            report.drop({"outside_region": int((~inside).sum())})
            objects = objects.take(inside)
        with report.clock("trace"):
            batch = cells_of(objects, recipe)
        yield batch


def _inside(objects: Objects, plan: Plan) -> NDArray[np.bool_]:
    """Objects whose centroid lies in the user's own region."""
    import shapely

    at = objects.centroids * np.asarray(plan.recipe.scale)
    shapely.prepare(plan.region)
    return np.asarray(shapely.contains_xy(plan.region, at[:, 1], at[:, 0]))
