"""Slide: levels, lattices, reads in one frame, thumbnails, views."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsiseg.errors import MissingSpacingError, SpaceError, UnreadableSlideError
from wsiseg.geometry import Box, Space
from wsiseg.image import Slide, Source, open_slide, views
from wsiseg.image.level import Contents, Level, level_downsample

H, W = 997, 1013


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (H // 20 + 1, W // 20 + 1, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((20, 20, 1), np.uint8))[:H, :W]


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory, pixels):
    """An OME-TIFF at 0.25 µm with levels 1, 2 and 4 as SubIFDs."""
    path = tmp_path_factory.mktemp("slide") / "pyramid.ome.tif"
    options = {"tile": (128, 112), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path) as writer:
        about = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        writer.write(pixels, subifds=2, metadata=about, **options)
        for n in (2, 4):
            size = (-(-W // n), -(-H // n))
            small = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
            writer.write(np.asarray(small), subfiletype=1, **options)
    return path


@pytest.fixture(scope="module")
def slide(pyramid):
    with open_slide(pyramid) as slide:
        yield slide


def flat(shapes, mpp=(0.25, 0.25)) -> Slide:
    """A slide whose pixels are its level's number."""
    levels = [
        Level(
            shape,
            level_downsample(shapes[0], shape),
            lambda box, k=k: np.full((*box.shape, 3), k, np.uint8),
        )
        for k, shape in enumerate(shapes)
    ]
    return Slide("flat", Contents("test", tuple(levels), mpp, "the test"))


@pytest.mark.parametrize(
    ("full", "level", "expected"),
    [
        ((4443, 3567), (2221, 1783), (2.0, 2.0)),  # floor of both
        ((5000, 10000), (312, 625), (16.0, 16.0)),
        ((10624, 14464), (664, 904), (16.0, 16.0)),
        ((1001, 999), (251, 250), (4.0, 4.0)),  # ceil of both
        ((1001, 999), (250, 250), (4.0, 4.0)),  # floor and ceil
        ((1000, 1000), (400, 400), (2.5, 2.5)),
        ((1000, 900), (333, 150), (1000 / 333, 6.0)),  # axes apart
        ((7, 9), (7, 9), (1.0, 1.0)),
    ],
)
def test_downsamples_are_whole_where_shapes_allow(full, level, expected):
    assert level_downsample(full, level) == expected


