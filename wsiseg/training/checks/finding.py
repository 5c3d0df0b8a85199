"""Finding: one thing that may be wrong with an image or a set."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SEVERITIES", "Finding"]

SEVERITIES = ("severe", "warning", "info")
"""In the order in which they are shown. Severe: training on it teaches something wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that may be wrong."""

    name: str
    """The image, as ``Labelled.name``; or the set or case that is meant."""
    kind: str
    """What it is, in a word or two: the same for the same thing."""
    detail: str
    """A sentence with the numbers that led to it."""
    severity: str
    """One of ``SEVERITIES``."""
