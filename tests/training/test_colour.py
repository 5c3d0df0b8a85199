"""Colour is varied as dyes, light and files vary; nothing moves, and 0 means 0."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.stain import REFERENCE, unmix
from wsiseg.training.colour import Colour, recoloured, restained

SEEDS = st.integers(0, 2**32 - 1)
NONE = Colour(0, 0, 0, 0, 0, 1, 0, 0, 0)
ALWAYS = Colour(coarse=0.5, blur=1, noise=1, jpeg=1)


def _noise(seed, side=48):
    """Pixels of every intensity."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _stained(hematoxylin, eosin):
    """Pixels with so much of each dye (arrays of one shape)."""
    amounts = np.stack([hematoxylin, eosin, np.zeros_like(eosin)], axis=-1)
    return np.rint(256 * 10 ** -(amounts @ REFERENCE.array) - 1).clip(0, 255).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, how=st.sampled_from([Colour(), ALWAYS, NONE]), side=st.sampled_from([16, 49]))
def test_shape_and_type_are_kept_and_the_seed_decides(seed, how, side):
    image = _noise(0, side)
    before = image.copy()
    one, same = (recoloured(image, np.random.default_rng(seed), how) for _ in range(2))
    assert one.shape == image.shape
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert np.array_equal(image, before)


def test_other_seeds_give_other_colours():
    image = _noise(0)
    seen = {recoloured(image, np.random.default_rng(seed), Colour()).tobytes() for seed in range(9)}
    assert len(seen) == 9


def test_amounts_of_0_change_nothing_but_the_rounding_of_the_table():
    # densities are told apart in steps of 1/400: 0.3 % of the light, up to 1 grey level
    every = np.stack(np.meshgrid(*[np.arange(256)] * 2), axis=-1).astype(np.uint8)
    image = np.concatenate([every, every[..., :1]], axis=-1)
    same = recoloured(image, np.random.default_rng(0), NONE).astype(int)
    assert np.abs(same - image).max() <= 1
    assert abs((same - image).mean()) < 0.02


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_white_stays_near_white(seed):
    # by default 6 % of brightness and 0.02 of each dye: at most 0.02 * 2.26 OD, 10 %, in green
    white = np.full((8, 8, 3), 255, dtype=np.uint8)
    found = restained(white, np.random.default_rng(seed), Colour())
    assert found.min() >= 210
    assert np.ptp(found, axis=(0, 1)).max() == 0


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_gain_of_a_dye_scales_its_density_and_not_that_of_the_other(seed):
    how = Colour(stain=0.4, offset=0, brightness=0, gamma=0)
    amount = np.linspace(0.15, 0.8, 14)
    nothing = np.zeros_like(amount)
    pure = [_stained(amount, nothing), _stained(nothing, amount), _stained(amount, amount[::-1])]
    after = [unmix(restained(p[None], np.random.default_rng(seed), how))[0] for p in pure]
    gains = [np.polyfit(unmix(pure[k])[:, k], after[k][:, k], 1)[0] for k in (0, 1)]
    assert all(0.58 < gain < 1.42 for gain in gains)
    np.testing.assert_allclose(after[0][:, 1], unmix(pure[0])[:, 1], atol=0.03)
    np.testing.assert_allclose(after[1][:, 0], unmix(pure[1])[:, 0], atol=0.03)
    np.testing.assert_allclose(after[2][:, :2], unmix(pure[2])[:, :2] * gains, atol=0.04)


def test_gains_of_the_dyes_are_drawn_apart():
    how = Colour(stain=0.4, offset=0, brightness=0, gamma=0)
    image = _stained(np.full((1, 1), 0.5), np.full((1, 1), 0.5))
    found = [unmix(restained(image, np.random.default_rng(s), how))[0, 0] for s in range(80)]
    assert abs(np.corrcoef(np.array(found).T[:2])[0, 1]) < 0.35


@pytest.mark.parametrize("name", ["stain", "offset", "brightness", "gamma"])
def test_a_larger_amount_varies_more(name):
    image = _stained(np.full((2, 2), 0.5), np.full((2, 2), 0.3))
    small, large = (Colour(**{**_zeros(), name: amount}) for amount in (0.02, 0.2))
    spread = [
        np.std([restained(image, np.random.default_rng(s), how).mean() for s in range(40)])
        for how in (small, large)
    ]
    assert spread[1] > 3 * max(spread[0], 0.3)


def _zeros():
    return {"stain": 0.0, "offset": 0.0, "brightness": 0.0, "gamma": 0.0}


@pytest.mark.parametrize(("name", "rougher"), [("coarse", False), ("blur", False), ("noise", True)])
def test_coarse_and_blur_take_detail_and_noise_adds_it(name, rougher):
    image = (np.indices((48, 48)).sum(axis=0)[..., None] % 2 * 60 + 100).repeat(3, axis=-1)
    image = (image if not rougher else image * 0 + 130).astype(np.uint8)
    how = Colour(**{**_zeros(), "coarse": 0, "blur": 0, "noise": 0, "jpeg": 0, name: 1})
    for seed in range(5):
        found = recoloured(image, np.random.default_rng(seed), how).astype(float)
        assert (found.std() > image.std()) == rougher
        assert found.mean() == pytest.approx(image.mean(), abs=1.0)  # and no light


def test_jpeg_keeps_the_order_of_the_channels():
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:] = (200, 90, 30)
    how = Colour(**{**_zeros(), "coarse": 0, "blur": 0, "noise": 0, "jpeg": 1})
    found = recoloured(image, np.random.default_rng(1), how).astype(int)
    assert np.abs(found - image).max() < 8
