"""TIFF: synthetic files of every kind of sample, and real ones against OpenSlide."""

from __future__ import annotations

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image import open_slide
from wsiseg.image.formats import _segments, tiff

H, W = 97, 113


@pytest.fixture
def rgb():
    return np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)


def whole(path, level=0, **options):
    with open_slide(path, **options) as slide:
        return slide.read_level(level, Box.of_shape(slide.levels[level].shape))


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "test3-DAPI-2-387.ndpi",
        "TCGA-V5-A7RE-11A_stitched_40x.ome.tif", "yb10kx5k.zstd.tiff", "odd/boxes.tiff",
        "odd/small.svs", "odd/test_orient0.tif", "odd/test_orient1.tif", "odd/boxes_0.dcm",
    ],
)  # fmt: skip
def test_level_0_equals_openslide_to_0_grey_levels(slides, name):
    path = slides / name
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        h, w = slide.levels[0].shape
        assert other.dimensions == (w, h)
        for y, x in ((0, 0), (h // 2, w // 3), (h - 900, w - 800)):
            box = Box((max(0, y), max(0, x)), (y + 900, x + 800)).clip((h, w))
            size = (box.shape[1], box.shape[0])
            theirs = np.asarray(other.read_region((box.start[1], box.start[0]), 0, size))
            assert theirs[..., 3].min() == 255
            assert np.array_equal(slide.read_level(0, box), theirs[..., :3]), (y, x)


@pytest.mark.data
@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "test3-DAPI-2-387.ndpi"])
def test_both_readers_agree_on_one_file(slides, name):
    direct = tiff.open_contents(slides / name, None, None)
    with open_slide(slides / name) as slide:
        assert slide.mpp == pytest.approx(direct.mpp, rel=1e-3)
        box = Box((500, 700), (1100, 1900))
        assert np.array_equal(direct.levels[0].read(box), slide.read_level(0, box))
    direct.close()


@pytest.mark.data
def test_lower_svs_levels_are_the_stored_pixels(slides):
    # OpenSlide, which has this level at 2.0005, interpolates unless a box begins at 0
    path = slides / "tcga-cr-7395-01a-01-ts1.svs"
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        assert slide.levels[1].downsample == (2.0, 2.0)
        theirs = np.asarray(other.read_region((0, 0), 1, other.level_dimensions[1]))[..., :3]
        for box in (Box((0, 0), (300, 300)), Box((700, 500), (1100, 900))):
            assert np.array_equal(slide.read_level(1, box), theirs[box.slices()])


@pytest.mark.data
def test_ycbcr_jpeg_2000_is_left_to_openslide(slides, tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes((slides / "tcga-cr-7395-01a-01-ts1.svs").read_bytes())
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in (file.pages[0], file.pages[2]):
            page.tags["Compression"].overwrite(33003)
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        theirs = np.asarray(other.read_region((900, 700), 0, (300, 200)))[..., :3]
        assert np.array_equal(slide.read_level(0, Box((700, 900), (900, 1200))), theirs)
        # its level 1 lies at 2.0005: read on a fixed grid, so that cuts do not show
        whole = slide.read_level(1, Box((900, 900), (1100, 1100)))
        part = slide.read_level(1, Box((1000, 1010), (1100, 1100)))
        assert np.array_equal(part, whole[100:, 110:])


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 48)},
        {"tile": (32, 48), "compression": "deflate", "predictor": True},
        {"tile": (32, 48), "compression": "lzw"},
        {"tile": (32, 48), "compression": "zstd"},
        {"tile": (32, 48), "compression": "jpeg2000"},
        {"tile": (32, 48), "bigtiff": True, "byteorder": ">"},
        {"tile": (32, 48), "planarconfig": "separate"},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "deflate"},
        {"rowsperstrip": 200},
        {"planarconfig": "separate"},
    ],
    ids=str,
)
def test_every_storage_gives_back_what_was_written(tmp_path, rgb, options):
    path = tmp_path / "a.tif"
    planar = options.get("planarconfig") == "separate"
    stored = np.moveaxis(rgb, -1, 0) if planar else rgb
    tifffile.imwrite(path, stored, photometric="rgb", **options)
    assert np.array_equal(whole(path), rgb)
    with open_slide(path) as slide:
        box = Box((30, 40), (80, 100))
        assert np.array_equal(slide.read_level(0, box), rgb[box.slices()])


