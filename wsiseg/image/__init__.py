"""Slides: opened by content, read lazily in one frame."""

from wsiseg.image.level import Level
from wsiseg.image.open import open_slide
from wsiseg.image.slide import Slide
from wsiseg.image.source import ArraySource, Source

__all__ = ["ArraySource", "Level", "Slide", "Source", "open_slide"]
