"""The rules from stored samples to RGB, each on hand-worked values."""

from __future__ import annotations

import numpy as np
import pytest

from wsiseg.errors import UnsupportedFormatError
from wsiseg.image.formats._rgb import ColourRule, over_white, to_rgb


def one(values, dtype=np.uint8):
    return np.array(values, dtype=dtype).reshape(1, 1, -1)


@pytest.mark.parametrize(
    ("samples", "rule", "expected"),
    [
        (one([9, 8, 7]), ColourRule("rgb"), (9, 8, 7)),
        (one([40]), ColourRule("grey"), (40, 40, 40)),
        (one([40]), ColourRule("inverted"), (215, 215, 215)),
        (one([True], bool), ColourRule("grey", 1), (255, 255, 255)),
        (one([5], np.uint8), ColourRule("grey", 4), (85, 85, 85)),
        (one([0xABCD], np.uint16), ColourRule("grey", 16), (0xAB,) * 3),
        (one([0x0ABC], np.uint16), ColourRule("grey", 12), (0xAB,) * 3),
        (one([0xFFFF], np.uint16), ColourRule("grey", 12), (255,) * 3),
        (one([2**31], np.uint32), ColourRule("grey", 32), (128,) * 3),
        (one([0.5, 0.0, 1.0], np.float32), ColourRule("rgb"), (128, 0, 255)),
        # straight alpha: 100 * 0.2 + 255 * 0.8 = 224
        (one([100, 0, 255, 51]), ColourRule("rgb", alpha="straight"), (224, 204, 255)),
        (one([20, 0, 51, 51]), ColourRule("rgb", alpha="premultiplied"), (224, 204, 255)),
        (one([7, 0]), ColourRule("grey", alpha="straight"), (255, 255, 255)),
        # cyan 51, black 0: (255 - 51) = 204; black 255 is black
        (one([51, 0, 255, 0]), ColourRule("cmyk"), (204, 255, 0)),
        (one([0, 0, 0, 255]), ColourRule("cmyk"), (0, 0, 0)),
        (one([200, 100]), ColourRule("channels"), (200, 100, 0)),
        (
            one([200, 100]),
            ColourRule("channels", colours=((255, 255, 255), (0, 0, 255))),
            (200, 200, 255),
        ),
    ],
)
def test_rules(samples, rule, expected):
    found = to_rgb(samples, rule)
    assert found.dtype == np.uint8
    assert tuple(found[0, 0]) == expected


def test_a_palette_is_looked_up():
    table = np.array([[1, 2, 3], [200, 100, 50]], dtype=np.uint8)
    found = to_rgb(one([1]), ColourRule("palette", palette=table))
    assert tuple(found[0, 0]) == (200, 100, 50)


@pytest.mark.parametrize(
    ("samples", "rule"),
    [
        (one([1.5], np.float32), ColourRule("grey")),
        (one([-0.1], np.float64), ColourRule("grey")),
        (one([np.nan], np.float32), ColourRule("grey")),
        (one([-3], np.int16), ColourRule("grey", 16)),
        (one([1j], np.complex64), ColourRule("grey")),
        (one([1, 2]), ColourRule("rgb")),
    ],
)
def test_what_has_no_rule_is_refused_by_name(samples, rule):
    with pytest.raises(UnsupportedFormatError, match="convert to"):
        to_rgb(samples, rule)


def test_sixteen_bits_do_not_depend_on_the_neighbours():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16, 1)
    whole = to_rgb(values, ColourRule("grey", 16))
    for i in range(16):
        assert np.array_equal(to_rgb(values[i : i + 1], ColourRule("grey", 16)), whole[i : i + 1])


def test_a_background_colour_shows_through():
    colour, alpha = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
    found = over_white(colour, alpha, premultiplied=False, background=(1, 2, 3))
    assert tuple(found[0, 0]) == (1, 2, 3)
