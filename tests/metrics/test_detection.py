"""Detection by centroids: most pairs within the radius, then the least distance."""

from itertools import product
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import center_of_mass

from wsiseg.errors import InputFileError, SpaceError
from wsiseg.metrics import (
    centroids,
    f1,
    match_points,
    precision,
    recall,
    type_counts,
    type_f1,
    weighted_type_f1,
)
from wsiseg.metrics import detection as module


@st.composite
def point_pairs(draw):
    n = draw(st.integers(1, 3))
    cloud = hnp.arrays(
        np.float64, st.tuples(st.integers(0, 5), st.just(n)), elements=st.integers(0, 4)
    )
    return draw(cloud), draw(cloud)


def slow_match(truth, pred, radius):
    """(pairs, sum of distances): every way to give each true point a prediction or none."""
    best = (0, 0.0)
    for choice in product([None, *range(len(pred))], repeat=len(truth)):
        taken = [(i, j) for i, j in enumerate(choice) if j is not None]
        far = [float(np.linalg.norm(truth[i] - pred[j])) for i, j in taken]
        if len({j for _, j in taken}) == len(taken) and all(d <= radius for d in far):
            best = min(best, (-len(taken), sum(far)))
    return -best[0], best[1]


@given(point_pairs(), st.sampled_from([0.5, 1, 2, 2.5]))
def test_pairing_agrees_with_a_search_of_all_pairings(pair, radius):
    truth, pred = pair
    found = match_points(truth, pred, radius)
    n, distance = slow_match(truth, pred, radius)
    assert found.tp == n
    assert found.score.sum() == pytest.approx(distance, abs=1e-6)
    assert np.linalg.norm(truth[found.truth] - pred[found.pred], axis=1) == pytest.approx(
        found.score
    )


def test_worked_example():
    # truth at 0, 10, 20; predictions at 2, 9, 30, 31 on a line, radius 10: (0, 2) (10, 9) (20, 30)
    truth, pred = np.array([[0], [10], [20]]), np.array([[2], [9], [30], [31]])
    found = match_points(truth, pred, 10)
    assert (found.tp, found.fp, found.fn) == (3, 1, 0)
    assert found.score.tolist() == [2, 1, 10]
    assert float(precision(found)) == 3 / 4
    assert float(recall(found)) == 1
    assert float(f1(found)) == 6 / 7


def test_radius_is_inclusive():
    point = np.zeros((1, 2))
    assert match_points(point, np.array([[3, 4]]), 5).tp == 1
    assert match_points(point, np.array([[3, 4]]), np.nextafter(5, 0)).tp == 0


def test_two_far_pairs_are_more_than_one_near_pair():
    truth, pred = np.array([[0.0], [10.0]]), np.array([[9.0], [19.0]])
    assert match_points(truth, pred, 9).score.tolist() == [9, 9]
    assert match_points(truth, pred, 5).score.tolist() == [1]


def test_distances_may_be_in_micrometres():
    truth, pred = np.zeros((1, 3)), np.array([[2.0, 0, 0]])
    assert match_points(truth, pred, 3, spacing=0.25).score.tolist() == [0.5]
    assert match_points(truth, pred, 3, spacing=(2, 0.5, 0.5)).tp == 0
    assert match_points(truth, pred, 4, spacing=(2, 0.5, 0.5)).tp == 1


def test_first_point_is_served_first_where_pairings_tie():
    found = match_points(np.array([[0.0]]), np.array([[-1.0], [1.0]]), 2)
    assert found.pred.tolist() == [0]


def test_class_f1_worked_example():
    # pairs: a-a, a-b, b-b; alone: one true a, one predicted b
    truth, pred = np.arange(4)[:, None] * 100.0, np.array([0.0, 100, 200, 900])[:, None]
    found = match_points(truth, pred, 5)
    classes = np.array(["a", "a", "b", "a"]), np.array(["a", "b", "b", "b"])
    assert float(type_f1(found, *classes, "a")) == 2 / (2 + 2 + 1)
    assert float(type_f1(found, *classes, "b")) == 2 / (2 + 2 + 1)
    assert isnan(float(type_f1(found, *classes, "c")))


def test_no_points_on_a_side():
    none, one = np.zeros((0, 2)), np.ones((1, 2))
    assert isnan(float(f1(match_points(none, none, 12))))
    assert float(f1(match_points(one, none, 12))) == 0
    assert match_points(none, one, 12).fp == 1


