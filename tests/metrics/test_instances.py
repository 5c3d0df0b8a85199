"""Instance metrics: worked examples, the table of hard cases, and an oracle of dense loops."""

from itertools import combinations, permutations
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.errors import InputFileError
from wsiseg.metrics import (
    METRICS,
    Ratio,
    Rules,
    aji,
    aji_plus,
    count_overlaps,
    dice,
    dice2,
    match,
    match_overlaps,
    pq,
    scores,
    sq,
)
from wsiseg.metrics.instances import check_empty


def grid(text: str) -> np.ndarray:
    rows = [row.split() for row in text.strip().splitlines()]
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows])


TRUTH = grid("""
    1 1 . . .
    1 1 . . .
    . . 2 2 2
    . . 2 2 2
    3 3 . . .""")
PRED = grid("""
    1 1 . . .
    1 1 . . .
    . . 2 2 .
    . . 2 2 .
    . . . . 3""")


def values(truth, pred, **rules) -> dict[str, float]:
    rules = Rules(**rules)
    found = scores(count_overlaps(truth, pred), rules)
    return {name: ratio.value(rules.empty) for name, ratio in found.items()}


def test_worked_example():
    expected = {
        "dice": 16 / 21,
        "dice2": 16 / 18,
        "aji": 8 / 13,
        "aji_plus": 8 / 13,
        "precision@0.5": 2 / 3,
        "recall@0.5": 2 / 3,
        "f1@0.5": 2 / 3,
        "ap@0.5": 2 / 4,
        "dq@0.5": 2 / 3,
        "sq@0.5": 5 / 6,
        "pq@0.5": 5 / 9,
    }
    assert values(TRUTH, PRED) == pytest.approx(expected, abs=1e-12)


def test_worked_example_above_two_thirds_loses_the_second_object():
    found = values(TRUTH, PRED, iou=(0.5, 0.7))
    assert found["pq@0.7"] == pytest.approx(1 / 3)
    assert found["ap@0.7"] == pytest.approx(1 / 5)
    assert found["pq@0.5"] == pytest.approx(5 / 9)


def test_every_metric_is_in_the_dict_of_metrics():
    names = {name.split("@")[0] for name in values(TRUTH, PRED)}
    assert names == set(METRICS)


PERFECT = {"dice": 1, "aji": 1, "aji_plus": 1, "dq@0.5": 1, "sq@0.5": 1, "pq@0.5": 1}
NOTHING = {"dice": 0, "aji": 0, "aji_plus": 0, "dq@0.5": 0, "pq@0.5": 0}
HALF_TRUTH = grid("1 1 . 2 2 2 2")
HALF_PRED = grid("1 1 . 2 2 . .")
TOUCHING = grid("1 1 2 2 . . .")
COVER = grid("1 1 1 1 . . .")
HARD_CASES = {
    # Empties and ties on which published tools disagree, with the value that our rules give
    "both empty": (TRUTH * 0, TRUTH * 0, ">", dict.fromkeys([*PERFECT, "f1@0.5", "ap@0.5"], nan)),
    "no truth, 2 predicted": (
        TRUTH * 0,
        PRED * (PRED < 3),
        ">",
        NOTHING | {"precision@0.5": 0, "recall@0.5": nan, "sq@0.5": nan, "dice2": nan},
    ),
    "2 true, none predicted": (
        PRED * (PRED < 3),
        TRUTH * 0,
        ">",
        NOTHING | {"precision@0.5": nan, "recall@0.5": 0, "sq@0.5": nan},
    ),
    "one pair at IoU 0.5, >": (
        HALF_TRUTH,
        HALF_PRED,
        ">",
        {"pq@0.5": 0.5, "sq@0.5": 1, "aji": 4 / 6, "aji_plus": 4 / 6},
    ),
    "one pair at IoU 0.5, >=": (HALF_TRUTH, HALF_PRED, ">=", {"pq@0.5": 0.75, "sq@0.5": 0.75}),
    "one over two touching, >": (
        TOUCHING,
        COVER,
        ">",
        {"pq@0.5": 0, "aji": 1 / 2, "aji_plus": 1 / 3, "dice": 1},
    ),
    "one over two touching, >=": (TOUCHING, COVER, ">=", {"pq@0.5": 1 / 3, "dq@0.5": 2 / 3}),
    "ids 1 and 70000": (grid("1 1 . 70000 70000"), grid("70000 70000 . 1 1"), ">", PERFECT),
    "no background pixel": (grid("1 1 2 2"), grid("1 1 2 2"), ">", PERFECT),
}


