"""Demo: a synthetic slide with known cells, and how many of them were found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsiseg.atomic import atomic_write, make_folder
from wsiseg.cells.batch import concatenate
from wsiseg.cells.layer import Cells
from wsiseg.engine.store import BESIDE, must_be_ours
from wsiseg.metrics import grid_overlaps, match_overlaps
from wsiseg.metrics.instances import f1, pq, precision, recall
from wsiseg.synth import he_slide, write_he_slide

__all__ = ["DemoSlide", "demo_slide", "demo_text", "score_demo"]

_SHAPE, _SEED, _MPP = (3072, 4096), 7, 0.5
SLIDE, TRUTH = BESIDE


@dataclass(frozen=True, slots=True)
class DemoSlide:
    """The slide and what is in it."""

    path: Path
    """A pyramidal TIFF."""
    labels: NDArray[np.int32]
    """(H, W) the true nuclei, level-0 px."""


def demo_slide(out: Path) -> DemoSlide:
    """Write the slide and its true labels into ``out``: the same bytes every time.

    Raises ForeignFolderError where ``out`` holds files of others.
    """
    must_be_ours(out)
    make_folder(out)
    made = he_slide(_SHAPE, np.random.default_rng(_SEED), mpp=_MPP)
    path = out / SLIDE
    write_he_slide(path, made)
    with atomic_write(out / TRUTH) as file:
        Image.fromarray(made.labels.astype(np.uint16)).save(file, "PNG")
    return DemoSlide(path, made.labels)


def score_demo(slide: DemoSlide, run: Path) -> dict[str, Any]:
    """Counts and rates of true and found nuclei that match with an IoU above 0.5."""
    polygons = concatenate(list(Cells.open(run).batches())).geometry
    overlaps, _ = grid_overlaps(slide.labels, polygons)
    match = match_overlaps(overlaps)
    return {
        "true": int(slide.labels.max()),
        "found": len(polygons),
        "matched": match.tp,
        "precision": round(float(precision(match)), 4),
        "recall": round(float(recall(match)), 4),
        "f1": round(float(f1(match)), 4),
        "pq": round(float(pq(match)), 4),
    }


def demo_text(scores: dict[str, Any], out: Path) -> str:
    """The comparison for people, and what to open."""
    return "\n".join(
        [
            "",
            f"truth: {scores['true']:,} nuclei; found {scores['found']:,}, of which "
            f"{scores['matched']:,} match one (IoU > 0.5): "
            f"recall {scores['recall']:.1%}, precision {scores['precision']:.1%}, "
            f"PQ {scores['pq']:.2f}",
            f"next: look at {out / 'preview.png'}, or open {out / SLIDE} in QuPath and drag "
            f"{out / 'cells.geojson.gz'} onto it; then wsiseg segment YOUR-SLIDE --out run",
        ]
    )