@pytest.mark.parametrize(
    ("points", "radius", "spacing", "error"),
    [
        (np.zeros(3), 1, 1, SpaceError),
        (np.array([[np.nan, 0]]), 1, 1, SpaceError),
        (np.zeros((2, 3)), 1, 1, SpaceError),
        (np.zeros((2, 2)), 1, (1, 1, 1), SpaceError),
        (np.zeros((2, 2)), 1, 0, SpaceError),
        (np.zeros((2, 2)), 0, 1, InputFileError),
    ],
)
def test_points_that_are_none_are_refused(points, radius, spacing, error):
    with pytest.raises(error):
        match_points(points, np.zeros((1, 2)), radius, spacing=spacing)


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int32, np.uint64]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=7),
        elements=st.sampled_from([0, 1, 2, 200]),
    ),
    st.sampled_from([1, 20, 1 << 22]),
)
def test_centroids_equal_those_of_scipy(labels, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        ids, points = centroids(labels)
    assert ids.tolist() == sorted(set(labels.ravel().tolist()) - {0})
    expected = [np.add(center_of_mass(labels == i), 0.5) for i in ids]
    assert points == pytest.approx(np.reshape(expected, points.shape))


def test_a_hundred_thousand_points_are_paired_in_seconds():
    rng = np.random.default_rng(0)
    side = np.stack(np.divmod(np.arange(100_000), 317), axis=1) * 20.0
    found = match_points(side, rng.permutation(side + rng.normal(0, 2, side.shape)), 12)
    assert found.tp == 100_000


def paired(truth, pred):
    """Points on a line, as many as there are classes; "" on a side leaves a point out."""
    at = np.arange(len(truth))[:, None] * 100.0
    there = [np.array([c != "" for c in side]) for side in (truth, pred)]
    match = match_points(at[there[0]], at[there[1]], 5)
    sides = (np.array([c for c in side if c != ""], dtype=object) for side in (truth, pred))
    return match, *sides


def test_true_points_without_a_class_make_no_prediction_wrong():
    known = paired("aab", "aba")
    with_unknown = paired([*"aab", None, None], [*"aba", "a", "b"])
    for name in "ab":
        assert float(type_f1(*with_unknown, name)) == float(type_f1(*known, name))
    assert isnan(float(type_f1(*paired([None], ["a"]), "a")))
    # what is found where nothing is counts all the same, and so does a prediction without a class
    assert type_counts(*paired([None, ""], ["a", "a"]), "a").tolist() == [0, 0, 0, 1, 0]
    assert type_counts(*paired(["a", "a"], [None, ""]), "a").tolist() == [0, 0, 1, 0, 1]


@given(st.lists(st.sampled_from(["a", "b", "", None]), min_size=1, max_size=9), st.randoms())
def test_counts_are_those_of_the_published_rule_written_as_a_loop(truth, random):
    pred = [random.choice(["a", "b", ""]) for _ in truth]
    expected = [0] * 5
    for t, p in zip(truth, pred, strict=True):
        if t == p == "a":
            expected[0] += 1
        elif p == "a" and t == "b":
            expected[1] += 1
        elif t == "a" and p == "b":
            expected[2] += 1
        elif p == "a" and t == "":
            expected[3] += 1
        elif t == "a" and p == "":
            expected[4] += 1
    assert type_counts(*paired(truth, pred), "a").tolist() == expected


def test_weighted_f1_worked_example():
    # truth a a a b, of which the last a is called b; one a is missed, one b is not there
    sides = paired([*"aaaba", ""], [*"aabb", "", "b"])
    counts = np.stack([type_counts(*sides, name) for name in "ab"])
    assert counts.tolist() == [[2, 0, 1, 0, 1], [1, 1, 0, 1, 0]]
    a, b = 4 / 5, 2 / 3
    assert float(weighted_type_f1(counts)) == pytest.approx((3 * a + 1 * b) / 4)
    a, b = 4 / 6, 2 / 4
    joint = weighted_type_f1(counts, with_detection=True)
    assert float(joint) == pytest.approx((4 * a + 1 * b) / 5)
    assert isnan(float(weighted_type_f1(np.zeros((2, 5)))))
    stacked = weighted_type_f1(np.stack([counts, 2 * counts, 0 * counts]))
    assert stacked[:2] == pytest.approx([float(weighted_type_f1(counts))] * 2)
