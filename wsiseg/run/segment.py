"""One slide from pixels to files: the main job, resumable at every step."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch
from wsiseg.cells.build import cells_of, sized
from wsiseg.cells.layer import Cells
from wsiseg.cells.objects import Objects
from wsiseg.engine.collect import in_canonical_order
from wsiseg.engine.executor import Executor
from wsiseg.engine.stitch import Fragments
from wsiseg.engine.store import RunFolder
from wsiseg.export.density import Density
from wsiseg.export.write import write_all
from wsiseg.image.slide import Slide
from wsiseg.pulse import beat
from wsiseg.run.job import Job
from wsiseg.run.memory import Budget, left_for_the_next
from wsiseg.run.plan import Plan, plan_of
from wsiseg.run.preview import density_of, thumbnail_of, write_run_preview
from wsiseg.run.regions import OnProgress, Regions, compute
from wsiseg.run.report import Report, peak_rss_bytes

__all__ = ["run", "segment"]

_log = logging.getLogger(__name__)


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

    With ``workers=N`` processes are started, so a script must call this under
    ``if __name__ == "__main__":``.
    """
    run(Job(slide=slide, out=Path(out), **settings), on_progress)
    return Cells.open(Path(out))


def run(
    job: Job,
    on_progress: OnProgress | None = None,
    *,
    executor: Executor | None = None,
    notice: Callable[[str], None] = _log.warning,
    began: float | None = None,
    waiting: Callable[[str], None] | None = None,
) -> Report:
    """Do ``job`` and return its record, which is also in ``run.json``.

    ``executor`` overrides the one that follows from the job's workers and scheduler. ``notice``
    is told what the user should know while it runs. ``began`` is the time (epoch seconds) from
    which ``total`` and ``startup`` are counted; now by default. With ``waiting``, a holder of the
    folder elsewhere is waited for until it shows life or counts as dead, see RunLock.
    """
    began = began or time.time()
    plan = plan_of(job)
    _log.info("model %s, licence %s", plan.spec.name, plan.spec.licence)
    for warning in plan.warnings:
        notice(f"warning: {warning}")
    budget = Budget.of(job)
    with (
        left_for_the_next(),
        RunFolder.open(
            job.out,
            key=plan.key,
            parts=plan.parts,
            grid=plan.grid(budget.region(plan, job.region)),
            fresh=job.fresh,
            resume=job.resume,
            waiting=waiting,
        ) as folder,
    ):
        if folder.grid_changed:
            notice(f"the regions of the earlier run are kept: {folder.grid['region']} px")
        report = Report.begin(job, plan, folder, began)
        regions = compute(
            job,
            plan,
            folder,
            budget,
            report,
            executor=executor,
            on_progress=on_progress,
            notice=notice,
        )
        _files(job, plan, folder, report, regions, on_progress)
        report.finish(peak_rss_bytes())
        report.write(folder.file("run.json"))
        return report


def _files(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    report: Report,
    regions: Regions,
    on_progress: OnProgress | None,
) -> None:
    """Stitch and write every file of the run; ``on_progress`` is called for each batch, too."""
    paths = [folder.file(name) for name in job.files.values()]
    with ThreadPoolExecutor(1) as beside:
        thumbnail = beside.submit(thumbnail_of, plan)
        density = density_of(plan)
        with report.rest("write"):
            batches = _counted(_batches(plan, folder, regions, report), density)
            written = write_all(_told(batches, report, on_progress), paths)
    report.written(written.cells, written.dropped)
    with report.clock("preview"):
        cells = Cells.open(folder.path)
        picture = folder.file("preview.png")
        write_run_preview(plan, cells, density, thumbnail.result(), picture)


def _counted(batches: Iterator[CellBatch], density: Density) -> Iterator[CellBatch]:
    for batch in batches:
        density.add(batch)
        yield batch


def _told(
    batches: Iterator[CellBatch], report: Report, on_progress: OnProgress | None
) -> Iterator[CellBatch]:
    for batch in batches:
        yield batch
        if on_progress:  # a sign of life: files of a large slide take long
            on_progress(report.progress())


def _batches(
    plan: Plan, folder: RunFolder, regions: Regions, report: Report
) -> Iterator[CellBatch]:
    """Cells in canonical order; the first batch is empty and tells the columns."""
    recipe = plan.recipe
    sums = 1 + len(plan.spec.classes)
    yield cells_of(Objects.none(2, sums), recipe)

    def load(number: int) -> Fragments:
        beat()
        return Fragments.from_arrays(folder.load(number)[0])

    batches = in_canonical_order(load, regions.numbers, regions.grid, recipe.scale, sums)
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
