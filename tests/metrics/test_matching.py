"""Matching: the greatest weight, whichever of the three solvers finds it."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from wsiseg.errors import InputFileError
from wsiseg.metrics import match, match_overlaps, polygon_overlaps
from wsiseg.metrics import matching as module
from wsiseg.metrics.matching import heaviest, most


@st.composite
def edges(draw):
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    pairs = draw(st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, m - 1))))
    rows, cols = (np.array([p[i] for p in sorted(pairs)], np.intp) for i in range(2))
    # few distinct weights, so that ties abound
    weight = draw(
        st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.6, 0.9]), min_size=len(rows), max_size=len(rows))
    )
    return rows, cols, np.array(weight, float)


def dense(rows, cols, weight):
    """Weight of the heaviest matching, by one dense assignment over everything."""
    table = np.zeros((8, 8))
    table[rows, cols] = weight
    return table[linear_sum_assignment(table, maximize=True)].sum()


def is_matching(rows, cols, chosen):
    return len(set(rows[chosen])) == len(set(cols[chosen])) == len(chosen)


@given(edges(), st.sampled_from(["fix", "dense", "sparse"]))
def test_heaviest_equals_one_dense_assignment(graph, solver):
    rounds, size = {"fix": (64, 1 << 20), "dense": (0, 1 << 20), "sparse": (0, 0)}[solver]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROUNDS", rounds)
        patch.setattr(module, "_DENSE", size)
        chosen = heaviest(*graph)
    assert is_matching(*graph[:2], chosen)
    assert graph[2][chosen].sum() == pytest.approx(dense(*graph))


@given(edges())
def test_most_puts_the_number_of_pairs_first(graph):
    rows, cols, gain = graph
    chosen = most(rows, cols, gain)
    assert is_matching(rows, cols, chosen)
    assert len(chosen) == round(dense(rows, cols, np.ones(len(rows))))
    assert gain[chosen].sum() + 100 * len(chosen) == pytest.approx(dense(rows, cols, gain + 100))


def test_two_poor_pairs_are_more_than_one_good_one():
    # 1 reaches a (0.9) and b (0.3); 2 reaches a (0.3): the good pair alone would leave 2 and b
    rows, cols, gain = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.3, 0.3])
    assert most(rows, cols, gain).tolist() == [1, 2]
    assert heaviest(rows, cols, gain).tolist() == [0]


def test_first_edge_wins_a_tie():
    rows, cols = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert heaviest(np.zeros(3, int), np.arange(3), np.ones(3)).tolist() == [0]
    assert heaviest(rows, cols, np.array([0.5, 0.5, 0.1])).tolist() == [0, 2]


def test_low_threshold_counts_both_halves_of_a_shifted_row():
    truth = np.repeat([1, 2, 3], 4)
    pred = np.repeat([1, 2, 3, 4], [2, 4, 4, 2])  # IoU 2/4, then 2/6 each, then 2/4
    assert match(truth, pred, threshold=0.3).tp == 3
    assert match(truth, pred, threshold=0.5).tp == 0
    assert match(truth, pred, threshold=0.5, match_op=">=").tp == 2


def test_iou_thresholds_are_decimals_that_ties_may_meet():
    truth = np.ones(10, int)
    for tenths in range(1, 10):
        pred = (np.arange(10) < tenths).astype(int)
        assert match(truth, pred, threshold=tenths / 10).tp == 0
        assert match(truth, pred, threshold=tenths / 10, match_op=">=").tp == 1


@pytest.mark.parametrize(
    ("threshold", "match_op"), [(-0.1, ">"), (1, ">"), (1.1, ">="), (0.5, "=")]
)
def test_thresholds_that_mean_nothing_are_refused(threshold, match_op):
    with pytest.raises(InputFileError):
        match(np.ones(3, int), np.ones(3, int), threshold=threshold, match_op=match_op)


def test_overlapping_polygons_are_matched_once_each():
    import shapely

    same = np.array([shapely.box(0, 0, 4, 4)] * 2)
    found = match_overlaps(polygon_overlaps(same, same[:1]))
    assert (found.tp, found.fp, found.fn) == (1, 0, 1)


def test_a_long_chain_of_touching_objects_is_solved():
    # a row of equal objects against itself shifted by a third: one group of 2n objects
    n = 3000
    truth, pred = np.repeat(np.arange(1, n + 1), 3), np.repeat(np.arange(1, n + 2), 3)[1:-2]
    found = match(truth, pred, threshold=0.1)
    assert found.tp == n
    assert found.score.sum() == pytest.approx(n * 2 / 4, rel=1e-3)


def test_solvers_agree_on_a_large_random_group():
    rng = np.random.default_rng(2)
    pairs = np.array(sorted(set(map(tuple, rng.integers(0, 250, (1200, 2))))))
    weight = rng.random(len(pairs)) + 0.01
    totals = set()
    for rounds, size in product((0, 64), (0, 1 << 20)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_ROUNDS", rounds)
            patch.setattr(module, "_DENSE", size)
            totals.add(round(weight[heaviest(*pairs.T, weight)].sum(), 9))
    assert len(totals) == 1
