"""Tiles that are made when asked for are those of the grid; what sees tissue is what is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsiseg.engine.infer import patch_grid
from wsiseg.engine.segment import in_bands, region_grid, regions_to_do
from wsiseg.engine.tiles import Tiles
from wsiseg.geometry import Space, TileGrid
from wsiseg.synth import OracleModel


@given(st.integers(1, 300), st.integers(1, 300), st.integers(64, 200), st.data())
def test_regions_to_do_are_those_that_see_an_active_patch(
    height: int, width: int, region: int, data: st.DataObject
) -> None:
    spec = OracleModel(2, patch=(40, 40), margin=4).spec
    space = Space((height, width), spec.spacing, "µm")
    patches, grid = patch_grid(space, spec), region_grid(space, spec, region)
    active = data.draw(arrays(bool, patches.counts))
    expected = [
        tile for tile in grid if any(active[p.index] for p in patches.overlapping(tile.read))
    ]
    found = regions_to_do(grid, space, spec, active)
    assert list(found) == expected
    processes = data.draw(st.integers(1, 5))
    assert sorted(in_bands(found, 2, processes).numbers) == sorted(found.numbers)


@pytest.mark.parametrize(("shape", "processes"), [((7, 10), 2), ((10, 7), 2), ((24, 30), 9)])
def test_runs_for_processes_have_short_borders(shape: tuple[int, int], processes: int) -> None:
    grid = TileGrid((100 * shape[0], 100 * shape[1]), (100, 100), 1)
    tiles = Tiles(grid, np.arange(len(grid)))
    short = min(shape) * (processes - 1)
    assert borders(in_bands(tiles, 99, processes), processes) <= short + 2
    assert borders(in_bands(tiles, 99, processes), processes) <= borders(tiles, processes)


def borders(tiles: Tiles, processes: int) -> int:
    """Faces between tiles of different runs."""
    owner = np.zeros(tiles.grid.counts, int)
    ends = -(-len(tiles) * np.arange(processes + 1) // processes)
    for k in range(processes):
        owner[tuple(tiles[ends[k] : ends[k + 1]].indices.T)] = k
    return sum(int((np.diff(owner, axis=axis) != 0).sum()) for axis in (0, 1))


def test_tiles_are_made_when_they_are_asked_for() -> None:
    grid = TileGrid((10**6, 10**6), (300, 300), 4)
    many = Tiles(grid, np.arange(len(grid)))
    assert len(many) == 3334**2
    assert many[7_000_000] == grid[(7_000_000 // 3334, 7_000_000 % 3334)]
    assert [t.index for t in many[3333:3335]] == [(0, 3333), (1, 0)]
