"""Aperio ImageScope XML beside an image, as in MoNuSeg and MoNuSAC."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.drawn import Drawn, labelled_crops, valid_polygons
from wsiseg.training.readers.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    LABEL_FOLDERS,
    by_stem,
    files_in,
    join,
)
from wsiseg.training.readers.reading import Reading

__all__ = ["accepts", "read", "read_xml"]

# MoNuSAC names a class in an Attribute; in MoNuSeg it is "Description"
_NO_CLASS = ("description",)
_FREEHAND, _RECTANGLE, _ELLIPSE = "0", "1", "2"


def accepts(root: Path) -> bool:
    """Whether there is an XML file."""
    return bool(_files(root))


def read(root: Path, reading: Reading) -> list[Labelled]:
    """Images of a folder with an ImageScope XML each.

    An image counts as annotated completely, as in MoNuSeg, unless it is larger than 2^27 px, or
    a layer or region whose name begins with Region says where. Slides of which nothing else is
    known give crops around their nuclei (``labelled_crops``).
    Raises InputFileError for images without XML and XML without an image.
    """
    images = by_stem(files_in(root, IMAGE_FOLDERS, IMAGE_SUFFIXES), IMAGE_SUFFIXES)
    return [
        item
        for image, path in join(images, by_stem(_files(root), (".xml",)), root)
        for item in labelled_crops(image, read_xml(path, reading), reading)
    ]


def read_xml(path: Path, reading: Reading) -> Drawn:
    """Outlines of an ImageScope file; vertices are corner-based px of level 0.

    A nucleus is a freehand, rectangular or elliptic region with at least three vertices; arrows,
    rulers, negative regions and others are left out, counted. Its class is the name of an
    attribute of its layer (MoNuSAC), or the name of the layer where that is one of the classes.

    Raises InputFileError where the file is no such XML.
    """
    root = _parsed(path)
    rings: list[NDArray[np.float64]] = []
    names: list[str | None] = []
    left_out = 0
    for layer in root.iter("Annotation"):
        name = _layer_class(layer, reading)
        for region in layer.iter("Region"):
            ring = _ring(region, path)
            left_out += ring is None
            if ring is not None:
                rings.append(ring)
                names.append(_region_class(region, name))
    total = len(rings) + left_out
    what = f"{left_out} of {total} regions are left out: no closed outline of 3 points"
    reading.note(path, "left out", what, left_out, total)
    return _drawn(path, rings, names, root)


def _files(root: Path) -> list[Path]:
    return files_in(root, LABEL_FOLDERS, (".xml",))


def _drawn(
    path: Path, rings: list[NDArray[np.float64]], names: list[str | None], root: Any
) -> Drawn:
    geometry = np.empty(len(rings), dtype=object)
    geometry[:] = [shapely.polygons(ring) for ring in rings]
    outlines = valid_polygons(geometry)
    is_region = np.array([(n or "").lower().startswith("region") for n in names], dtype=np.bool_)
    sound = shapely.area(outlines) > 0
    nuclei = np.flatnonzero(~is_region & sound)
    return Drawn(
        path,
        outlines[nuclei],
        [names[i] for i in nuclei.tolist()],
        regions=outlines[is_region & sound],
        complete=True,
        mpp=_mpp(root),
    )


def _parsed(path: Path) -> Any:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise InputFileError(f"{path}: not a readable XML file: {error}") from error
    if root.tag != "Annotations":
        raise InputFileError(
            f"{path}: expected annotations of ImageScope (<Annotations>), got <{root.tag}>"
        )
    return root


def _mpp(root: Any) -> float | None:
    try:
        value = float(root.get("MicronsPerPixel", ""))
    except ValueError:
        return None
    return value if 0.05 <= value <= 20 else None  # as of slides: others are not believed


def _layer_class(layer: Any, reading: Reading) -> str | None:
    """Name of a class of the attributes, else of the layer."""
    for attribute in layer.iterfind("Attributes/Attribute"):
        name = str(attribute.get("Name") or "").strip()
        if name and name.lower() not in _NO_CLASS:
            return name
    name = str(layer.get("Name") or "").strip()
    known = name.lower().startswith("region") or reading.classes.knows(name)
    return name if name and known else None


def _region_class(region: Any, layer: str | None) -> str | None:
    text = str(region.get("Text") or "").strip()
    return text if text.lower().startswith("region") else layer


def _ring(region: Any, path: Path) -> NDArray[np.float64] | None:
    """(V, 2) corners (x, y); None of what is no outline."""
    vertices = list(region.iter("Vertex"))
    shape = str(region.get("Type") or _FREEHAND)
    if (
        len(vertices) < 3
        or shape not in (_FREEHAND, _RECTANGLE, _ELLIPSE)
        or region.get("NegativeROA") == "1"
    ):
        return None
    try:
        ring = np.array([(float(v.get("X")), float(v.get("Y"))) for v in vertices])
    except (TypeError, ValueError):
        ring = np.full((1, 2), np.nan)
    if not np.isfinite(ring).all():
        raise InputFileError(f"{path}: region {region.get('Id')}: a vertex is no pair of numbers")
    return ring
