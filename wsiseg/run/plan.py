"""Plan: everything that decides the cells of a slide, worked out before any of it is run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely import box, union_all

from wsiseg.cells.build import CellRecipe
from wsiseg.engine.fingerprint import fingerprint, fingerprint_array
from wsiseg.engine.infer import patch_grid
from wsiseg.engine.numerics import ALGORITHM, numerics_class
from wsiseg.errors import SettingsError
from wsiseg.export.geojson_read import read_region
from wsiseg.geometry import Box, Space
from wsiseg.heap import trim
from wsiseg.image.open import ARRAY, open_slide
from wsiseg.image.slide import Slide
from wsiseg.image.tissue import (
    SPACING_UM,
    Tissue,
    everything,
    find_tissue,
    from_polygons,
    tissue_mask,
)
from wsiseg.model.base import Model, ModelSpec
from wsiseg.model.zoo import load_model, model_info, models
from wsiseg.run.job import Job, key_of
from wsiseg.stain import looks_like_he, macenko
from wsiseg.storage.staging import Staging

__all__ = ["Plan", "plan_of"]

_AROUND_UM = 100.0  # no cell whose centre lies in a user's region reaches further out
_DARK = 64.0  # of 255; glass is brighter
_TOO_COARSE = 1.5  # times the model's spacing: beyond, upsampling invents what was not scanned,
_COARSE_UM = 0.65  # unless it is as fine as 20x, which models of 0.25 µm are trained on as well


@dataclass(frozen=True)
class Plan:
    """What a run will do; two plans of equal ``key`` give the same cells."""

    slide: Slide
    """Where pixels come from."""
    model: Model
    """What finds objects."""
    space: Space
    """The model's lattice on the slide."""
    tissue: Tissue
    """Where the slide is worth looking at."""
    region: Any
    """The user's own region, a shapely geometry in level-0 px (x, y), or None."""
    active: NDArray[np.bool_]
    """Which patches of the lattice are run."""
    parts: dict[str, Any]
    """What the key is made of."""
    salt: bytes
    """Identity of the slide's content."""
    warnings: tuple[str, ...]
    """What the user should know before trusting the result."""
    tissue_seconds: float
    """Time it took to find the tissue."""

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self.model.spec

    @cached_property
    def key(self) -> str:
        """Hash of everything that changes the cells."""
        return key_of(self.parts)

    def grid(self, region: int) -> dict[str, Any]:
        """The grid of regions as the run folder stores it."""
        return {"region": region, "lattice": list(self.space.shape)}

    @property
    def recipe(self) -> CellRecipe:
        """How objects become cells."""
        scale, spacing = self.space.scale_to(self.slide.space), self.space.spacing
        return CellRecipe(
            scale=(scale[0], scale[1]),
            spacing_um=(spacing[0], spacing[1]),
            classes=self.spec.classes,
            salt=self.salt,
            simplify=self.parts["simplify"],
        )

    @property
    def tissue_mm2(self) -> float:
        """Area of the mask that selects patches, holes filled; of a user's region, its own."""
        height, width = self.slide.space.shape
        if self.region is None:
            pixels = self.tissue.fraction * height * width
        else:
            pixels = self.region.intersection(box(0, 0, width, height)).area
        return _mm2(pixels, self.slide.space)

    @property
    def analysed_mm2(self) -> float:
        """Area of the cores of the patches that are run, clipped to the slide."""
        grid = patch_grid(self.space, self.spec)
        pixels = sum(grid[index].core.size for index in np.argwhere(self.active).tolist())
        return _mm2(pixels, self.space)


def plan_of(job: Job) -> Plan:
    """Open the slide, load the model, find the tissue and choose the patches of ``job``.

    Raises SettingsError, UnreadableSlideError, MissingSpacingError, UnknownModelError, ModelError,
    InputFileError.
    """
    if job.tta:
        _check_tta(job.model)
    slide = _slide(job)
    slide.at(SPACING_UM)  # says at once where the pixel size is missing
    print_of = _fingerprint(job, slide)
    slide.read(Box((0, 0), (1, 1)), slide.at(SPACING_UM))  # codecs and kernels are loaded: start-up
    began = time.monotonic()
    overview, spacing = _overview(slide)
    tissue, region = _tissue(job, slide, overview, spacing)
    seconds = time.monotonic() - began
    model = _model(job, overview, tissue)
    space = slide.at(model.spec.spacing)
    active = _active(space, model.spec, tissue, region)
    warnings = tuple(_warnings(slide, overview, tissue, model.spec))
    del overview
    trim()  # of a large slide it leaves some hundred MB
    return Plan(
        slide=slide,
        model=model,
        space=space,
        tissue=tissue,
        region=region,
        active=active,
        parts=_parts(job, slide, print_of, model, space, active, region),
        salt=bytes.fromhex(print_of["content"])[:16],
        warnings=warnings,
        tissue_seconds=seconds,
    )


def _check_tta(model: Any) -> None:
    """Raise SettingsError where ``model`` cannot average over mirror images when told so now."""
    if isinstance(model, Model):
        raise SettingsError(
            f"--tta cannot change the model {model.spec.name!r}, which is loaded already: give "
            "its name, or load it with load_model(..., mirrored=True)"
        )
    if model_info(model).licence_file is None:  # no files of its own: it is code
        weighty = [info.name for info in models() if info.licence_file is not None]
        raise SettingsError(
            f"--tta averages maps of a network over mirror images, and the model {model!r} has no "
            f"network: leave it out, or use {' or '.join([*weighty, 'a path of weights'])}"
        )


