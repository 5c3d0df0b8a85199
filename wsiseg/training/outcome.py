"""Outcome: how far a training is, and what it came to, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Sets", "Tell", "TrainProgress", "Trained", "trained_json"]

Sets = dict[str, dict[str, float | None]]
"""Set -> metric -> mean over its images; None where it is not defined."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a training is."""

    step: int
    """Steps taken, of ``steps``."""
    steps: int
    loss: float
    """Sum of the losses, smoothed over the last 50 steps or so; NaN before the first."""
    remaining: float | None
    """Seconds to go, as the steps of this run suggest."""
    said: str = ""
    """What happened, where something did."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to; also in ``summary.json``."""

    folder: Path
    weights: Path
    """The weights folder: for ``load_model``, or ``--model``."""
    step: int
    """Steps that were taken."""
    best_step: int
    """Step that the weights are of."""
    scores: Sets
    """Set -> metric -> mean over its validation images, of the weights as stored."""
    before: Sets
    """The same of the weights that it started from; {} where it started from noise."""
    nuclei: int
    """Nuclei in the validation images."""
    calibration: dict[str, Any] | None
    """Temperature, nuclei, accuracy, nll and ece (before and after)."""
    licence: str
    sha256: str
    """Of the weights."""
    seconds: float
    """Of this run."""


Tell = Callable[[TrainProgress], None]


def trained_json(trained: Trained) -> dict[str, Any]:
    """A Trained as JSON values."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(trained).items()}
