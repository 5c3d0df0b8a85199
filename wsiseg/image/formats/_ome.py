"""OME-XML: the few facts of it that a slide needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from wsiseg.image.formats._mpp import number, pixel_size

__all__ = ["OmeImage", "ome_images"]

MAX_XML = 64 << 20  # characters; ten times the longest seen


@dataclass(frozen=True, slots=True)
class OmeImage:
    """One ``Image`` of an OME document."""

    name: str
    mpp: tuple[float, float] | None
    """(y, x) µm, or None."""
    mpp_note: str
    bits: int | None
    """SignificantBits, or None."""
    colours: tuple[tuple[int, int, int], ...]
    """RGB of the channels that state one; () unless all do."""
    objective: float | None
    """NominalMagnification of its objective, or None."""


def ome_images(text: str) -> list[OmeImage]:
    """The images of an OME-XML document, [] where it cannot be parsed.

    Documents with entities of their own, which no writer of OME-XML makes, are not parsed.
    """
    if len(text) > MAX_XML or "<!ENTITY" in text:
        return []
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, ValueError):
        return []
    objectives = {
        item.get("ID"): number(item.get("NominalMagnification"))
        for item in root.iterfind(".//{*}Objective")
    }
    return [_image(item, objectives) for item in root.iterfind("{*}Image")]


def _image(item: Any, objectives: dict[Any, float | None]) -> OmeImage:
    pixels = item.find("{*}Pixels")
    given = {} if pixels is None else pixels.attrib
    mpp, note = _size(given)
    settings = item.find("{*}ObjectiveSettings")
    bits = number(given.get("SignificantBits"))
    channels = [] if pixels is None else pixels.findall("{*}Channel")
    return OmeImage(
        name=item.get("Name") or "",
        mpp=mpp,
        mpp_note=note,
        bits=int(bits) if bits and 1 <= bits <= 32 else None,
        colours=_colours([channel.get("Color") for channel in channels]),
        objective=None if settings is None else objectives.get(settings.get("ID")),
    )


def _size(given: Any) -> tuple[tuple[float, float] | None, str]:
    units = given.get("PhysicalSizeYUnit", "µm"), given.get("PhysicalSizeXUnit", "µm")
    y, note = pixel_size(
        given.get("PhysicalSizeY"), None, units[0], source="OME PhysicalSizeY, PhysicalSizeX"
    )
    x, x_note = pixel_size(
        None, given.get("PhysicalSizeX"), units[1], source="OME PhysicalSizeY, PhysicalSizeX"
    )
    if x is None or y is None:
        return None, note if y is None else x_note
    return (y[0], x[1]), note


def _colours(values: list[str | None]) -> tuple[tuple[int, int, int], ...]:
    found = [number(value) for value in values]
    if not found or any(value is None for value in found):
        return ()
    rgba = [int(value) & 0xFFFFFFFF for value in found if value is not None]  # signed RGBA
    return tuple((v >> 24 & 255, v >> 16 & 255, v >> 8 & 255) for v in rgba)
