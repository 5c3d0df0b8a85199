"""Slide: the pixels of one slide in one frame, read lazily and at any spacing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite, log
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import MissingSpacingError, SpaceError, UnreadableSlideError, WsisegError
from wsiseg.geometry import Box, Space
from wsiseg.image.level import DECODE_ERRORS, Contents
from wsiseg.image.resample import resample

if TYPE_CHECKING:
    import dask.array
    import zarr

__all__ = ["MAX_MPP", "MIN_MPP", "Slide"]

MIN_MPP, MAX_MPP = 0.05, 20.0  # µm per px: outside, metadata are not believed
SAME_LATTICE = 0.05  # a level this near to the wanted spacing is read without resampling


class Slide:
    """A slide: a pyramid of RGB levels, read lazily. A ``wsiseg.image.source.Source``.

    All coordinates count from the first pixel of level 0 (of the scanned bounds, as in QuPath).
    Opening decodes no pixel. Reads are thread-safe and raise UnreadableSlideError where the file
    cannot be decoded. Pickles by reference: path, mpp, scene and z.
    """

    channels = 3
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(
        self,
        uri: str,
        contents: Contents,
        *,
        given_mpp: tuple[float, float] | None = None,
        reopen: tuple[Callable[..., Slide], tuple[Any, ...]] | None = None,
    ) -> None:
        self.uri = uri
        self._contents = contents
        self._reopen = reopen
        self.levels = contents.levels
        self.mpp_problem = _mpp_problem(contents.mpp, contents.mpp_note)
        """Why the reported pixel size is not believed, or None."""
        believed = contents.mpp if self.mpp_problem is None else None
        self.mpp = given_mpp or believed
        """µm per level-0 px (y, x), or None where it is not known."""
        self.mpp_source = "given" if given_mpp else ("metadata" if believed else None)
        spacing = self.mpp or (1.0, 1.0)
        unit = "um" if self.mpp else "px"
        self._spaces = tuple(
            Space.regular(
                k.shape, [s * d for s, d in zip(spacing, k.downsample, strict=True)], unit
            )
            for k in self.levels
        )

    @property
    def space(self) -> Space:
        """The lattice of level 0, in µm, or in px where no pixel size is known."""
        return self._spaces[0]

    @property
    def format(self) -> str:
        """Name of the format."""
        return self._contents.format

    @property
    def mpp_reported(self) -> tuple[float, float] | None:
        """Pixel size (y, x) in µm as the file has it, believable or not."""
        return self._contents.mpp

    @property
    def mpp_note(self) -> str:
        """Where in the file the pixel size stands."""
        return self._contents.mpp_note

    @property
    def objective(self) -> float | None:
        """Nominal magnification of the objective."""
        return self._contents.objective

    @property
    def vendor(self) -> str | None:
        """Maker of the scanner or writer of the file."""
        return self._contents.vendor

    @property
    def properties(self) -> dict[str, str]:
        """Metadata of the file, without what names the patient or the specimen."""
        return dict(self._contents.properties)

    @property
    def associated(self) -> Mapping[str, NDArray[np.uint8]]:
        """Label, macro, thumbnail: name -> (h, w, 3) uint8, read when looked up."""
        return _LazyImages(self.uri, self._contents.associated)

    @property
    def scene(self) -> int:
        """Which of the images in the file this is; the first by default."""
        return self._contents.scene

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the images in the file."""
        return self._contents.scenes

    @property
    def z(self) -> int:
        """Which focal plane this is; by default the middle one, ``z_count // 2``."""
        return self._contents.z

    @property
    def z_count(self) -> int:
        """Number of focal planes."""
        return self._contents.z_count

    def at(self, spacing: float | tuple[float, ...]) -> Space:
        """The lattice on which the slide is read at ``spacing`` µm per px, (y, x) or both.

        A level within 5 % on both axes *is* the lattice (the nearest ratio, then the finer one);
        otherwise level 0 resampled. Raises MissingSpacingError where no pixel size is known.
        """
        if self.mpp is None:
            raise MissingSpacingError(
                f"{self.uri}: reading at {spacing} µm needs the pixel size, and "
                f"{self.mpp_problem}; give it with --mpp (mpp=... in Python), in µm per px"
            )
        y, x = (float(v) for v in np.broadcast_to(np.asarray(spacing, dtype=np.float64), 2))
        if not all(isfinite(v) and v > 0 for v in (y, x)):
            raise SpaceError(f"a spacing must be positive µm per px, got {spacing}")
        near = []
        for k, space in enumerate(self._spaces):
            ratio = [have / want for have, want in zip(space.spacing, (y, x), strict=True)]
            if all(abs(r - 1) <= SAME_LATTICE for r in ratio):
                near.append((round(max(abs(log(r)) for r in ratio), 9), k))
        return self._spaces[min(near)[1]] if near else self.space.at((y, x))

    def level_space(self, level: int) -> Space:
        """The lattice of a level."""
        return self._spaces[self._checked(level)]

    def read(self, box: Box, space: Space) -> NDArray[np.uint8]:
        """Pixels ``(*box.shape, 3)`` uint8 of a box of ``space``, white outside it.

        Level pixels where ``space`` is the lattice of a level (see ``at``), otherwise resampled
        with anti-aliasing from the coarsest level that is not coarser (wsiseg.image.resample).
        """
        if space in self._spaces:
            return self.read_level(self._spaces.index(space), box)
        level = self._best_level(space)
        scale = space.scale_to(self._spaces[level])
        return self._resampled(level, (scale[0], scale[1]), space.shape, box)

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels ``(*box.shape, 3)`` uint8 of a box in px of ``level``, white outside it."""
        if box.ndim != 2:
            raise SpaceError(f"a slide is read by boxes of 2 axes (y, x), got {box}")
        try:
            return self.levels[self._checked(level)].read(box)
        except WsisegError as error:
            raise type(error)(f"{self.uri}: level {level}, {_place(box)}: {error}") from error
        except DECODE_ERRORS as error:
            raise UnreadableSlideError(
                f"{self.uri}: level {level}, {_place(box)} cannot be decoded: "
                f"{type(error).__name__}: {error}; the file may be damaged or cut short"
            ) from error

    def thumbnail(self, max_size: int = 1024) -> NDArray[np.uint8]:
        """The whole slide (h, w, 3) with its longer side at most ``max_size`` px, anti-aliased."""
        if max_size < 1:
            raise SpaceError(f"a thumbnail needs at least 1 px, got {max_size}")
        full = self.levels[0].shape
        factor = max(1.0, max(full) / max_size)
        shape = (max(1, round(full[0] / factor)), max(1, round(full[1] / factor)))
        finer = [
            k
            for k, level in enumerate(self.levels)
            if all(s >= t for s, t in zip(level.shape, shape, strict=True))
        ]
        level = finer[-1]
        if self.levels[level].shape == shape:
            return self.read_level(level, Box.of_shape(shape))
        source = self.levels[level].shape
        return self._resampled(
            level, (source[0] / shape[0], source[1] / shape[1]), shape, Box.of_shape(shape)
        )

    def as_dask(self, level: int = 0) -> dask.array.Array:
        """A level as a lazy dask array (h, w, 3) uint8, chunks aligned to the file's tiles."""
        from wsiseg.image.views import as_dask

        return as_dask(self, self._checked(level))

    def as_zarr(self, level: int = 0) -> zarr.Array[Any]:
        """A level as a read-only zarr array (h, w, 3) uint8, decoded chunk by chunk."""
        from wsiseg.image.views import as_zarr

        return as_zarr(self, self._checked(level))

    def close(self) -> None:
        """Close the file; a later read raises UnreadableSlideError."""
        self._contents.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Slide], tuple[Any, ...]]:
        if self._reopen is None:
            raise TypeError(f"{self.uri} was not opened by open_slide and cannot be pickled")
        return self._reopen

    def __repr__(self) -> str:
        h, w = self.levels[0].shape
        mpp = "unknown" if self.mpp is None else "{:.4g} x {:.4g} µm".format(*self.mpp)
        return f"<Slide {self.uri} {h} x {w} px, {len(self.levels)} levels, mpp {mpp}>"

    def _checked(self, level: int) -> int:
        if not 0 <= level < len(self.levels):
            raise SpaceError(f"{self.uri} has levels 0 to {len(self.levels) - 1}, got {level}")
        return level

    def _best_level(self, space: Space) -> int:
        affine = space.matrix
        axis_aligned = np.array_equal(affine, np.diag(np.diag(affine)))
        if space.unit != self.space.unit or space.ndim != 2 or not axis_aligned:
            raise SpaceError(
                f"{self.uri} is read on lattices along its axes from its corner, in "
                f"{self.space.unit!r}; got {space}. Lattices come from slide.at(spacing)"
            )
        finer = [0]
        for k, mine in enumerate(self._spaces):
            if all(m <= w * (1 + 1e-6) for m, w in zip(mine.spacing, space.spacing, strict=True)):
                finer.append(k)
        return finer[-1]

    def _resampled(
        self, level: int, scale: tuple[float, float], shape: tuple[int, ...], box: Box
    ) -> NDArray[np.uint8]:
        out = np.full((*box.shape, 3), 255, dtype=np.uint8)
        inside = box.clip(shape)
        if not inside.empty:
            source = self.levels[level].shape
            pixels = resample(lambda b: self.read_level(level, b), source, scale, inside)
            out[inside.slices(box.start)] = pixels
        return out


