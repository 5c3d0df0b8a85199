"""The network alone over the very patches that a run ran, margins included."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.infer import patch_grid
from wsiseg.geometry import Box
from wsiseg.run.plan import Plan

__all__ = ["bare_forward", "forward_px"]

CHUNK = 512  # patches held in memory at once


def bare_forward(plan: Plan, threads: int) -> tuple[float, float]:
    """Seconds of the wall clock, and of processors; ``threads`` forwards at once, as in a run.

    Pixels are read beforehand and maps thrown away.
    """
    seconds = cpu = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for group in _batches(plan):
            if not seconds:
                list(pool.map(plan.model, group[:1] * threads))  # warm
            began, used = time.perf_counter(), time.process_time()
            for _ in pool.map(plan.model, group):
                pass
            seconds += time.perf_counter() - began
            cpu += time.process_time() - used
    return seconds, cpu


def forward_px(plan: Plan) -> int:
    """Pixels through the network, margins included."""
    return int(plan.active.sum()) * int(np.prod(plan.spec.patch))


def _batches(plan: Plan) -> Iterator[list[NDArray[np.uint8]]]:
    """Pixels of the patches that are run, in batches of the model, some batches at a time."""
    spec, grid = plan.spec, patch_grid(plan.space, plan.spec)
    starts = [
        [a - spec.margin for a in grid[tuple(index)].core.start]
        for index in np.argwhere(plan.active).tolist()
    ]
    for first in range(0, len(starts), CHUNK):
        pixels = [
            plan.slide.read(Box(tuple(s), tuple(np.add(s, spec.patch).tolist())), plan.space)
            for s in starts[first : first + CHUNK]
        ]
        yield [np.stack(pixels[i : i + spec.batch]) for i in range(0, len(pixels), spec.batch)]