@pytest.mark.parametrize("case", HARD_CASES)
def test_hard_case(case):
    truth, pred, match_op, expected = HARD_CASES[case]
    found = values(truth, pred, match_op=match_op)
    assert {k: found[k] for k in expected} == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("empty", [0, 1])
def test_images_without_objects_have_the_value_asked_for(empty):
    found = values(TRUTH * 0, TRUTH * 0, empty=empty)
    assert set(found.values()) == {float(empty)}


@pytest.mark.parametrize("empty", [0, 1])
def test_undefined_but_not_empty_is_0_when_nan_is_unwanted(empty):
    found = values(TRUTH, TRUTH * 0, empty=empty)
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("empty", [True, None, "zero", 2])
def test_other_rules_for_empties_are_refused(empty):
    with pytest.raises(InputFileError, match='"nan", 0 or 1'):
        check_empty(empty)


def test_aji_takes_the_lower_id_of_equal_iou():
    truth = grid("1 1 1 1 1 1 . . . . . . . .")
    narrow_first = grid("1 1 2 2 2 2 2 2 2 2 2 2 . .")  # IoU 2/6 and 4/12
    assert float(aji(count_overlaps(truth, narrow_first))) == 2 / (6 + 10)
    swapped = np.array([0, 2, 1])[narrow_first]
    assert float(aji(count_overlaps(truth, swapped))) == 4 / (12 + 2)


def test_aji_plus_takes_the_greater_intersection_of_equal_iou():
    truth = grid("1 1 1 1 1 1 . . . . . . . .")
    narrow_first = grid("1 1 2 2 2 2 2 2 2 2 2 2 . .")
    for pred in (narrow_first, np.array([0, 2, 1])[narrow_first]):
        assert float(aji_plus(count_overlaps(truth, pred))) == 4 / (6 + 12 - 4)


def test_aji_may_reuse_a_prediction_and_aji_plus_may_not():
    table = count_overlaps(TOUCHING, COVER)
    assert (aji(table).numerator, aji(table).denominator) == (4, 8)
    assert (aji_plus(table).numerator, aji_plus(table).denominator) == (2, 6)


# The oracle: dense loops over masks and over all matchings, slow and independent.


def masks(labels):
    return {i: labels == i for i in sorted(set(labels.ravel().tolist()) - {0})}


def iou_of(a, b):
    return (a & b).sum() / (a | b).sum()


def divide(top, bottom):
    return top / bottom if bottom else nan


def slow_dice(truth, pred):
    t, p = truth > 0, pred > 0
    return divide(2 * (t & p).sum(), t.sum() + p.sum())


def slow_dice2(truth, pred):
    top = bottom = 0
    for t in masks(truth).values():
        for p in masks(pred).values():
            if (t & p).any():
                top += 2 * (t & p).sum()
                bottom += t.sum() + p.sum()
    return divide(top, bottom)


def slow_aji(truth, pred):
    """Algorithm 1 of Kumar et al. 2017, line by line; the first of equal IoU is taken."""
    correct = union = 0
    used = set()
    preds = masks(pred)
    for t in masks(truth).values():
        best, best_iou = None, 0
        for j, p in preds.items():
            if iou_of(t, p) > best_iou:
                best, best_iou = j, iou_of(t, p)
        if best is None:
            union += t.sum()
            continue
        correct += (t & preds[best]).sum()
        union += (t | preds[best]).sum()
        used.add(best)
    union += sum(p.sum() for j, p in preds.items() if j not in used)
    return divide(correct, union)


def all_matchings(pairs):
    """Every set of pairs in which nobody appears twice."""
    truths = sorted({t for t, _ in pairs})
    preds = sorted({p for _, p in pairs})
    for k in range(min(len(truths), len(preds)) + 1):
        for some in combinations(truths, k):
            for others in permutations(preds, k):
                match = tuple(zip(some, others, strict=True))
                if all(pair in pairs for pair in match):
                    yield match


def slow_aji_plus(truth, pred):
    """Greatest sum of IoU, then greatest intersection."""
    ts, ps = masks(truth), masks(pred)
    pairs = {(i, j) for i in ts for j in ps if (ts[i] & ps[j]).any()}

    def weight(match):
        iou = sum(iou_of(ts[i], ps[j]) for i, j in match)
        return round(iou, 7), sum((ts[i] & ps[j]).sum() for i, j in match)

    best = max(all_matchings(pairs), key=weight)
    common = weight(best)[1]
    union = sum((ts[i] | ps[j]).sum() for i, j in best)
    union += sum(m.sum() for i, m in ts.items() if i not in {a for a, _ in best})
    union += sum(m.sum() for j, m in ps.items() if j not in {b for _, b in best})
    return divide(common, union)


