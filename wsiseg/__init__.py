"""wsiseg: gigapixel pathology slides into cells one can count on.

>>> import wsiseg
>>> cells = wsiseg.segment("slide.svs", out="run")  # doctest: +SKIP
>>> cells.to_geopandas(bbox=(0, 0, 2048, 2048))  # doctest: +SKIP

The names below are loaded at their first use, so that importing wsiseg is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsiseg.archive.batch import batch
    from wsiseg.cells.layer import CellBatch, Cells
    from wsiseg.engine.segment import find_objects
    from wsiseg.export.write import write
    from wsiseg.geometry import Box, Space
    from wsiseg.image.open import open_slide
    from wsiseg.image.slide import Slide
    from wsiseg.model.zoo import load_model
    from wsiseg.run.evaluate import evaluate
    from wsiseg.run.segment import segment
    from wsiseg.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Box",
    "CellBatch",
    "Cells",
    "Slide",
    "Space",
    "batch",
    "evaluate",
    "find_objects",
    "load_model",
    "open_slide",
    "segment",
    "train",
    "write",
]

_HOMES = {
    "Box": "wsiseg.geometry",
    "CellBatch": "wsiseg.cells.layer",
    "Cells": "wsiseg.cells.layer",
    "Slide": "wsiseg.image.slide",
    "Space": "wsiseg.geometry",
    "batch": "wsiseg.archive.batch",
    "evaluate": "wsiseg.run.evaluate",
    "find_objects": "wsiseg.engine.segment",
    "load_model": "wsiseg.model.zoo",
    "open_slide": "wsiseg.image.open",
    "segment": "wsiseg.run.segment",
    "train": "wsiseg.training.train",
    "write": "wsiseg.export.write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wsiseg' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
