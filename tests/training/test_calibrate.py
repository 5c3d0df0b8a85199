"""Calibration: the temperature that is true is found, and errors are those of the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.model.base import Maps
from wsiseg.model.distance import encode
from wsiseg.training.calibrate import (
    Typed,
    calibrate,
    ece,
    joined,
    nll,
    probabilities,
    typed_nuclei,
)
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.scoring import Judged
from wsiseg.training.validate import Found


def one_pixel(logs: np.ndarray, truth: np.ndarray) -> Typed:
    return Typed(logs.astype(np.float32), np.arange(len(truth)), truth.astype(np.intp))


def drawn(temperature: float, n: int, seed: int = 0) -> Typed:
    """Nuclei whose classes follow softmax(z / temperature), told by softmax(z)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (n, 3))
    p = np.exp(z / temperature)
    p /= p.sum(axis=1, keepdims=True)
    truth = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return one_pixel(z - np.log(np.exp(z).sum(axis=1, keepdims=True)), truth)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_true_temperature_is_found_and_lowers_both_errors(temperature: float) -> None:
    found = calibrate(drawn(temperature, 20_000))
    assert found is not None
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.nll[1] <= found.nll[0] + 1e-9
    if temperature != 1:
        assert found.ece[1] < 0.02 < found.ece[0]


def test_few_nuclei_are_not_fitted_to() -> None:
    assert calibrate(drawn(2.0, 49)) is None
    assert calibrate(drawn(2.0, 50)) is not None


def test_nuclei_of_one_class_are_not_fitted_to() -> None:
    many = drawn(2.0, 500)
    assert calibrate(Typed(many.logs, many.starts, np.zeros_like(many.truth))) is None


def test_the_calibration_error_of_a_worked_example() -> None:
    # bin of 0.9: two of four right, gap .4, weight 4/5; bin of 0.55: one of one, gap .45
    p = np.array([[0.9, 0.1]] * 4 + [[0.45, 0.55]])
    truth = np.array([0, 0, 1, 1, 1])
    assert ece(p, truth) == pytest.approx(0.8 * 0.4 + 0.2 * 0.45)
    assert nll(p, truth) == pytest.approx(-(2 * np.log(0.9) + 2 * np.log(0.1) + np.log(0.55)) / 5)


@given(st.integers(0, 2**32), st.floats(0.3, 5))
def test_probabilities_are_means_over_the_pixels_of_each_nucleus(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 4)
    logs = np.log(rng.dirichlet(np.ones(3), sizes.sum()).astype(np.float32) + 1e-6)
    starts = np.cumsum(sizes) - sizes
    found = probabilities(Typed(logs, starts, np.zeros(4, np.intp)), t)
    for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        z = logs[start : start + size].astype(np.float64) / t
        each = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[i], each.mean(axis=0), rtol=1e-4)


def test_parts_joined_are_the_same_nuclei() -> None:
    a, b = drawn(1.0, 7, 1), drawn(1.0, 5, 2)
    both = probabilities(joined([a, b]), 1.7)
    np.testing.assert_array_equal(
        both, np.concatenate([probabilities(a, 1.7), probabilities(b, 1.7)])
    )


def scene() -> tuple[np.ndarray, Maps]:
    """Two discs whose pixels are surely of class 0 and class 1, and their maps."""
    y, x = np.indices((60, 97))
    labels = np.zeros((60, 97), np.int32)
    labels[(y - 30) ** 2 + (x - 25) ** 2 < 150] = 1
    labels[(y - 30) ** 2 + (x - 70) ** 2 < 150] = 2
    classes = np.stack([labels == 1, labels == 2]).astype(np.float16)
    perfect = encode(labels)
    return labels, Maps(perfect.prob, perfect.hv, classes)


def centroids(labels: np.ndarray) -> np.ndarray:
    return np.array([np.argwhere(labels == i).mean(axis=0) for i in (1, 2)])


@pytest.mark.parametrize("with_outlines", [True, False])
def test_found_nuclei_get_the_class_of_the_one_they_stand_for(with_outlines: bool) -> None:
    labels, maps = scene()
    image = np.zeros((*labels.shape, 3), np.uint8)
    kinds = np.array([0, 2, 1], np.uint8)  # the truth swaps them
    if with_outlines:
        item = Labelled("x", image, labels[::1] * 3, np.repeat(kinds, 3)[2:], mpp=0.25)
    else:
        points = Centres(centroids(labels) + 2, kinds[1:])
        item = Labelled("x", image, centres=points, mpp=0.25)
    found = Found(labels, centroids(labels), np.eye(2, dtype=np.float32))
    typed = typed_nuclei(Judged(item, found, maps, labels, {}))
    order = np.argsort(typed.truth)
    assert typed.truth[order].tolist() == [0, 1]
    np.testing.assert_allclose(probabilities(typed, 1.0)[order], [[0, 1], [1, 0]], atol=1e-6)


def test_nuclei_without_a_class_or_of_unknown_size_do_not_count() -> None:
    labels, maps = scene()
    image = np.zeros((*labels.shape, 3), np.uint8)
    found = Found(labels, centroids(labels), np.eye(2, dtype=np.float32))
    for kinds, mpp in (([0, 0, 0], 0.25), ([0, 1, 2], None)):
        item = Labelled("x", image, labels, np.array(kinds, np.uint8), mpp=mpp)
        assert len(typed_nuclei(Judged(item, found, maps, labels, {})).truth) == 0
