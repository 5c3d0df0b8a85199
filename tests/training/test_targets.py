"""Targets say what is known of a crop, exactly, and weigh nothing that is not."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.errors import InputFileError
from wsiseg.model import hv
from wsiseg.model.distance import unit_distance
from wsiseg.synth import scene
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.targets import (
    _BODY,
    _CORE,
    _RIDGE,
    _RIDGE_WEIGHT,
    _TOP,
    Emphasis,
    Grid,
    Targets,
    contacts,
    prepare,
    targets_of,
)
from wsiseg.training.warp import Warp, random_warp, sample

SEEDS = st.integers(0, 2**32 - 1)
STEMS = st.sampled_from([1, 2, 4])
SIDE = 96


def _grid(stem=1, classes=3, spacing=0.25):
    return Grid(spacing, stem, classes)


@cache
def _scene(seed=0):
    labels = scene((131, 127), 70, np.random.default_rng(seed), extent=(5, 30))
    kinds = np.random.default_rng(seed).integers(0, 4, labels.max() + 1).astype(np.uint8)
    return _item(labels, kinds=kinds)


@cache
def _ellipsoids():
    rng = np.random.default_rng(1)
    return scene((131, 127), 50, rng, extent=(9, 24), kinds=["ellipsoid"])


def _item(labels, **parts):
    return Labelled("x", np.zeros((*labels.shape, 3), np.uint8), labels=labels, **parts)


def _straight(side=SIDE, at=(65.0, 63.0)):
    """A crop of the image as it is, its middle at ``at``."""
    return Warp(np.eye(2), np.array(at), None, side)


def _blocks(array, stem):
    """Means of blocks, by hand."""
    side = array.shape[0] // stem
    return array.reshape(side, stem, side, stem).mean(axis=(1, 3))


def _two(offset, shape=(41, 41)):
    """Two pixels of different labels, so far apart."""
    labels = np.zeros(shape, dtype=np.uint16)
    labels[14, 14] = 1
    labels[14 + offset[0], 14 + offset[1]] = 2
    return labels


@settings(max_examples=60, deadline=None)
@given(offset=st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(any))
def test_contacts_are_where_two_labels_lie_within_6_px(offset):
    found = contacts(_two(offset))
    apart = np.hypot(*offset)
    # a pixel within 3 px of both is needed; a disc of 3 px on the lattice reaches (1, 3)
    assert found.any() or apart > 5
    assert not found.any() or apart <= 2 * np.sqrt(10)
    assert found.max() <= 1
    if found.any():
        there = np.array(np.unravel_index(found.argmax(), found.shape)) - 14
        assert np.abs(there - np.array(offset) / 2).max() <= 2


def _meeting(labels, square):
    """Whether two labels lie within ``square`` ** 0.5 px of a pixel, blurred as contacts are."""
    away = np.indices((7, 7)) - 3
    disc = away[:, (away**2).sum(axis=0) <= square].T
    padded = np.pad(labels, 3).astype(int)
    seen = np.stack([np.roll(padded, -d, axis=(0, 1))[3:-3, 3:-3] for d in disc])
    lowest = np.where(seen == 0, 65535, seen).min(axis=0)
    near = (seen.max(axis=0) > 0) & (lowest < seen.max(axis=0))
    return ndimage.gaussian_filter(near.astype(float), 1.5, mode="mirror", radius=6)


@pytest.mark.parametrize("seed", range(4))
def test_contacts_are_those_found_by_brute_force(seed):
    labels = scene((61, 67), 30, np.random.default_rng(seed), extent=(4, 16)).astype(np.uint16)
    found = contacts(labels)
    least, most = (_meeting(labels, square) for square in (9, 10))
    assert 0.05 < (found > 0.5).mean() < 0.95
    assert (found >= least - 1e-5).all()
    assert (found <= most + 1e-5).all()


def test_one_nucleus_has_no_contact_with_itself_nor_with_the_edge():
    labels = np.zeros((31, 31), dtype=np.uint16)
    labels[:9, 3:20] = 7
    labels[4, 8:12] = 0
    assert not contacts(labels).any()


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, stem=STEMS, glass=st.booleans(), bend=st.sampled_from([0, 2]))
def test_np_is_the_exact_share_of_foreground_of_each_block(seed, stem, glass, bend):
    item = _scene()
    warp = random_warp(np.random.default_rng(seed), np.array([60.0, 70]), SIDE, 1.3, bend)
    found = targets_of(prepare(item), warp, _grid(stem), Emphasis(), glass=glass)
    fill = 0 if glass else None
    inside = sample(item.labels.astype(np.uint16), warp.places(), exact=True, fill=fill) > 0
    np.testing.assert_array_equal(found.np, _blocks(inside.astype(np.float32), stem))
    assert found.np.dtype == np.float32
    assert 0.05 < found.np.mean() < 0.95


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, stem=STEMS)
def test_all_maps_have_the_shape_of_the_grid_and_their_range(seed, stem):
    warp = random_warp(np.random.default_rng(seed), np.array([60.0, 70]), SIDE, 0.8, 1.5)
    clicked = Centres(np.random.default_rng(seed).uniform(0, 127, (9, 2)), np.ones(9, np.uint8))
    image = np.zeros((131, 127, 3), np.uint8)
    for item in (_scene(), Labelled("c", image, centres=clicked)):
        found = targets_of(prepare(item), warp, _grid(stem), Emphasis())
        side = SIDE // stem
        leading = {"hv": (2,), "tp": (3,)}
        for part in fields(Targets):
            values = getattr(found, part.name)
            assert values.shape == (*leading.get(part.name, ()), side, side)
            assert values.dtype == np.float32, part.name
            assert np.isfinite(values).all()
        for share in (found.np, found.dt, found.tp, found.tp.sum(axis=0)):
            assert share.min() >= 0
            assert share.max() <= 1
        for weight in (found.np_weight, found.dt_weight, found.hv_weight):
            assert weight.min() >= 0


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_dt_is_the_unit_distance_of_the_whole_image(stem):
    item = _scene()
    found = targets_of(prepare(item), _straight(at=(65.5, 63.5)), _grid(stem), Emphasis())
    whole = unit_distance(item.labels)[18 : 18 + SIDE, 16 : 16 + SIDE]
    np.testing.assert_allclose(found.dt, _blocks(whole, stem), atol=0.5 / 255 + 1e-6)


def test_nothing_is_known_and_weighed_beyond_what_was_annotated():
    known = np.zeros((131, 127), dtype=bool)
    known[:70, 30:] = True
    item = replace(_scene(), known=known)
    for stem in (1, 2, 4):
        found = targets_of(prepare(item), _straight(at=(65.5, 63.5)), _grid(stem), Emphasis())
        all_known = _blocks(known[18 : 18 + SIDE, 16 : 16 + SIDE].astype(float), stem) == 1
        assert all_known.any()
        assert not all_known.all()
        for weight in (found.np_weight, found.dt_weight, found.hv_weight, *found.tp):
            assert not weight[~all_known].any()
        assert (found.np_weight[all_known] >= 1).all()
        assert (found.dt_weight[all_known] >= 0.5).all()


@pytest.mark.parametrize("clicked", [False, True], ids=["outlines", "centres"])
@pytest.mark.parametrize("glass", [False, True])
def test_what_was_not_annotated_stays_unknown_where_glass_lies_beyond_the_edge(glass, clicked):
    known = np.zeros((60, 60), dtype=bool)
    known[:30] = True
    labels = np.zeros((60, 60), dtype=np.int32)
    labels[5:15, 5:15] = 1
    item = _item(labels, known=known)
    if clicked:
        centres = Centres(np.array([[9.0, 9.0]]), np.ones(1, np.uint8))
        item = Labelled("c", item.image, centres=centres, known=known)
    found = targets_of(prepare(item), _straight(at=(29.5, 29.5)), _grid(), Emphasis(), glass=glass)
    image = (slice(18, 78), slice(18, 78))
    for weight in (found.np_weight, found.dt_weight, found.hv_weight, *found.tp):
        assert not weight[image][32:].any()
    assert (found.np_weight[image][:30, 50:] == 1).all()
    beyond = np.ones((SIDE, SIDE), dtype=bool)
    beyond[16:80, 16:80] = False
    if glass:
        assert (
            found.np_weight[beyond & (_around((9.0, 9.0), at=(29.5, 29.5)) > Emphasis().background)]
            == 1
        ).all()


def test_mirrored_nuclei_beyond_the_edge_have_no_centres_and_nothing_is_known_there():
    beyond = np.ones((SIDE, SIDE), dtype=bool)
    beyond[28:68, 28:68] = False
    crop = _clicked([(20.0, 20.0), (2.0, 39.0)], shape=(40, 40))
    found = targets_of(crop, _straight(at=(19.5, 19.5)), _grid(), Emphasis())
    for weight in (found.np_weight, found.dt_weight, found.tp):
        assert not weight[..., beyond].any()
        assert weight[..., ~beyond].any()


def test_vectors_of_mirrored_nuclei_do_not_point_to_where_they_are_not():
    labels = np.zeros((40, 40), dtype=np.int32)
    labels[4:14, 10:20] = 1
    warp = _straight(at=(0.5, 19.5))  # the upper half shows the image mirrored
    found = targets_of(prepare(_item(labels)), warp, _grid(), Emphasis())
    here = sample(labels.astype(np.uint16), warp.places(), exact=True)
    again = hv.encode(ndimage.label(here)[0]).hv.astype(float) * hv.RULE.scale
    weighed = found.hv_weight > 0
    assert weighed.any()
    assert np.abs((found.hv - again)[:, weighed]).max() < 0.1


@pytest.mark.parametrize("label", [-3, 2**16, 2**16 + 1, 2**31 - 1])
def test_labels_beyond_16_bits_are_kept_or_refused_but_not_lost(label):
    labels = np.zeros((96, 96), dtype=np.int32)
    labels[40:60, 40:60] = label
    try:
        crop = prepare(_item(labels))
    except InputFileError:
        return
    assert label > 0
    found = targets_of(crop, _straight(at=(47.5, 47.5)), _grid(), Emphasis())
    assert np.array_equal(found.np == 1, labels > 0)


def test_weights_are_larger_between_nuclei_in_contact():
    labels = np.zeros((96, 96), dtype=np.int32)
    labels[30:60, 20:40] = 1
    labels[30:60, 41:60] = 2
    found = targets_of(prepare(_item(labels)), _straight(at=(47.5, 47.5)), _grid(), Emphasis())
    assert found.np_weight[45, 40] > 3.5
    assert found.np_weight[45, 5] == 1
    assert found.np_weight[75, 40] == 1
    assert found.np_weight.max() <= 4


def test_glass_beyond_the_edge_is_known_background():
    labels = np.ones((40, 40), dtype=np.int32)
    crop = prepare(_item(labels, kinds=np.array([0, 2], np.uint8)))
    beyond = np.ones((SIDE, SIDE), dtype=bool)
    beyond[28:68, 28:68] = False
    glass = targets_of(crop, _straight(at=(19.5, 19.5)), _grid(), Emphasis(), glass=True)
    mirrored = targets_of(crop, _straight(at=(19.5, 19.5)), _grid(), Emphasis())
    assert (glass.np[beyond] == 0).all()
    assert (glass.np_weight[beyond] == 1).all()
    assert (glass.dt[beyond] == 0).all()
    assert not glass.tp[:, beyond].any()
    assert (mirrored.np == 1).all()
    assert (mirrored.tp[1] == 1).all()
    for found in (glass, mirrored):
        assert (found.np[~beyond] == 1).all()


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.6, 1.6))
def test_vectors_turn_with_the_image(seed, scale):
    item = _item(_ellipsoids())
    middle = np.array([65.0, 63.0])
    warp = random_warp(np.random.default_rng(seed), middle, 64, scale, 0)
    found = targets_of(prepare(item), warp, _grid(), Emphasis())
    rule = hv.VoteRule()
    # objects that lie within the crop, as the vectors of the labels that were warped
    places = warp.places()
    here = sample(item.labels.astype(np.uint16), places, exact=True).astype(int)
    again = hv.encode(here, rule).hv.astype(float) * rule.scale
    border = np.unique(np.concatenate([here[[0, -1]].ravel(), here[:, [0, -1]].ravel()]))
    whole = (here > 0) & ~np.isin(here, border)
    outside = (places < 0) | (places > np.array(item.labels.shape)[:, None, None] - 1)
    whole &= ~np.isin(here, here[outside.any(axis=0)])
    assert (found.hv_weight[~outside.any(axis=0)] == (here > 0)[~outside.any(axis=0)]).all()
    off = np.abs(found.hv - again)[:, whole]
    assert off.size > 100
    assert off.max() < 1
    assert not found.hv[:, here == 0].any()


@pytest.mark.parametrize("stem", [2, 4])
def test_vectors_of_a_block_point_from_its_middle(stem):
    labels = np.zeros((96, 96), dtype=np.int32)
    labels[20:52, 32:72] = 1  # the centroid is (35.5, 51.5)
    found = targets_of(prepare(_item(labels)), _straight(at=(47.5, 47.5)), _grid(stem), Emphasis())
    at = np.indices(found.np.shape) * stem + (stem - 1) / 2
    expected = (at - np.array([35.5, 51.5])[:, None, None]) * (found.np == 1)
    np.testing.assert_allclose(found.hv, expected, atol=1e-4)


def test_classes_are_those_of_the_labels_and_unknown_ones_sum_to_0():
    labels = np.zeros((96, 96), dtype=np.int32)
    labels[10:30, 10:30], labels[50:70, 10:30], labels[50:70, 60:80] = 1, 2, 9
    kinds = np.array([0, 3, 0], np.uint8)  # 2 has no class, 9 lies beyond the end
    found = targets_of(
        prepare(_item(labels, kinds=kinds)), _straight(at=(47.5, 47.5)), _grid(), Emphasis()
    )
    assert np.array_equal(found.tp[2] == 1, labels == 1)
    assert not found.tp[:2].any()
    assert not found.tp[2][labels != 1].any()


def _clicked(points, kinds=None, shape=(128, 128)):
    points = np.array(points, dtype=np.float64).reshape(-1, 2)
    kinds = np.ones(len(points), np.uint8) if kinds is None else np.array(kinds, np.uint8)
    return prepare(Labelled("c", np.zeros((*shape, 3), np.uint8), centres=Centres(points, kinds)))


def _around(point, side=SIDE, at=(63.5, 63.5)):
    """Distances (µm at 0.25) of the pixels of a straight crop to a point of the image."""
    corner = np.array(at) - (side - 1) / 2
    p = np.indices((side, side)) + corner[:, None, None]
    return 0.25 * np.sqrt(((p - np.reshape(point, (2, 1, 1))) ** 2).sum(axis=0))


def test_a_centre_has_a_core_a_ring_of_which_nothing_is_known_and_a_far_background():
    point = (60.0, 66.0)
    found = targets_of(_clicked([point], [2]), _straight(at=(63.5, 63.5)), _grid(), Emphasis())
    r = _around(point)
    core, far = r < _CORE, r > Emphasis().background
    assert core.any()
    assert far.any()
    assert np.array_equal(found.np == 1, core)
    assert np.array_equal(found.np_weight == 1, core | far)
    assert not found.np_weight[~core & ~far].any()
    assert (found.dt[r < _CORE / 2 - 1e-6] == _TOP).all()
    assert not found.dt[far].any()
    assert np.array_equal(found.dt_weight > 0, (r < _CORE / 2) | far)
    assert np.array_equal(found.tp[1] == 1, r < _BODY)
    assert not found.tp[[0, 2]].any()
    assert not found.hv_weight.any()


def test_halfway_between_two_centres_lies_a_ridge_of_distance_0():
    points = [(63.0, 54.0), (63.0, 72.0)]
    found = targets_of(_clicked(points), _straight(at=(63.5, 63.5)), _grid(), Emphasis())
    first, second = (_around(p) for p in points)
    halfway = (np.abs(first - second) < _RIDGE) & (np.minimum(first, second) > _CORE)
    ridge = halfway & (np.minimum(first, second) <= Emphasis().background)
    assert ridge.sum() > 20
    assert not found.dt[ridge].any()
    assert (found.dt_weight[ridge] == np.float32(_RIDGE_WEIGHT)).all()
    assert not found.np_weight[ridge].any()  # whether it is nucleus is not known


def test_classes_of_centres_are_given_near_them_only_and_not_where_two_are_near():
    points = [(40.0, 40.0), (40.0, 50.0), (90.0, 90.0), (90.0, 40.0)]
    found = targets_of(
        _clicked(points, [1, 2, 3, 0]), _straight(at=(63.5, 63.5)), _grid(), Emphasis()
    )
    near = [_around(p) for p in points]
    typed = found.tp.any(axis=0)
    assert not typed[np.min(near, axis=0) > _BODY].any()
    assert np.array_equal(found.tp[2] == 1, near[2] < _BODY)
    assert not typed[near[3] < _BODY].any()  # a centre without a class has none
    both = np.sort(near, axis=0)[1] <= 2 * _BODY
    assert not typed[both].any()
    assert found.np[_around(points[3]) < _CORE].all()  # but it is a nucleus


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_limits_around_centres_are_true_micrometres_at_any_zoom(zoom, mpp):
    point = np.array([60.0, 66.0])
    item = replace(_clicked([point]).item, mpp=mpp)
    scale = 0.25 / mpp * zoom  # px of the image per px of the crop, as a crop is drawn
    warp = Warp(np.eye(2) * scale, np.array([63.5, 63.5]), None, SIDE)
    found = targets_of(prepare(item), warp, _grid(), Emphasis())
    away = warp.places().astype(np.float64) - point[:, None, None]
    r = mpp * np.sqrt((away**2).sum(axis=0))
    seen = ((warp.places() >= -0.5) & (warp.places() <= 127.5)).all(axis=0)
    sure = (np.abs(r - _CORE) > 1e-3) & (np.abs(r - Emphasis().background) > 1e-3)
    assert (found.np == 1).any()
    assert np.array_equal((found.np == 1)[sure], (r < _CORE)[sure])
    assert np.array_equal(
        (found.np_weight > 0)[sure], (((r < _CORE) | (r > Emphasis().background)) & seen)[sure]
    )


@pytest.mark.parametrize("points", [[], [(63.0, 63.0)], [(500.0, -90.0)]])
@pytest.mark.parametrize("stem", [1, 2])
def test_few_or_no_centres_are_no_special_case(points, stem):
    found = targets_of(_clicked(points), _straight(at=(63.5, 63.5)), _grid(stem), Emphasis())
    assert (found.np == 1).any() == (points == [(63.0, 63.0)])
    assert (found.np_weight == 1).any()
    if not found.np.any():
        assert (found.np_weight == 1).all()
        assert not found.dt.any()


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, stem=STEMS, scale=st.floats(0.5, 2))
def test_centres_turn_and_scale_with_the_image(seed, stem, scale):
    points = np.random.default_rng(seed).uniform(30, 100, (4, 2))
    warp = random_warp(np.random.default_rng(seed), np.array([63.0, 60]), 64, scale, 0)
    found = targets_of(_clicked(points), warp, _grid(stem), Emphasis())
    places = warp.places().astype(np.float64)
    middle = places.reshape(2, 64 // stem, stem, 64 // stem, stem).mean(axis=(2, 4))
    # the size of a nucleus is that of the crop's µm, not of the image's pixels
    r = np.sqrt(((middle[:, None] - points.T[:, :, None, None]) ** 2).sum(axis=0)).min(axis=0)
    r *= 0.25 / scale
    seen = ((places >= 0) & (places <= 127)).all(axis=0)[::stem, ::stem]
    sure = np.abs(r - _CORE) > 1e-3
    assert np.array_equal((found.np == 1)[sure], (seen & (r < _CORE))[sure])
