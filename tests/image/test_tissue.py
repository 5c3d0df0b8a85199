import csv

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.errors import SpaceError
from wsiseg.geometry import Box
from wsiseg.image import open_slide, tissue
from wsiseg.image.tissue import (
    SPACING_UM,
    Tissue,
    everything,
    find_tissue,
    from_polygons,
    tissue_mask,
)
from wsiseg.stain import looks_like_he

PINK, WHITE = (214, 140, 185), (243, 243, 244)


def thumbnail(size=(200, 260)):
    return np.full((*size, 3), WHITE, np.uint8)


def with_tissue(size=(200, 260)):
    image = thumbnail(size)
    cv2.ellipse(image, (120, 100), (80, 60), 20, 0, 360, PINK, -1)
    return image


def overview(slide, mpp=None):
    opened = open_slide(slide, mpp=mpp)
    space = opened.at((SPACING_UM, SPACING_UM))
    return opened.read(Box.of_shape(space.shape), space)


def tile(slides, name, shrink=8):
    """A tile of about 1 µm per px at 8 µm."""
    image = cv2.cvtColor(cv2.imread(str(slides / "tiles" / name)), cv2.COLOR_BGR2RGB)
    scale = 1 / shrink
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


# share of tissue (lowest, highest); pen tiles: less than all, because the ink is left out
TILES = {
    "no-tissue.png": (0, 0),
    "no-tissue2.png": (0, 0),
    "no-tissue-line.png": (0, 0),
    "no-tissue-green-pen.png": (0, 0),
    "no-tissue-red-pen.png": (0, 0),
    "almost-white-1.png": (0, 0),
    "almost-white-2.png": (0, 0.05),
    "almost-white-ihc.png": (0, 0),
    "high-nuclei-score-red-pen-level1.png": (0.9, 0.98),
    "medium-nuclei-score-green-pen-level1.png": (0.4, 0.7),
    "tcga-green-pen.png": (0.85, 0.97),
    "tcga-red-pen.png": (0.5, 0.75),
    "very-low-nuclei-score-red-pen-level1.png": (0.02, 0.3),
}


@pytest.mark.data
@pytest.mark.parametrize("name", TILES)
def test_pen_and_blank_tiles(slides, name):
    low, high = TILES[name]
    assert low <= tissue_mask(tile(slides, name), 8.0).mean() <= high


@pytest.mark.data
def test_blue_pen_beside_the_tissue_is_left_out(slides):
    mask = tissue_mask(tile(slides, "wsi-blue-pen.png", 1), None)
    assert not mask[:, 160:].any()  # the two strokes
    assert mask[30:90, 70:90].mean() > 0.95


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mpp", "low", "high"),
    [
        ("cmu-1-small-region.svs", None, 0.40, 0.50),
        ("tcga-cr-7395-01a-01-ts1.svs", 0.25, 0.66, 0.78),
        ("TCGA-V5-A7RE-11A_stitched_40x.ome.tif", None, 0.23, 0.29),
        ("kidney-48-5.tif", 1.0, 0, 0.05),
        ("grey10kx5k.tif", 0.5, 0, 0),
    ],
)
def test_share_of_real_slides_that_is_tissue(slides, name, mpp, low, high):
    assert low <= tissue_mask(overview(slides / name, mpp), 8.0).mean() <= high


@pytest.mark.data
def test_white_padding_of_the_stitched_biopsy_is_no_tissue(slides):
    rgb = overview(slides / "TCGA-V5-A7RE-11A_stitched_40x.ome.tif")
    padding = cv2.erode((rgb.min(axis=2) == 255).astype(np.uint8), np.ones((13, 13))) > 0
    assert padding.sum() > 20_000
    assert not tissue_mask(rgb, 8.0)[padding].any()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mpp", "he"),
    [
        ("cmu-1-small-region.svs", None, True),
        ("tcga-cr-7395-01a-01-ts1.svs", 0.25, True),
        ("TCGA-V5-A7RE-11A_stitched_40x.ome.tif", None, True),
        ("test3-DAPI-2-387.ndpi", None, False),
        ("OS-2-ndpi.ome.tif", 0.23, False),
    ],
)
def test_slides_that_are_not_he_are_told_apart(slides, name, mpp, he):
    rgb = overview(slides / name, mpp)
    fine, reason = looks_like_he(rgb, tissue_mask(rgb, 8.0))
    assert fine == he
    assert bool(reason) != he


