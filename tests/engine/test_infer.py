"""Maps are a property of the slide and the model, not of the box that is asked for."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, Event, Lock, get_ident
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.engine.clock import Clock
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.engine.segment import in_bands
from wsiseg.engine.tiles import Tiles
from wsiseg.errors import OutOfMemoryError
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
        return self.forward(patches)

    def forward(self, patches: np.ndarray) -> Maps:
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


@pytest.mark.parametrize(("shape", "side"), [((61, 47), 20), ((61, 47), 7), ((19, 23, 31), 11)])
def test_a_patch_that_several_regions_see_is_run_once(shape: tuple[int, ...], side: int) -> None:
    regions = TileGrid(shape, (side,) * len(shape), 4)
    plenty, model = maps_over(shape)
    none, forgetful = maps_over(shape, memory=0)
    for tile in regions:
        remembered = plenty.maps(tile, Clock(), regions).prob
        assert np.array_equal(remembered, none.maps(tile, Clock(), regions).prob)
    assert model.patches == len(plenty.grid) < forgetful.patches


def test_a_patch_is_forgotten_once_its_last_region_has_had_it() -> None:
    regions = TileGrid((61, 47), (20, 20), 4)
    maps, _ = maps_over((61, 47))
    tiles = list(regions)
    for tile in tiles[:-1]:
        maps.maps(tile, Clock(), regions)
    assert maps._memo._held > 0
    maps.maps(tiles[-1], Clock(), regions)
    assert maps._memo._held == len(maps._memo._stacks) == len(maps._memo._wanted) == 0


def test_what_is_remembered_stays_within_its_bound() -> None:
    regions = TileGrid((200, 200), (20, 20), 4)
    stack = 2 * 3 * 10 * 10  # bytes of a patch: float16 prob and hv of its core
    maps, model = maps_over((200, 200), memory=5 * stack)
    for tile in regions:
        maps.maps(tile, Clock(), regions)
        held = [f.result().nbytes for f in maps._memo._stacks.values()]
        assert sum(held) == maps._memo._held <= 5 * stack
    assert model.patches > len(maps.grid)  # it was too small for all


def test_bands_keep_what_neighbours_share_within_the_bound() -> None:
    regions = TileGrid((60, 900), (20, 20), 4)
    row_of_patches = 90 * 2 * 3 * 10 * 10
    runs = []
    in_order = in_bands(Tiles(regions, np.arange(len(regions))), 4)
    for tiles in (list(regions), in_order):
        maps, model = maps_over((60, 900), memory=row_of_patches // 3)
        for tile in tiles:
            maps.maps(tile, Clock(), regions)
        runs.append(model.patches / len(maps.grid))
    row_major, banded = runs
    assert sorted(t.index for t in in_order) == [t.index for t in regions]
    assert banded < 1.15 < row_major


def test_threads_that_need_the_same_patches_run_each_of_them_once() -> None:
    maps, model = maps_over((200, 200))
    regions = TileGrid((200, 200), (20, 20), 4)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda tile: maps.maps(tile, Clock(), regions), regions))
    assert model.patches == len(maps.grid)


def test_a_region_does_not_wait_for_patches_that_no_one_has_begun() -> None:
    """Two neighbours at once, the first held up in its first batch: the second does the rest."""
    maps, model = maps_over((60, 60))
    regions = TileGrid((60, 60), (60, 40), 4)
    begun, go_on = Event(), Event()
    forward = model.forward

    def hold_first(patches: np.ndarray) -> Maps:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(60)
        return forward(patches)

    model.forward = hold_first
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(maps.maps, regions[0, 0], Clock(), regions)
        assert begun.wait(60)
        second = pool.submit(maps.maps, regions[0, 1], Clock(), regions).result(60)
        assert model.patches == sum(1 for _ in maps.grid.overlapping(regions[0, 1].read))
        go_on.set()
        assert second.prob.any()
        assert first.result(60).prob.any()
    assert model.patches == len(maps.grid)


def test_a_thread_without_a_box_runs_patches_of_another() -> None:
    """Each forward waits for a second one, which only the helper can run."""
    maps, model = maps_over((60, 60))
    box = Box((0, 0), (60, 60))
    tile = Tile((0, 0), box, box)
    reference = maps_over((60, 60))[0].maps(tile, Clock()).prob
    forward, both = model.forward, Barrier(2)

    def in_pairs(patches: np.ndarray) -> Maps:
        both.wait(60)
        return forward(patches)

    model.forward, clock = in_pairs, Clock()
    with ThreadPoolExecutor(2) as pool:
        found = pool.submit(maps.maps, tile, clock)
        while not found.done():
            maps.assist()
    assert np.array_equal(found.result().prob, reference)
    assert model.patches == len(maps.grid) == 36
    assert model.calls == 12  # in full batches
    assert clock.seconds.keys() == {"read", "network"}


def test_a_thread_that_waits_for_a_patch_runs_others_meanwhile() -> None:
    """The first box is held up in a patch of both until the second has run more than its own."""
    maps, model = maps_over((60, 60))
    regions = TileGrid((60, 60), (60, 40), 4)
    forward, begun, go_on = model.forward, Event(), Event()
    first_batch, own_of_second = 3, 16

    def hold_second_batch(patches: np.ndarray) -> Maps:
        if model.patches == first_batch and not begun.is_set():
            begun.set()
            assert go_on.wait(60)
        found = forward(patches)
        if model.patches > first_batch + own_of_second:
            go_on.set()
        return found

    model.forward = hold_second_batch
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(maps.maps, regions[0, 0], Clock(), regions)
        assert begun.wait(60)
        second = pool.submit(maps.maps, regions[0, 1], Clock(), regions)
        found = [first.result(60).prob, second.result(60).prob]
    assert model.patches == len(maps.grid)
    alone = [maps_over((60, 60))[0].maps(tile, Clock()).prob for tile in regions]
    assert all(map(np.array_equal, found, alone))


def test_what_fails_in_a_helper_fails_the_box_it_helps_with() -> None:
    maps, model = maps_over((60, 60))
    regions = TileGrid((60, 60), (60, 40), 4)
    forward, main, helped = model.forward, get_ident(), Event()

    def fail_elsewhere(patches: np.ndarray) -> Maps:
        if get_ident() != main:
            helped.set()
            raise ZeroDivisionError
        assert helped.wait(60)
        return forward(patches)

    model.forward = fail_elsewhere
    with ThreadPoolExecutor(1) as pool:
        helper = pool.submit(lambda: [maps.assist() for _ in iter(helped.is_set, True)])
        with pytest.raises(ZeroDivisionError):
            maps.maps(regions[0, 0], Clock(), regions)
        helper.result(60)
    again = maps.maps(regions[0, 0], Clock(), regions).prob  # nothing is left half done
    fresh = maps_over((60, 60))[0].maps(regions[0, 0], Clock(), regions).prob
    assert np.array_equal(again, fresh)


def test_a_patch_that_a_helper_could_not_claim_is_left_to_its_box() -> None:
    """Else its maps were 0, without a word."""
    maps, model = maps_over((60, 60))
    box = Box((0, 0), (60, 60))
    tile = Tile((0, 0), box, box)
    reference = maps_over((60, 60))[0].maps(tile, Clock()).prob
    claim, forward, main, begun, failed = maps._memo.claim, model.forward, [], Event(), Event()

    def fail_elsewhere(index: tuple[int, ...], seen: int) -> Any:
        if main and get_ident() != main[0]:
            failed.set()
            raise MemoryError
        return claim(index, seen)

    def hold_first(patches: np.ndarray) -> Maps:
        main.append(get_ident())
        begun.set()
        assert failed.wait(60)
        return forward(patches)

    maps._memo.claim, model.forward = fail_elsewhere, hold_first
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(maps.maps, tile, Clock())
        assert begun.wait(60)
        with suppress(MemoryError):
            maps.assist()
        failed.set()
        assert np.array_equal(found.result(60).prob, reference)


def test_a_forward_without_memory_is_run_again_alone() -> None:
    """Three forwards at once do not fit, one does."""
    maps, model = maps_over((200, 200))
    reference = maps_over((200, 200))[0]
    regions = TileGrid((200, 200), (40, 40), 4)
    forward, lock, running, most = model.forward, Lock(), [], []

    def greedy(patches: np.ndarray) -> Maps:
        with lock:
            running.append(1)
            most.append(len(running))
        try:
            time.sleep(0.001)
            if len(running) > 2:
                raise MemoryError("no room for three")
            return forward(patches)
        finally:
            with lock:
                running.pop()

    model.forward = greedy
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda tile: maps.maps(tile, Clock(), regions), regions))
    for tile, got in zip(regions, found, strict=True):
        assert np.array_equal(got.prob, reference.maps(tile, Clock(), regions).prob)
    assert max(most) > 2
    assert max(most[len(most) // 2 :]) <= 2  # it has learnt


def test_a_forward_that_does_not_fit_alone_is_a_named_error() -> None:
    maps, model = maps_over((60, 60))

    def too_large(_: np.ndarray) -> Maps:
        raise MemoryError("tried to allocate 2 TB")

    model.forward = too_large
    box = Box((0, 0), (60, 60))
    with pytest.raises(OutOfMemoryError, match=r"3 patches.*2 TB.*--batch"):
        maps.maps(Tile((0, 0), box, box), Clock())
    assert issubclass(OutOfMemoryError, MemoryError)


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
