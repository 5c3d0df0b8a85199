"""Error types: known damage is called by its name, and every object has one fate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.metrics import ERROR_TYPES, count_overlaps, find_errors, match_overlaps

WORKED = (
    "1 1 2 2 . 3 3 3 3 . 4 4 . . 5 5 5 5",
    "1 1 1 1 . 2 2 3 3 . . . 4 4 5 5 . .",
)

labels_1d = hnp.arrays(np.uint8, 24, elements=st.integers(0, 6))


def line(text):
    return np.array([0 if c == "." else int(c) for c in text.split()])


def none_but(**counts):
    return dict.fromkeys(ERROR_TYPES, 0) | counts


def test_worked_example():
    found = find_errors(count_overlaps(*map(line, WORKED)))
    assert found.counts() == dict.fromkeys(ERROR_TYPES, 1)
    table = found.overlaps
    assert table.truth_id[found.missed].tolist() == [4]
    assert table.pred_id[found.false].tolist() == [4]
    assert table.truth_id[table.truth[found.merged]].tolist() == [1, 2]
    assert table.pred_id[table.pred[found.split]].tolist() == [2, 3]
    assert table.iou[found.boundary].tolist() == [0.5]


def disc(shape, centre, radius):
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def scene():
    """Twenty discs of radius 9 px, 30 px apart, in 997 x 161 px."""
    truth = np.zeros((997, 161), np.int32)
    for i in range(20):
        truth[disc(truth.shape, (20 + 48 * i, 20 + 30 * (i % 4)), 9)] = i + 1
    return truth


def test_a_perfect_prediction_has_no_error():
    found = find_errors(count_overlaps(scene(), scene() * 7))
    assert found.counts() == none_but()
    assert len(found.sound) == 20


def test_known_damage_is_called_by_its_name():
    truth = scene()
    pred = truth.copy()
    pred[pred == 3] = 0  # missed
    pred[disc(pred.shape, (500, 5), 4)] = 30  # false
    y = np.arange(len(pred))[:, None]
    pred[(pred == 5) & (y < 20 + 48 * 4)] = 31  # split in two halves
    pred[(pred == 6) & (y < 20 + 48 * 5 - 3)] = 32  # split in three
    pred[(pred == 6) & (y > 20 + 48 * 5 + 3)] = 33
    pred[pred == 9] = 0
    pred[disc(pred.shape, (20 + 48 * 8, 20), 6)] = 9  # a third of the area is lost
    pred[np.isin(pred, (12, 13))] = 12  # one id over two
    found = find_errors(count_overlaps(truth, pred))
    assert found.counts() == none_but(missed=1, false=1, merged=1, split=2, boundary=1)
    assert len(found.sound) == 20 - 1 - 2 - 1 - 2


def test_neighbours_that_touch_are_missed_and_false_and_no_bad_boundary():
    truth, pred = line("1 1 1 1 1 1 1 . . . ."), line(". . . . . . 1 1 1 1 1")
    assert find_errors(count_overlaps(truth, pred)).counts() == none_but(missed=1, false=1)


def test_a_shift_is_a_boundary_error_whether_it_matches_or_not():
    for shift, match in ((2, 1), (4, 0)):
        truth = np.repeat([0, 1, 0], 10)
        table = count_overlaps(truth, np.roll(truth, shift))
        assert find_errors(table).counts() == none_but(boundary=1)
        assert match_overlaps(table).tp == match


def test_a_large_nucleus_that_swallows_a_small_one_matches_and_is_merged():
    truth, pred = line("1 1 1 1 1 1 1 1 2 2"), line("1 1 1 1 1 1 1 1 1 1")
    table = count_overlaps(truth, pred)
    assert match_overlaps(table).tp == 1
    assert find_errors(table).counts() == none_but(merged=1)


def test_crumbs_beside_nothing_are_false():
    truth, pred = line("1 1 1 1 . . . ."), line("1 1 1 1 . 2 . 3")
    assert find_errors(count_overlaps(truth, pred)).counts() == none_but(false=2)


@given(labels_1d, labels_1d)
def test_every_object_has_one_fate(truth, pred):
    found = find_errors(count_overlaps(truth, pred))
    table = found.overlaps
    grouped = np.concatenate([found.merged, found.split])
    for alone, of_pair, n in (
        (found.missed, table.truth, len(table.truth_id)),
        (found.false, table.pred, len(table.pred_id)),
    ):
        pairs = np.concatenate([found.boundary, found.sound])
        fates = [*alone, *of_pair[pairs], *np.unique(of_pair[grouped])]
        assert sorted(fates) == list(range(n))


@given(labels_1d, labels_1d)
def test_merges_and_splits_are_what_a_slow_count_finds(truth, pred):
    def groups(whole, parts):
        ids = [i for i in np.unique(parts) if i]
        inside = [
            [i for i in ids if 2 * ((whole == w) & (parts == i)).sum() >= (parts == i).sum()]
            for w in np.unique(whole)
            if w
        ]
        return sum(len(found) >= 2 for found in inside)

    counts = find_errors(count_overlaps(truth, pred)).counts()
    assert counts["merged"] == groups(pred, truth)
    assert counts["split"] == groups(truth, pred)


@given(labels_1d, labels_1d)
def test_exchanging_truth_and_prediction_exchanges_merge_and_split(truth, pred):
    a, b = (find_errors(count_overlaps(*pair)) for pair in ((truth, pred), (pred, truth)))
    assert a.counts()["merged"] == b.counts()["split"]
    pairs = [(e.overlaps.iou[e.boundary].sum() + e.overlaps.iou[e.sound].sum()) for e in (a, b)]
    assert pairs[0] == pytest.approx(pairs[1])


@given(labels_1d, labels_1d)
def test_matches_are_never_missed_or_false(truth, pred):
    table = count_overlaps(truth, pred)
    match, found = match_overlaps(table), find_errors(table)
    assert not set(match.truth) & set(found.missed)
    assert not set(match.pred) & set(found.false)


def test_a_hundred_thousand_objects_are_sorted_in_a_moment():
    truth = np.zeros((100_000, 12), np.int32)
    truth[:, :9] = np.arange(1, 100_001)[:, None]
    moved = np.random.default_rng(0).integers(0, 12, 100_000)
    pred = truth[np.arange(100_000)[:, None], (np.arange(12) - moved[:, None]) % 12]
    counts = find_errors(count_overlaps(truth, pred)).counts()
    assert counts["missed"] == counts["false"] == counts["merged"] == counts["split"] == 0
    assert counts["boundary"] == (np.isin(moved, (0, 1, 11)) == 0).sum()
