"""Models that only decode labels, differently in every tile: no duplicates, nothing lost."""

import numpy as np
import pytest

from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.engine.segment import RegionWork, find_objects, region_grid
from wsiseg.engine.stitch import find_joins
from wsiseg.geometry import Box
from wsiseg.geometry.links import components, links_of
from wsiseg.model.base import Maps
from wsiseg.synth import OracleModel, oracle_source, scene


class LabelModel:
    """Labels without links, and ids that depend on the tile; ``jitter`` also moves outlines."""

    def __init__(self, ndim: int, reach: int, jitter: bool = False) -> None:
        self._oracle = OracleModel(ndim, patch=(32,) * ndim, margin=2, reach=reach)
        self.spec, self._jitter = self._oracle.spec, jitter

    def __call__(self, patches: np.ndarray) -> Maps:
        return self._oracle(patches)

    def decode(self, maps: Maps) -> np.ndarray:
        labels = self._oracle.decode(maps)
        rng = np.random.default_rng(labels.shape[0] * 1000 + int(labels.sum()) % 997)
        if self._jitter:
            edge = labels != np.roll(labels, 1, axis=-1)
            labels[edge & (rng.random(labels.shape) < 0.5)] = 0
        names = np.concatenate([[0], 1 + rng.permutation(int(labels.max()))])
        return names[labels].astype(np.int32)


@pytest.mark.parametrize(("shape", "region"), [((197, 211), 50), ((40, 44, 48), 16)])
def test_consistent_labels_are_joined_exactly(shape: tuple[int, ...], region: int) -> None:
    labels = scene(shape, 30, np.random.default_rng(2))
    found = find_objects(oracle_source(labels), LabelModel(len(shape), reach=6), region=region)
    truth = components(links_of(labels))
    assert np.array_equal(found.paint(Box.of_shape(shape)), truth)


def test_inconsistent_labels_give_every_pixel_at_most_once_and_few_cuts() -> None:
    labels = np.zeros((300, 300), np.int32)
    y, x = np.mgrid[:300, :300]
    for k, (cy, cx) in enumerate(np.ndindex(10, 10)):
        labels[(y - 15 - 30 * cy) ** 2 + (x - 15 - 30 * cx) ** 2 < 144] = k + 1
    model = LabelModel(2, reach=20, jitter=True)
    found = find_objects(oracle_source(labels), model, region=75)
    big = found.take(found.areas > 150)
    assert len(big) == 100
    painted = found.paint(Box.of_shape(labels.shape))
    assert (painted > 0).sum() == found.areas.sum()  # no pixel in two objects
    for i in range(1, len(found) + 1):
        assert len(np.unique(labels[(painted == i) & (labels > 0)])) == 1  # no two discs in one


def test_touching_objects_whose_border_moves_between_tiles_are_not_merged() -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[8:56, 8:56] = 1
    labels[32:56, 8:56] = 2  # a border along row 32, and a region face along row 40
    found = find_objects(oracle_source(labels), LabelModel(2, reach=12), region=40)
    assert sorted(found.areas) == [24 * 48, 24 * 48]


@pytest.mark.parametrize(("shape", "region"), [((197, 211), 40), ((40, 44, 48), 16)])
def test_twins_found_row_by_row_are_those_found_at_once(
    shape: tuple[int, ...], region: int
) -> None:
    model = LabelModel(len(shape), reach=6, jitter=True)
    source = oracle_source(scene(shape, 60, np.random.default_rng(3)))
    active = np.ones(patch_grid(source.space, model.spec).counts, bool)
    grid = region_grid(source.space, model.spec, region)
    work = RegionWork(PatchMaps(source, model, source.space, active), model, grid)
    found = [(tile.index[0], grid.number(tile.index), work(tile)) for tile in grid]
    stops = [min((row + 1) * region, shape[0]) for row in range(grid.counts[0])]
    by_row = find_joins(
        ((stop, [(n, f) for at, n, f in found if at == row]) for row, stop in enumerate(stops)),
        shape,
    )
    at_once = find_joins([(shape[0], [(n, f) for _, n, f in found])], shape)
    assert by_row.count == at_once.count > 0
    assert np.array_equal(by_row.nodes, at_once.nodes)
    assert np.array_equal(by_row.group, at_once.group)
