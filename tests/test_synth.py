"""Scenes hold what they promise, and the oracles see exactly the labels they were given."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.errors import ModelError, SpaceError
from wsiseg.geometry import Box
from wsiseg.geometry.links import components, links_of
from wsiseg.model import hv
from wsiseg.model.base import LocalModel, Maps
from wsiseg.synth import KINDS, HVOracleModel, OracleModel, hv_source, oracle_source, scene

SHAPES = [(97, 113), (23, 31, 29)]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _batch(model, source, starts):
    """Maps of patches that start at ``starts``."""
    boxes = [Box(s, tuple(a + p for a, p in zip(s, model.spec.patch, strict=True))) for s in starts]
    return model(np.stack([source.read(box, source.space) for box in boxes]))


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_label_of_a_scene_is_one_face_connected_object(shape, seed):
    labels = scene(shape, 20, _rng(seed), extent=(2, 60), tile=16)
    assert labels.dtype == np.int32
    assert labels.shape == shape
    for k in np.unique(labels[labels > 0]):
        assert ndimage.label(labels == k)[1] == 1
    assert set(np.unique(labels)) <= set(range(labels.max() + 1))


def test_a_scene_is_the_same_for_the_same_generator():
    assert np.array_equal(scene((97, 113), 30, _rng(4)), scene((97, 113), 30, _rng(4)))
    assert not np.array_equal(scene((97, 113), 30, _rng(4)), scene((97, 113), 30, _rng(5)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_painted(shape, kind):
    labels = scene(shape, 25, _rng(1), extent=(12, 20), kinds=[kind])
    assert labels.max() >= 5
    if kind == "speck":
        assert np.bincount(labels.ravel())[1:].max() == 1


def test_scenes_hold_objects_that_touch_and_objects_around_a_hole():
    pairs = scene((97, 113), 30, _rng(2), extent=(15, 30), kinds=["pair"])
    touching = (pairs[1:] != pairs[:-1]) & (pairs[1:] > 0) & (pairs[:-1] > 0)
    assert touching.sum() > 50
    rings = scene((97, 113), 10, _rng(2), extent=(20, 40), kinds=["ring"])
    holes = [ndimage.binary_fill_holes(rings == k).sum() - (rings == k).sum() for k in range(1, 4)]
    assert max(holes) > 50


def test_half_of_the_objects_lie_on_corners_of_the_tiles():
    def covered(tile):
        labels = scene((203, 211), 60, _rng(3), extent=(6, 8), tile=tile, kinds=["ellipsoid"])
        return np.count_nonzero(labels[50:200:50, 50:200:50])

    assert covered(50) >= 5  # of 9; two thirds are expected
    assert covered(None) <= 2


def test_an_extent_may_exceed_the_scene():
    labels = scene((61, 67), 3, _rng(0), extent=(300, 400), kinds=["ellipsoid"])
    assert labels.max() >= 1


def test_a_scene_of_one_axis_is_refused():
    with pytest.raises(SpaceError, match="2 axes"):
        scene((50,), 3, _rng())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_oracle_returns_exactly_the_labels(shape):
    labels = scene(shape, 40, _rng(7), extent=(2, 30), tile=16)
    model = OracleModel(len(shape), patch=shape, margin=0, batch=1)
    assert isinstance(model, LocalModel)
    maps = _batch(model, oracle_source(labels), [(0,) * len(shape)])
    whole = Maps(maps.prob[0], maps.hv[0], maps.classes[0])
    assert np.array_equal(model.links(whole), links_of(labels))
    assert np.array_equal(model.decode(whole), components(links_of(labels)))
    assert len(np.unique(labels)) == len(np.unique(model.decode(whole)))


def test_the_oracle_carries_class_probabilities():
    labels = np.array([[0, 1, 1], [2, 2, 0]])
    prob = np.array([[0, 0], [1, 0], [0.2, 0.8]])
    source = oracle_source(labels, class_prob=prob)
    model = OracleModel(2, classes=("a", "b"), patch=(2, 3), margin=0, batch=1)
    maps = _batch(model, source, [(0, 0)])
    assert source.channels == model.spec.channels == 3
    assert maps.classes.shape == (1, 2, 2, 3)
    assert np.allclose(maps.classes[0], np.moveaxis(prob[labels], -1, 0), atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_hv_oracle_decodes_a_scene_as_hv_does(shape):
    labels = scene(shape, 30, _rng(8), extent=(3, 30))
    model = HVOracleModel(len(shape), patch=shape, margin=0, batch=1)
    assert isinstance(model, LocalModel)
    assert model.spec.reach == hv.RULE.reach
    maps = _batch(model, hv_source(labels), [(0,) * len(shape)])
    whole = Maps(maps.prob[0], maps.hv[0], maps.classes[0])
    assert np.array_equal(model.links(whole), hv.links(hv.encode(labels)))
    assert np.array_equal(model.decode(whole), hv.decode(hv.encode(labels)))


def test_oracles_pickle_and_hash_what_they_are():
    model = OracleModel(3, patch=(9, 10, 11), margin=2)
    again = pickle.loads(pickle.dumps(model))
    assert again.spec == model.spec
    assert model.spec.core == (5, 6, 7)
    assert OracleModel(3).spec.sha256 != OracleModel(2).spec.sha256
    assert OracleModel(2, margin=3).spec.sha256 != OracleModel(2).spec.sha256


def test_oracles_refuse_pixels_that_are_not_theirs():
    model = OracleModel(2, patch=(16, 16))
    with pytest.raises(ModelError, match="its own source"):
        model(np.zeros((2, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(ModelError, match="float16"):
        HVOracleModel(2, patch=(16, 16))(np.zeros((2, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(SpaceError, match="margin"):
        OracleModel(2, patch=(16, 16), margin=8)
