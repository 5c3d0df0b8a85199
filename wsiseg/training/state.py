"""State of a training: network, running mean of it, optimiser and step; as safetensors on disk.

Batches are functions of seed and step, and nothing in the network is random, so these are all
that is needed to go on as if nothing had happened.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsiseg.atomic import atomic_write
from wsiseg.errors import ModelError
from wsiseg.model.unet.network import UNet
from wsiseg.model.weights import load_weights, weights_bytes

__all__ = ["Schedule", "State", "load_state", "new_state", "save_state"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate and decay: AdamW (Loshchilov & Hutter 2019, ICLR), warm-up, half a cosine."""

    steps: int = 20_000
    """Of the whole training."""
    rate: float = 2.5e-3
    """Highest learning rate."""
    last: float = 0.01
    """Share of it at the end."""
    warmup: int = 300
    """Steps of linear rise."""
    decay: float = 0.02
    """Weight decay of filters; not of norms and biases."""
    ema: float = 0.999
    """Of the running mean of the weights, per step (Polyak & Juditsky 1992)."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        done = min(1.0, step / max(1, self.steps))
        fall = self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * done))
        return self.rate * rise * fall


@dataclass(slots=True)
class State:
    """What a training has come to."""

    net: UNet
    mean: UNet
    """Running mean of ``net``: what is validated and shipped."""
    optimizer: torch.optim.AdamW
    step: int = 0
    scaling: dict[str, Any] = field(default_factory=dict)
    """State of the GradScaler of fp16 (JSON values); {} in other precisions."""

    def update_mean(self, decay: float) -> None:
        """Move ``mean`` towards ``net``; faster in the first steps, when it knows nothing."""
        share = 1 - min(decay, (self.step + 1) / (self.step + 10))
        mine, theirs = _tensors(self.mean), _tensors(self.net)
        moving = [k for k, value in enumerate(mine) if value.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([mine[k] for k in moving], [theirs[k] for k in moving], share)


def new_state(net: UNet, schedule: Schedule) -> State:
    """A state at step 0."""
    filters = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": filters, "weight_decay": schedule.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=schedule.rate, fused=True)
    return State(net, copy.deepcopy(net).eval().requires_grad_(False), optimizer)


def save_state(path: Path, state: State, facts: dict[str, Any]) -> None:
    """Write ``state`` as safetensors; ``facts`` (JSON values) say what training it is of.

    Raises ModelError where a tensor is not finite; what was stored before is then left as it is.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for part, net in (("net", state.net), ("mean", state.mean)):
        tensors |= {f"{part}.{name}": _array(value) for name, value in net.state_dict().items()}
    for number, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": _array(value) for name, value in values.items()}
    _check_finite(tensors, state.step)
    progress = {"step": state.step, "scaling": state.scaling}
    stated = {"kind": "training state", "progress": progress, "training": facts}
    with atomic_write(path) as file:
        file.write(weights_bytes(tensors, stated))


def load_state(path: Path, state: State, facts: dict[str, Any]) -> None:
    """Fill ``state`` from ``path``; ModelError if it is damaged or of another training."""
    stored = load_weights(path)
    if stored.facts.get("kind") != "training state" or stored.facts.get("training") != facts:
        raise ModelError(
            f"{path} is the state of another training ({_difference(stored.facts, facts)}): take "
            "another output folder, or start over with --fresh"
        )
    progress = stored.facts["progress"]
    for part, net in (("net", state.net), ("mean", state.mean)):
        net.load_state_dict(_under(f"{part}.", stored.tensors))
    kept = state.optimizer.state_dict()
    adam = _under("adam.", stored.tensors)
    kept["state"] = {}
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    for name, value in adam.items():
        number, what = name.split(".", 1)
        kept["state"].setdefault(int(number), {})[what] = _laid_out(value, parameters[int(number)])
    state.optimizer.load_state_dict(kept)
    state.step, state.scaling = progress["step"], progress["scaling"]


def _difference(stored: dict[str, Any], facts: dict[str, Any]) -> str:
    before = stored.get("training")
    if not isinstance(before, dict):
        return "it is no state of a training"
    names = sorted(k for k in before.keys() | facts.keys() if before.get(k) != facts.get(k))
    return f"{', '.join(names)} differ"


def _under(prefix: str, tensors: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(np.array(values))
        for name, values in tensors.items()
        if name.startswith(prefix)
    }


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the memory layout of its parameter: the fused kernel pairs them by address."""
    return torch.empty_like(like).copy_(value) if value.shape == like.shape else value


def _tensors(net: UNet) -> list[Tensor]:
    return list(net.state_dict().values())


def _array(value: Tensor) -> NDArray[Any]:
    return np.asarray(value.detach().cpu().contiguous().numpy())


def _check_finite(tensors: dict[str, NDArray[Any]], step: int) -> None:
    bad = sorted(name for name, values in tensors.items() if not np.isfinite(values).all())
    if bad:
        raise ModelError(
            f"after step {step} {len(bad)} of {len(tensors)} tensors, such as {bad[0]}, are not "
            "finite and are not stored: lower the learning rate, or train in fp32; the last "
            "checkpoint is sound"
        )
