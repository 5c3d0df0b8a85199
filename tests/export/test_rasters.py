from dataclasses import replace

import numpy as np
import pytest
import shapely
from PIL import Image

from wsiseg.cells.layer import CellBatch, uuids_from
from wsiseg.errors import OutputError
from wsiseg.export.density import Density
from wsiseg.export.rasters import Preview, draw_preview, field_side, write_preview
from wsiseg.geometry import Box

RED, BLUE = (230, 60, 40), (30, 60, 220)  # epithelial, inflammatory


def cells_at(xy, classes=("epithelial", "inflammatory")):
    boxes = np.array([shapely.box(x - 6, y - 6, x + 6, y + 6) for x, y in xy], dtype=object)
    index = (np.arange(len(boxes)) % 2).astype(np.int32)
    return CellBatch(uuids_from(boxes), boxes, index, classes)


def preview(shape=(997, 1013), field=None, n=400, **more):
    rng = np.random.default_rng(0)
    field = field or Box((100, 200), (340, 440))
    xy = rng.uniform(0.1, 0.5, (n, 2)) * shape[::-1]
    cells = cells_at(xy)
    y0, x0, y1, x1 = *field.start, *field.stop
    meets = shapely.intersects(cells.geometry, shapely.box(x0, y0, x1, y1))
    given = {
        "name": "slide.svs",
        "thumbnail": np.full((shape[0] // 4, shape[1] // 4, 3), 240, np.uint8),
        "density": Density.of([cells], shape),
        "field": field,
        "field_rgb": np.full((*field.shape, 3), 200, np.uint8),
        "field_cells": cells.take(meets),
        "mpp": 0.5,
        "tissue": np.pad(np.ones((30, 30), bool), 10),
        "tissue_mm2": 0.12,
    }
    return Preview(**(given | more))


def count(image, color):
    return int((np.asarray(image) == color).all(axis=-1).sum())


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        write_preview(preview(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"


def test_outlines_are_drawn_where_the_cells_are_in_the_colour_of_their_class():
    field = Box((100, 200), (340, 440))
    one = cells_at([(320, 220)])  # the middle of the field
    image = np.asarray(draw_preview(preview(field=field, field_cells=one)))
    rows, columns = np.nonzero((image == RED).all(axis=-1))
    panel = columns > image.shape[1] // 2  # the legend has that colour too
    inside = panel & (rows < 132 + 960)
    side = 12 * 960 / 240  # px of the picture
    assert abs(np.ptp(rows[inside]) - side) <= 3
    assert abs(np.ptp(columns[inside]) - side) <= 3
    assert abs(rows[inside].mean() - (132 + 480)) <= 2
    assert not (image == BLUE).all(axis=-1).any()


def test_the_density_colours_only_where_cells_are():
    plain = draw_preview(preview(n=0, field_cells=cells_at([])))
    dense = draw_preview(preview())
    grey = (240, 240, 240)
    assert count(plain, grey) > count(dense, grey) > count(plain, grey) // 3


@pytest.mark.parametrize(
    "change",
    [
        {"mpp": None, "tissue_mm2": None},
        {"tissue": None},
        {"tissue": np.zeros((5, 5), bool)},
        {"name": "a very long name " * 20},
        {"name": "Präparat 腫瘍.svs"},
        {"thumbnail": np.zeros((7, 3, 3), np.uint8)},
        {"field_rgb": np.zeros((240, 100, 3), np.uint8)},
    ],
)
def test_every_part_may_be_missing_or_odd(change):
    image = draw_preview(preview(**change))
    assert image.mode == "RGB"
    assert image.height >= 960


@pytest.mark.parametrize("shape", [(300, 6000), (6000, 300), (64, 64)])
def test_long_and_small_slides_fit(shape):
    side = min(64, *shape)
    image = draw_preview(preview(shape, Box((0, 0), (side, side))))
    assert image.width <= 2600
    assert image.height <= 1400


def test_many_classes_do_not_run_out_of_the_picture():
    names = tuple(f"a long class name {i}" for i in range(40))
    cells = replace(cells_at([(320, 220)] * 40, names), class_index=np.arange(40, dtype=np.int32))
    image = draw_preview(preview(field_cells=cells))
    assert (np.asarray(image)[:, -20:] == 255).all()  # the margin is free


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError):
        write_preview(preview(), tmp_path / "absent" / "preview.png")


def test_the_field_has_a_physical_size():
    assert field_side(0.25) == 960
    assert field_side(0.5) == 480
    assert field_side(None) == 480
