"""Licences of weights: which are open, and ``WSISEG_OPEN_ONLY=1``, which allows no others.

Weights trained on data that was given out for research carry that with them, which a user has to
know before relying on what they give. "Open" is meant as in the Open Definition 2.1: use for any
purpose, commercial ones included.
"""

from __future__ import annotations

import os
import re

from wsiseg.errors import SettingsError

__all__ = ["OPEN", "VARIABLE", "is_open", "open_only"]

VARIABLE = "WSISEG_OPEN_ONLY"
"""Environment variable: 1 allows open weights only; 0, empty or unset allow all."""

OPEN = frozenset(
    {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT"}
)
"""SPDX identifiers of licences that are open."""

_KNOWN = {name.casefold() for name in OPEN}


def is_open(expression: str) -> bool:
    """Whether every licence of an SPDX expression is known to be open.

    Errs towards False: of alternatives (``OR``) all must be, and unknown names, exceptions
    (``WITH``) and no licence at all are not open.
    """
    words = [word.casefold() for word in re.findall(r"[^\s()]+", expression)]
    names = [word for word in words if word not in ("and", "or")]
    return bool(names) and all(name in _KNOWN for name in names)


def open_only() -> bool:
    """Whether the environment asks for open weights only. SettingsError for unknown values."""
    value = os.environ.get(VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise SettingsError(
            f"{VARIABLE} must be 1 (open weights only), 0 or empty (all), got {value!r}"
        )
    return value == "1"
