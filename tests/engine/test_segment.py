"""The claim everything rests on: every object once, pixel-exact, whatever the tiling."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsiseg.cells.objects import Objects, objects_in
from wsiseg.engine.executor import Dask, Executor, Serial, Threads
from wsiseg.engine.segment import find_objects, region_grid, regions_to_do
from wsiseg.errors import ModelError, RegionError
from wsiseg.geometry import Box, Space
from wsiseg.geometry.links import components, links_of
from wsiseg.image.source import ArraySource
from wsiseg.model.base import Maps
from wsiseg.model.distance import DistanceRule
from wsiseg.model.flood import Immersion
from wsiseg.model.unet import UNet, UNetConfig, UNetModel, default_spec, weights_of
from wsiseg.synth import HVOracleModel, OracleModel, he_slide, hv_source, oracle_source, scene

T = TypeVar("T")
R = TypeVar("R")


class Shuffled:
    """Serial, in a random order."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        todo = list(items)
        return Serial().map(function, [todo[i] for i in self._rng.permutation(len(todo))])


def untiled(labels: np.ndarray, classes: int = 0) -> Objects:
    """The same objects found without any tiling: an independent route to the same values."""
    found = components(links_of(labels))
    return objects_in(found, np.ones((1 + classes, *labels.shape), np.float16), (0,) * labels.ndim)


def same(a: Objects, b: Objects) -> bool:
    return (
        np.array_equal(a.runs, b.runs)
        and np.array_equal(a.offsets, b.offsets)
        and np.array_equal(a.sums, b.sums)
    )


@given(st.data())
@settings(max_examples=40)
def test_any_labels_under_any_tiling_give_every_object_once(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(2, 3))
    shape = data.draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=30))
    labels = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 2)))
    patch = data.draw(st.tuples(*[st.integers(5, 24)] * ndim))
    model = OracleModel(ndim, patch=patch, margin=data.draw(st.integers(0, 2)))
    region = data.draw(st.integers(3, 40))
    order = Shuffled(data.draw(st.integers(0, 9)))
    found = find_objects(oracle_source(labels), model, region=region, executor=order)
    assert same(found, untiled(labels))


@pytest.mark.parametrize(
    ("shape", "n", "regions"),
    [
        ((997, 1013), 150, (64, 100, 333, 2000)),
        ((61, 67, 71), 40, (16, 30, 100)),
    ],
)
def test_scenes_are_found_exactly_with_objects_larger_than_regions(
    shape: tuple[int, ...], n: int, regions: tuple[int, ...]
) -> None:
    labels = scene(shape, n, np.random.default_rng(3))
    truth = untiled(labels)
    for region in regions:
        model = OracleModel(len(shape), patch=(48,) * len(shape), margin=5)
        for executor in (Shuffled(region), Threads(2)):
            found = find_objects(oracle_source(labels), model, region=region, executor=executor)
            assert same(found, truth)


@pytest.mark.parametrize("ndim", [2, 3])
def test_objects_on_the_corner_of_all_tiles_and_rings_around_a_tile_are_kept_once(
    ndim: int,
) -> None:
    labels = np.zeros((48,) * ndim, np.int32)
    labels[(slice(14, 18),) * ndim] = 1  # the corner at 16
    ring = Box((30,) * ndim, (47,) * ndim)  # around the tile 32..40 .. and beyond
    labels[ring.slices()] = 2
    labels[ring.grow(-1).slices()] = 0
    labels[(slice(36, 37),) * ndim] = 3
    model = OracleModel(ndim, patch=(16,) * ndim, margin=2)
    found = find_objects(oracle_source(labels), model, region=16)
    assert sorted(found.areas) == sorted(np.bincount(labels.ravel())[1:])


def test_a_gland_three_regions_wide_is_one_object() -> None:
    labels = np.zeros((400, 500), np.int32)
    labels[40:360, 50:450] = 1
    labels[100:300, 120:400] = 0
    model = OracleModel(2, patch=(64, 64), margin=8)
    (area,) = find_objects(oracle_source(labels), model, region=130).areas
    assert area == (labels > 0).sum()


@pytest.mark.parametrize(
    ("shape", "regions"), [((397, 411), (64, 150, 1000)), ((40, 50, 60), (24,))]
)
def test_the_hv_decode_gives_the_same_objects_under_any_tiling(
    shape: tuple[int, ...], regions: tuple[int, ...]
) -> None:
    labels = scene(shape, 40, np.random.default_rng(5))
    model = HVOracleModel(len(shape), patch=(64,) * len(shape), margin=4)
    source = hv_source(labels)
    first = find_objects(source, model, region=max(shape))
    for region in regions:
        assert same(find_objects(source, model, region=region, executor=Shuffled(1)), first)


def test_only_active_patches_are_run_whatever_the_regions() -> None:
    labels = scene((200, 230), 60, np.random.default_rng(6))
    model = OracleModel(2, patch=(40, 40), margin=4)
    active = np.random.default_rng(7).random((7, 8)) < 0.5
    shown = np.kron(active, np.ones((32, 32), int))[:200, :230]
    expected = untiled((labels * shown).astype(np.int32))
    for region in (33, 64, 500):
        found = find_objects(oracle_source(labels), model, region=region, active=active)
        assert same(found, expected)