@settings(max_examples=200)
@given(
    full=st.tuples(st.integers(5000, 200_000), st.integers(5000, 200_000)),
    n=st.sampled_from([2, 4, 8, 16, 32]),
    up=st.tuples(st.booleans(), st.booleans()),
)
def test_every_rounding_of_a_whole_downsample_is_recognised(full, n, up):
    level = tuple(-(-f // n) if u else f // n for f, u in zip(full, up, strict=True))
    assert level_downsample(full, level) == (float(n), float(n))


def test_a_slide_is_a_source(slide):
    assert isinstance(slide, Source)
    assert slide.channels == 3
    assert slide.dtype == np.uint8
    assert slide.space == Space.regular((H, W), (0.25, 0.25))


def test_a_level_within_5_percent_is_the_lattice(slide):
    assert slide.at((0.25, 0.25)) == slide.space
    assert slide.at(0.26) == slide.space
    assert slide.at(0.24) == slide.space
    assert slide.at(0.5) == slide.level_space(1)
    assert slide.at(0.5).spacing == (0.5, 0.5)
    assert slide.at(0.98) == slide.level_space(2)
    assert slide.at(0.264).spacing == pytest.approx((0.264, 0.264))
    assert slide.at(0.3).shape == (831, 845)  # ceil(997 / 1.2), ceil(1013 / 1.2)
    assert slide.at((0.25, 0.3)) not in (slide.space, slide.level_space(1))


def test_of_two_near_levels_the_nearer_is_taken():
    slide = flat([(10_000, 10_000), (9_800, 9_800), (9_600, 9_600)], mpp=(0.5, 0.5))
    assert slide.at(0.5) == slide.level_space(0)
    assert slide.at(0.51) == slide.level_space(1)
    assert slide.at(0.525) == slide.level_space(2)


def test_reading_resamples_from_the_coarsest_level_that_is_fine_enough():
    slide = flat([(4096, 4096), (2048, 2048), (1024, 1024), (512, 512)])
    for spacing, level in [(0.1, 0), (0.3, 0), (0.6, 1), (1.1, 2), (1.9, 2), (2.2, 3), (9, 3)]:
        space = slide.at(spacing)
        assert (slide.read(Box((1, 1), (5, 5)), space) == level).all(), spacing


def test_a_level_is_read_as_it_is_stored(slide, pyramid):
    with tifffile.TiffFile(pyramid) as tiff:
        for k, level in enumerate(tiff.series[0].levels):
            stored = level.asarray()
            assert np.array_equal(slide.read_level(k, Box.of_shape(stored.shape[:2])), stored)
            box = Box((101, 51), (240, 250))
            assert np.array_equal(slide.read(box, slide.level_space(k)), stored[box.slices()])


def test_outside_is_white(slide, pixels):
    for space in (slide.space, slide.level_space(1), slide.at(0.3)):
        h, w = space.shape
        box = Box((-7, -9), (h + 5, w + 3))
        found = slide.read(box, space)
        inside = found[7 : 7 + h, 9 : 9 + w]
        assert np.array_equal(inside, slide.read(Box.of_shape((h, w)), space))
        found[7 : 7 + h, 9 : 9 + w] = 255
        assert (found == 255).all()
        assert (slide.read(Box((h, 0), (h + 4, 4)), space) == 255).all()
        assert slide.read(Box((5, 5), (5, 9)), space).shape == (0, 4, 3)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), spacing=st.floats(0.15, 3.0))
def test_reads_do_not_depend_on_the_cut(slide, data, spacing):
    space = slide.at(spacing)
    start = [data.draw(st.integers(-20, s)) for s in space.shape]
    stop = [a + data.draw(st.integers(1, 150)) for a in start]
    box = Box(tuple(start), tuple(stop))
    whole = slide.read(box, space)
    y = data.draw(st.integers(start[0], stop[0]))
    x = data.draw(st.integers(start[1], stop[1]))
    rows = [
        np.concatenate(
            [
                slide.read(Box((a, start[1]), (b, x)), space),
                slide.read(Box((a, x), (b, stop[1])), space),
            ],
            axis=1,
        )
        for a, b in ((start[0], y), (y, stop[0]))
    ]
    assert np.array_equal(np.concatenate(rows), whole)


def test_threads_read_what_one_reads(slide, pixels):
    boxes = [Box((y, x), (y + 171, x + 93)) for y in range(0, H, 171) for x in range(0, W, 93)]
    boxes = [box.clip((H, W)) for box in boxes] * 3
    with ThreadPoolExecutor(4) as pool:
        for box, found in zip(
            boxes, pool.map(lambda b: slide.read_level(0, b), boxes), strict=True
        ):
            assert np.array_equal(found, pixels[box.slices()])


def test_without_mpp_everything_but_spacings_works(pixels):
    with open_slide(pixels) as slide:
        assert slide.mpp is None
        assert slide.space == Space.regular((H, W), (1, 1), "px")
        box = Box((3, 4), (50, 60))
        assert np.array_equal(slide.read(box, slide.space), pixels[box.slices()])
        assert slide.thumbnail(100).shape == (98, 100, 3)
        with pytest.raises(MissingSpacingError, match="--mpp"):
            slide.at(0.5)


@pytest.mark.parametrize(
    ("mpp", "believed"),
    [
        ((0.25, 0.25), True), ((0.05, 20.0), True), ((0.0, 0.25), False), ((1e9, 1e9), False),
        ((float("nan"), 0.25), False), ((352.8, 352.8), False), ((-0.25, 0.25), False),
    ],
)  # fmt: skip
def test_only_believable_pixel_sizes_are_used(mpp, believed):
    slide = flat([(100, 100)], mpp=mpp)
    assert (slide.mpp == mpp) is believed
    assert slide.mpp_source == ("metadata" if believed else None)
    assert (slide.mpp_problem is None) is believed
    np.testing.assert_equal(slide.mpp_reported, mpp)


