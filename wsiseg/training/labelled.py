"""Labelled: one annotated image in memory, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError

__all__ = ["CLASSES", "Centres", "Labelled"]

CLASSES = ("epithelial", "inflammatory", "spindle", "other")
"""Names of the nucleus classes of the models that wsiseg ships, in the order of their heads."""


_MAX_LABEL = 2**16 - 1  # they are kept as uint16


@dataclass(frozen=True, slots=True, eq=False)
class Centres:
    """Nuclei of which only the centre is known."""

    points: NDArray[np.float64]
    """(N, 2): (row, col) px, pixel centres at whole numbers."""
    kinds: NDArray[np.uint8]
    """(N,): 1 + index in the classes, 0 where the class is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """An image with what somebody drew or clicked on it.

    Either ``labels`` or ``centres`` is given. Raises InputFileError, naming ``name``, where the
    parts do not fit each other.
    """

    name: str
    """Path of the image, as messages name it."""
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    labels: NDArray[np.int32] | None = None
    """(H, W): 0 background, else the number of a nucleus."""
    kinds: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(1, dtype=np.uint8))
    """(max label + 1,) or shorter: 1 + index in the classes by label, 0 (and beyond the end): the
    class is not known."""
    centres: Centres | None = None
    """Nuclei without outlines."""
    known: NDArray[np.bool_] | None = None
    """(H, W): where everything was annotated, so that what has no label is background; None:
    everywhere."""
    mpp: float | None = None
    """µm per px; None: not known."""
    set: str = ""
    """Data set it belongs to."""
    split: str = "train"
    """"train" or "val"."""
    case: str = ""
    """Patient, or whatever must not be on both sides of a split; by default the name."""
    licence: str = ""
    """Licence at origin, as stated."""

    def __post_init__(self) -> None:
        shape = self.image.shape
        if self.image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise InputFileError(
                f"{self.name}: expected an RGB image (H, W, 3) of uint8, got {self.image.dtype} "
                f"{shape}"
            )
        if (self.labels is None) == (self.centres is None):
            raise InputFileError(f"{self.name}: expected either outlines or centres of nuclei")
        for what, array in (("labels", self.labels), ("annotated area", self.known)):
            if array is not None and array.shape != shape[:2]:
                raise InputFileError(
                    f"{self.name}: {what} of {array.shape} px beside an image of {shape[:2]} px; "
                    "they must be of one size"
                )
        if self.labels is not None and self.labels.size:
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high > _MAX_LABEL:
                raise InputFileError(
                    f"{self.name}: labels must be 0 to {_MAX_LABEL}, got {low} to {high}: number "
                    "the nuclei of an image from 1"
                )
        if self.mpp is not None and not 0.01 <= self.mpp <= 100:
            raise InputFileError(
                f"{self.name}: {self.mpp} µm per px cannot be; leave it empty where it is unknown"
            )
        if self.split not in ("train", "val"):
            raise InputFileError(f"{self.name}: split must be train or val, got {self.split!r}")
