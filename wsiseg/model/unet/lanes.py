"""Lanes: the forwards of one model that are in flight on its device, each with its own buffers.

On CUDA a lane has a stream, pinned memory on the host, and the forward as a CUDA graph: while one
lane computes, others copy, and a forward costs the host one launch. On other devices the same
code runs without these. What is for CUDA and MPS alone was written without one and never run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Condition, Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Lanes"]

Forward = Callable[[Tensor], Tensor]

# CUDA: one computes while others copy in and out. MPS has one queue. A CPU has its threads.
_MOST = {"cuda": 3, "mps": 1}
_WARM_UPS = 3  # forwards that choose algorithms and fill caches before one is captured
_capture = Lock()


class Lanes:
    """``forward`` (a batch of pixels on the device -> float16 maps) as a function of arrays.

    Thread-safe; callers beyond the number of lanes wait for one. Raises MemoryError where the
    memory of host or device runs out, after letting go of what other lanes hold idly.
    """

    def __init__(self, forward: Forward, device: str, batch: int) -> None:
        self._forward, self._device, self._batch = forward, torch.device(device), batch
        self._most = _MOST.get(self._device.type, sys.maxsize)
        self._made, self._changed = 0, Condition()
        self._idle: list[_Lane] = []

    def __call__(self, patches: NDArray[Any]) -> NDArray[np.float16]:
        """Maps (B, M, *s) of ``patches`` (B, *s, C), at most a batch; run as a full one."""
        try:
            with self._lane() as lane, torch.inference_mode():
                return lane.run(patches)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise MemoryError(str(error).splitlines()[0]) from None

    @contextmanager
    def _lane(self) -> Iterator[_Lane]:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._made < self._most)
            if self._idle:
                lane = self._idle.pop()
            else:
                lane = _Lane(self._forward, self._device, self._batch)
                self._made += 1
        failed = True
        try:
            yield lane
            failed = False
        finally:
            with self._changed:
                if failed:
                    self._made -= 1 + len(self._idle)
                    self._idle.clear()
                else:
                    self._idle.append(lane)
                self._changed.notify_all()


class _Lane:
    """One forward at a time."""

    def __init__(self, forward: Forward, device: torch.device, batch: int) -> None:
        self._forward, self._device, self._batch = forward, device, batch
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._host: Tensor | None = None

    def run(self, patches: NDArray[Any]) -> NDArray[np.float16]:
        """As ``Lanes.__call__``."""
        full = (self._batch, *patches.shape[1:])
        pixels = torch.from_numpy(np.ascontiguousarray(patches))
        with self._in_stream():
            if self._host is None or self._host.shape != full or self._host.dtype != pixels.dtype:
                self._prepare(full, pixels.dtype)
            assert self._host is not None
            self._host[: len(pixels)] = pixels
            self._host[len(pixels) :] = 0
            maps = self._replayed() if self._cuda else self._forward(self._host.to(self._device))
        return np.asarray(maps[: len(patches)].cpu().numpy())

    def _prepare(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        host = torch.zeros(shape, dtype=dtype)
        if self._cuda:
            host = host.pin_memory()
            self._pixels = host.to(self._device)
            self._graph, self._maps = self._captured()
            self._result = torch.empty(self._maps.shape, dtype=self._maps.dtype, pin_memory=True)
        self._host = host  # last: a lane that ran out of memory on the way is not ready

    def _captured(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        # other lanes go on launching, and allocating, meanwhile: hence thread_local
        with _capture:
            for _ in range(_WARM_UPS):
                self._forward(self._pixels)
            torch.cuda.synchronize(self._device)
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                maps = self._forward(self._pixels)
        return graph, maps

    def _replayed(self) -> Tensor:
        """Maps in pinned memory, valid until the next forward of this lane."""
        assert self._host is not None
        assert self._stream is not None
        self._pixels.copy_(self._host, non_blocking=True)
        self._graph.replay()
        self._result.copy_(self._maps, non_blocking=True)
        self._stream.synchronize()  # without the GIL
        return self._result.clone()

    def _in_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says so; on a CPU and on MPS it has no class for it."""
    text = str(error)
    return (
        isinstance(error, torch.cuda.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )
