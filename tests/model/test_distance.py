"""DT maps: the distance is exact, decode undoes encode, and links are local."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsiseg.errors import ModelError
from wsiseg.geometry.links import FOREGROUND, components, inner_links, links_of
from wsiseg.model import distance
from wsiseg.model.base import Maps
from wsiseg.model.distance import DistanceRule, unit_distance
from wsiseg.model.flood import Immersion
from wsiseg.synth import scene

SEEDS = st.integers(0, 2**32 - 1)
RULE = DistanceRule()
TIGHT = DistanceRule(immersion=Immersion((178, 102, 0), (2, 1, 3), min_seed=5, radius=2))


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


def _by_hand(labels):
    """Unit distance as it reads: 0.5 px more than to the nearest border pixel of the own object,
    which is one that has a neighbour by a face of another label; the edge of the image is none.
    """
    border = {}
    for p in np.ndindex(labels.shape):
        for axis in range(labels.ndim):
            for step in (-1, 1):
                q = (*p[:axis], p[axis] + step, *p[axis + 1 :])
                inside = 0 <= q[axis] < labels.shape[axis]
                if inside and labels[q] != labels[p]:
                    border.setdefault(int(labels[p]), set()).add(p)
    depth = np.zeros(labels.shape)
    for k in set(labels.ravel().tolist()) - {0}:
        points = np.argwhere(labels == k)
        if k not in border:
            depth[labels == k] = 1
            continue
        away = points[:, None] - np.array(sorted(border[k]))
        found = np.sqrt((away**2).sum(axis=-1)).min(axis=1) + 0.5
        depth[labels == k] = found / found.max()
    return depth


def _ellipses(shape, count, rng, radii=(6, 25)):
    """Labels of random ellipses of 60 px and more, three of four placed against another."""
    labels, placed = np.zeros(shape, dtype=np.int32), []
    at = np.indices(shape)
    for k in range(1, count + 1):
        radius, angle, flat = rng.uniform(*radii), rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1)
        centre = rng.uniform(0, shape)
        if placed and rng.random() < 0.75:
            near, other = placed[rng.integers(len(placed))]
            centre = near + 0.9 * (radius + other) * np.array([np.sin(angle), np.cos(angle)])
        start = np.maximum(np.floor(centre - radius - 1), 0).astype(int)
        box = tuple(slice(a, int(c + radius) + 2) for a, c in zip(start, centre, strict=True))
        dy, dx = (at[(slice(None), *box)] - centre[:, None, None]) / radius
        long = np.cos(angle) * dx + np.sin(angle) * dy
        mask = long**2 + ((np.cos(angle) * dy - np.sin(angle) * dx) / flat) ** 2 < 1
        window = labels[box]
        if np.count_nonzero(window[mask]) < 0.25 * np.count_nonzero(mask):
            window[mask & (window == 0)] = k
            placed.append((centre, radius))
    labels = components(links_of(labels))
    return components(links_of(np.where(np.bincount(labels.ravel())[labels] < 60, 0, labels)))


def _apart(shape, rng):
    """Labels of ellipsoids of radius 5 px and more that do not touch, also cut by the edge."""
    labels = np.zeros(shape, dtype=np.int32)
    at = np.indices(shape)
    for _ in range(160 // len(shape) ** 2):
        radii = rng.uniform(5, 12 if len(shape) == 2 else 8, len(shape))
        away = (at - _column(rng.uniform(4, np.array(shape) - 4))) / _column(radii)
        mask = (away**2).sum(axis=0) < 1
        if not labels[ndimage.binary_dilation(mask)].any():
            labels[mask] = labels.max() + 1
    return labels


def _column(values):
    return np.reshape(values, (-1,) + (1,) * len(values))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_unit_distance_is_the_one_found_by_brute_force(ndim, data):
    largest = {1: 30, 2: 12, 3: 6}[ndim]
    shape = data.draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=largest))
    labels = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 2)))
    np.testing.assert_allclose(unit_distance(labels), _by_hand(labels), atol=1e-6)


@pytest.mark.parametrize("shape", [(41, 37), (13, 15, 14)])
def test_unit_distance_of_scenes_is_the_one_found_by_brute_force(shape):
    labels = scene(shape, 9, np.random.default_rng(1), extent=(5, 18))
    np.testing.assert_allclose(unit_distance(labels), _by_hand(labels), atol=1e-6)


@pytest.mark.parametrize("shape", [(97, 113), (23, 31, 29)])
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_deepest_pixel_of_every_object_is_1_and_none_is_0(shape, seed):
    labels = scene(shape, 25, np.random.default_rng(seed), extent=(2, 30))
    depth = unit_distance(labels)
    assert depth.dtype == np.float32
    assert depth.shape == shape
    ids = np.arange(1, labels.max() + 1)
    assert (ndimage.maximum(depth, labels, ids) == 1).all()
    assert (ndimage.minimum(depth, labels, ids) > 0).all()
    assert not depth[labels == 0].any()


def test_the_size_of_an_object_does_not_matter():
    small, large = np.zeros((40, 40), int), np.zeros((400, 400), int)
    small[5:26, 5:26], large[50:251, 50:251] = 1, 1
    at = np.linspace(0.05, 0.95, 19)
    profile = [unit_distance(m)[(np.rint(a + at * n).astype(int), a + n // 2)]
               for m, a, n in ((small, 5, 20), (large, 50, 200))]  # fmt: skip
    np.testing.assert_allclose(*profile, atol=0.06)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_label_numbers_and_types_do_not_matter(dtype):
    labels = scene((61, 67), 12, np.random.default_rng(5), extent=(5, 20))
    expected = unit_distance(labels)
    assert np.array_equal(unit_distance(labels.astype(dtype)), expected)
    assert np.array_equal(unit_distance((labels * 7).astype(np.int64) * 10**9), expected)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("shape", [(7, 9), (1, 1), (3, 4, 5)])
def test_one_object_or_none_is_no_special_case(shape, value):
    labels = np.full(shape, value)
    assert (unit_distance(labels) == value).all()
    assert distance.decode(distance.encode(labels), RULE).max() == value * (labels.size >= 20)


def test_encode_follows_its_definition():
    labels = scene((61, 67), 12, np.random.default_rng(5), extent=(5, 20))
    maps = distance.encode(labels)
    assert {m.dtype for m in (maps.prob, maps.hv, maps.classes)} == {np.dtype(np.float16)}
    assert maps.hv.shape == (1, 61, 67)
    assert maps.classes.shape == (0, 61, 67)
    assert np.array_equal(maps.prob, labels > 0)
    np.testing.assert_allclose(maps.hv[0], unit_distance(labels), atol=1e-3)


@pytest.mark.parametrize("shape", [(97, 113), (41, 43, 39)])
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_convex_objects_that_do_not_touch_come_back_exactly(shape, seed):
    labels = _apart(shape, np.random.default_rng(seed))
    assert labels.max() >= 3
    assert _same_partition(distance.decode(distance.encode(labels), RULE), labels)


@pytest.mark.parametrize("radius", [6, 9, 14, 25, 50])
@pytest.mark.parametrize("flat", [1.0, 0.5])
def test_a_single_ellipse_of_any_size_comes_back_exactly(radius, flat):
    at = (np.indices((2 * radius + 5,) * 2) - radius - 2) / radius
    labels = (at[0] ** 2 + (at[1] / flat) ** 2 < 1).astype(int)
    assert np.array_equal(distance.decode(distance.encode(labels), RULE), labels)


@pytest.mark.parametrize("radii", [(6, 9), (6, 25), (15, 25)])
def test_convex_objects_that_touch_come_back(radii):
    shares, blobs, count = [], [], 0
    for seed in range(3):
        labels = _ellipses((499, 503), 200, np.random.default_rng(seed), radii)
        found = distance.decode(distance.encode(labels), RULE)
        assert np.array_equal(found > 0, labels > 0)
        shares.append(_best_iou(labels, found) > 0.7)
        blobs.append(_best_iou(labels, ndimage.label(labels > 0)[0]) > 0.7)
        count += found.max()
    # measured: 0.997 of those of radius 6..9 px, 0.983 of 6..25, 1 of 15..25
    assert np.concatenate(blobs).mean() < 0.25  # most do touch another
    assert np.concatenate(shares).mean() > 0.97
    assert count == pytest.approx(np.concatenate(shares).size, rel=0.06)


@pytest.mark.parametrize(
    ("sigma", "noise", "least"), [(1, 0.03, 0.9), (1.5, 0.05, 0.9), (2.5, 0.05, 0.85)]
)
def test_objects_of_blurred_and_noisy_maps_are_still_told_apart(sigma, noise, least):
    rng = np.random.default_rng(12)
    labels = _ellipses((499, 503), 200, rng, (8, 20))
    maps = distance.encode(labels)
    error = ndimage.gaussian_filter(rng.normal(size=labels.shape), 3)
    dt = ndimage.gaussian_filter(maps.hv[0].astype(float), sigma) + noise * error / error.std()
    smeared = Maps(
        prob=ndimage.gaussian_filter(maps.prob.astype(np.float32), sigma).astype(np.float16),
        hv=np.clip(dt, 0, 1)[None].astype(np.float16),
        classes=maps.classes,
    )
    iou = _best_iou(labels, distance.decode(smeared, RULE))
    assert (iou > 0.7).mean() > least


def _random_maps(seed, shape):
    rng = np.random.default_rng(seed)
    prob, dt = (ndimage.gaussian_filter(rng.normal(size=shape), s) for s in (2, 1.5))
    return Maps(
        prob=(prob > np.quantile(prob, 0.3)).astype(np.float16),
        hv=((dt - dt.min()) / np.ptp(dt))[None].astype(np.float16),
        classes=np.zeros((0, *shape), dtype=np.float16),
    )


@pytest.mark.parametrize(
    ("rule", "shape"), [(RULE, (331, 293)), (TIGHT, (97, 89)), (TIGHT, (45, 47, 49))]
)
@pytest.mark.parametrize("seed", range(3))
def test_links_depend_on_maps_within_reach_only(rule, shape, seed):
    maps = _random_maps(seed, shape)
    whole = distance.links(maps, rule)
    inner = tuple(slice(rule.reach + 3, s - rule.reach - 5) for s in shape)
    outer = tuple(slice(3, s - 5) for s in shape)
    crop = replace(maps, prob=maps.prob[outer], hv=maps.hv[(slice(None), *outer)])
    core = tuple(slice(rule.reach, -rule.reach) for _ in shape)
    assert np.array_equal(distance.links(crop, rule)[core], whole[inner])
    too_near = tuple(slice(1, -1) for _ in shape)
    border = tuple(slice(4, s - 6) for s in shape)
    assert not np.array_equal(distance.links(crop, rule)[too_near], whole[border])


def test_the_reach_is_that_of_its_constants():
    assert RULE.reach == RULE.immersion.reach
    assert TIGHT.reach == 2 + 1 + 3 + 3 * 2 + 1


def test_foreground_is_what_the_threshold_says():
    labels = np.zeros((40, 40), int)
    labels[5:30, 5:30] = 1
    maps = distance.encode(labels)
    faint = replace(maps, prob=(maps.prob * np.float16(0.4)).astype(np.float16))
    assert not distance.links(faint, RULE).any()
    assert np.array_equal(distance.decode(faint, DistanceRule(threshold=0.3)), labels)
    on_it = replace(maps, prob=(maps.prob * np.float16(0.5)).astype(np.float16))
    assert not distance.links(on_it, RULE).any()


def test_every_float16_is_looked_up_as_it_would_be_computed():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(64, -1)
    inside = (every >= 0) & (every <= 1)
    heights = distance._looked_up(distance._heights(), every)
    computed = np.rint(np.where(inside, every, 0).astype(np.float32) * 255)
    assert np.array_equal(heights[inside], computed[inside])
    for threshold in (0.0, 0.3, 0.5, 1.0):
        above = distance._looked_up(distance._above(threshold), every[:, ::-1])
        assert np.array_equal(above[:, ::-1], every > np.float16(threshold))


def test_the_last_of_several_channels_is_the_distance():
    labels = _ellipses((120, 120), 20, np.random.default_rng(0))
    maps = distance.encode(labels)
    vectors = np.random.default_rng(0).uniform(-1, 1, (2, 120, 120)).astype(np.float16)
    more = replace(maps, hv=np.concatenate([vectors, maps.hv]))
    assert np.array_equal(distance.links(more, RULE), distance.links(maps, RULE))


def test_links_lead_to_foreground_only():
    links = distance.links(_random_maps(4, (97, 101)), RULE)
    assert np.array_equal(links, inner_links(links))
    for axis in (0, 1):
        here = np.argwhere(links & (1 << axis))
        here[:, axis] += 1
        assert (links[tuple(here.T)] >= FOREGROUND).all()


def test_maps_that_do_not_fit_are_refused():
    maps = distance.encode(np.ones((5, 6), dtype=int))
    with pytest.raises(ModelError, match=r"\(5, 6\)"):
        distance.links(replace(maps, hv=maps.hv[:0]), RULE)
    with pytest.raises(ModelError, match=r"\(5, 6\)"):
        distance.links(replace(maps, hv=maps.hv[:, 1:]), RULE)
