"""Places on lattices and in the body: pure numpy, no pixels, no files."""

from wsiseg.geometry.box import Box
from wsiseg.geometry.grid import Tile, TileGrid
from wsiseg.geometry.space import Space

__all__ = ["Box", "Space", "Tile", "TileGrid"]
