"""The stitched biopsy of the shared data: where it lies, and maps of a model on its tissue."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.geometry import Box, Tile, TileGrid
from wsiseg.model.base import Maps
from wsiseg.run.job import Job
from wsiseg.run.plan import Plan, plan_of
from wsiseg.synth import he_slide
from wsiseg.synth.pyramid import write_he_slide

__all__ = ["BIOPSY", "DATA", "ROOT", "Window", "densest", "options_for", "plan_for", "slide_at"]

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("WSISEG_DATA", ROOT.parent / "shared" / "data"))
BIOPSY = DATA / "slides" / "TCGA-V5-A7RE-11A_stitched_40x.ome.tif"
DRAWN = (1013, 1297)
"""Shape, px, of the slide of quick runs."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of tissue with the maps of a model."""

    maps: Maps
    """Over the square."""
    pixels: NDArray[np.uint8]
    """RGB (H, W, 3)."""
    mm2: float
    """Area on the slide."""


def options_for(doc: str) -> ArgumentParser:
    """The options that benchmarks on a slide share, told by the first line of ``doc``."""
    parser = ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--slide", type=Path, default=BIOPSY, help="default: the stitched biopsy")
    parser.add_argument("--model", default="nuclei-he")
    parser.add_argument("--quick", action="store_true", help="small and drawn, to see that it runs")
    return parser


@contextmanager
def slide_at(path: Path, *, quick: bool) -> Iterator[Path]:
    """``path``, or for a quick run a small drawn slide that vanishes afterwards."""
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder) / "drawn.ome.tif"
            write_he_slide(drawn, he_slide(DRAWN, np.random.default_rng(0), mpp=0.25))
            yield drawn
    elif path.exists():
        yield path
    else:
        sys.exit(
            f"there is no slide at {path}: give one with --slide, set WSISEG_DATA to the shared "
            "data, or try --quick, which needs none"
        )


def plan_for(slide: Path, model: str | None = None, **settings: Any) -> Plan:
    """What `wsiseg segment` would do with ``slide``; nothing is written."""
    return plan_of(Job(slide=str(slide), out=Path("unused"), model=model, **settings))


def densest(plan: Plan, side: int, count: int) -> Iterator[Window]:
    """``count`` windows of ``side`` px of the lattice, spread over those that are all tissue, or
    else those with most of it; in raster order.
    """
    grid = TileGrid(plan.space.shape, (side, side), 0)
    whole = [tile for tile in grid if tile.core.shape == (side, side)]
    share = np.array([_share(plan, tile.core) for tile in whole])
    ranked = np.argsort(-share, kind="stable")[: max(count, int((share == 1).sum()))]
    chosen = np.sort(ranked)[np.linspace(0, len(ranked) - 1, min(count, len(ranked))).astype(int)]
    source = PatchMaps(plan.slide, plan.model, plan.space, plan.active)
    for index in chosen:
        tile = whole[index]
        maps = source.maps(Tile(tile.index, tile.core, tile.core), Clock())
        pixels = plan.slide.read(tile.core, plan.space)
        yield Window(maps, pixels, side**2 * float(np.prod(plan.space.spacing)) / 1e6)


def _share(plan: Plan, box: Box) -> float:
    """Part of the patches under ``box`` that are run."""
    size = patch_grid(plan.space, plan.spec).tile
    sides = zip(box.start, box.stop, size, strict=True)
    return float(plan.active[tuple(slice(a // c, -(-b // c)) for a, b, c in sides)].mean())