def test_regions_without_an_active_patch_are_not_run() -> None:
    model = OracleModel(2, patch=(40, 40), margin=4)
    space = oracle_source(np.zeros((200, 230), np.int32)).space
    active = np.zeros((7, 8), bool)
    active[2, 3] = True  # 64..96 x 96..128
    grid = region_grid(space, model.spec, 50)
    assert [t.index for t in regions_to_do(grid, space, model.spec, active)] == [(1, 1), (1, 2)]


class Dilating(OracleModel):
    """Finds objects up to 2 px beyond what its maps show."""

    def links(self, maps: Maps) -> np.ndarray:
        labels, _ = ndimage.label(ndimage.binary_dilation(maps.prob > 0.5, iterations=2))
        return links_of(labels)


@pytest.mark.parametrize("region", [32, 50, 64, 100, 200])
def test_what_a_decode_finds_beyond_active_patches_is_kept(region: int) -> None:
    labels = np.zeros((100, 100), np.int32)
    labels[10:60, 56:] = 1
    active = np.zeros((2, 2), bool)
    active[:, 0] = True
    model = Dilating(2, patch=(64, 64), margin=0, reach=4)
    found = find_objects(oracle_source(labels), model, region=region, active=active)
    assert found.areas.tolist() == [54 * (8 + 4) - 12]  # 50 x 8, grown by 2 px without corners


class Farsighted(OracleModel):
    """Claims reach 0, but its links depend on whether anything is seen far to the left."""

    def links(self, maps: Maps) -> np.ndarray:
        links = super().links(maps)
        if maps.prob[:, 0].any():
            links[1] = 0  # the first row of its core
        return links


def test_a_decode_that_looks_further_than_its_reach_is_an_error_not_a_wrong_result() -> None:
    labels = np.ones((40, 40), np.int32)
    labels[:, 20:] = 2
    labels[25:, :20] = 0
    model = Farsighted(2, patch=(20, 20), margin=0)
    with pytest.raises(ModelError, match="further than the reach"):
        find_objects(oracle_source(labels), model, region=13)


class Broken(OracleModel):
    """Fails, or returns what it must not."""

    def __init__(self, fault: str) -> None:
        super().__init__(2, patch=(20, 20), margin=0)
        self.fault = fault

    def __call__(self, patches: np.ndarray) -> Maps:
        maps = super().__call__(patches)
        if self.fault == "nan":
            maps.prob[..., 3] = np.nan
        if self.fault == "shape":
            return Maps(maps.prob[..., 1:], maps.hv, maps.classes)
        if self.fault == "crash":
            raise ZeroDivisionError("boom")
        return maps

    def links(self, maps: Maps) -> Any:
        return (
            super().links(maps).astype(np.int16) if self.fault == "links" else super().links(maps)
        )


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("nan", ModelError, "not finite"),
        ("shape", ModelError, "must return prob"),
        ("links", ModelError, "must decode into uint8"),
        ("crash", RegionError, "ZeroDivisionError: boom"),
    ],
)
@pytest.mark.parametrize("executor", [Serial(), Threads(2)], ids=["serial", "threads"])
def test_a_broken_model_is_a_named_error(
    executor: Executor, fault: str, error: type[Exception], message: str
) -> None:
    source = oracle_source(np.ones((50, 50), np.int32))
    with pytest.raises(error, match=message):
        find_objects(source, Broken(fault), region=30, executor=executor)


def test_dask_workers_give_the_same_objects() -> None:
    labels = scene((150, 170), 40, np.random.default_rng(8))
    model = OracleModel(2, patch=(40, 40), margin=4)
    with Dask(2) as executor:
        found = find_objects(oracle_source(labels), model, region=40, executor=executor)
        with pytest.raises(RegionError, match="boom"):
            find_objects(oracle_source(labels), Broken("crash"), region=90, executor=executor)
    assert same(found, untiled(labels))


def _balance(net: UNet, pixels: np.ndarray) -> None:
    """Give maps that vary, with half of ``pixels`` foreground, to a network of random weights."""
    with torch.no_grad():
        net.head.weight *= 30
        x = torch.from_numpy(pixels[:256, :256].astype(np.float32)).movedim(-1, 0)[None]
        net.head.bias -= net((x - 127.5) / 64).flatten(2).median(dim=2).values[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("distance", [False, True], ids=["votes", "distance"])
def test_a_network_gives_the_same_objects_under_any_tiling(precision: str, distance: bool) -> None:
    config = UNetConfig(2, 3, 2, (4, 6, 8), (1, 1, 1), (1, 1), 1 + distance,
                        vectors=not distance, distance=distance)  # fmt: skip
    torch.manual_seed(7)
    spec = default_spec("random", config, patch=(96, 96), margin=16, batch=3)
    pixels = he_slide((311, 373), np.random.default_rng(2), mpp=spec.spacing[0]).rgb
    net = UNet(config).eval()
    if distance:
        _balance(net, pixels)
    rule = DistanceRule(immersion=Immersion((200, 160, 120, 80, 0), (2,) * 5, 4, 3))
    stated = weights_of(net, spec, rule if distance else None)
    model = UNetModel(stated, precision=precision)
    source = ArraySource(pixels, Space.regular(pixels.shape[:2], spec.spacing), fill=255)
    first = find_objects(source, model, region=1000)
    assert len(first) > (100 if distance else 1000)
    for region, executor in ((100, Shuffled(1)), (64, Threads(2)), (173, Serial())):
        assert same(find_objects(source, model, region=region, executor=executor), first)
