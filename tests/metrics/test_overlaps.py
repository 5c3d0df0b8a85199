"""Overlaps: the sparse table equals a count pixel by pixel, however the image is cut."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.errors import InputFileError, SpaceError
from wsiseg.metrics import overlaps as module
from wsiseg.metrics.overlaps import Overlaps, count_overlaps, label_sizes

DTYPES = (np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64)


@st.composite
def label_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6))
    ids = st.sampled_from([0, 0, 1, 2, 3, 97])
    return tuple(
        draw(hnp.arrays(draw(st.sampled_from(DTYPES)), shape, elements=ids)) for _ in range(2)
    )


def as_dicts(table: Overlaps):
    truth, pred = table.truth_id.tolist(), table.pred_id.tolist()
    pairs = zip(table.truth.tolist(), table.pred.tolist(), table.size.tolist(), strict=True)
    return (
        dict(zip(truth, table.truth_size.tolist(), strict=True)),
        dict(zip(pred, table.pred_size.tolist(), strict=True)),
        {(truth[t], pred[p]): size for t, p, size in pairs},
        table.foreground,
    )


def counted(truth, pred):
    """The same by a loop over pixels."""
    a, b, both = Counter(), Counter(), Counter()
    for t, p in zip(truth.ravel().tolist(), pred.ravel().tolist(), strict=True):
        a[t] += 1
        b[p] += 1
        both[t, p] += 1
    pairs = {k: n for k, n in both.items() if 0 not in k}
    a.pop(0, None)
    b.pop(0, None)
    return dict(a), dict(b), pairs, (sum(a.values()), sum(b.values()), sum(pairs.values()))


@given(label_pairs())
def test_table_equals_a_count_pixel_by_pixel(pair):
    assert as_dicts(count_overlaps(*pair)) == counted(*pair)


@given(label_pairs(), st.data())
def test_tables_of_blocks_add_up_in_any_order(pair, data):
    truth, pred = pair
    axis = data.draw(st.integers(0, truth.ndim - 1))
    cuts = sorted(data.draw(st.sets(st.integers(0, truth.shape[axis]), max_size=3)))
    blocks = zip(np.split(truth, cuts, axis), np.split(pred, cuts, axis), strict=True)
    tables = data.draw(st.permutations([count_overlaps(t, p) for t, p in blocks]))
    assert as_dicts(Overlaps.merge(tables)) == as_dicts(count_overlaps(truth, pred))


def test_two_blocks_add():
    rng = np.random.default_rng(3)
    truth, pred = rng.integers(0, 9, (2, 37, 41))
    left, right = (slice(None), slice(0, 17)), (slice(None), slice(17, None))
    sides = [count_overlaps(truth[half], pred[half]) for half in (left, right)]
    assert as_dicts(sides[0].add(sides[1])) == counted(truth, pred)


def test_streaming_in_small_chunks_changes_nothing(monkeypatch):
    truth, pred = np.random.default_rng(0).integers(0, 30, (2, 5, 23, 17))
    whole = as_dicts(count_overlaps(truth, pred))
    monkeypatch.setattr(module, "CHUNK", 400)
    assert as_dicts(count_overlaps(truth, pred)) == whole


def test_pairs_and_ids_ascend():
    truth, pred = np.random.default_rng(1).integers(0, 50, (2, 60, 61))
    table = count_overlaps(truth, pred)
    assert (np.diff(table.truth_id.astype(int)) > 0).all()
    key = table.truth * len(table.pred_id) + table.pred
    assert (np.diff(key) > 0).all()


def test_ids_may_be_as_large_as_the_type_holds():
    truth = np.array([0, 2**64 - 1, 70000, 1], np.uint64)
    table = count_overlaps(truth, np.array([5, 5, 2**62, 0], np.int64))
    assert table.truth_id.tolist() == [1, 70000, 2**64 - 1]
    assert table.pred_id.tolist() == [5, 2**62]
    assert as_dicts(table)[2] == {(70000, 2**62): 1, (2**64 - 1, 5): 1}


@pytest.mark.parametrize("shape", [(0,), (0, 5), (4, 0, 3), (3, 3)])
def test_images_without_objects_give_an_empty_table(shape):
    table = count_overlaps(np.zeros(shape, int), np.zeros(shape, np.uint8))
    assert table.empty
    assert table.foreground == (0, 0, 0)
    assert Overlaps.merge([]).empty


@given(label_pairs())
def test_swap_exchanges_the_sides(pair):
    assert as_dicts(count_overlaps(*pair).swap()) == counted(*pair[::-1])


@given(label_pairs())
def test_restriction_equals_a_table_of_masked_labels(pair):
    table = count_overlaps(*pair)
    kept = table.restrict(table.truth_id % 2 == 1, table.pred_id % 2 == 1)
    truth, pred = (np.where(labels % 2 == 1, labels, 0) for labels in pair)
    assert as_dicts(kept) == counted(truth, pred)


def test_label_sizes_counts_pixels():
    ids, sizes = label_sizes(np.array([[7, 7, 0], [2, 7, 0]]))
    assert (ids.tolist(), sizes.tolist()) == ([2, 7], [1, 3])


def test_shapes_must_agree():
    with pytest.raises(SpaceError, match=r"\(4, 5\) and \(5, 4\)"):
        count_overlaps(np.zeros((4, 5), int), np.zeros((5, 4), int))


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (np.zeros(3), "float64; cast it"),
        (np.zeros(3, bool), "label its connected components"),
        (np.array([0, -1, 2]), "got -1"),
    ],
)
def test_labels_that_are_none_are_refused(truth, message):
    with pytest.raises(InputFileError, match=message):
        count_overlaps(truth, np.zeros(3, np.uint8))