def slow_match(truth, pred, threshold, match_op):
    """(TP, FP, FN, sum of IoU) of the matching with most pairs, then the greatest sum of IoU."""
    ts, ps = masks(truth), masks(pred)
    iou = {(i, j): iou_of(ts[i], ps[j]) for i in ts for j in ps if (ts[i] & ps[j]).any()}
    good = {k for k, v in iou.items() if (v >= threshold if match_op == ">=" else v > threshold)}
    best = max(all_matchings(good), key=lambda m: (len(m), sum(iou[k] for k in m)))
    return len(best), len(ps) - len(best), len(ts) - len(best), sum(iou[k] for k in best)


SLOW = {dice: slow_dice, dice2: slow_dice2, aji: slow_aji, aji_plus: slow_aji_plus}


@st.composite
def label_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5))
    ids = st.sampled_from([0, 1, 2, 40, 70000])
    runs = [draw(hnp.arrays(np.int64, shape, elements=ids)) for _ in range(2)]
    # a prediction that is the truth with some pixels changed reaches high IoUs as well
    change = draw(hnp.arrays(np.bool_, shape))
    return runs[0], np.where(change & draw(st.booleans()), runs[0], runs[1])


@given(label_pairs())
def test_overlap_metrics_agree_with_dense_loops(pair):
    table = count_overlaps(*pair)
    for metric, slow in SLOW.items():
        assert float(metric(table)) == pytest.approx(slow(*pair), abs=1e-9, nan_ok=True)


@given(
    label_pairs(), st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.75]), st.sampled_from([">", ">="])
)
def test_matches_agree_with_a_search_of_all_matchings(pair, threshold, match_op):
    tp, fp, fn, total = slow_match(*pair, threshold, match_op)
    found = match(*pair, threshold=threshold, match_op=match_op)
    assert (found.tp, found.fp, found.fn) == (tp, fp, fn)
    assert found.score.sum() == pytest.approx(total, abs=1e-7)
    assert float(pq(found)) == pytest.approx(
        divide(total, tp + fp / 2 + fn / 2), abs=1e-7, nan_ok=True
    )


@given(label_pairs())
def test_pq_is_dq_times_sq(pair):
    found = match(*pair)
    if found.tp:
        f1 = 2 * found.tp / (found.n_truth + found.n_pred)
        assert float(pq(found)) == pytest.approx(f1 * float(sq(found)))
    else:
        assert isnan(float(sq(found)))


@given(label_pairs(), st.permutations([1, 2, 40, 70000]))
def test_renaming_objects_changes_no_metric_but_the_ties_of_aji(pair, names):
    truth, pred = pair
    renamed = np.zeros_like(pred)
    for old, new in zip([1, 2, 40, 70000], names, strict=True):
        renamed[pred == old] = new
    before, after = values(truth, pred, iou=(0.2, 0.5)), values(truth, renamed, iou=(0.2, 0.5))
    del before["aji"], after["aji"]
    assert after == pytest.approx(before, abs=1e-7, nan_ok=True)


@given(label_pairs())
def test_a_slice_scores_the_same_in_one_dimension_more(pair):
    thick = [labels[None] for labels in pair]
    assert values(*thick) == pytest.approx(values(*pair), nan_ok=True)


@given(label_pairs())
def test_a_perfect_prediction_scores_1(pair):
    truth = pair[0]
    expected = 1.0 if truth.any() else nan
    found = values(truth, truth.astype(np.uint32), iou=(0.5, 0.9))
    assert found == pytest.approx(dict.fromkeys(found, expected), nan_ok=True)


def test_ratios_pool():
    total = Ratio(1, 4) + Ratio(2, 2) + Ratio(0, 0, True)
    assert (total.numerator, total.denominator, total.empty) == (3, 6, False)
    assert total.value() == 0.5


def test_blocks_of_an_image_give_the_metrics_of_the_whole():
    rng = np.random.default_rng(5)
    truth, pred = (np.kron(rng.integers(0, 60, (12, 13)), np.ones((5, 5), int)) for _ in range(2))
    whole = count_overlaps(truth, pred)
    parts = [count_overlaps(truth[i : i + 7], pred[i : i + 7]) for i in range(0, 60, 7)]
    merged = type(whole).merge(parts)
    assert scores(merged) == scores(whole)
    assert match_overlaps(merged).tp == match_overlaps(whole).tp