def test_spaces_that_are_not_the_slides_are_refused(slide):
    box = Box((0, 0), (4, 4))
    for space in (
        Space.regular((10, 10), (1, 1), "mm"),
        Space.regular((10, 10), (1, 1), "um", origin=(3, 0)),
        Space.regular((10, 10, 10), (1, 1, 1), "um"),
    ):
        with pytest.raises(SpaceError):
            slide.read(box, space)
    with pytest.raises(SpaceError, match="levels 0 to 2"):
        slide.read_level(3, box)
    with pytest.raises(SpaceError):
        slide.read_level(0, Box((0,), (3,)))
    with pytest.raises(SpaceError):
        slide.at(0)


def test_a_thumbnail_is_the_slide_made_small(slide, pixels):
    small = slide.thumbnail(200)
    assert small.shape == (197, 200, 3)
    expected = np.asarray(Image.fromarray(pixels).resize((200, 197), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - expected).mean() < 8
    assert slide.thumbnail(5000).shape == (H, W, 3)
    assert slide.thumbnail(1).shape == (1, 1, 3)


@pytest.mark.data
def test_a_thumbnail_of_one_large_level_reads_piece_by_piece(slides):
    with open_slide(slides / "grey10kx5k.tif") as slide:
        sizes = []
        level = slide.levels[0]

        def read(box: Box) -> np.ndarray:
            sizes.append(box.size)
            return level.reader(box)

        slide.levels = (replace(level, reader=read),)
        assert slide.thumbnail(64).shape == (32, 64, 3)
    assert sum(sizes) >= 50_000_000
    assert max(sizes) <= 1 << 24


def test_dask_is_lazy_aligned_and_travels(slide, pixels, monkeypatch):
    reads = []
    original = Slide.read_level
    monkeypatch.setattr(Slide, "read_level", lambda *a: reads.append(a[2]) or original(*a))
    monkeypatch.setattr(views, "CHUNK", 300)
    lazy = slide.as_dask(0)
    assert (lazy.shape, lazy.dtype) == ((H, W, 3), np.uint8)
    assert (lazy.chunks[0][0], lazy.chunks[1][0]) == (256, 224), "whole tiles of 128 x 112"
    assert not reads
    part = pickle.loads(pickle.dumps(lazy[700:, :300]))
    assert np.array_equal(part.compute(scheduler="synchronous"), pixels[700:, :300])
    assert np.array_equal(slide.as_dask(2).compute(scheduler="threads"),
                          slide.read_level(2, Box.of_shape(slide.levels[2].shape)))  # fmt: skip
    assert len(pickle.dumps(lazy)) < 20_000


def test_zarr_is_lazy_read_only_and_travels(slide, pixels, monkeypatch):
    reads = []
    original = Slide.read_level
    monkeypatch.setattr(Slide, "read_level", lambda *a: reads.append(a[2]) or original(*a))
    monkeypatch.setattr(views, "CHUNK", 300)
    view = slide.as_zarr(0)
    assert isinstance(view, zarr.Array)
    assert (view.shape, view.dtype) == ((H, W, 3), np.uint8)
    assert not reads
    assert np.array_equal(view[900:950, ::2, 1], pixels[900:950, ::2, 1])
    assert len(reads) == -(-W // view.chunks[1])
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0, 0] = 1
    assert np.array_equal(pickle.loads(pickle.dumps(view))[5], pixels[5])
    assert np.array_equal(
        slide.as_zarr(1)[:], slide.read_level(1, Box.of_shape(slide.levels[1].shape))
    )


def test_reads_after_close_are_refused(pyramid):
    slide = open_slide(pyramid)
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        slide.read_level(0, Box((0, 0), (10, 10)))


def test_an_unknown_associated_image_is_a_key_error(slide):
    assert dict(slide.associated) == {}
    with pytest.raises(KeyError, match="label"):
        slide.associated["label"]