class _LazyImages(Mapping[str, NDArray[np.uint8]]):
    def __init__(self, uri: str, calls: Mapping[str, Callable[[], NDArray[np.uint8]]]) -> None:
        self._uri, self._calls = uri, calls

    def __getitem__(self, name: str) -> NDArray[np.uint8]:
        try:
            call = self._calls[name]
        except KeyError:
            raise KeyError(f"{name!r} is not one of {sorted(self._calls)}") from None
        try:
            return call()
        except DECODE_ERRORS as error:
            raise UnreadableSlideError(
                f"{self._uri}: image {name!r} cannot be decoded: {error}"
            ) from error

    def __iter__(self) -> Any:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)


def _mpp_problem(mpp: tuple[float, float] | None, note: str) -> str | None:
    if mpp is None:
        return f"the file has no usable one ({note})" if note else "the file has none"
    if all(isfinite(v) and MIN_MPP <= v <= MAX_MPP for v in mpp):
        return None
    return (
        f"the file's {mpp[0]:g} x {mpp[1]:g} µm (y, x; {note}) lies outside "
        f"{MIN_MPP:g} to {MAX_MPP:g} µm"
    )


def _place(box: Box) -> str:
    return f"y {box.start[0]}:{box.stop[0]}, x {box.start[1]}:{box.stop[1]}"
