"""Preview of a run: the whole slide and one field with outlines, from what the run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch, concatenate
from wsiseg.cells.layer import Cells
from wsiseg.export.density import Density, pick_field
from wsiseg.export.rasters import Preview, field_side, write_preview
from wsiseg.geometry import Box

if TYPE_CHECKING:
    from wsiseg.run.plan import Plan

__all__ = ["thumbnail_of", "write_run_preview"]

_THUMBNAIL = 2000  # px along the longer side


def thumbnail_of(plan: Plan) -> NDArray[np.uint8]:
    """The whole slide as the preview shows it, (H, W, 3)."""
    return plan.slide.thumbnail(_THUMBNAIL)


def write_run_preview(plan: Plan, cells: Cells, thumbnail: NDArray[np.uint8], path: Path) -> None:
    """Write ``preview.png`` for the ``cells`` of ``plan``; they are streamed twice.

    ``thumbnail`` is that of ``thumbnail_of``.
    """
    slide = plan.slide
    height, width = slide.space.shape
    mpp = None if slide.mpp is None else float(np.sqrt(slide.mpp[0] * slide.mpp[1]))
    density = Density.of(cells.batches(), (height, width))
    field = pick_field(density, field_side(mpp))
    preview = Preview(
        name=Path(slide.uri).name,
        thumbnail=thumbnail,
        density=density,
        field=field,
        field_rgb=slide.read_level(0, field),
        field_cells=_within(cells, field),
        mpp=mpp,
        tissue=plan.tissue.mask,
        tissue_mm2=plan.tissue_mm2,
    )
    write_preview(preview, path)


def _within(cells: Cells, field: Box) -> CellBatch:
    """Cells whose bounds meet ``field``."""
    (y0, x0), (y1, x1) = field.start, field.stop
    found = []
    for batch in cells.batches():
        left, top, right, bottom = shapely.bounds(batch.geometry).T
        found.append(batch.take((left < x1) & (right > x0) & (top < y1) & (bottom > y0)))
    return concatenate(found)