@pytest.mark.data
@pytest.mark.parametrize("folder", ["nuclei/kumar", "nuclei/gbm40", "nuclei/lgg", "nuclei/consep"])
def test_labelled_he_images_pass_as_he(data, folder):
    with (data / "nuclei" / "manifest.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if f"nuclei/{r['set']}" == folder]
    for row in rows:
        image = cv2.cvtColor(cv2.imread(str(data / "nuclei" / row["image"])), cv2.COLOR_BGR2RGB)
        small = cv2.resize(image, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
        assert looks_like_he(small, tissue_mask(small, 2.0)) == (True, ""), row["image"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["6_2", "Bladder1", "Lung1"])
def test_labelled_ki67_images_do_not_pass_as_he(data, name):
    image = cv2.imread(str(data / "ihc" / "ki67_tiles" / f"{name}.png"))
    small = cv2.resize(image, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)[..., ::-1]
    small = np.ascontiguousarray(small)
    mask = tissue_mask(small, 2.0)
    assert mask.mean() > 0.3
    assert not looks_like_he(small, mask)[0]


INKS = {
    "green": (60, 160, 130),
    "blue": (60, 90, 190),
    "red": (215, 30, 45),
    "black": (25, 25, 28),
}


@pytest.mark.parametrize("ink", INKS)
def test_ink_on_glass_is_no_tissue_and_spares_the_tissue(ink):
    image = with_tissue((300, 400))
    expected = tissue_mask(image, 8.0)
    for thickness in (3, 9, 25):
        marked = image.copy()
        cv2.polylines(
            marked, [np.array([[330, 20], [360, 150], [320, 280]])], False, INKS[ink], thickness
        )
        marked = cv2.GaussianBlur(marked, (0, 0), 1.5)
        mask = tissue_mask(marked, 8.0)
        assert not mask[:, 290:].any()
        assert (mask == expected)[:, :290].mean() > 0.99


@pytest.mark.parametrize("sigma", [0, 2, 6])
@pytest.mark.parametrize("grey", [0, 64, 200, 235, 245, 255])
def test_an_empty_slide_stays_empty(grey, sigma):
    noise = np.random.default_rng(1).normal(grey, sigma, (300, 400, 3))
    assert not tissue_mask(np.clip(noise, 0, 255).astype(np.uint8), 8.0).any()


def test_a_tinted_empty_slide_stays_empty():
    noise = np.random.default_rng(2).normal((238, 240, 232), 2, (300, 400, 3))
    assert not tissue_mask(np.clip(noise, 0, 255).astype(np.uint8), 8.0).any()


def test_black_padding_is_no_tissue():
    image = np.zeros((200, 300, 3), np.uint8)
    image[40:160, 50:250] = WHITE
    assert not tissue_mask(image, 8.0).any()
    image[60:120, 80:180] = PINK
    mask = tissue_mask(image, 8.0)
    assert mask[62:118, 82:178].all()
    assert not mask[:36].any()
    assert not mask[:, :46].any()


def test_area_of_a_known_shape():
    image = thumbnail((400, 400))
    cv2.circle(image, (200, 200), 100, PINK, -1)
    tissue = find_tissue(image, (8.0, 8.0))
    grown = np.pi * (100 + 2) ** 2 * 64 / 1e6
    assert tissue.area_mm2 == pytest.approx(grown, rel=0.02)
    assert find_tissue(image, None).area_mm2 is None


def test_vessels_are_filled_and_a_wide_lumen_is_not():
    image = thumbnail((400, 400))
    cv2.circle(image, (200, 200), 150, PINK, -1)
    cv2.circle(image, (120, 200), 15, WHITE, -1)  # 0.045 mm²
    cv2.circle(image, (250, 200), 50, WHITE, -1)  # 0.5 mm²
    mask = tissue_mask(image, 8.0)
    assert mask[200, 120]
    assert not mask[200, 250]


def test_dust_is_dropped_and_a_small_biopsy_is_kept():
    image = thumbnail()
    cv2.circle(image, (40, 40), 4, PINK, -1)  # 0.003 mm²
    cv2.circle(image, (150, 100), 9, PINK, -1)  # 0.016 mm²
    mask = tissue_mask(image, 8.0)
    assert not mask[:80, :80].any()
    assert mask[100, 150]


def test_a_small_image_of_tissue_is_not_dust():
    assert tissue_mask(np.full((9, 8, 3), PINK, np.uint8), 8.0).all()
    assert tissue_mask(np.full((1, 1, 3), PINK, np.uint8), 8.0).all()


@pytest.mark.parametrize("um", [4.0, 16.0])
def test_another_spacing_finds_the_same_tissue(um):
    image = with_tissue((320, 400))
    size = [round(n * 8 / um) for n in image.shape[1::-1]]
    other = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    area = tissue_mask(image, 8.0).sum() * 64
    assert tissue_mask(other, um).sum() * um**2 == pytest.approx(area, rel=0.05)


def test_other_than_an_rgb_thumbnail_is_refused():
    with pytest.raises(SpaceError, match="uint8"):
        tissue_mask(np.zeros((4, 4, 3), np.float32), 8.0)
    with pytest.raises(SpaceError, match=r"\(4, 4\)"):
        tissue_mask(np.zeros((4, 4), np.uint8), 8.0)
    with pytest.raises(SpaceError, match="bool"):
        Tissue(np.zeros((4, 4), np.uint8), None)


def touching_by_hand(mask, box, shape):
    """Whether any tissue px overlaps the box, in exact integer arithmetic."""
    for y, x in np.argwhere(mask):
        rows = max(y * shape[0], box[0] * mask.shape[0]) < min(
            (y + 1) * shape[0], box[2] * mask.shape[0]
        )
        columns = max(x * shape[1], box[1] * mask.shape[1]) < min(
            (x + 1) * shape[1], box[3] * mask.shape[1]
        )
        if rows and columns:
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    corner=st.tuples(st.integers(-30, 400), st.integers(-30, 400)),
    size=st.tuples(st.integers(0, 120), st.integers(0, 120)),
)
def test_touching_is_exact(seed, shape, corner, size):
    mask = np.random.default_rng(seed).random((13, 11)) < 0.05
    box = (*corner, corner[0] + size[0], corner[1] + size[1])
    found = Tissue(mask, None).touching(np.array([box]), shape)
    assert found.tolist() == [min(size) > 0 and touching_by_hand(mask, box, shape)]


def test_touching_takes_many_boxes_and_none():
    tissue = everything((5, 7), (8.0, 8.0))
    boxes = np.array([[0, 0, 10, 10], [90, 90, 200, 200], [100, 0, 120, 10], [-9, -9, 0, 0]])
    assert tissue.touching(boxes, (100, 100)).tolist() == [True, True, False, False]
    assert tissue.touching(np.zeros((0, 4), np.int64), (100, 100)).shape == (0,)
    assert tissue.fraction == 1
    assert tissue.area_mm2 == pytest.approx(35 * 64 / 1e6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), holes=st.booleans())
