"""Lanes bound the forwards in flight, pad each to a full batch, and survive a lack of memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import Barrier, Event, Lock

import numpy as np
import pytest
import torch

from wsiseg.model.unet import lanes
from wsiseg.model.unet.lanes import Lanes

BATCH = 3


def _double(pixels):
    return (pixels.movedim(-1, 1) * 2).half()


def _patches(count, seed=0):
    return np.random.default_rng(seed).integers(0, 100, (count, 5, 7, 2), dtype=np.uint8)


def _expected(patches):
    return np.moveaxis(patches, -1, 1).astype(np.float16) * 2


class Watched:
    """A forward that tells how many ran at once, and of what shapes."""

    def __init__(self):
        self.running = self.most = 0
        self.shapes, self._lock = set(), Lock()

    def __call__(self, pixels):
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.shapes.add(tuple(pixels.shape))
        time.sleep(0.002)
        with self._lock:
            self.running -= 1
        return _double(pixels)


@pytest.fixture(params=[1, 2, None], ids=["one lane", "two lanes", "any number"])
def most(request, monkeypatch):
    """The bound that a device sets, set for the CPU."""
    if request.param:
        monkeypatch.setitem(lanes._MOST, "cpu", request.param)
    return request.param


def test_threads_get_the_maps_of_their_own_patches(most):
    forward = Watched()
    run = Lanes(forward, "cpu", BATCH)
    inputs = [_patches(1 + k % BATCH, seed=k) for k in range(40)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(run, inputs))
    for patches, maps in zip(inputs, found, strict=True):
        assert maps.dtype == np.float16
        assert np.array_equal(maps, _expected(patches))
    assert forward.most <= (most or 6)
    assert forward.shapes == {(BATCH, 5, 7, 2)}  # always full, whatever is asked for


def test_maps_stay_as_they_are_when_the_lane_runs_again():
    run = Lanes(_double, "cpu", BATCH)
    first, second = _patches(2, seed=1), _patches(3, seed=2)
    kept = run(first)
    run(second)
    assert np.array_equal(kept, _expected(first))


def test_padding_is_blank_after_a_fuller_batch():
    seen = []
    run = Lanes(lambda pixels: seen.append(pixels.clone()) or _double(pixels), "cpu", BATCH)
    run(_patches(3))
    run(_patches(1))
    assert not seen[1][1:].any()


def test_patches_of_another_shape_or_type_are_run_as_they_are():
    run = Lanes(_double, "cpu", BATCH)
    run(_patches(2))
    other = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype(np.float32)
    assert np.array_equal(run(other), np.moveaxis(other * 2, -1, 1).astype(np.float16))


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)\nUse a smaller batch"),
    ],
    ids=["cuda", "cpu", "mps"],
)
def test_a_lack_of_memory_is_one_error_on_every_device(most, error):
    lacking = [error, error]

    def forward(pixels):
        if lacking:
            raise lacking.pop()
        return _double(pixels)

    run = Lanes(forward, "cpu", BATCH)
    for _ in range(2):
        with pytest.raises(MemoryError) as caught:
            run(_patches(1))
        assert "\n" not in str(caught.value)
    assert np.array_equal(run(_patches(2)), _expected(_patches(2)))  # no lane was lost


def test_a_lack_of_memory_lets_go_of_idle_lanes():
    together, lacking = Barrier(2), Event()

    def forward(pixels):
        if lacking.is_set():
            raise RuntimeError("out of memory")
        together.wait(60)
        return _double(pixels)

    run = Lanes(forward, "cpu", BATCH)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, [_patches(1)] * 2))
    assert len(run._idle) == 2
    lacking.set()
    with pytest.raises(MemoryError):
        run(_patches(1))
    assert (run._made, run._idle) == (0, [])


def test_other_errors_keep_their_type_and_cost_no_lane(most):
    broken = [True]

    def forward(pixels):
        if broken:
            broken.clear()
            raise RuntimeError("shapes do not match")
        return _double(pixels)

    run = Lanes(forward, "cpu", BATCH)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(_patches(1))
    assert run(_patches(1)).shape == (1, 2, 5, 7)


@pytest.fixture
def feigned_cuda(monkeypatch):
    """Names of torch.cuda that work on tensors of the CPU; a graph runs the forward again."""

    class Graph:
        replays = 0

        def replay(self):
            Graph.replays += 1
            pixels, maps = self.captured
            maps.copy_(_double(pixels))

    class Stream:
        def synchronize(self):
            pass

    @contextmanager
    def capture(graph, **_):
        capture.graph = graph
        yield

    def forward(pixels):
        maps = _double(pixels)
        if hasattr(capture, "graph"):
            capture.graph.captured = pixels, maps
        return maps

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory, **k: empty(*a, **k))
    lane = lanes._Lane(forward, torch.device("cpu"), BATCH)
    lane._cuda, lane._stream = True, Stream()
    return lane, Graph


def test_a_captured_forward_is_replayed_on_new_pixels_and_leaves_old_maps_alone(feigned_cuda):
    lane, graph = feigned_cuda
    inputs = [_patches(n, seed=n) for n in (2, 3, 1)]
    with torch.inference_mode():
        found = [lane.run(patches) for patches in inputs]
    for patches, maps in zip(inputs, found, strict=True):
        assert np.array_equal(maps, _expected(patches))
    assert graph.replays == 3
