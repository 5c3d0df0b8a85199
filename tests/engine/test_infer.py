"""Maps are a property of the slide and the model, not of the box that is asked for."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.engine.clock import Clock
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.geometry import Box, Space, Tile, TileGrid
from wsiseg.image.source import ArraySource
from wsiseg.model.base import Maps
from wsiseg.synth import OracleModel


class Smear(OracleModel):
    """Maps that differ with the place in the patch, so that a wrong owner shows."""

    def __init__(self, ndim: int, **fields: Any) -> None:
        super().__init__(ndim, **fields)
        self.calls = self.patches = 0
        self.broken = False
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        spec = self.spec
        return Smear, (spec.ndim,), {"spec": spec}

    def __call__(self, patches: np.ndarray) -> Maps:
        if self.broken:
            raise ZeroDivisionError
        with self._lock:
            self.calls += 1
            self.patches += int(patches.any(axis=tuple(range(1, patches.ndim))).sum())
        assert len(patches) == self.spec.batch  # always full, the last one padded
        place = np.indices(self.spec.patch).sum(axis=0) / 1000
        prob = (patches[..., 0] / 512 + place).astype(np.float16)
        hv = np.zeros((len(patches), self.spec.hv_channels, *self.spec.patch), np.float16)
        return Maps(prob, hv, np.zeros((len(patches), 0, *self.spec.patch), np.float16))


def maps_over(shape: tuple[int, ...], memory: int = 1 << 20) -> tuple[PatchMaps, Smear]:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 1), dtype=np.uint8)
    source = ArraySource(pixels, Space.regular(shape, (1.0,) * len(shape)))
    model = Smear(len(shape), patch=(16,) * len(shape), margin=3, batch=3)
    active = np.ones(patch_grid(source.space, model.spec).counts, bool)
    return PatchMaps(source, model, source.space, active, memory), model


@pytest.mark.parametrize("shape", [(61, 47), (19, 23, 31)])
def test_a_pixel_has_the_same_maps_in_every_box(shape: tuple[int, ...]) -> None:
    whole = Box.of_shape(shape)
    reference = maps_over(shape)[0].maps(Tile((0,), whole, whole), Clock()).prob
    shared, _ = maps_over(shape)

    @given(st.data())
    @settings(max_examples=30)
    def check(data: st.DataObject) -> None:
        corner = st.tuples(*[st.integers(-8, 60)] * len(shape))
        box = Box(data.draw(corner), data.draw(corner))
        prob = shared.maps(Tile((0,), box, box.grow(2)), Clock()).prob
        inside = box.grow(2).clip(shape)
        if not inside.empty:
            got = prob[inside.slices(box.grow(2).start)]
            assert np.array_equal(got, reference[inside.slices()])
        assert np.count_nonzero(prob) <= inside.size  # nothing outside the lattice

    check()


def test_patches_shared_by_regions_are_run_once_while_memory_lasts() -> None:
    read = Box((0, 0), (30, 60))
    other = Box((20, 0), (60, 60))
    plenty, model = maps_over((60, 60))
    plenty.maps(Tile((0, 0), read.grow(-1), read), Clock())
    first = model.calls
    plenty.maps(Tile((1, 0), other.grow(-1), other), Clock())
    none, forgetful = maps_over((60, 60), memory=0)
    none.maps(Tile((0, 0), read.grow(-1), read), Clock())
    none.maps(Tile((1, 0), other.grow(-1), other), Clock())
    assert model.calls < forgetful.calls
    assert forgetful.calls > first


def test_threads_that_need_the_same_patches_run_each_of_them_once() -> None:
    maps, model = maps_over((200, 200))
    tiles = list(TileGrid((200, 200), (20, 20), 4))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda tile: maps.maps(tile, Clock()), tiles))
    assert model.patches == len(maps.grid)


def test_a_failure_reaches_those_who_wait_and_is_not_remembered() -> None:
    maps, model = maps_over((60, 60))
    tile = TileGrid((60, 60), (20, 20), 4)[1, 1]
    model.broken = True
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            maps.maps(tile, Clock())
    model.broken = False
    assert maps.maps(tile, Clock()).prob.any()


def test_maps_pickle_without_what_they_remember() -> None:
    maps, _ = maps_over((60, 60))
    box = Box((0, 0), (60, 60))
    tile = Tile((0, 0), box, box)
    before = maps.maps(tile, Clock()).prob
    again = pickle.loads(pickle.dumps(maps))
    assert np.array_equal(again.maps(tile, Clock()).prob, before)


def test_reading_and_network_are_timed_apart() -> None:
    clock = Clock()
    box = Box((0, 0), (60, 60))
    maps_over((60, 60))[0].maps(Tile((0, 0), box, box), clock)
    assert clock.seconds.keys() == {"read", "network"}
