"""What makes two trainings the same: settings, data, start, code and libraries; and its record."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from wsiseg import __version__
from wsiseg.model.weights import Weights
from wsiseg.training.config import TrainConfig
from wsiseg.training.examples import Examples

__all__ = ["TRAINING_ALGORITHM", "key_of", "record_of", "without"]

TRAINING_ALGORITHM = 2
"""To be raised with whatever gives other tensors for the same settings and data: targets, crops,
colours, losses, the order of a step."""

_LIBRARIES = ("numpy", "torch", "opencv-python-headless")

_FREE = ("workers", "path", "checkpoint", "log_every", "pictures", "about", "limits", "licence",
         "licence_file", "name")  # fmt: skip
"""Settings that may change between two runs of one training: the tensors do not depend on them."""


def key_of(config: TrainConfig, examples: Examples, start: Weights | None) -> dict[str, Any]:
    """What must be the same for a training to go on, JSON values."""
    return {
        "algorithm": TRAINING_ALGORITHM,
        "versions": _versions(),
        "settings": without(config.facts(), ("start", *_FREE)),
        "data": examples.digest(),
        "start": None if start is None else start.sha256,
    }


def record_of(config: TrainConfig, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that a training was told, for people to read; ``rows`` are those of the examples."""
    return {
        "config": config.facts(),
        "root": str(config.root),
        "data": rows,
        "versions": {"wsiseg": __version__} | _versions(),
    }


def without(value: Any, names: Sequence[str]) -> Any:
    """JSON values without the keys ``names``, at any depth."""
    if isinstance(value, dict):
        return {k: without(v, names) for k, v in value.items() if k not in names}
    return [without(v, names) for v in value] if isinstance(value, list) else value


def _versions() -> dict[str, str]:
    """Of the libraries whose arithmetic the tensors depend on."""
    return {name: version(name) for name in _LIBRARIES}
