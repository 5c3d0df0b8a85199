"""One colour per class name, the same in every file and picture."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from hashlib import blake2b

__all__ = ["RGB", "class_color"]

RGB = tuple[int, int, int]

_UNCLASSIFIED: RGB = (0, 225, 95)
_KNOWN: dict[str, RGB] = {
    # told apart on the pink and violet of H&E, by people with red-green blindness too
    "epithelial": (230, 60, 40),
    "neoplastic": (200, 0, 0),
    "tumor": (200, 0, 0),
    "tumour": (200, 0, 0),
    "malignant": (200, 0, 0),
    "benign": (40, 160, 90),
    "inflammatory": (30, 60, 220),
    "lymphocyte": (30, 60, 220),
    "plasma": (110, 110, 255),
    "neutrophil": (0, 190, 240),
    "eosinophil": (255, 120, 200),
    "macrophage": (0, 150, 160),
    "spindle": (0, 150, 60),
    "stroma": (0, 150, 60),
    "connective": (0, 150, 60),
    "endothelial": (150, 200, 0),
    "muscle": (140, 90, 20),
    "necrosis": (60, 60, 60),
    "dead": (60, 60, 60),
    "mitosis": (255, 230, 0),
    "other": (240, 170, 0),
    "positive": (250, 62, 62),
    "negative": (112, 112, 225),
}


def class_color(name: str | None) -> RGB:
    """(r, g, b), 0 to 255, of a class; of a derived class ``"A: B"`` the colour of its last part.

    A name that is not in the palette gets a hue hashed from it, the same on every machine.
    """
    if name is None:
        return _UNCLASSIFIED
    key = name.rsplit(":", 1)[-1].strip().casefold()
    known = _KNOWN.get(key) or _KNOWN.get(key.removesuffix("s"))
    return known or _hashed(key)


def _hashed(key: str) -> RGB:
    digest = blake2b(key.encode(errors="replace"), digest_size=2).digest()
    r, g, b = hsv_to_rgb(int.from_bytes(digest) / 65536, 0.85, 0.8)
    return round(255 * r), round(255 * g), round(255 * b)
