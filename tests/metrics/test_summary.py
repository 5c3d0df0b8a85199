"""Aggregates: pooled and mean, both, with what was left out."""

from math import isnan

import numpy as np
import pytest

from wsiseg.errors import InputFileError
from wsiseg.metrics import (
    Ratio,
    Rules,
    aggregate,
    aggregate_classes,
    aggregate_scores,
    count_overlaps,
    match_points,
    point_scores,
    scores,
)

GOOD, POOR, NONE = Ratio(9, 10), Ratio(1, 30), Ratio(0, 0, True)


def test_pooled_and_mean_differ_and_empties_are_counted():
    found = aggregate([GOOD, POOR, NONE])
    assert found.pooled == 10 / 40
    assert found.mean == pytest.approx((9 / 10 + 1 / 30) / 2)
    assert (found.n, found.n_excluded) == (2, 1)


@pytest.mark.parametrize("empty", [0, 1])
def test_empties_may_count_in_the_mean(empty):
    found = aggregate([GOOD, NONE], empty)
    assert found.mean == pytest.approx((0.9 + empty) / 2)
    assert found.pooled == 0.9
    assert (found.n, found.n_excluded) == (2, 0)


def test_images_all_empty_have_no_mean():
    found = aggregate([NONE, NONE])
    assert isnan(found.pooled)
    assert isnan(found.mean)
    assert (found.n, found.n_excluded) == (0, 2)


def test_mpq_and_mpq_plus():
    # class a: 9/10 and 1/30; class b: 1/2 in the first image, on neither side in the second;
    # class c: predicted in the second only, so 0 and not left out
    images = [{"a": GOOD, "b": Ratio(1, 2), "c": NONE}, {"a": POOR, "c": Ratio(0, 1)}]
    found = aggregate_classes(images)
    assert found.mean == pytest.approx(((0.9 + 0.5) / 2 + (1 / 30 + 0) / 2) / 2)
    assert found.pooled == pytest.approx((10 / 40 + 1 / 2 + 0) / 3)
    assert (found.n, found.n_excluded) == (2, 0)


def test_an_image_without_any_class_is_excluded_from_mpq():
    found = aggregate_classes([{"a": GOOD}, {"a": NONE}])
    assert (found.mean, found.pooled, found.n, found.n_excluded) == (0.9, 0.9, 1, 1)


def test_scores_of_images_aggregate_by_name():
    truth = np.array([[1, 1, 0, 2]])
    images = [scores(count_overlaps(truth, pred)) for pred in (truth, truth * 0)]
    found = aggregate_scores(images)
    assert (found["pq@0.5"].pooled, found["pq@0.5"].mean) == (2 / 3, 0.5)
    assert found["bpq"] == found["pq@0.5"]
    assert found["sq@0.5"].n_excluded == 1
    assert set(found) == {*images[0], "bpq"}


def test_pooling_equals_one_image_of_all():
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 8, (2, 6, 5)) for _ in range(4)]
    pooled = aggregate_scores([scores(count_overlaps(t, p)) for t, p in pairs])
    # ids of other images are other objects
    shifted = [[np.where(x > 0, x + 100 * k, 0) for x in pair] for k, pair in enumerate(pairs)]
    whole = scores(count_overlaps(*(np.concatenate(side) for side in zip(*shifted, strict=True))))
    for name, ratio in whole.items():
        assert pooled[name].pooled == pytest.approx(ratio.value(), nan_ok=True)


def test_detection_scores_have_their_names():
    found = point_scores(match_points(np.zeros((1, 2)), np.zeros((2, 2)), 1))
    assert {k: v.value() for k, v in found.items()} == {
        "precision@detection": 0.5,
        "recall@detection": 1.0,
        "f1@detection": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"empty": "0"},
        {"iou": ()},
        {"iou": (0.5, 0.5)},
        {"radius": 0},
        {"mpp": -1},
        {"radius": float("nan")},
    ],
)
def test_rules_that_mean_nothing_are_refused(bad):
    with pytest.raises(InputFileError):
        Rules(**bad)
