"""Whole-slide DICOM through pydicom, for what OpenSlide refuses; needs the extra ``dicom``.

Reads the one instance that it is given as one level: frames are tiles of ``Rows`` x ``Columns``,
in the order of TILED_FULL (row by row, PS3.3 C.7.6.17.3) or at the places of TILED_SPARSE. Files
that state neither exist in both orders; there the padding of the last tiles decides, the one case
in which opening decodes frames (two). The pixel size is PixelSpacing, or the imaged volume over
the total pixel matrix where there is none. Names and numbers of patients are never copied into
the properties.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import MissingExtraError, UnreadableSlideError, UnsupportedFormatError
from wsiseg.image.formats._mpp import number, pixel_size
from wsiseg.image.formats._rgb import ColourRule, to_rgb
from wsiseg.image.formats._tiles import TileCache, TiledPlane, check_size
from wsiseg.image.level import DECODE_ERRORS, Contents, Level

__all__ = ["open_contents"]

KEPT = (
    "Manufacturer", "ManufacturerModelName", "Modality", "SOPClassUID", "ImageType",
    "NumberOfFrames", "PhotometricInterpretation", "DimensionOrganizationType",
    "ImagedVolumeWidth", "ImagedVolumeHeight", "LossyImageCompressionRatio",
)  # fmt: skip
PADDING_NOISE = 4.0  # grey levels, standard deviation; tissue and even glass have more
MODELS = {
    "RGB": "rgb", "YBR_FULL": "rgb", "YBR_FULL_422": "rgb", "YBR_ICT": "rgb", "YBR_RCT": "rgb",
    "MONOCHROME1": "inverted", "MONOCHROME2": "grey",
}  # fmt: skip


def open_contents(path: Path, scene: int | None, z: int | None) -> Contents:
    """Contents of one whole-slide instance."""
    pydicom = _pydicom()
    if scene:
        raise UnsupportedFormatError(f"a DICOM instance has one scene, got {scene}")
    try:
        # names too long for their field, colour spaces mislabelled: harmless, and frequent
        warnings.filterwarnings("ignore", module=r"pydicom\.")
        with path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            start = file.tell()
            frames = _Frames(path, header, _value_start(file, start, header))
    except DECODE_ERRORS as error:
        if isinstance(error, UnreadableSlideError):
            raise
        raise UnreadableSlideError(f"its DICOM header is damaged: {error}") from error
    return _contents(header, frames, z)


class _Frames:
    """Decodes single frames, each through a file handle of its own: no state, so no lock."""

    def __init__(self, path: Path, header: Any, start: int) -> None:
        from pydicom.pixels import get_decoder
        from pydicom.pixels.utils import as_pixel_options

        if "TotalPixelMatrixColumns" not in header or "Rows" not in header:
            raise UnsupportedFormatError(
                "a DICOM file, but not a whole-slide image (no TotalPixelMatrixColumns)"
            )
        syntax = header.file_meta.TransferSyntaxUID
        try:
            self._decoder = get_decoder(syntax)
        except NotImplementedError as error:
            raise UnsupportedFormatError(f"transfer syntax {syntax.name}: {error}") from error
        self._options = as_pixel_options(header) | {"pixel_keyword": "PixelData"}
        self._path, self._start, self._closed = path, start, False
        if syntax.is_encapsulated:
            with path.open("rb") as file:
                self._index(file, int(header.get("NumberOfFrames", 1)))

    def frame(self, number: int) -> NDArray[Any]:
        """Samples (h, w, c) of a frame."""
        if self._closed:
            raise UnreadableSlideError("the slide has been closed")
        with self._path.open("rb") as file:
            file.seek(self._start)
            samples = self._decoder.as_array(file, index=number, **self._options)[0]
        return np.asarray(samples if samples.ndim == 3 else samples[..., None])

    def close(self) -> None:
        self._closed = True

    def _index(self, file: BinaryIO, frames: int) -> None:
        # without an offset table pydicom would walk through all fragments for every frame
        from pydicom.encaps import parse_basic_offsets, parse_fragments

        file.seek(self._start)
        offsets = parse_basic_offsets(file)
        first = file.tell()
        count, places = parse_fragments(file)
        if offsets or self._options.get("extended_offsets") or count != frames:
            return
        lengths = []
        for place in places:
            file.seek(place + 4)
            lengths.append(int.from_bytes(file.read(4), "little"))
        self._options["extended_offsets"] = ([place - first for place in places], lengths)


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Which frame holds which tile."""

    frames: _Frames
    rule: ColourRule
    number: dict[tuple[int, int], int]

    def decode(self, i: int, j: int) -> NDArray[np.uint8] | None:
        at = self.number.get((i, j))
        return None if at is None else to_rgb(self.frames.frame(at), self.rule)


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtraError(
            "this DICOM file needs pydicom: install the extra, pip install 'wsiseg[dicom]'"
        ) from error
    return pydicom


def _value_start(file: Any, start: int, header: Any) -> int:
    # the element PixelData: tag, then VR and length (explicit), or length (implicit)
    file.seek(start)
    if file.read(4) not in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
        raise UnreadableSlideError("the DICOM file holds no pixel data")
    return start + (8 if header.file_meta.TransferSyntaxUID.is_implicit_VR else 12)


