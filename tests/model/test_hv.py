"""HV maps: encode and decode are inverse, local, and hold out against blur, noise, artefacts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.errors import ModelError
from wsiseg.geometry.links import FOREGROUND, components, links_of
from wsiseg.model import hv
from wsiseg.model.base import Maps
from wsiseg.synth import scene

SHAPES = [(97, 113), (23, 31, 29)]
SEEDS = st.integers(0, 2**32 - 1)


def _same_partition(a, b):
    """Whether two label images name the same sets of pixels, whatever the numbers."""
    pairs = np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b)
    one_to_one = len(pairs) == len(np.unique(a)) == len(np.unique(b))
    return one_to_one and np.array_equal(a == 0, b == 0)


def _best_iou(truth, found):
    """(N,) IoU of each true object with the found object that meets it best."""
    columns = found.max() + 1
    joint = truth.ravel().astype(np.int64) * columns + found.ravel()
    both = np.bincount(joint, minlength=(truth.max() + 1) * columns).reshape(-1, columns)
    union = both.sum(axis=1)[1:, None] + both.sum(axis=0)[None, 1:] - both[1:, 1:]
    return (both[1:, 1:] / union).max(axis=1)


def _voronoi(shape, sites, rng):
    """Labels of convex cells that fill a ball: every contact is shared by two."""
    points = rng.uniform(0, shape, size=(sites, len(shape)))
    at = np.moveaxis(np.indices(shape), 0, -1) + 0.5
    nearest = ((at[..., None, :] - points) ** 2).sum(axis=-1).argmin(axis=-1) + 1
    centre = np.array(shape) / 2
    inside = (((at - centre) / centre) ** 2).sum(axis=-1) < 1
    return components(links_of(np.where(inside, nearest, 0)))


def _ellipses(shape, count, rng):
    """Labels of random ellipses, three of four placed against an earlier one."""
    labels, placed = np.zeros(shape, dtype=np.int32), []
    at = np.indices(shape)
    for k in range(1, count + 1):
        radius, angle, flat = rng.uniform(6, 14), rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1)
        centre = rng.uniform(0, shape)
        if placed and rng.random() < 0.75:
            near, other = placed[rng.integers(len(placed))]
            centre = near + 0.9 * (radius + other) * np.array([np.sin(angle), np.cos(angle)])
        dy, dx = (at - centre[:, None, None]) / radius
        long = np.cos(angle) * dx + np.sin(angle) * dy
        mask = long**2 + ((np.cos(angle) * dy - np.sin(angle) * dx) / flat) ** 2 < 1
        if np.count_nonzero(labels[mask]) < 0.25 * np.count_nonzero(mask):
            labels[mask & (labels == 0)] = k
            placed.append((centre, radius))
    labels = components(links_of(labels))
    return components(links_of(np.where(np.bincount(labels.ravel())[labels] < 60, 0, labels)))


def _smeared(maps, sigma, noise, rng):
    """Maps as a network gives them: contacts blurred by ``sigma`` px, ``noise`` px of error."""
    inside = maps.prob.astype(float)
    weight = ndimage.gaussian_filter(inside, sigma)
    out = []
    for channel in maps.hv.astype(float):
        blurred = ndimage.gaussian_filter(channel * inside, sigma) / np.maximum(weight, 1e-3)
        error = ndimage.gaussian_filter(rng.normal(size=weight.shape), 3)
        out.append(blurred + noise / hv.RULE.scale * error / error.std())
    channels = np.clip(out, -1, 1).astype(np.float16)
    return Maps(prob=weight.astype(np.float16), hv=channels, classes=maps.classes)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, density=st.floats(0.05, 0.75), smooth=st.sampled_from([0, 0.7, 1.5, 3]))
def test_objects_that_do_not_touch_come_back_exactly(shape, seed, density, smooth):
    noise = np.random.default_rng(seed).normal(size=shape)
    noise = ndimage.gaussian_filter(noise, smooth) if smooth else noise
    labels = ndimage.label(noise < np.quantile(noise, density))[0]
    assert _same_partition(hv.decode(hv.encode(labels)), labels)


@pytest.mark.parametrize("kind", ["ring", "crescent", "spiral", "gland", "ellipsoid"])
def test_objects_far_larger_than_the_scale_come_back_exactly(kind):
    labels = scene((997, 1013), 1, np.random.default_rng(3), extent=(900, 950), kinds=[kind])
    labels = components(links_of(labels > 0))
    assert ndimage.find_objects(labels)[0][1].stop > 4 * hv.RULE.scale
    assert _same_partition(hv.decode(hv.encode(labels)), labels)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, sites=st.integers(2, 25))
def test_convex_objects_that_touch_come_back(shape, seed, sites):
    labels = _voronoi(shape, sites, np.random.default_rng(seed))
    iou = _best_iou(labels, hv.decode(hv.encode(labels)))
    assert (iou[np.bincount(labels.ravel())[1:] >= 100] > 0.9).all()


@settings(max_examples=30, deadline=None)
@given(thick=st.integers(2, 9), long=st.integers(50, 120), axis=st.integers(0, 1))
def test_thin_bars_that_touch_along_their_length_come_back_exactly(thick, long, axis):
    bars = np.repeat(np.arange(1, 6), thick)[:, None] * np.ones((1, long), dtype=int)
    labels = np.pad(np.moveaxis(bars, 0, axis), 2)
    assert _same_partition(hv.decode(hv.encode(labels)), labels)


def test_a_speck_inside_another_object_stays_an_object():
    labels = np.ones((31, 33), dtype=int)
    labels[9, 20] = 2
    assert _same_partition(hv.decode(hv.encode(labels)), labels)


@pytest.mark.parametrize("shape", SHAPES)
def test_encode_follows_its_definition(shape):
    labels = scene(shape, 25, np.random.default_rng(2), extent=(4, 30))
    maps = hv.encode(labels)
    assert maps.prob.dtype == maps.hv.dtype == maps.classes.dtype == np.float16
    assert maps.classes.shape == (0, *shape)
    assert np.array_equal(maps.prob, labels > 0)
    for k in (1, labels.max()):
        points = np.argwhere(labels == k)
        expected = (points - points.mean(axis=0)) / 128
        assert np.allclose(maps.hv[:, labels == k].T, expected, atol=2e-4)
    assert not maps.hv[:, labels == 0].any()


def test_label_numbers_do_not_matter():
    labels = scene((61, 67), 12, np.random.default_rng(5), extent=(5, 20))
    renamed = np.where(labels > 0, labels.astype(np.int64) * 10**11, 0)
    assert np.array_equal(hv.encode(labels).hv, hv.encode(renamed).hv)


def test_an_axis_more_changes_nothing():
    labels = scene((61, 67), 12, np.random.default_rng(6), extent=(5, 30))
    flat = hv.links(hv.encode(labels))
    deep = hv.links(hv.encode(labels[:, None]))[:, 0]
    shifted = (flat & FOREGROUND) | (flat & 1) | ((flat & 2) << 1)
    assert np.array_equal(deep, shifted)


@pytest.mark.parametrize("shape", [(61, 67), (31, 29, 33)])
@pytest.mark.parametrize("roughness", [0.5, 1.5])
def test_links_depend_on_maps_within_reach_only(shape, roughness):
    rng = np.random.default_rng(9)
    rule = hv.VoteRule(patience=1, steps=2)
    prob = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    votes = rng.normal(size=(len(shape), *shape)) * roughness / rule.scale
    maps = Maps(
        prob=(prob > np.quantile(prob, 0.3)).astype(np.float16),
        hv=votes.astype(np.float16),
        classes=np.zeros((0, *shape), dtype=np.float16),
    )
    whole = hv.links(maps, rule)
    inner = tuple(slice(8, s - 9) for s in shape)
    outer = tuple(slice(8 - rule.reach, s - 9 + rule.reach) for s in shape)
    crop = replace(maps, prob=maps.prob[outer], hv=maps.hv[(slice(None), *outer)])
    core = tuple(slice(rule.reach, -rule.reach) for _ in shape)
    assert np.array_equal(hv.links(crop, rule)[core], whole[inner])
    too_near = tuple(slice(1, -1) for _ in shape)
    crop = replace(maps, prob=maps.prob[inner], hv=maps.hv[(slice(None), *inner)])
    assert not np.array_equal(hv.links(crop, rule)[too_near], whole[inner][too_near])


def test_an_artefact_edge_changes_only_the_nuclei_under_it():
    labels = scene((2048, 2048), 1100, np.random.default_rng(11), extent=(16, 28),
                   kinds=["ellipsoid"])  # fmt: skip
    maps = hv.encode(labels)
    before = hv.decode(maps)
    assert before.max() > 900
    broken = replace(maps, hv=maps.hv.copy())
    broken.hv[:, 1000:1060, 1000:1030] = -1
    broken.hv[:, 1000:1060, 1030:1060] = 1
    after = hv.decode(broken)
    under = np.zeros(labels.shape, dtype=bool)
    under[999:1061, 999:1061] = True
    hit = np.zeros(before.max() + 1, dtype=bool)
    hit[before[under]] = True
    assert 1 < np.count_nonzero(hit) < 12
    kept = ~hit[before] & (before > 0)
    assert _same_partition(np.where(kept, before, 0), np.where(kept, after, 0))
    reused = np.zeros(after.max() + 1, dtype=bool)
    reused[after[kept]] = True
    assert not reused[after[~kept]].any()


@pytest.mark.parametrize(("sigma", "noise", "least"), [(1, 1, 0.95), (2, 1, 0.93), (3, 0.3, 0.85)])
def test_contacts_smeared_by_a_network_are_still_cut(sigma, noise, least):
    rng = np.random.default_rng(12)
    labels = _ellipses((499, 503), 260, rng)
    blobs = ndimage.label(labels > 0)[0]
    assert (_best_iou(labels, blobs) > 0.7).mean() < 0.4  # most do touch another
    found = hv.decode(_smeared(hv.encode(labels), sigma, noise, rng))
    assert (_best_iou(labels, found) > 0.7).mean() > least
    of_size = np.count_nonzero(np.bincount(found.ravel())[1:] >= 20)
    assert of_size == pytest.approx(labels.max(), rel=0.06)


def test_a_leak_of_one_pixel_does_not_merge_a_smeared_pair():
    labels = np.zeros((41, 61), dtype=int)
    at = np.indices(labels.shape)
    for k, x in ((1, 20), (2, 40)):
        labels[(at[0] - 20) ** 2 + (at[1] - x) ** 2 <= 121] = k
    maps = _smeared(hv.encode(labels), 1.5, 0, np.random.default_rng(0))
    leaky = replace(maps, hv=maps.hv.copy())
    leaky.hv[:, 20, 29] = maps.hv[:, 20, 28] + np.array([0, 1 / 128], dtype=np.float16)
    leaky.hv[:, 20, 30] = maps.hv[:, 20, 29] + np.array([0, 1 / 128], dtype=np.float16)
    for some in (maps, leaky):
        iou = _best_iou(labels, hv.decode(some))
        assert (iou > 0.85).all()


def test_nothing_in_nothing_out():
    maps = hv.encode(np.zeros((7, 9), dtype=int))
    assert not hv.links(maps).any()
    assert hv.decode(maps).max() == 0
    assert hv.decode(hv.encode(np.ones((1, 1), dtype=int))).max() == 1


def test_maps_that_do_not_fit_are_refused():
    maps = hv.encode(np.ones((5, 6), dtype=int))
    with pytest.raises(ModelError, match=r"\(2, 5, 6\)"):
        hv.links(replace(maps, hv=maps.hv[:1]))
    with pytest.raises(ModelError, match="calm"):
        hv.VoteRule(calm=3, jump=2)
