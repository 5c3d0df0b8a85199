"""Preview of a run: the whole slide and one field with outlines, from what the run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.layer import Cells
from wsiseg.export.density import Density, pick_field
from wsiseg.export.rasters import Preview, field_side, write_preview

if TYPE_CHECKING:
    from wsiseg.run.plan import Plan

__all__ = ["density_of", "thumbnail_of", "write_run_preview"]

_THUMBNAIL = 2000  # px along the longer side


def thumbnail_of(plan: Plan) -> NDArray[np.uint8]:
    """The whole slide as the preview shows it, (H, W, 3)."""
    return plan.slide.thumbnail(_THUMBNAIL)


def density_of(plan: Plan) -> Density:
    """What cells are counted in as they are written."""
    shape = plan.slide.space.shape
    return Density.over((shape[0], shape[1]))


def write_run_preview(
    plan: Plan, cells: Cells, density: Density, thumbnail: NDArray[np.uint8], path: Path
) -> None:
    """Write ``preview.png`` for the ``cells`` of ``plan``, of which only one field is read.

    ``density`` has all of them; ``thumbnail`` is that of ``thumbnail_of``.
    """
    slide = plan.slide
    mpp = None if slide.mpp is None else float(np.sqrt(slide.mpp[0] * slide.mpp[1]))
    field = pick_field(density, field_side(mpp))
    (y0, x0), (y1, x1) = field.start, field.stop
    preview = Preview(
        name=Path(slide.uri).name,
        thumbnail=thumbnail,
        density=density,
        field=field,
        field_rgb=slide.read_level(0, field),
        field_cells=cells.meeting((x0, y0, x1, y1)),
        mpp=mpp,
        tissue=plan.tissue.mask,
        tissue_mm2=plan.tissue_mm2,
    )
    write_preview(preview, path)
