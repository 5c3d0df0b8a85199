"""Validation sees what a run would find, and its scores are those of the metrics."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.engine.segment import find_objects
from wsiseg.geometry import Box, Space
from wsiseg.geometry.links import components, links_of
from wsiseg.image import open_slide
from wsiseg.image.source import ArraySource
from wsiseg.metrics import aji, count_overlaps, dice, dq, match, pq
from wsiseg.model.base import Maps
from wsiseg.model.unet import UNet, UNetConfig, UNetModel, default_spec, weights_of
from wsiseg.synth import OracleModel, he_slide, scene
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.validate import Found, on_lattice, predict, score, summary, without_small

CONFIG = UNetConfig(2, 3, 2, (4, 6), (1, 1), (1,), stem=2, vectors=False, distance=True)


class Dark(OracleModel):
    """Finds what is dark; class 0 is red, class 1 is blue."""

    def __init__(self, **fields):
        given = {"channels": 1, "classes": ("red", "blue"), "patch": (48, 48), "hv_channels": 0}
        super().__init__(2, **{**given, **fields})

    def __call__(self, patches):
        light = patches.astype(np.float32)
        red = light[..., 0] / np.maximum(light[..., 0] + light[..., 2], 1)
        return Maps(
            prob=(light[..., 1] < 137).astype(np.float16),
            hv=np.zeros((len(patches), 0, *self.spec.patch), np.float16),
            classes=np.stack([red, 1 - red], axis=1).astype(np.float16),
        )

    def links(self, maps):
        return links_of((maps.prob > 0).astype(np.int32))


@pytest.fixture(scope="module")
def network():
    return _network(CONFIG, min_object=1)


def _network(config=CONFIG, **fields):
    """A network of random weights that calls half of a slide foreground."""
    torch.manual_seed(3)
    net = UNet(config).eval()
    with torch.no_grad():
        net.head.weight *= 8
        net.head.bias.zero_()
        pixels = torch.from_numpy(_slide().image[:128, :128].astype(np.float32))
        raw = net((pixels.movedim(-1, 0)[None] - 127.5) / 64)
        net.head.bias[0] = -raw[:, 0].median()
    spec = default_spec("tiny", config, patch=(64, 64), margin=8, batch=3, **fields)
    return UNetModel(weights_of(net, spec))


def _slide(shape=(143, 157), mpp=0.5):
    image = he_slide(shape, np.random.default_rng(2), mpp=0.5).rgb
    return Labelled("s", np.ascontiguousarray(image), labels=np.zeros(shape, np.int32), mpp=mpp)


def _painted(labels, image=None):
    shape = labels.shape
    if image is None:
        image = np.full((*shape, 3), 255, np.uint8)
        image[labels > 0] = (200, 20, 50)
    return image


def _apart(shape=(120, 130), seed=0):
    """Labels of ellipses that keep a distance."""
    rng, at = np.random.default_rng(seed), np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for k in range(12):
        centre = np.array([40 * (k // 4) + 20, 31 * (k % 4) + 17]) + rng.uniform(-2, 2, 2)
        away = (at - centre[:, None, None]) / rng.uniform(6, 12, (2, 1, 1))
        labels[(away**2).sum(axis=0) < 1] = k + 1
    return labels


@pytest.mark.parametrize("region", [50, 1000])
def test_predict_finds_what_the_engine_finds(network, region):
    item = _slide()
    found, maps, lattice = predict(network, item)
    source = ArraySource(item.image, Space.regular((143, 157), network.spec.spacing), fill=255)
    objects = find_objects(source, network, region=region)
    assert len(objects) > 8
    expected = objects.paint(Box((0, 0), (143, 157)))
    assert np.array_equal(found.labels, expected)
    assert np.array_equal(lattice, expected)
    np.testing.assert_allclose(found.centroids, objects.centroids - 0.5, atol=1e-9)
    np.testing.assert_allclose(found.classes, objects.means[:, 1:], atol=1e-4)
    assert maps.prob.shape == (143, 157)
    assert np.array_equal(components(network.links(maps)), expected)


def test_small_objects_are_left_out_and_the_others_renumbered(network):
    labels, _ = ndimage.label(np.random.default_rng(0).random((40, 50)) < 0.5)
    kept = without_small(labels.astype(np.int32), 5)
    areas = np.bincount(labels.ravel())[1:]
    assert np.array_equal(np.sort(np.bincount(kept.ravel())[1:]), np.sort(areas[areas >= 5]))
    assert not kept[labels == 0].any()
    for k in range(1, kept.max() + 1):
        assert len(np.unique(labels[kept == k])) == 1
    assert without_small(np.zeros((3, 4), np.int32), 5).max() == 0
    item = _slide()
    every = predict(network, item)[0].labels.max()
    few = predict(_network(CONFIG, min_object=60), item)[0]
    assert 0 < few.labels.max() < every
    assert np.bincount(few.labels.ravel())[1:].min() >= 60


@pytest.mark.parametrize("mpp", [None, 0.5, 0.51, 0.48])
def test_images_of_unknown_or_almost_the_right_pixel_size_are_taken_as_they_are(network, mpp):
    item = _slide(mpp=mpp)
    assert on_lattice(item, network.spec) is item.image


@pytest.mark.parametrize(("mpp", "shape"), [(0.25, (72, 79)), (1.0, (286, 314)), (0.4, (115, 126))])
def test_images_are_brought_to_the_lattice_of_the_model(network, mpp, shape):
    item = _slide(mpp=mpp)
    image = on_lattice(item, network.spec)
    assert image.shape == (*shape, 3)
    assert image.dtype == np.uint8
    assert image.mean() == pytest.approx(item.image.mean(), abs=2)


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.31, 0.9, None])
def test_objects_come_back_in_the_pixels_of_the_image(mpp):
    labels = _apart()
    item = Labelled("p", _painted(labels), labels=labels, mpp=mpp)
    found, *_ = predict(Dark(), item)
    assert found.labels.shape == labels.shape
    assert found.labels.dtype == np.int32
    values = score(found, item)
    assert values["dq"] == 1
    assert values["dice"] > (0.999 if mpp in (0.5, None) else 0.94)
    # nothing is shifted: half a pixel of the lattice would show
    overlap = np.corrcoef(labels.ravel() > 0, found.labels.ravel() > 0)[0, 1]
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        moved = np.roll(found.labels, step, axis).ravel() > 0
        assert np.corrcoef(labels.ravel() > 0, moved)[0, 1] < overlap
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, np.arange(1, labels.max() + 1)))
    away = np.abs(centres[:, None] - found.centroids).max(axis=2).min(axis=1)
    assert away.max() < 0.5
    assert (centres.mean(axis=0) - found.centroids.mean(axis=0)) == pytest.approx([0, 0], abs=0.1)


def test_classes_are_the_means_over_the_pixels_of_an_object():
    labels = np.zeros((60, 60), np.int32)
    labels[5:15, 5:15], labels[30:50, 30:50] = 1, 2
    image = _painted(labels)
    image[30:35, 30:50] = (50, 20, 200)  # a quarter of the second is blue
    found, *_ = predict(Dark(), Labelled("p", image, labels=labels, mpp=0.5))
    np.testing.assert_allclose(found.classes[0], [0.8, 0.2], atol=1e-3)
    np.testing.assert_allclose(found.classes[1], [0.75 * 0.8 + 0.25 * 0.2, 0.35], atol=1e-3)
    assert predict(_network(CONFIG), _slide())[0].classes.shape[1] == 2
    plain, *_ = predict(_network(replace(CONFIG, classes=0)), _slide())
    assert plain.classes.shape == (len(plain.centroids), 0)


def test_an_image_without_objects_has_none():
    item = Labelled("w", np.full((50, 60, 3), 255, np.uint8), labels=np.zeros((50, 60), np.int32))
    found, *_ = predict(Dark(), item)
    assert found.labels.max() == 0
    assert found.centroids.shape == (0, 2)
    assert found.classes.shape == (0, 2)


def _found(labels):
    ids = np.arange(1, labels.max() + 1)
    points = np.array(ndimage.center_of_mass(labels > 0, labels, ids)).reshape(-1, 2)
    return Found(labels, points, np.zeros((len(ids), 0), np.float32))


def test_perfect_labels_score_1():
    labels = scene((97, 101), 30, np.random.default_rng(0), extent=(5, 20))
    item = Labelled("p", np.zeros((97, 101, 3), np.uint8), labels=labels)
    assert score(_found(labels), item) == {"pq": 1, "dq": 1, "aji": 1, "dice": 1}
    nothing = _found(np.zeros((97, 101), np.int32))
    assert score(nothing, item) == {"pq": 0, "dq": 0, "aji": 0, "dice": 0}


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_metrics(seed):
    truth, other = (
        scene((97, 101), 30, np.random.default_rng(s), extent=(8, 30)) for s in (seed, 9)
    )
    item = Labelled("p", np.zeros((97, 101, 3), np.uint8), labels=truth)
    mixed = components(links_of(np.where(np.arange(101) < 60, truth, other)))
    overlaps, pairs = count_overlaps(truth, mixed), match(truth, mixed)
    expected = {"pq": pq(pairs), "dq": dq(pairs), "aji": aji(overlaps), "dice": dice(overlaps)}
    assert score(_found(mixed), item) == {name: float(v) for name, v in expected.items()}
    assert 0 < float(expected["pq"]) < 1


def _most_pairs(truth, pred, radius):
    """The most pairs within ``radius``, each point once, over all ways to pair."""
    near = np.hypot(*(truth[:, None] - pred).transpose(2, 0, 1)) <= radius
    few, many = sorted((near.T, near), key=len)
    for size in range(len(few), 0, -1):
        for rows in combinations(range(len(few)), size):
            for columns in permutations(range(len(many)), size):
                if few[rows, columns].all():
                    return size
    return 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), mpp=st.sampled_from([0.25, 0.5]), counts=st.tuples(
    st.integers(1, 5), st.integers(0, 5)))  # fmt: skip
def test_f1_of_centres_counts_the_most_pairs_within_3_um(seed, mpp, counts):
    rng = np.random.default_rng(seed)
    truth, pred = (rng.uniform(0, 40, (n, 2)) for n in counts)
    image = np.zeros((40, 40, 3), np.uint8)
    item = Labelled("c", image, centres=Centres(truth, np.zeros(counts[0], np.uint8)), mpp=mpp)
    found = Found(np.zeros((40, 40), np.int32), pred, np.zeros((counts[1], 0), np.float32))
    hits = _most_pairs(truth, pred, 3 / mpp) if counts[1] else 0
    assert score(found, item)["f1"] == pytest.approx(2 * hits / (counts[0] + counts[1]))


def test_centres_at_an_unknown_size_have_no_score():
    image, points = np.zeros((40, 40, 3), np.uint8), np.array([[9.0, 9.0]])
    item = Labelled("c", image, centres=Centres(points, np.ones(1, np.uint8)))
    found = Found(np.zeros((40, 40), np.int32), points, np.zeros((1, 0), np.float32))
    assert np.isnan(score(found, item)["f1"])
    assert score(found, replace(item, mpp=0.25)) == {"f1": 1}


@pytest.mark.parametrize("mpp", [0.25, 0.31, 0.4, 0.9])
def test_predict_finds_what_a_user_finds_at_any_pixel_size(network, mpp):
    item = _slide((143, 157), mpp=mpp)
    slide = open_slide(item.image, mpp=mpp)
    space = slide.at(network.spec.spacing)
    np.testing.assert_array_equal(
        on_lattice(item, network.spec), slide.read(Box.of_shape(space.shape), space)
    )
    objects = find_objects(slide, network, region=64)
    found, _, lattice = predict(network, item)
    assert len(objects) > 3
    assert np.array_equal(lattice, objects.paint(Box.of_shape(space.shape)))
    scale = network.spec.spacing[0] / mpp
    np.testing.assert_allclose(found.centroids, objects.centroids * scale - 0.5, atol=1e-9)


def test_nothing_there_and_nothing_found_is_no_score():
    image = np.zeros((40, 40, 3), np.uint8)
    nothing = _found(np.zeros((40, 40), np.int32))
    drawn = Labelled("d", image, labels=np.zeros((40, 40), np.int32))
    clicked = Labelled("c", image, centres=Centres(np.zeros((0, 2)), np.zeros(0, np.uint8)))
    for item in (drawn, clicked):
        assert all(np.isnan(value) for value in score(nothing, item).values())


def test_a_summary_is_the_mean_over_images_by_set_and_nan_is_left_out():
    nan = float("nan")
    rows = [("a", {"pq": 0.5, "dq": 0.1}), ("b", {"f1": 0.3}), ("a", {"pq": 0.7, "dq": nan}),
            ("a", {"f1": 0.9}), ("c", {"pq": nan})]  # fmt: skip
    found = summary(rows)
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == pytest.approx({"pq": 0.6, "dq": 0.1, "f1": 0.9})
    assert found["b"] == {"f1": 0.3}
    assert found["c"].keys() == {"pq"}
    assert np.isnan(found["c"]["pq"])
    assert summary([]) == {}