def test_only_the_strips_that_are_touched_are_decoded(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, rowsperstrip=8, compression="deflate")
    with open_slide(path) as slide:
        reads = []
        original = _segments.Files.read
        monkeypatch.setattr(_segments.Files, "read", lambda *a: reads.append(a) or original(*a))
        slide.read_level(0, Box((17, 0), (30, 10)))
        assert len(reads) == 2
        slide.read_level(0, Box((17, 50), (30, 90)))
        assert len(reads) == 2, "kept from before"


def test_a_large_untiled_image_is_read_by_rows(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    grey = np.arange(60 * 50, dtype=np.uint16).reshape(60, 50) * 20
    tifffile.imwrite(path, grey, rowsperstrip=60, byteorder=">")
    monkeypatch.setattr(tiff, "STRIP_PIXELS", 500)
    with open_slide(path) as slide:
        assert slide.levels[0].tile == (10, 50)
        assert np.array_equal(whole(path)[..., 0], grey >> 8)
        assert np.array_equal(
            slide.read_level(0, Box((33, 4), (35, 9)))[..., 2], grey[33:35, 4:9] >> 8
        )


def test_rgba_lies_over_white(tmp_path, rgb):
    alpha = np.random.default_rng(2).integers(0, 256, (H, W, 1), dtype=np.uint8)
    straight, premultiplied = tmp_path / "s.tif", tmp_path / "p.tif"
    rgba = np.concatenate([rgb, alpha], axis=-1)
    tifffile.imwrite(straight, rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(32, 32))
    a = alpha / 255.0
    expected = rgb * a + 255 * (1 - a)
    assert np.abs(whole(straight) - expected).max() <= 0.51
    front = np.round(rgb * a).astype(np.uint8)
    tifffile.imwrite(
        premultiplied, np.concatenate([front, alpha], axis=-1),
        photometric="rgb", extrasamples=["assocalpha"], tile=(32, 32),
    )  # fmt: skip
    assert np.abs(whole(premultiplied) - (front + 255 * (1 - a))).max() <= 0.51


def test_grey_palette_and_inverted(tmp_path, rgb):
    grey = rgb[..., 0]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey, photometric="minisblack", tile=(32, 32))
    assert np.array_equal(whole(path), np.repeat(grey[..., None], 3, -1))
    tifffile.imwrite(path, grey, photometric="miniswhite", tile=(32, 32))
    assert np.array_equal(whole(path), 255 - np.repeat(grey[..., None], 3, -1))
    table = np.random.default_rng(5).integers(0, 65536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(path, grey, photometric="palette", colormap=table, tile=(32, 32))
    assert np.array_equal(whole(path), (table >> 8).T[grey])
    tifffile.imwrite(path, np.dstack([rgb, grey]), photometric="separated", tile=(32, 32))
    black = 1 - grey[..., None] / 255.0
    assert np.abs(whole(path) - (255 - rgb) * black).max() <= 0.51
    tifffile.imwrite(path, grey > 100, photometric="minisblack")
    assert np.array_equal(whole(path)[..., 1], np.where(grey > 100, 255, 0))


def test_sixteen_bits_follow_the_files_significant_bits(tmp_path):
    values = np.random.default_rng(3).integers(0, 4096, (40, 50), dtype=np.uint16)
    plain, ome = tmp_path / "a.tif", tmp_path / "a.ome.tif"
    tifffile.imwrite(plain, values, tile=(16, 16))
    tifffile.imwrite(ome, values, tile=(16, 16), metadata={"axes": "YX", "SignificantBits": 12})
    assert np.array_equal(whole(plain)[..., 0], values >> 8)
    assert np.array_equal(whole(ome)[..., 0], values >> 4)


def test_floats_and_signed_integers(tmp_path):
    path = tmp_path / "a.tif"
    unit = np.linspace(0, 1, 40 * 50, dtype=np.float32).reshape(40, 50)
    tifffile.imwrite(path, unit, tile=(16, 16))
    assert np.array_equal(whole(path)[..., 0], np.rint(unit * 255))
    tifffile.imwrite(path, unit * 3, tile=(16, 16))
    with pytest.raises(UnsupportedFormatError, match=r"floats? .*\[0, 1\]"):
        whole(path)
    tifffile.imwrite(path, np.zeros((40, 50), np.int16), tile=(16, 16))
    with pytest.raises(UnsupportedFormatError, match="int16"):
        whole(path)


def test_fluorescence_channels_take_their_colours(tmp_path):
    rng = np.random.default_rng(4)
    channels = rng.integers(0, 256, (2, 40, 50), dtype=np.uint8)
    path = tmp_path / "a.ome.tif"
    about = {"axes": "CYX", "Channel": {"Name": ["a", "b"]}}
    tifffile.imwrite(path, channels, photometric="minisblack", tile=(16, 16), metadata=about)
    found = whole(path)
    assert np.array_equal(found[..., 0], channels[0])
    assert np.array_equal(found[..., 1], channels[1])
    assert not found[..., 2].any()


def test_the_middle_plane_and_the_first_scene_are_the_default(tmp_path):
    path = tmp_path / "a.ome.tif"
    stack = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 20, 30), np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(stack, photometric="minisblack", tile=(16, 16),
                     metadata={"axes": "ZYX", "Name": "first"})  # fmt: skip
        writer.write(np.full((20, 40), 99, np.uint8), tile=(16, 16),
                     metadata={"axes": "YX", "Name": "second"})  # fmt: skip
        writer.write(np.full((8, 8), 9, np.uint8), metadata={"axes": "YX", "Name": "label image"})
    with open_slide(path) as slide:
        assert (slide.z, slide.z_count, slide.scene) == (2, 5, 0)
        assert slide.scenes == ("first", "second")
        assert (slide.associated["label"] == 9).all()
    assert (whole(path) == 2).all()
    assert (whole(path, z=4) == 4).all()
    assert (whole(path, scene=1) == 99).all()
    assert whole(path, scene=1).shape == (20, 40, 3)
    with pytest.raises(UnsupportedFormatError, match="z must be 0 to 4, got 5"):
        open_slide(path, z=5)
    with pytest.raises(UnsupportedFormatError, match="scene must be 0 to 1, got 2"):
        open_slide(path, scene=2)


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (40_000, 20_000), "resolutionunit": "centimeter"}, (0.5, 0.25)),
        ({"resolution": (50_800, 50_800), "resolutionunit": "inch"}, (0.5, 0.5)),
        ({"resolution": (96, 96), "resolutionunit": "inch"}, None),
        ({"resolution": (2, 2), "resolutionunit": "none"}, None),
        ({"description": "Aperio Image Library v1|MPP = 0.4990|AppMag = 20"}, (0.499, 0.499)),
        ({"description": "Aperio Image Library v1|MPP = 0,4990"}, (0.499, 0.499)),
        ({"description": "Aperio Image Library v1|MPP = 1,000.5"}, None),
        ({"description": "ImageJ=1.54\nunit=micron\n", "resolution": (4, 2)}, (0.5, 0.25)),
        ({}, None),
    ],
)
def test_pixel_sizes_of_tags(tmp_path, options, mpp):
    path = tmp_path / "a.tif"
    pixels = np.zeros((20, 30, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **options)
    contents = tiff.open_contents(path, None, None)
    with open_slide(path) as slide:
        if mpp is None:
            assert slide.mpp is None
            assert slide.mpp_problem
        else:
            assert slide.mpp == pytest.approx(mpp)
            assert contents.mpp == pytest.approx(mpp)
    contents.close()


@pytest.mark.parametrize(
    ("unit", "value", "mpp"),
    [("µm", 0.25, 0.25), ("nm", 250, 0.25), ("mm", 0.00025, 0.25), ("pixel", 1, None)],
)
def test_ome_units(tmp_path, unit, value, mpp):
    path = tmp_path / "a.ome.tif"
    about = {"axes": "YXS", "PhysicalSizeX": value, "PhysicalSizeXUnit": unit,
             "PhysicalSizeY": value, "PhysicalSizeYUnit": unit}  # fmt: skip
    tifffile.imwrite(path, np.zeros((20, 30, 3), np.uint8), photometric="rgb", metadata=about)
    with open_slide(path) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx((mpp, mpp)))