def test_a_drawn_region_keeps_exactly_what_it_touches(seed, holes):
    random = np.random.default_rng(seed)
    shape, mask_shape = (317, 409), (23, 19)
    angles = np.sort(random.uniform(0, 2 * np.pi, 9))
    centre, radius = random.uniform(-20, 400, 2), random.uniform(5, 160, 9)
    ring = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polygon = shapely.make_valid(shapely.Polygon(ring))
    if holes:
        polygon = polygon.difference(shapely.Point(centre).buffer(30))
    if polygon.area <= 0:
        return
    found = from_polygons([polygon], shape, mask_shape, None).mask
    h, w = (s / m for s, m in zip(shape, mask_shape, strict=True))
    for y, x in np.ndindex(mask_shape):
        shared = polygon.intersection(shapely.box(x * w, y * h, (x + 1) * w, (y + 1) * h)).area
        assert found[y, x] == (shared > 0) or shared < 1e-6


def test_several_regions_add_up_and_parts_outside_are_ignored():
    boxes = [shapely.box(0, 0, 10, 10), shapely.box(12, 5, 35, 15), shapely.box(95, 95, 1e9, 1e9)]
    mask = from_polygons(boxes, (100, 100), (10, 10), None).mask
    expected = np.zeros((10, 10), bool)
    expected[:2, :4] = True
    expected[1, 0] = False
    expected[9, 9] = True
    np.testing.assert_array_equal(mask, expected)
    both = from_polygons(
        [shapely.MultiPolygon([boxes[0], shapely.box(50, 50, 60, 60)])], (100, 100), (10, 10), None
    ).mask
    assert np.argwhere(both).tolist() == [[0, 0], [5, 5]]


def test_a_self_crossing_region_is_repaired():
    bow = shapely.Polygon([(0, 0), (100, 90), (100, 0), (0, 100)])
    mask = from_polygons([bow], (100, 100), (10, 10), None).mask
    assert mask[4, 0]
    assert mask[4, 9]
    assert not mask[0, 5]


def test_a_region_without_area_is_refused():
    with pytest.raises(SpaceError, match="geometry 1 "):
        from_polygons([shapely.box(0, 0, 5, 5), shapely.Point(3, 3)], (100, 100), (10, 10), None)


@pytest.mark.parametrize("band", [1, 700, 5000])
@pytest.mark.parametrize(
    "name", ["high-nuclei-score-red-pen-level1.png", "no-tissue-green-pen.png"]
)
def test_bands_of_rows_leave_no_mark(slides, monkeypatch, name, band):
    image = tile(slides, name)
    whole = tissue_mask(image, SPACING_UM)
    monkeypatch.setattr(tissue, "_BAND", band)
    np.testing.assert_array_equal(tissue_mask(image, SPACING_UM), whole)
