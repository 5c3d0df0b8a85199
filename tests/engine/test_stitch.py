"""Joins found row by row, and objects gathered as their parts come, are those of all at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.cells.objects import Objects
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.engine.segment import RegionWork, region_grid
from wsiseg.engine.stitch import Fragments, Gathering, find_joins, stitch
from wsiseg.errors import ModelError
from wsiseg.geometry import TileGrid
from wsiseg.geometry.links import components, links_of
from wsiseg.synth import OracleModel, oracle_source, scene

Found = dict[int, Fragments]


def fragments_of(labels: np.ndarray, region: int) -> tuple[Found, TileGrid]:
    model = OracleModel(labels.ndim, patch=(32,) * labels.ndim, margin=2)
    source = oracle_source(labels)
    active = np.ones(patch_grid(source.space, model.spec).counts, bool)
    grid = region_grid(source.space, model.spec, region)
    work = RegionWork(PatchMaps(source, model, source.space, active), model, grid)
    return {grid.number(tile.index): work(tile) for tile in grid}, grid


def rows_of(found: Found, grid: TileGrid) -> list[tuple[int, list[tuple[int, Fragments]]]]:
    per_row = int(np.prod(grid.counts[1:]))
    stops = [min((row + 1) * grid.tile[0], grid.shape[0]) for row in range(grid.counts[0])]
    return [
        (stop, [(r, f) for r, f in found.items() if r // per_row == row])
        for row, stop in enumerate(stops)
    ]


def drawn(data: st.DataObject) -> tuple[Found, TileGrid]:
    ndim = data.draw(st.integers(2, 3))
    shape = data.draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=20))
    labels = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 2)))
    return fragments_of(labels, data.draw(st.integers(3, 12)))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_joins_found_row_by_row_are_those_found_at_once(data: st.DataObject) -> None:
    found, grid = drawn(data)
    by_row = find_joins(rows_of(found, grid), grid.shape)
    at_once = find_joins([(grid.shape[0], found.items())], grid.shape)
    assert by_row.count == at_once.count
    assert np.array_equal(by_row.nodes, at_once.nodes)
    assert np.array_equal(by_row.group, at_once.group)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_objects_are_whole_once_their_last_part_is_there(data: st.DataObject) -> None:
    found, grid = drawn(data)
    joins = find_joins(rows_of(found, grid), grid.shape)
    gathering = Gathering(joins, len(grid.shape), 1)
    seen = []
    for region in data.draw(st.permutations(sorted(found))):
        gathering.add(region, found[region])
        seen.append(gathering.completed())
    assert len(gathering.anchors) == 0
    every = Objects.concatenate([Objects.none(len(grid.shape), 1), *seen])
    assert len(every) == joins.count
    whole = stitch(found, grid.shape, 1)
    known = {anchor: i for i, anchor in enumerate(map(tuple, whole.anchors.tolist()))}
    where = np.array([known[tuple(a)] for a in every.anchors.tolist()], dtype=int)
    assert np.array_equal(whole.take(where).runs, every.runs)


def test_what_is_held_between_rows_is_of_one_row() -> None:
    """Objects of at most two rows wait for no more than the row that follows."""
    labels = scene((400, 120), 60, np.random.default_rng(1))
    found, grid = fragments_of(labels, 60)
    rows = rows_of(found, grid)
    joins = find_joins(rows, grid.shape)
    short = joins.only(joins.heights(grid.counts[1]) <= 2)
    gathering = Gathering(short, 2, 1)
    for (_, regions), (start, stop) in zip(rows, pairwise(range(0, 481, 60)), strict=False):
        for region, fragments in regions:
            gathering.add(region, fragments)
        gathering.completed()
        assert (gathering.anchors[:, 0] >= start).all()
        assert (gathering.anchors[:, 0] < stop).all()


def test_heights_are_counted_in_rows_of_regions() -> None:
    labels = np.zeros((100, 90), np.int32)
    labels[5:95, 2:5] = 1  # rows 0 to 3 of 30 px
    labels[40:50, 20:80] = 2  # along row 1
    labels[55:65, 10:15] = 3  # rows 1 and 2
    found, grid = fragments_of(labels, 30)
    joins = find_joins(rows_of(found, grid), grid.shape)
    assert sorted(joins.heights(grid.counts[1])) == [1, 2, 4]


def test_only_some_joins_keep_the_order_of_the_rest() -> None:
    found, grid = fragments_of(scene((200, 211), 60, np.random.default_rng(0)), 40)
    joins = find_joins(rows_of(found, grid), grid.shape)
    wanted = np.arange(joins.count) % 3 > 0
    some = joins.only(wanted)
    assert some.count == wanted.sum()
    assert np.array_equal(np.flatnonzero(wanted)[some.group], joins.group[wanted[joins.group]])


def test_a_link_into_background_is_an_error_that_names_the_place() -> None:
    labels = np.zeros((40, 50), np.int32)
    labels[15:25, 10:12] = 1
    found, grid = fragments_of(labels, 20)
    below = found[grid.number((1, 0))]
    nothing = below.entered_at[:0]
    found[grid.number((1, 0))] = Fragments(below.objects, below.leads_to, nothing, below.views)
    with pytest.raises(ModelError, match=r"2 links lead .* at \(20, 10\) of the lattice"):
        find_joins(rows_of(found, grid), grid.shape)


def test_a_region_that_was_not_run_cannot_be_led_into() -> None:
    found, grid = fragments_of(np.ones((40, 50), np.int32), 20)
    del found[grid.number((1, 2))]
    with pytest.raises(ModelError, match="background in their own region"):
        find_joins(rows_of(found, grid), grid.shape)


def test_stitched_objects_are_the_components_of_the_links() -> None:
    labels = scene((97, 101), 30, np.random.default_rng(4))
    found, grid = fragments_of(labels, 30)
    assert len(stitch(found, grid.shape, 1)) == components(links_of(labels)).max()