def test_sparse_tiles_are_white_and_counted(tmp_path, rgb):
    path = tmp_path / "a.tif"

    def tiles():
        yield from (rgb[:32, :48].tobytes(), b"", b"", b"", b"", b"")

    tifffile.imwrite(
        path, tiles(), shape=(64, 144, 3), dtype=np.uint8, tile=(32, 48), photometric="rgb",
        compression=None,
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.levels[0].holes == 5
        found = slide.read_level(0, Box.of_shape((64, 144)))
    assert np.array_equal(found[:32, :48], rgb[:32, :48])
    assert (found[32:] == 255).all()


def test_a_jpeg_tile_that_claims_to_be_huge_is_refused(tmp_path, rgb):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, tile=(32, 48), compression="jpeg", photometric="rgb")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.dataoffsets[0]
    frame = data.index(b"\xff\xc0", start)
    data[frame + 5 : frame + 9] = b"\xff\x00\xff\x00"
    path.write_bytes(data)
    with pytest.raises(UnreadableSlideError, match="claims to decode to 65280 x 65280"):
        whole(path)


def jpeg(rgb, space, marker):
    """A stream that stores ``space`` and says so by ``marker`` (JFIF, Adobe's) or not at all."""
    stream = imagecodecs.jpeg8_encode(
        rgb, level=95, colorspace="RGB", outcolorspace=space, subsampling="444"
    )
    at = 2
    while 0xE0 <= stream[at + 1] <= 0xEF:  # what the encoder says of itself
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return stream[:2] + marker + stream[at:]


