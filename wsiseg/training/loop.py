"""The loop: crops in, weights better by one step; stopped and resumed without a trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wsiseg.cores import cores
from wsiseg.errors import ModelError
from wsiseg.model.unet.network import normalised
from wsiseg.model.zoo import best_precision
from wsiseg.training.losses import LossWeights, losses
from wsiseg.training.sample import Crops
from wsiseg.training.state import Schedule, State

__all__ = ["Machine", "Report", "run_steps", "settled"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the steps are computed; on a CPU, bits depend on it."""

    device: str = "cpu"
    precision: str = "bf16"
    """bf16, fp16 (CUDA only), fp32; or "auto", see ``settled``."""
    threads: int = 2
    """Of the CPU; 0: as many cores as the process may use."""
    workers: int = 0
    """Processes that cut crops; 0: none beside this one."""


def settled(machine: Machine) -> Machine:
    """``machine`` with "auto" precision resolved for its device: bf16 where native, else fp32."""
    if machine.precision != "auto":
        return machine
    return replace(machine, precision=best_precision(machine.device))


@dataclass(frozen=True, slots=True)
class Report:
    """What a step came to."""

    step: int
    losses: dict[str, float]
    rate: float
    seconds: float


def run_steps(
    state: State,
    crops: Crops,
    schedule: Schedule,
    weights: LossWeights,
    machine: Machine,
    stop: int,
) -> Iterator[Report]:
    """Take steps until ``state.step`` is ``stop``, reporting each.

    Raises ModelError where a loss is not finite: the state is then that of the step before.
    """
    machine, threads = settled(machine), machine.threads or cores()
    scaler = torch.amp.GradScaler(machine.device, enabled=machine.precision == "fp16")
    if state.scaling:
        scaler.load_state_dict(state.scaling)
    for step, batch in enumerate(_batches(crops, state.step, stop, machine), state.step):
        began = time.perf_counter()
        torch.set_num_threads(threads)  # a UNetModel that validates sets it to 1
        state.net.train()
        for group in state.optimizer.param_groups:
            group["lr"] = schedule.rate_at(step)
        found = _losses(state, batch, weights, machine)
        _check_finite(found, step)
        state.optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(found.values())).sum()
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        scaler.step(state.optimizer)
        scaler.update()
        state.scaling = scaler.state_dict()
        state.update_mean(schedule.ema)
        state.step = step + 1
        values = {name: float(value.detach()) for name, value in found.items()}
        yield Report(step, values, schedule.rate_at(step), time.perf_counter() - began)


def _batches(crops: Crops, start: int, stop: int, machine: Machine) -> Iterator[dict[str, Tensor]]:
    loader: DataLoader[Any] = DataLoader(
        crops,  # type: ignore[arg-type]  # a map from step to batch is all it needs
        batch_size=None,
        sampler=range(start, stop),
        num_workers=machine.workers,
        collate_fn=_as_it_is,
        prefetch_factor=2 if machine.workers else None,
    )
    return iter(loader)


def _as_it_is(batch: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}


def _losses(
    state: State, batch: dict[str, Tensor], weights: LossWeights, machine: Machine
) -> dict[str, Tensor]:
    config = state.net.config
    on_device = {name: v.to(machine.device) for name, v in batch.items()}
    x = normalised(on_device.pop("image"), config)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(machine.precision)
    with torch.autocast(machine.device.split(":")[0], dtype=dtype, enabled=dtype is not None):
        raw = state.net.on_grid(x if dtype is None else x.to(dtype))
    return losses(raw.float(), on_device, config, weights)


def _check_finite(found: dict[str, Tensor], step: int) -> None:
    bad = [name for name, value in found.items() if not bool(torch.isfinite(value))]
    if bad:
        raise ModelError(
            f"at step {step} the loss of {', '.join(bad)} is not finite: lower the learning rate, "
            "or train in fp32; the last checkpoint is sound"
        )
