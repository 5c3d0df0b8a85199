"""Ranges: how large the values become that each filter bank reads, on real patches.

They are what int8 is scaled by, and belong to the weights: seen once, kept as a fact of them, and
so a part of their hash. A bank is named as its tensors are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsiseg.errors import ModelError
from wsiseg.model.unet.network import UNet, normalised

__all__ = ["FACT", "banks", "observed", "ranges_of"]

FACT = "ranges"
"""Name of the fact: name of a bank -> largest magnitude of what it reads."""


def banks(net: UNet) -> dict[str, nn.Module]:
    """The filter banks of ``net`` by name, such as "encoder.0.1.first", without "head"."""
    return {name: part for name, part in net.named_modules() if hasattr(part, "conv")}


def observed(net: UNet, patches: Iterable[NDArray[Any]]) -> dict[str, float]:
    """Range of each bank of a folded ``net`` and of its head over ``patches`` (*s, C).

    Values have 3 digits, so that they are the same on any machine. Raises ModelError without a
    patch.
    """
    found: dict[str, float] = {}
    parts = {**banks(net), "head": net.head}
    hooks = [part.register_forward_pre_hook(_keeper(name, found)) for name, part in parts.items()]
    try:
        with torch.inference_mode():
            for patch in patches:
                pixels = torch.from_numpy(np.ascontiguousarray(patch))
                net.on_grid(normalised(pixels[None], net.config))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ModelError("ranges need at least one patch to look at, got none")
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def ranges_of(facts: dict[str, Any], net: UNet, where: str) -> dict[str, float]:
    """The ranges that ``facts`` state for ``net``; ModelError where they are not there or not its.

    ``where``: the weights, for the message.
    """
    stated = facts.get(FACT)
    if stated is None:
        raise ModelError(
            f"{where}: int8 needs the ranges of what its filters read, and it states none: "
            "workflows/add_ranges.py adds them, as wsiseg train does; or use fp32 or bf16"
        )
    names = {*banks(net), "head"}
    sound = (
        isinstance(stated, dict)
        and stated.keys() == names
        and all(isinstance(v, int | float) and 0 <= v < np.inf for v in stated.values())
    )
    if not sound:
        raise ModelError(
            f"{where}: its ranges are not those of its network: expected a number of 0 or more "
            f"for each of {len(names)} filter banks"
        )
    return {name: float(value) for name, value in stated.items()}


def _keeper(name: str, found: dict[str, float]) -> Any:
    def keep(_: nn.Module, read: tuple[Tensor]) -> None:
        found[name] = max(found.get(name, 0.0), float(read[0].abs().amax()))

    return keep