def write_one_tile(path, stream, tag):
    """A TIFF of one tile of 32 x 48 px, its photometric tag as told."""
    tifffile.imwrite(
        path, iter([stream]), shape=(32, 48, 3), dtype=np.uint8, tile=(32, 48),
        compression="jpeg", photometric="ycbcr", subsampling=(1, 1),
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["PhotometricInterpretation"].overwrite({"rgb": 2, "ycbcr": 6}[tag])


JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
ADOBE = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0"


@pytest.mark.parametrize("tag", ["rgb", "ycbcr"])
@pytest.mark.parametrize(
    ("space", "marker"),
    [("YCBCR", JFIF), ("YCBCR", ADOBE + b"\1"), ("RGB", ADOBE + b"\0")],
    ids=["jfif", "adobe ycbcr", "adobe rgb"],
)
def test_what_a_jpeg_stream_says_of_its_colours_goes_before_the_tag(tmp_path, tag, space, marker):
    y, x = np.mgrid[:32, :48]
    rgb = np.stack([4 * x, 6 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
    write_one_tile(tmp_path / "a.tif", jpeg(rgb, space, marker), tag)
    assert np.abs(whole(tmp_path / "a.tif").astype(int) - rgb).max() <= 4


@pytest.mark.parametrize("tag", ["rgb", "ycbcr"])
def test_jpeg_tiles_that_say_nothing_are_of_the_colours_of_the_tag(tmp_path, rgb, tag):
    path = tmp_path / "a.tif"
    write_one_tile(path, jpeg(rgb[:32, :48], tag.upper(), b""), tag)
    with openslide.OpenSlide(path) as other:
        expected = np.asarray(other.read_region((0, 0), 0, (48, 32)))[..., :3]
    assert np.array_equal(whole(path), expected)


def test_lists_of_tiles_that_are_too_short_are_refused(tmp_path, rgb):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, tile=(32, 48), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageLength"].overwrite(4000)
    with pytest.raises(UnreadableSlideError, match="tiles or strips, the file lists"):
        open_slide(path)
