"""One order of rows, whatever the regions."""

from collections import Counter

import numpy as np
import pytest

from wsiseg.cells.objects import Objects
from wsiseg.engine import collect
from wsiseg.engine.collect import CELL, canonical, in_canonical_order
from wsiseg.engine.executor import Serial
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.engine.segment import RegionWork, find_objects, region_grid, regions_to_do
from wsiseg.engine.stitch import Fragments
from wsiseg.geometry import TileGrid
from wsiseg.synth import OracleModel, oracle_source, scene

SCALE = (8.0, 8.0)  # so that cells of 1024 level-0 px are 128 lattice px


class Loads:
    """Hands out fragments, and notes of which regions, and when."""

    def __init__(self, found: dict[int, Fragments]) -> None:
        self._found, self.asked = found, list[int]()

    def __call__(self, region: int) -> Fragments:
        self.asked.append(region)
        return self._found[region]


def found_in(labels: np.ndarray, region: int) -> tuple[dict[int, Fragments], TileGrid]:
    model = OracleModel(labels.ndim, patch=(64,) * labels.ndim, margin=4)
    source = oracle_source(labels)
    active = np.ones(patch_grid(source.space, model.spec).counts, bool)
    grid = region_grid(source.space, model.spec, region)
    work = RegionWork(PatchMaps(source, model, source.space, active), model, grid)
    tiles = regions_to_do(grid, source.space, model.spec, active)
    return {grid.number(t.index): f for t, f in Serial().map(work, tiles)}, grid


def collected(labels: np.ndarray, region: int) -> list[Objects]:
    found, grid = found_in(labels, region)
    scale = SCALE[:1] * labels.ndim
    return list(in_canonical_order(found.__getitem__, sorted(found), grid, scale, 1))


def expected(labels: np.ndarray) -> Objects:
    model = OracleModel(labels.ndim, patch=(64,) * labels.ndim, margin=4)
    return canonical(
        find_objects(oracle_source(labels), model, region=333), SCALE[:1] * labels.ndim
    )


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
    assert same(Objects.concatenate(collected(labels, region)), expected(labels))


@pytest.mark.parametrize("region", [50, 128])
def test_objects_over_many_rows_of_regions_keep_their_place(
    labels: np.ndarray, region: int
) -> None:
    tall = labels.copy()
    tall[30:380, 200:207] = 1000  # a wall over all rows of regions
    tall[100:300, 400:404] = tall[100:300, 440:444] = tall[296:300, 400:444] = 1001
    tall[60:62] = 1002  # and a floor from side to side
    assert same(Objects.concatenate(collected(tall, region)), expected(tall))


@pytest.mark.parametrize("region", [24, 100])
def test_volumes_are_collected_in_the_same_order(region: int) -> None:
    volume = scene((61, 67, 71), 40, np.random.default_rng(5))
    assert same(Objects.concatenate(collected(volume, region)), expected(volume))


def test_a_batch_is_never_larger_than_stated(
    labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "BATCH", 7)
    batches = collected(labels, 128)
    assert max(map(len, batches)) == 7
    assert same(Objects.concatenate(batches), expected(labels))


def test_regions_are_loaded_twice_and_where_a_tall_object_lies_once_more() -> None:
    labels = np.zeros((397, 513), np.int32)
    labels[10:20, 10:20] = 1
    labels[95:105, 300:310] = 2  # over two rows
    found, grid = found_in(labels, 100)
    load = Loads(found)
    list(in_canonical_order(load, sorted(found), grid, SCALE, 1))
    assert set(Counter(load.asked).values()) == {2}
    labels[20:390, 150:160] = 3
    found, grid = found_in(labels, 100)
    load = Loads(found)
    list(in_canonical_order(load, sorted(found), grid, SCALE, 1))
    thrice = {region for region, times in Counter(load.asked).items() if times == 3}
    assert thrice == {grid.number((row, 1)) for row in range(4)}


def test_rows_go_out_before_the_slide_is_read_to_the_end(labels: np.ndarray) -> None:
    found, grid = found_in(labels, 50)  # a row of cells is 2.56 rows of regions
    load = Loads(found)
    late = []
    for batch in in_canonical_order(load, sorted(found), grid, SCALE, 1):
        rows_read = load.asked[-1] // grid.counts[1] + 1
        late.append(rows_read * 50 - int(batch.anchors[:, 0].min()))
    assert max(late) <= 128 + 2 * 50  # a row of cells, and what may lie across a face


def same(a: Objects, b: Objects) -> bool:
    fields = ("runs", "offsets", "sums")
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields)


def test_small_regions_are_released_row_by_row(labels: np.ndarray) -> None:
    batches = collected(labels, 50)
    assert len(batches) >= 3
    assert max(map(len, batches)) < sum(map(len, batches))


def test_no_regions_give_no_rows() -> None:
    assert collected(np.zeros((100, 100), np.int32), 50) == []
