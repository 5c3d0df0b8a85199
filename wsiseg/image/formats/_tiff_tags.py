"""What the tags of a TIFF page say: colour, pixel size, maker. Decodes nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UnsupportedFormatError
from wsiseg.image.formats._mpp import number, pixel_size, private
from wsiseg.image.formats._ome import OmeImage
from wsiseg.image.formats._rgb import ColourRule

__all__ = ["aperio_fields", "colour_rule", "pixel_size_of", "properties_of"]

# TIFF 6.0, PhotometricInterpretation
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
# compressions whose decoder turns YCbCr into RGB by itself: JPEG, JPEG 2000, JPEG XR, WebP, JXL
DECODED_TO_RGB = {6, 7, 33005, 33007, 34712, 34892, 34934, 50001, 50002, 52546}
APERIO_YCBCR = 33003  # JPEG 2000 whose YCbCr no decoder converts, whatever the photometric tag says
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
UNITS = {2: "inch", 3: "cm"}  # ResolutionUnit


def colour_rule(page: Any, pages: int, about: OmeImage | None) -> ColourRule:
    """The rule by which the samples of ``pages`` such pages become RGB.

    Raises UnsupportedFormatError where there is none.
    """
    photometric = int(page.photometric)
    samples = int(page.samplesperpixel)
    bits = _bits(page, about)
    alpha = _alpha(page, samples)
    channels = samples * pages - (alpha is not None)
    if photometric == PALETTE and channels == 1:
        return ColourRule("palette", bits, palette=_palette(page))
    compression = int(page.compression)
    unconverted = photometric == YCBCR and compression not in DECODED_TO_RGB
    if unconverted or compression == APERIO_YCBCR:
        raise UnsupportedFormatError(
            f"YCbCr samples with compression {compression} are not supported; convert to RGB"
        )
    if photometric in (RGB, YCBCR) and channels == 3:
        return ColourRule("rgb", bits, alpha)
    if photometric == SEPARATED and channels == 4:
        return ColourRule("cmyk", bits, alpha)
    if photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and channels == 1:
        return ColourRule("grey" if photometric == BLACK_IS_ZERO else "inverted", bits, alpha)
    if photometric in (BLACK_IS_ZERO, RGB) and alpha is None:
        return _many_channels(channels, bits, about)
    raise UnsupportedFormatError(
        f"photometric interpretation {photometric} with {samples} samples per px is not "
        "supported; convert to RGB"
    )


def pixel_size_of(page: Any, about: OmeImage | None) -> tuple[tuple[float, float] | None, str]:
    """((y, x) µm of the stored image or None, note): OME, Aperio, ImageJ, then XResolution."""
    if about is not None and about.mpp is not None:
        return about.mpp, about.mpp_note
    fields = aperio_fields(page.description)
    if "MPP" in fields:
        return pixel_size(fields["MPP"], fields["MPP"], source="Aperio MPP")
    unit = UNITS.get(int(page.tags.valueof(296, 2)))
    if page.is_imagej:
        found = re.search(r"^unit=(.+)$", page.description, re.MULTILINE)
        unit = found.group(1).strip() if found else unit
    y, x = (_per_unit(page.tags.valueof(code)) for code in (283, 282))
    if (y is None and x is None) or unit is None:
        return None, "no OME PhysicalSize, Aperio MPP or XResolution with a unit"
    return pixel_size(y, x, unit, source=f"TIFF XResolution per {unit}")


def properties_of(
    page: Any, about: OmeImage | None
) -> tuple[float | None, str | None, dict[str, str]]:
    """(objective, vendor, properties) of a page."""
    fields = aperio_fields(page.description)
    tags = {"tiff.Software": 305, "tiff.Make": 271, "tiff.Model": 272, "tiff.DateTime": 306}
    properties = {name: page.tags.valueof(code) for name, code in tags.items()}
    properties |= {f"aperio.{name}": value for name, value in fields.items()}
    if about is not None:
        properties["ome.Name"] = about.name
    objective = number(fields.get("AppMag")) if fields else None
    if objective is None and about is not None:
        objective = about.objective
    vendor = "aperio" if fields else page.tags.valueof(271)
    kept = {k: str(v) for k, v in properties.items() if v and not private(k)}
    return objective, None if vendor is None else str(vendor), kept


def aperio_fields(description: str) -> dict[str, str]:
    """The ``key = value`` pairs of Aperio's ImageDescription, {} for any other."""
    if not description.startswith("Aperio"):
        return {}
    pairs = (part.partition("=") for part in description.split("|")[1:])
    return {key.strip(): value.strip() for key, _, value in pairs if value}


def _bits(page: Any, about: OmeImage | None) -> int:
    stored = page.bitspersample
    if isinstance(stored, tuple):  # unequal widths, such as RGB 565, unpack to 8 bits each
        return 8
    if about is not None and about.bits is not None and about.bits <= stored:
        return about.bits
    return int(stored)


def _alpha(page: Any, samples: int) -> str | None:
    extra = tuple(int(e) for e in page.extrasamples)
    if len(extra) != 1:
        return None
    if extra[0] == UNASSOCIATED_ALPHA:
        return "straight"
    # an unstated fourth sample of RGB is alpha, premultiplied, as libtiff has it
    unstated = extra[0] == 0 and int(page.photometric) == RGB and samples == 4
    return "premultiplied" if extra[0] == ASSOCIATED_ALPHA or unstated else None


def _many_channels(channels: int, bits: int, about: OmeImage | None) -> ColourRule:
    colours = about.colours if about is not None and len(about.colours) == channels else ()
    if channels == 3 and not colours:
        return ColourRule("rgb", bits)
    if channels == 1:
        return ColourRule("grey", bits)
    return ColourRule("channels", bits, colours=colours)


def _palette(page: Any) -> NDArray[np.uint8]:
    table = page.colormap
    if table is None or table.ndim != 2 or table.shape[0] != 3:
        raise UnsupportedFormatError("a palette image without a colour map of three columns")
    return np.ascontiguousarray((np.asarray(table, dtype=np.uint16) >> 8).T.astype(np.uint8))


def _per_unit(value: Any) -> float | None:
    # a RATIONAL of px per unit, as unit per px
    try:
        px, units = value
        return float(units) / float(px) if px else None
    except (TypeError, ValueError):
        return None
