"""OpenSlide: bounds by recorded property tables, alpha, errors that poison, privacy.

No MRXS, SCN or BIF file is at hand: a stand-in for the OpenSlide handle replays tables of
properties of such files over known pixels, addressed as OpenSlide addresses them (a box begins
at level-0 px and is as large as asked for in px of the level).
"""

from __future__ import annotations

import numpy as np
import openslide
import pytest
from PIL import Image

from wsiseg.errors import UnreadableSlideError
from wsiseg.geometry import Box
from wsiseg.image import Slide, open_slide
from wsiseg.image.formats.openslide import Handle, bounds_of, contents_of

# vendor, level-0 (w, h), (x, y, w, h) of the bounds, whole downsamples, mpp
TABLES = {
    "mirax": ((4211, 5103), (1037, 1551, 1730, 2206), (1, 2, 4), "0.23387573964497"),
    "leica": ((3686, 9919), (517, 2271, 1900, 4433), (1, 4, 16), "0.5"),
    "ventana": ((3000, 2800), (0, 0, 2983, 2777), (1, 2), "0.2325"),
}


class Stand:
    """Answers like openslide.OpenSlide: transparent outside the bounds, coordinates as colours."""

    def __init__(self, vendor: str, size, bounds, downsamples, mpp) -> None:
        self.properties = {
            "openslide.vendor": vendor, "openslide.mpp-x": mpp, "openslide.mpp-y": mpp,
            "openslide.objective-power": "40", f"{vendor}.barcode": "PATIENT-17",
        }  # fmt: skip
        if bounds is not None:
            for name, value in zip(("x", "y", "width", "height"), bounds, strict=True):
                self.properties[f"openslide.bounds-{name}"] = str(value)
        self.bounds = bounds or (0, 0, *size)
        self.level_dimensions = [(size[0] // d, size[1] // d) for d in downsamples]
        self.level_downsamples = [float(d) for d in downsamples]
        self.level_count = len(downsamples)
        self.associated_images: dict[str, Image.Image] = {}

    def read_region(self, location, level, size):
        d = self.level_downsamples[level]
        x = location[0] + np.arange(size[0])[None, :] * d
        y = location[1] + np.arange(size[1])[:, None] * d
        x, y = np.broadcast_arrays(x, y)
        bx, by, bw, bh = self.bounds
        inside = (x >= bx) & (x < bx + bw) & (y >= by) & (y < by + bh)
        colour = [x // 16 % 256, y // 16 % 256, np.full_like(x, level), 255 * inside]
        pixels = np.dstack(colour).astype(np.uint8) * inside[..., None]
        return Image.fromarray(pixels)

    def close(self) -> None:
        pass


def slide_of(stand: Stand) -> Slide:
    contents = contents_of(Handle(lambda: stand), stand.properties["openslide.vendor"])
    return Slide("stand", contents)


@pytest.mark.parametrize("vendor", TABLES)
def test_coordinates_count_from_the_bounds_as_in_qupath(vendor):
    _, bounds, downsamples, mpp = TABLES[vendor]
    slide = slide_of(Stand(vendor, *TABLES[vendor]))
    x, y, w, h = bounds
    # QuPath's image is bounds-width x bounds-height, its pixel (0, 0) lies at bounds-x, bounds-y
    assert slide.levels[0].shape == (h, w)
    assert slide.mpp == pytest.approx((float(mpp), float(mpp)))
    assert [level.downsample for level in slide.levels] == [
        (float(d), float(d)) for d in downsamples
    ]
    for k, d in enumerate(downsamples):
        level = slide.levels[k]
        assert level.shape == (-(-h // d), -(-w // d))
        found = slide.read_level(k, Box((5, 7), (6, 8)))[0, 0]
        assert tuple(found) == ((x + 7 * d) // 16 % 256, (y + 5 * d) // 16 % 256, k)
        assert (slide.read_level(k, Box.of_shape(level.shape))[..., 2] == k).all(), "no margin"


def test_a_slide_without_bounds_is_read_whole():
    size, _, downsamples, mpp = TABLES["mirax"]
    slide = slide_of(Stand("mirax", size, None, downsamples, mpp))
    assert slide.levels[0].shape == (size[1], size[0])
    assert [level.shape for level in slide.levels[1:]] == [(2551, 2105), (1275, 1052)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ((0, 0), (100, 200))),
        ({"x": "10", "y": "20", "width": "30", "height": "40"}, ((20, 10), (60, 40))),
        ({"x": "10", "y": "20", "width": "30"}, ((0, 0), (100, 200))),  # all four or none
        ({"x": "a", "y": "20", "width": "30", "height": "40"}, ((0, 0), (100, 200))),
        ({"x": "150", "y": "20", "width": "90", "height": "40"}, ((20, 150), (60, 200))),
        ({"x": "0", "y": "0", "width": "0", "height": "40"}, ((0, 0), (100, 200))),
    ],
)
def test_bounds_of_properties(given, expected):
    properties = {f"openslide.bounds-{name}": value for name, value in given.items()}
    assert bounds_of(properties, (100, 200)) == Box(*expected)


def test_transparent_px_take_the_background_colour():
    class Empty(Stand):
        def read_region(self, location, level, size):
            return Image.new("RGBA", size, (0, 0, 0, 0))

    stand = Empty("mirax", (300, 200), None, (1,), "0.25")
    assert (slide_of(stand).read_level(0, Box((0, 0), (9, 9))) == 255).all()
    stand.properties["openslide.background-color"] = "F0E8DC"
    assert tuple(slide_of(stand).read_level(0, Box((0, 0), (9, 9)))[3, 3]) == (0xF0, 0xE8, 0xDC)


def test_a_broken_downsample_is_read_on_a_fixed_grid():
    class Shifting(Stand):
        """Shifts its colours with the fraction of a px at which a box begins."""

        def read_region(self, location, level, size):
            shift = int(100 * (location[0] / self.level_downsamples[level] % 1))
            return Image.new("RGBA", size, (shift, 0, 0, 255))

    stand = Shifting("leica", (5001, 4001), None, (1, 2), "0.25")
    stand.level_downsamples[1] = 2.0005
    slide = slide_of(stand)
    whole = slide.read_level(1, Box((0, 0), (200, 2400)))
    assert len(np.unique(whole[..., 0])) > 1
    for x in (3, 777, 1020, 1800):
        part = slide.read_level(1, Box((0, x), (50, x + 30)))
        assert np.array_equal(part, whole[:50, x : x + 30])


def test_an_error_does_not_stay_with_the_slide():
    stands = []

    class Failing(Stand):
        def read_region(self, location, level, size):
            if len(stands) == 1:
                raise openslide.OpenSlideError("tile 3 is damaged")
            return super().read_region(location, level, size)

    def make():
        stands.append(Failing("mirax", (300, 200), None, (1,), "0.25"))
        return stands[-1]

    slide = Slide("stand", contents_of(Handle(make), "mirax"))
    with pytest.raises(UnreadableSlideError, match=r"level 0, y 0:9, x 0:9.*tile 3 is damaged"):
        slide.read_level(0, Box((0, 0), (9, 9)))
    assert slide.read_level(0, Box((0, 0), (9, 9))).shape == (9, 9, 3)
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        slide.read_level(0, Box((0, 0), (9, 9)))


def test_what_names_a_patient_is_not_passed_on():
    slide = slide_of(Stand("leica", *TABLES["leica"]))
    assert slide.objective == 40
    assert slide.vendor == "leica"
    assert not [v for v in slide.properties.values() if "PATIENT" in v]


def test_a_decimal_comma_is_read_as_one():
    stand = Stand("aperio", (300, 200), None, (1,), "0.25")
    for name in ("x", "y"):
        del stand.properties[f"openslide.mpp-{name}"]
    stand.properties["aperio.MPP"] = "0,4990"
    assert slide_of(stand).mpp == pytest.approx((0.499, 0.499))
    stand.properties["aperio.MPP"] = "n/a"
    assert slide_of(stand).mpp is None
    problem = slide_of(stand).mpp_problem
    assert "aperio.MPP is not a number" in problem
    assert "n/a" not in problem  # it may be any text, also a name


@pytest.mark.data
def test_real_metadata(slides):
    with open_slide(slides / "cmu-1-small-region.svs") as slide:
        assert slide.objective == 20
        assert slide.vendor == "aperio"
        assert slide.mpp_source == "metadata"
        assert slide.properties["aperio.MPP"] == "0.4990"
        assert "aperio.User" not in slide.properties
        assert sorted(slide.associated) == ["label", "macro", "thumbnail"]
        assert slide.associated["macro"].shape == (431, 1280, 3)
    with open_slide(slides / "test3-DAPI-2-387.ndpi") as slide:
        assert slide.objective == 40
        assert slide.mpp_source == "metadata"
