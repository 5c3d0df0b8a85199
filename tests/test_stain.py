import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.errors import ModelError
from wsiseg.stain import (
    REFERENCE,
    StainMatrix,
    looks_like_he,
    macenko,
    optical_density,
    unmix,
)


def painted(amounts, stain=REFERENCE):
    """8-bit colours (N, 3) of dye ``amounts`` (N, 3)."""
    return np.clip(np.round(256 * 10 ** -(amounts @ stain.array) - 1), 0, 255).astype(np.uint8)


def tissue_like(stain, seed=0, count=20_000):
    random = np.random.default_rng(seed)
    nuclei = random.random(count) < 0.3
    amounts = np.zeros((count, 3))
    amounts[:, 0] = np.where(nuclei, random.uniform(0.4, 0.9, count), 0.02)
    amounts[:, 1] = np.where(nuclei, 0.05, random.uniform(0.25, 0.7, count))
    return painted(amounts, stain)


def degrees(a, b):
    return np.rad2deg(np.arccos(np.clip(np.dot(a, b), -1, 1)))


def test_density_of_white_is_zero_and_of_black_the_most():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    density = optical_density(ramp)
    assert density.dtype == np.float32
    assert density[255].tolist() == [0, 0, 0]
    assert density[0, 0] == pytest.approx(np.log10(256))
    assert (np.diff(density[:, 0]) < 0).all()
    assert density[127, 0] == pytest.approx(np.log10(2))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 0.7), min_size=3, max_size=3))
def test_unmixing_gives_back_the_dyes_that_were_painted(amounts):
    found = unmix(painted(np.array([amounts])))
    # rounding to 8 bit: half a grey level, worth more where it is dark
    np.testing.assert_allclose(found[0], amounts, atol=0.06)


def test_unmixing_is_a_product_with_the_inverse():
    rgb = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    expected = optical_density(rgb).astype(np.float64) @ np.linalg.inv(REFERENCE.array)
    np.testing.assert_allclose(unmix(rgb), expected, atol=1e-5)


def test_reference_vectors_are_those_of_the_paper_at_unit_length():
    assert REFERENCE.hematoxylin == pytest.approx([0.6500, 0.7041, 0.2862], abs=5e-3)
    np.testing.assert_allclose(np.linalg.norm(REFERENCE.array, axis=1), 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "stain",
    [REFERENCE, StainMatrix((0.58, 0.76, 0.29), (0.15, 0.90, 0.42), (0.27, 0.57, 0.78))],
)
def test_macenko_finds_the_dyes_of_a_slide(stain, seed):
    found = macenko(tissue_like(stain, seed))
    assert degrees(found.hematoxylin, stain.hematoxylin) < 5
    assert degrees(found.eosin, stain.eosin) < 5


def test_macenko_tells_slides_of_different_dyes_apart():
    other = StainMatrix((0.45, 0.80, 0.40), (0.02, 0.85, 0.52), (0.27, 0.57, 0.78))
    found = macenko(tissue_like(other))
    assert (
        degrees(found.hematoxylin, other.hematoxylin)
        < 5
        < degrees(found.hematoxylin, REFERENCE.hematoxylin)
    )


def test_macenko_does_not_depend_on_the_order_of_pixels():
    pixels = tissue_like(REFERENCE)
    shuffled = np.random.default_rng(9).permutation(pixels)
    a, b = macenko(pixels).array, macenko(shuffled).array
    np.testing.assert_allclose(a, b, atol=1e-9)
    assert macenko(pixels) == macenko(pixels.reshape(100, 200, 3))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.full((5000, 3), 255, np.uint8), "0 of 5000"),
        (np.zeros((0, 3), np.uint8), "0 of 0"),
        (painted(np.linspace(0.3, 0.9, 5000)[:, None] * [[1, 0, 0]]), "two dyes"),
        (np.zeros((5000, 3), np.uint8), "two dyes"),
        (np.full((5000, 3), 120, np.uint8), "two dyes"),
    ],
    ids=["white", "none", "one dye", "black", "grey"],
)
def test_macenko_refuses_what_shows_no_two_dyes(pixels, words):
    with pytest.raises(ModelError, match=words):
        macenko(pixels)


@pytest.mark.parametrize(
    "vectors",
    [
        ((0, 0, 0), (0, 1, 0), (0, 0, 1)),
        ((1, 0, 0), (2, 0, 0), (0, 0, 1)),
        ((np.nan, 0, 0), (0, 1, 0), (0, 0, 1)),
        ((1, 0), (0, 1, 0), (0, 0, 1)),
    ],
)
def test_a_degenerate_matrix_is_refused(vectors):
    with pytest.raises(ModelError):
        StainMatrix(*vectors)


def test_density_refuses_other_than_8_bit_rgb():
    with pytest.raises(ModelError, match="uint16"):
        optical_density(np.zeros((4, 4, 3), np.uint16))
    with pytest.raises(ModelError, match=r"\(4, 4\)"):
        optical_density(np.zeros((4, 4), np.uint8))


def test_colour_of_he_passes_and_of_other_stains_does_not():
    mask = np.ones((100, 200), bool)
    assert looks_like_he(tissue_like(REFERENCE).reshape(100, 200, 3), mask) == (True, "")
    blue = np.full((100, 200, 3), (120, 150, 190), np.uint8)
    brown = np.full((100, 200, 3), (150, 110, 70), np.uint8)
    glow = np.zeros((100, 200, 3), np.uint8)
    glow[::5, ::5, 2] = 200
    for image, word in ((blue, "red"), (brown, "blue"), (glow, "dark")):
        fine, reason = looks_like_he(image, mask)
        assert not fine
        assert word in reason


def test_nothing_to_judge_passes():
    white = np.full((50, 50, 3), 245, np.uint8)
    assert looks_like_he(white, np.ones((50, 50), bool)) == (True, "")
    assert looks_like_he(white, np.zeros((50, 50), bool)) == (True, "")
    assert looks_like_he(np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), bool)) == (True, "")
