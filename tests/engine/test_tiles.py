"""Tiles that are made when asked for are those of the grid; what sees tissue is what is chosen."""

from __future__ import annotations

import numpy as np
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
    banded = in_bands(found, 2)
    assert list(banded) == sorted(expected, key=lambda t: (t.index[1] // 2, *t.index))


def test_tiles_are_made_when_they_are_asked_for() -> None:
    grid = TileGrid((10**6, 10**6), (300, 300), 4)
    many = Tiles(grid, np.arange(len(grid)))
    assert len(many) == 3334**2
    assert many[7_000_000] == grid[(7_000_000 // 3334, 7_000_000 % 3334)]
    assert [t.index for t in many[3333:3335]] == [(0, 3333), (1, 0)]
