"""Text in pictures, with the one font that every Pillow carries: the same pixels everywhere.

That font (a subset of Aileron) lacks µ and ²; they are put together from what it has. Other letters
that it lacks lose their accents, or become a question mark.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from PIL import ImageFont

__all__ = ["draw_text", "plain", "text_width"]

Color = tuple[int, int, int]

_SMALL = 0.62  # size of a superscript, as a part of the size


def draw_text(draw: Any, xy: tuple[float, float], text: str, size: int, fill: Color) -> float:
    """Draw ``text`` with its baseline starting at ``xy``; return the x where it ends."""
    x, y = xy
    for part in _parts(text):
        font = _font(size)
        if part == "²":
            small = _font(round(size * _SMALL))
            draw.text((x, y - 0.36 * size), "2", font=small, fill=fill, anchor="ls")
            x += small.getlength("2")
            continue
        letters = "u" if part == "µ" else part
        draw.text((x, y), letters, font=font, fill=fill, anchor="ls")
        if part == "µ":
            left, thick = x + 0.075 * size, 0.075 * size
            draw.rectangle((left, y - 0.3 * size, left + thick, y + 0.19 * size), fill=fill)
        x += font.getlength(letters)
    return x


def text_width(text: str, size: int) -> float:
    """Width in px of what ``draw_text`` draws."""
    small = _font(round(size * _SMALL)).getlength("2")
    return float(
        sum(
            small if part == "²" else _font(size).getlength("u" if part == "µ" else part)
            for part in _parts(text)
        )
    )


def plain(text: str) -> str:
    """``text`` in letters that can be drawn."""
    kept = (c if c in "µ²" or _has(c) else _unaccented(c) for c in text)
    return "".join(kept)


def _unaccented(letter: str) -> str:
    base = unicodedata.normalize("NFKD", letter)[0]
    return base if _has(base) else "?"


def _parts(text: str) -> list[str]:
    for special in "µ²":
        text = text.replace(special, f"\0{special}\0")
    return [part if part in ("µ", "²") else plain(part) for part in text.split("\0") if part]


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


@cache
def _has(letter: str) -> bool:
    """Whether the font has more than its box for a letter (a blank counts)."""
    if letter == " ":
        return True
    glyph, box = (_font(20).getmask(c) for c in (letter, "\uffff"))
    return letter.isprintable() and (glyph.size, bytes(glyph)) != (box.size, bytes(box))
