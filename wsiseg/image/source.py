"""Source: the one way pixels come in, lazily, and the contract that a reader keeps."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SpaceError
from wsiseg.geometry import Box, Space

__all__ = ["ArraySource", "Source"]


@runtime_checkable
class Source(Protocol):
    """Pixels of one slide or volume.

    - Made without reading any pixel; ``read`` is where work happens.
    - ``read`` **must be thread-safe**, and its values may depend on the source and the space
      only, never on how an area is cut into boxes.
    - Pickles by reference (its uri and the arguments that opened it), not by content.
    - Raises UnreadableSlideError, naming the file and the box, where pixels cannot be decoded.
    """

    @property
    def uri(self) -> str:
        """Where the pixels come from."""
        ...

    @property
    def space(self) -> Space:
        """The finest lattice."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value."""
        ...

    def at(self, spacing: tuple[float, ...]) -> Space:
        """The lattice on which this source is read for a model of ``spacing``.

        A level within 5 % of it *is* the lattice; otherwise pixels are resampled. Depends on
        the source and the spacing alone.
        """
        ...

    def read(self, box: Box, space: Space) -> NDArray[Any]:
        """Pixels ``(*box.shape, channels)`` of ``box``, a box of ``space``; padded outside."""
        ...


class ArraySource:
    """A source over an array in memory ``(*shape, channels)``: tests, small work, volumes.

    ``fill`` pads outside. It is read on its own lattice only.
    """

    def __init__(
        self, pixels: NDArray[Any], space: Space, *, fill: float = 0, uri: str = "memory"
    ) -> None:
        if pixels.shape[:-1] != space.shape:
            raise SpaceError(
                f"pixels of shape {pixels.shape} need a space of {pixels.shape[:-1]} and a last "
                f"axis of channels, got a space of {space.shape}"
            )
        self.uri, self.space = uri, space
        self._pixels, self._fill = pixels, fill

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self._pixels.shape[-1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value."""
        return self._pixels.dtype

    def at(self, spacing: tuple[float, ...]) -> Space:
        """Its own lattice, which must lie within 5 % of ``spacing``."""
        pairs = zip(self.space.spacing, spacing, strict=True)
        if any(abs(mine / wanted - 1) > 0.05 for mine, wanted in pairs):
            raise SpaceError(
                f"an array in memory is not resampled: its spacing is {self.space.spacing}, "
                f"the model's {tuple(spacing)} {self.space.unit}"
            )
        return self.space

    def read(self, box: Box, space: Space) -> NDArray[Any]:
        """Pixels ``(*box.shape, channels)``, ``fill`` outside."""
        if space != self.space:
            raise SpaceError(f"an array in memory is read in its own space {self.space.shape}")
        out = np.full((*box.shape, self.channels), self._fill, dtype=self.dtype)
        inside = box.clip(self.space.shape)
        if not inside.empty:
            out[inside.slices(box.start)] = self._pixels[inside.slices()]
        return out
