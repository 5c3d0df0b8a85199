"""One order of rows, whatever the regions."""

import numpy as np
import pytest

from wsiseg.cells.objects import Objects
from wsiseg.engine.collect import CELL, canonical, in_canonical_order
from wsiseg.engine.executor import Serial
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.engine.segment import RegionWork, find_objects, region_grid, regions_to_do
from wsiseg.synth import OracleModel, oracle_source, scene

SCALE = (8.0, 8.0)  # so that cells of 1024 level-0 px are 128 lattice px


def collected(labels: np.ndarray, region: int) -> list[Objects]:
    model = OracleModel(2, patch=(64, 64), margin=4)
    source = oracle_source(labels)
    active = np.ones(patch_grid(source.space, model.spec).counts, bool)
    grid = region_grid(source.space, model.spec, region)
    work = RegionWork(PatchMaps(source, model, source.space, active), model, grid)
    tiles = regions_to_do(grid, source.space, model.spec, active)
    found = {grid.number(t.index): f for t, f in Serial().map(work, tiles)}
    return list(in_canonical_order(found.__getitem__, sorted(found), grid, SCALE, 1))


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return scene((397, 513), 90, np.random.default_rng(0))


@pytest.mark.parametrize("region", [50, 128, 200, 1000])
def test_rows_come_in_the_order_of_cells_then_anchors(labels: np.ndarray, region: int) -> None:
    rows = Objects.concatenate(collected(labels, region))
    anchors = rows.anchors.tolist()
    assert anchors == sorted(anchors, key=lambda a: (a[0] * 8 // CELL, a[1] * 8 // CELL, *a))


@pytest.mark.parametrize("region", [50, 128, 1000])
def test_every_object_is_there_once(labels: np.ndarray, region: int) -> None:
    rows = Objects.concatenate(collected(labels, region))
    model = OracleModel(2, patch=(64, 64), margin=4)
    expected = canonical(find_objects(oracle_source(labels), model, region=333), SCALE)
    assert np.array_equal(rows.runs, expected.runs)
    assert np.array_equal(rows.sums, expected.sums)


def test_small_regions_are_released_row_by_row(labels: np.ndarray) -> None:
    batches = collected(labels, 50)
    assert len(batches) >= 3
    assert max(map(len, batches)) < sum(map(len, batches))


def test_no_regions_give_no_rows() -> None:
    assert collected(np.zeros((100, 100), np.int32), 50) == []
