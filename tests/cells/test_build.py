import uuid
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.cells.build import CellRecipe, cells_of, sized, stable_ids
from wsiseg.cells.objects import Objects, objects_in
from wsiseg.export.exportable import SMALLEST_AREA, exportable
from wsiseg.geometry.links import components, links_of

RECIPE = CellRecipe((2.0, 2.0), (0.5, 0.5), ("a", "b"), b"slide")


def scene(seed: int = 0, density: float = 0.5) -> Objects:
    rng = np.random.default_rng(seed)
    mask = rng.random((101, 97)) < density
    maps = rng.random((3, *mask.shape)).astype(np.float16)
    return objects_in(components(links_of(mask.astype(np.int32))), maps, (0, 0))


def test_ids_are_uuids_and_differ_between_objects() -> None:
    ids = stable_ids(scene(), b"slide")
    assert len(set(ids)) == len(ids)
    assert all(str(uuid.UUID(i)) == i for i in ids)
    assert {uuid.UUID(i).version for i in ids} == {8}


@given(st.permutations(range(20)))
def test_an_id_depends_on_the_object_alone(order: list[int]) -> None:
    objects = scene()
    ids = stable_ids(objects, b"slide")
    assert np.array_equal(stable_ids(objects.take(np.array(order)), b"slide"), ids[order])


def test_equal_shapes_in_two_slides_have_different_ids() -> None:
    assert not set(stable_ids(scene(), b"one")) & set(stable_ids(scene(), b"two"))


def test_a_shape_elsewhere_has_another_id() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:3, 1:3] = mask[5:7, 4:6] = True
    objects = objects_in(
        components(links_of(mask.astype(np.int32))), np.ones((1, 9, 9), np.float16), (0, 0)
    )
    assert len(set(stable_ids(objects, b""))) == 2


def test_areas_are_in_square_micrometres_and_geometry_in_level_0_px() -> None:
    objects = scene()
    cells = cells_of(objects, RECIPE)
    assert np.allclose(cells.measurements["Area µm^2"], objects.areas * 0.25)
    assert np.allclose(shapely.area(cells.geometry), objects.areas * 4.0)


def test_the_class_is_the_one_with_the_largest_mean_probability() -> None:
    objects = scene()
    cells = cells_of(objects, RECIPE)
    columns = [cells.measurements[f"Probability: {c}"] for c in ("a", "b")]
    larger = np.argmax(objects.means[:, 1:], axis=1)
    assert np.array_equal(cells.class_index, larger)
    assert np.allclose(columns[0], objects.means[:, 1], atol=1e-4)


def test_without_classes_no_cell_has_one() -> None:
    objects = scene()
    plain = Objects(objects.runs, objects.offsets, objects.sums[:, :1])
    cells = cells_of(plain, CellRecipe((1.0, 1.0), (0.5, 0.5), (), b""))
    assert (cells.class_index == -1).all()


@given(st.integers(0, 99), st.floats(0.02, 40), st.floats(0.5, 2), st.integers(0, 10**7))
def test_cells_that_are_vouched_for_need_no_repair(
    seed: int, scale: float, ratio: float, origin: int
) -> None:
    mask = np.random.default_rng(seed).random((31, 37)) < 0.6
    labels = components(links_of(mask.astype(np.int32)))
    objects = objects_in(labels, np.ones((1, *mask.shape), np.float16), (origin, origin))
    cells = cells_of(objects, CellRecipe((scale, scale * ratio), (0.5, 0.5), (), b""))
    checked, dropped = exportable(replace(cells))  # a copy that nobody vouches for
    if cells.sound:
        assert not dropped
        assert np.array_equal(shapely.to_wkb(checked.geometry), shapely.to_wkb(cells.geometry))
        packed = shapely.transform(cells.geometry, lambda xy: xy.astype(np.float32))
        assert shapely.is_valid(packed).all()
        assert (shapely.area(packed) >= SMALLEST_AREA).all()


@pytest.mark.parametrize(
    ("scale", "simplify", "origin", "sound"),
    [
        ((1.0, 1.0), 0.0, 100_000, True),
        ((2.5, 0.2), 0.0, 100_000, True),
        ((1.006, 1.006), 0.0, 10**6, True),
        ((1.0, 1.0), 0.5, 0, False),  # the simplifier promises less
        ((0.1, 1.0), 0.0, 0, False),  # a pixel might have no area
        ((0.2, 0.2), 0.0, 2 * 10**7, False),  # float32 may bring lines together
    ],
)
def test_the_size_of_pixels_tells_whether_outlines_stay_apart(
    scale: tuple[float, float], simplify: float, origin: int, sound: bool
) -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[2:7, 2:7] = 1
    objects = objects_in(labels, np.ones((1, 9, 9), np.float16), (origin, origin))
    recipe = CellRecipe(scale, (0.5, 0.5), (), b"", simplify)
    assert cells_of(objects, recipe).sound is sound


def test_simplified_outlines_are_valid_and_within_the_bound() -> None:
    objects = scene(density=0.7)
    exact = cells_of(objects, RECIPE).geometry
    recipe = CellRecipe(RECIPE.scale, RECIPE.spacing_um, RECIPE.classes, b"", simplify=1.0)
    loose = cells_of(objects, recipe).geometry
    assert shapely.is_valid(loose).all()
    assert shapely.get_num_coordinates(loose).sum() < shapely.get_num_coordinates(exact).sum()
    assert (shapely.hausdorff_distance(exact, loose) <= 2.0 + 0.02).all()  # 1 lattice px = 2 px


def test_what_falls_out_by_size_is_counted() -> None:
    objects = scene(density=0.55)
    keep, dropped = sized(objects, 3, 20)
    kept = objects.take(keep)
    assert dropped["too_small"] == (objects.areas < 3).sum()
    assert len(kept) + sum(dropped.values()) == len(objects)
    start, stop = kept.boxes
    assert (stop - start).max() <= 20
    assert dropped["too_large"] > 0