def _contents(header: Any, frames: _Frames, z: int | None) -> Contents:
    shape = (int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns))
    tile = (int(header.Rows), int(header.Columns))
    check_size("the total pixel matrix", shape, tile)
    z_count = int(header.get("TotalPixelMatrixFocalPlanes", 1) or 1)
    plane = z_count // 2 if z is None else z
    if not 0 <= plane < z_count:
        raise UnsupportedFormatError(f"z must be 0 to {z_count - 1}, got {plane}")
    numbers = _numbers(header, frames, shape, tile, (plane, z_count))
    tiles = _Tiles(frames, _rule(header), numbers)
    grid = -(-shape[0] // tile[0]) * -(-shape[1] // tile[1])
    level = TiledPlane(shape, tile, tiles.decode, TileCache())
    mpp, note = _mpp(header, shape)
    return Contents(
        format="dicom (pydicom)",
        levels=(Level(shape, (1.0, 1.0), level.read, tile, grid - len(numbers)),),
        mpp=mpp,
        mpp_note=note,
        objective=_objective(header),
        vendor=str(header.get("Manufacturer") or "") or None,
        properties={f"dicom.{k}": str(header.get(k)) for k in KEPT if header.get(k) is not None},
        z=plane,
        z_count=z_count,
        close=frames.close,
    )


def _numbers(
    header: Any,
    frames: _Frames,
    shape: tuple[int, int],
    tile: tuple[int, int],
    planes: tuple[int, int],
) -> dict[tuple[int, int], int]:
    count = int(header.get("NumberOfFrames", 1))
    z, z_count = planes
    down, across = -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    if "PerFrameFunctionalGroupsSequence" in header and (
        header.get("DimensionOrganizationType") != "TILED_FULL"
    ):
        return _sparse(header, tile)
    if "ConcatenationUID" in header:
        raise UnsupportedFormatError("one part of a concatenation; join the parts first")
    paths = int(header.get("NumberOfOpticalPaths", 1) or 1)
    if count != down * across * z_count * paths:
        raise UnreadableSlideError(
            f"{down} x {across} tiles, {z_count} focal planes and {paths} optical paths need "
            f"{down * across * z_count * paths} frames, the file has {count}"
        )
    first = z * down * across
    unstated = "DimensionOrganizationType" not in header
    if unstated and _down_first(frames, first, shape, tile):
        return {(i, j): first + j * down + i for i in range(down) for j in range(across)}
    return {(i, j): first + i * across + j for i in range(down) for j in range(across)}


def _down_first(frames: _Frames, first: int, shape: tuple[int, int], tile: tuple[int, int]) -> bool:
    """Whether frames run down the columns: the padding of the last tiles tells, where it can."""
    down, across = -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    if down == 1 or across == 1:
        return False
    # tissue rings into the padding as far as the compression's block of up to 16 px reaches
    last = shape[0] - (down - 1) * tile[0], shape[1] - (across - 1) * tile[1]
    used = [-(-size // 16) * 16 for size in last]
    at_right = frames.frame(first + across - 1)[:, used[1] :]  # of the first row, if row by row
    at_bottom = frames.frame(first + down - 1)[used[0] :]  # of the first column, if down first
    return not _padding(at_right) and _padding(at_bottom)


def _padding(samples: NDArray[Any]) -> bool:
    # one value but for what lossy compression adds; an empty strip shows nothing
    return samples.size > 0 and float(np.std(samples, axis=(0, 1)).max()) < PADDING_NOISE


def _sparse(header: Any, tile: tuple[int, int]) -> dict[tuple[int, int], int]:
    numbers: dict[tuple[int, int], int] = {}
    for k, item in enumerate(header.PerFrameFunctionalGroupsSequence):
        place = item.PlanePositionSlideSequence[0]
        y = int(place.RowPositionInTotalImagePixelMatrix) - 1
        x = int(place.ColumnPositionInTotalImagePixelMatrix) - 1
        if y % tile[0] or x % tile[1]:
            raise UnsupportedFormatError(
                f"frame {k} lies at y {y}, x {x}, off the grid of {tile[0]} x {tile[1]} px"
            )
        numbers.setdefault((y // tile[0], x // tile[1]), k)  # the first plane and optical path
    return numbers


def _rule(header: Any) -> ColourRule:
    photometric = str(header.PhotometricInterpretation)
    if photometric not in MODELS:
        raise UnsupportedFormatError(f"photometric interpretation {photometric} is not supported")
    return ColourRule(MODELS[photometric], int(header.BitsStored))


def _mpp(header: Any, shape: tuple[int, int]) -> tuple[tuple[float, float] | None, str]:
    try:
        shared = header.SharedFunctionalGroupsSequence[0]
        y, x = shared.PixelMeasuresSequence[0].PixelSpacing
        return pixel_size(y, x, "mm", source="DICOM PixelSpacing")
    except (AttributeError, IndexError, TypeError, ValueError):
        pass  # then from the size of the imaged volume
    sizes = [number(header.get(f"ImagedVolume{side}")) for side in ("Height", "Width")]
    if sizes[0] is None or sizes[1] is None:
        return None, "no DICOM PixelSpacing or ImagedVolumeWidth"
    source = "DICOM ImagedVolumeHeight, ImagedVolumeWidth over TotalPixelMatrix"
    return pixel_size(sizes[0] / shape[0], sizes[1] / shape[1], "mm", source=source)


def _objective(header: Any) -> float | None:
    try:
        return number(header.OpticalPathSequence[0].ObjectiveLensPower)
    except (AttributeError, IndexError):
        return None
