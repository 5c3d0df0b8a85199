"""Errors of the work on one item, by the name of the item."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from wsiseg.errors import RegionError, WsisegError

__all__ = ["named"]

T = TypeVar("T")
R = TypeVar("R")


def named(function: Callable[[T], R], item: T) -> R:
    """``function(item)``, its unexpected errors turned into RegionError naming ``item``."""
    try:
        return function(item)
    except WsisegError:
        raise
    except Exception as error:
        where = getattr(item, "core", item)
        raise RegionError(f"region {where} failed: {type(error).__name__}: {error}") from error
