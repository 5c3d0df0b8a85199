"""Pixel sizes as files state them: units, decimal commas, and numbers that are none."""

from __future__ import annotations

import re
from math import isfinite

__all__ = ["UM_PER_UNIT", "number", "pixel_size", "private"]

UM_PER_UNIT = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3,
    "pm": 1e-6, "å": 1e-4, "in": 25400.0, "inch": 25400.0, "meter": 1e6, "metre": 1e6,
    "decimeter": 1e5, "centimeter": 1e4, "centimetre": 1e4, "millimeter": 1e3, "millimetre": 1e3,
    "micrometer": 1.0, "micrometre": 1.0, "micron": 1.0, "microns": 1.0, "nanometer": 1e-3,
    "nanometre": 1e-3, "picometer": 1e-6, "angstrom": 1e-4, "thou": 25.4, "mil": 25.4,
    "\\u00b5m": 1.0,
}  # fmt: skip

PRIVATE = re.compile(
    r"patient|accession|barcode|birth|physician|operator|requested|study_?id|aperio\.(user|filename)"
    r"|slide_?(name|label)",
    re.IGNORECASE,
)


def number(text: object) -> float | None:
    """The finite number that ``text`` states, or None. ``0,25`` is 0.25; ``1,234.5`` is none."""
    cleaned = str(text).strip()
    if re.fullmatch(r"[+-]?\d*,\d+", cleaned):
        cleaned = cleaned.replace(",", ".")
    try:
        value = float(cleaned)
    except ValueError:
        return None
    return value if isfinite(value) else None


def pixel_size(
    y: object, x: object, unit: object = "µm", *, source: str
) -> tuple[tuple[float, float] | None, str]:
    """((y, x) in µm or None, note) of what ``source`` states in ``unit``."""
    if y is None and x is None:
        return None, f"no {source}"
    factor = UM_PER_UNIT.get(str(unit).strip().lower())
    if factor is None:
        return None, f"{source} is in a unit that is not a length"  # not said: it may be any text
    values = number(y if y is not None else x), number(x if x is not None else y)
    if values[0] is None or values[1] is None:
        return None, f"{source} is not a number"
    return (values[0] * factor, values[1] * factor), source


def private(key: str) -> bool:
    """Whether a metadata key names the patient, the specimen or a person."""
    return PRIVATE.search(key) is not None