def _mm2(pixels: float, space: Space) -> float:
    return round(float(pixels) * float(np.prod(space.spacing)) / 1e6, 6)


def _slide(job: Job) -> Slide:
    if not isinstance(job.slide, Slide):
        staging = Staging.of(job.staging, job.staging_bytes) if job.staging else None
        return open_slide(job.slide, mpp=job.mpp, scene=job.scene, z=job.z, staging=staging)
    for name in ("mpp", "scene", "z"):
        if getattr(job, name) is not None:
            raise SettingsError(f"--{name} is for a path; give it to open_slide({name}=...)")
    return job.slide


def _fingerprint(job: Job, slide: Slide) -> dict[str, Any]:
    if slide.format == ARRAY:
        return fingerprint_array(slide.read_level(0, Box.of_shape(slide.space.shape)))
    return fingerprint(slide.uri, full=job.full_hash)


def _overview(slide: Slide) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The whole slide at about 8 µm per px; the resampler keeps memory flat."""
    space = slide.at(SPACING_UM)
    overview = slide.read(Box.of_shape(space.shape), space)
    return overview, (space.spacing[0], space.spacing[1])


def _tissue(
    job: Job, slide: Slide, overview: NDArray[np.uint8], spacing: tuple[float, float]
) -> tuple[Tissue, Any]:
    shape = overview.shape[:2]
    if job.tissue == "none":
        return everything(shape, spacing), None
    if job.tissue == "auto":
        return find_tissue(overview, spacing), None
    polygons = read_region(Path(job.tissue))
    region = union_all(polygons)
    return from_polygons(polygons, slide.space.shape, shape, spacing), region


def _warnings(
    slide: Slide, overview: NDArray[np.uint8], tissue: Tissue, spec: ModelSpec
) -> Iterator[str]:
    if not tissue.mask.any():
        yield "no tissue was found: use --tissue none or a region if there is some"
        bright = float(np.percentile(overview, 99))
        if bright < _DARK:
            yield (
                f"the slide is very dark (brightest about {bright:.0f} of 255): 12-bit data in a "
                "16-bit file that does not state its significant bits look like this"
            )
        return
    stained, reason = looks_like_he(overview, tissue.mask)
    if not stained:
        yield f"the slide does not look like H&E ({reason}): check the cells"
    coarse = max(have / want for have, want in zip(slide.space.spacing, spec.spacing, strict=True))
    if coarse > _TOO_COARSE and max(slide.space.spacing) > _COARSE_UM:
        yield (
            f"the slide's pixels are {coarse:.1f} times as large as the {spec.spacing[0]:g} µm "
            f"of the model {spec.name!r}: cells this small may not be resolved"
        )


def _model(job: Job, overview: NDArray[np.uint8], tissue: Tissue) -> Model:
    if isinstance(job.model, Model):
        return job.model
    options: dict[str, Any] = {}
    if job.stain == "macenko" and tissue.mask.any():
        stained = tissue_mask(overview, SPACING_UM)  # all there is: a small region says little
        options["stain"] = macenko(overview[stained])
    if job.batch is not None:
        options["batch"] = job.batch
    if job.tta:
        options["mirrored"] = True
    return load_model(job.model, device=job.device, precision=job.precision, **options)


def _active(space: Space, spec: ModelSpec, tissue: Tissue, region: Any) -> NDArray[np.bool_]:
    """Patches whose core touches tissue: a property of the slide, never of the regions.

    A user's region is met from ``_AROUND_UM`` away: cells whose centre lies inside are kept, and
    they must be whole.
    """
    grid = patch_grid(space, spec)
    boxes = np.array([(*t.core.start, *t.core.stop) for t in grid], dtype=np.int64)
    if region is not None:
        around = np.ceil(_AROUND_UM / np.asarray(space.spacing)).astype(np.int64)
        boxes += np.concatenate([-around, around])
    return tissue.touching(boxes, space.shape).reshape(grid.counts)


def _parts(
    job: Job,
    slide: Slide,
    print_of: dict[str, Any],
    model: Model,
    space: Space,
    active: NDArray[np.bool_],
    region: Any,
) -> dict[str, Any]:
    return {
        "slide": print_of["key"],
        "mpp": list(slide.mpp or ()),
        "mpp_source": slide.mpp_source,
        "scene": slide.scene,
        "z": slide.z,
        "model": model.spec.name,
        "model_sha256": model.spec.sha256,
        "patch": [*model.spec.patch, model.spec.margin, model.spec.batch],
        "sizes": [model.spec.min_object, model.spec.max_object],
        "numerics": numerics_class(model),
        "algorithm": ALGORITHM,
        "lattice": [list(space.shape), list(space.spacing)],
        "tissue": "region" if region is not None else job.tissue,
        "patches_sha256": hashlib.sha256(np.packbits(active).tobytes()).hexdigest(),
        "region_sha256": None if region is None else hashlib.sha256(region.wkb).hexdigest(),
        "stain": job.stain,
        "simplify": job.simplify,
    }
