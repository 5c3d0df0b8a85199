"""A region's work that tells what it took; in a file of its own, so that workers can import it."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.segment import RegionWork
from wsiseg.geometry import Tile
from wsiseg.model.base import Maps, ModelSpec


class Counting:
    """A model that counts its patches; links are those of the model it wraps."""

    def __init__(self, model: Any) -> None:
        self.model, self.patches = model, 0

    @property
    def spec(self) -> ModelSpec:
        """That of the model."""
        spec: ModelSpec = self.model.spec
        return spec

    def __call__(self, patches: NDArray[Any]) -> Maps:
        """Maps of the model."""
        self.patches += len(patches)
        maps: Maps = self.model(patches)
        return maps

    def decode(self, maps: Maps) -> NDArray[np.int32]:
        """As the model does."""
        labels: NDArray[np.int32] = self.model.decode(maps)
        return labels

    def links(self, maps: Maps) -> NDArray[np.uint8]:
        """As the model does."""
        links: NDArray[np.uint8] = self.model.links(maps)
        return links


class Timed:
    """A region's work, of which only facts are sent back.

    Made for passes over the same regions: each begins with nothing remembered of the last.
    """

    def __init__(self, work: RegionWork, model: Counting) -> None:
        self.work, self.model = work, model
        self.first: tuple[int, ...] | None = None

    def __call__(self, tile: Tile) -> dict[str, float]:
        """Seconds per stage, and patches through the network."""
        if self.first in (None, tile.index):
            self.first = tile.index
            self.work = replace(self.work, maps=copy(self.work.maps))  # remembers nothing yet
        clock, before, began = Clock(), self.model.patches, time.process_time()
        self.work(tile, clock)
        used = {"cpu": time.process_time() - began, "patches": self.model.patches - before}
        return clock.seconds | used
