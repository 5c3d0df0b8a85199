"""The operators of one forward: seconds, FLOP and bytes of each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wsiseg.model.unet import UNetModel

__all__ = ["Operator", "watched"]

FREE = {
    "view", "reshape", "permute", "transpose", "t", "slice", "select", "detach", "detach_", "split",
    "expand", "flatten", "movedim", "lift_fresh", "resolve_conj", "resolve_neg", "empty", "alias",
    "split_with_sizes", "_unsafe_view", "unsqueeze", "squeeze", "as_strided", "_reshape_alias",
}  # fmt: skip
"""Operators that touch no data."""
LARGEST_KERNEL = 7  # px along an axis; tells filters from features


@dataclass
class Operator:
    """One call within the forward."""

    name: str
    shapes: str
    """Of all tensors that it reads and of the one that it writes, such as "1x3x8x8 4x3x3x3"."""
    flop: float
    bytes: float
    dtype: str
    seconds: list[float] = field(default_factory=list)
    """Of the thread's processor, once per round."""


def watched(model: UNetModel, patches: Any, rounds: int) -> tuple[list[Operator], float]:
    """Operators of one forward in order, and the least seconds of one that is not watched."""
    model(patches)
    plain = []
    operators: list[Operator] = []
    for _ in range(rounds):
        began = time.thread_time()
        model(patches)
        plain.append(time.thread_time() - began)
        with _Watch() as watch:
            model(patches)
        operators = operators or [operator for operator, _ in watch.calls]
        for kept, (_, seconds) in zip(operators, watch.calls, strict=True):
            kept.seconds.append(seconds)
    return operators, min(plain)


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Operator, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        began = time.thread_time()
        out = func(*args, **(kwargs or {}))
        seconds = time.thread_time() - began
        name = func.__name__.split(".")[0]
        if name not in FREE:
            self.calls.append((_operator(name, args, out), seconds))
        return out


def _operator(name: str, args: Any, out: Any) -> Operator:
    given = [a for a in args if isinstance(a, Tensor)]
    listed = [t for a in args if isinstance(a, list | tuple) for t in a if isinstance(t, Tensor)]
    made = [out] if isinstance(out, Tensor) else []
    tensors = [*given, *listed, *made]
    return Operator(
        name,
        " ".join("x".join(map(str, t.shape)) for t in tensors),
        _flop(name, given, made[0]) if made and given else 0.0,
        float(sum(t.numel() * t.element_size() for t in tensors)),
        str(given[0].dtype).removeprefix("torch.") if given else "",
    )


def _flop(name: str, given: list[Tensor], out: Tensor) -> float:
    """Of filter banks and matrix products; what is left is counted by its bytes alone."""
    if "conv" in name:
        filters = next(t for t in given[1:] if _are_filters(t, out))
        return 2.0 * out.numel() * (filters.numel() / filters.shape[0])
    if name == "addmm":
        return 2.0 * out.numel() * given[1].shape[1]
    if name in ("mm", "bmm"):
        return 2.0 * out.numel() * given[0].shape[-1]
    return 0.0


def _are_filters(t: Tensor, out: Tensor) -> bool:
    """Whether ``t`` is not features that are added on the way."""
    same = t.ndim == out.ndim and t.shape[0] == out.shape[1]
    return same and max(t.shape[2:]) <= LARGEST_KERNEL
