import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsiseg.cells.objects import ONE, Objects, merge, objects_in
from wsiseg.geometry import Box

LABELS = hnp.array_shapes(min_dims=2, max_dims=3, max_side=9).flatmap(
    lambda s: hnp.arrays(np.int32, s, elements=st.integers(0, 4))
)


def dense(labels: np.ndarray) -> np.ndarray:
    values, index = np.unique(labels, return_inverse=True)
    return (index.reshape(labels.shape) + (0 if values[0] == 0 else 1)).astype(np.int32)


def objects_of(labels: np.ndarray, seed: int = 0) -> tuple[Objects, np.ndarray]:
    maps = np.random.default_rng(seed).random((3, *labels.shape)).astype(np.float16)
    return objects_in(labels, maps, (0,) * labels.ndim), maps


@given(LABELS)
def test_painting_gives_the_labels_back(labels: np.ndarray) -> None:
    labels = dense(labels)
    objects, _ = objects_of(labels)
    assert np.array_equal(objects.paint(Box.of_shape(labels.shape)), labels)


@given(LABELS)
def test_areas_boxes_and_centroids_are_those_of_scipy(labels: np.ndarray) -> None:
    labels = dense(labels)
    objects, _ = objects_of(labels)
    ids = np.arange(1, labels.max() + 1)
    assert np.array_equal(objects.areas, ndimage.sum_labels(labels > 0, labels, ids))
    start, stop = objects.boxes
    for i, where in enumerate(ndimage.find_objects(labels)):
        assert [s.start for s in where] == start[i].tolist()
        assert [s.stop for s in where] == stop[i].tolist()
    expected = ndimage.center_of_mass(np.ones(labels.shape), labels, ids)
    if len(ids):
        assert np.allclose(objects.centroids, np.array(expected) + 0.5)


@given(LABELS)
def test_sums_are_exact_integers_of_fixed_point_values(labels: np.ndarray) -> None:
    labels = dense(labels)
    objects, maps = objects_of(labels)
    values = np.rint(maps.astype(np.float64) * ONE).astype(np.int64)
    for i in range(len(objects)):
        assert objects.sums[i].tolist() == values[:, labels == i + 1].sum(axis=1).tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from([0.01, 0.1, 0.9]))
def test_runs_are_found_wherever_they_begin_and_end(seed: int, width: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    labels = dense(rng.integers(1, 4, (5, width)) * (rng.random((5, width)) < share))
    objects, _ = objects_of(labels)
    painted = objects.paint(Box.of_shape(labels.shape))
    assert np.array_equal(painted, labels)
    borders = np.diff(np.pad(labels, ((0, 0), (1, 0))), axis=1) != 0
    assert len(objects.runs) == (borders & (labels > 0)).sum()  # none is cut in two


@given(LABELS, st.integers(0, 8))
def test_merging_the_parts_of_a_cut_gives_the_uncut_objects(labels: np.ndarray, at: int) -> None:
    labels = dense(labels)
    whole, maps = objects_of(labels)
    at = min(at, labels.shape[-1])
    parts, groups = [], []
    for piece in (slice(0, at), slice(at, None)):
        ids = np.unique(labels[..., piece])
        ids = ids[ids > 0]
        local = np.searchsorted(ids, labels[..., piece]) + 1
        local = np.where(labels[..., piece] > 0, local, 0).astype(np.int32)
        origin = (*(0,) * (labels.ndim - 1), piece.start)
        parts.append(objects_in(local, maps[..., piece], origin))
        groups.append(ids - 1)
    joined = merge(Objects.concatenate(parts), np.concatenate(groups), len(whole))
    assert np.array_equal(joined.runs, whole.runs)
    assert np.array_equal(joined.offsets, whole.offsets)
    assert np.array_equal(joined.sums, whole.sums)


def test_no_two_objects_share_an_anchor() -> None:
    labels = dense(np.random.default_rng(1).integers(0, 9, (31, 37)).astype(np.int32))
    anchors = objects_of(labels)[0].anchors
    assert len(np.unique(anchors, axis=0)) == len(anchors)


def test_taking_by_mask_and_by_index_agree() -> None:
    objects, _ = objects_of(dense(np.random.default_rng(2).integers(0, 9, (31, 37))))
    mask = np.arange(len(objects)) % 2 == 0
    a, b = objects.take(mask), objects.take(np.flatnonzero(mask))
    assert np.array_equal(a.runs, b.runs)
    assert np.array_equal(a.sums, objects.sums[mask])


def test_no_objects_have_no_boxes_and_no_areas() -> None:
    nothing = Objects.none(3, 2)
    assert len(nothing) == 0
    assert nothing.areas.shape == (0,)
    assert nothing.boxes[0].shape == (0, 3)
    assert nothing.centroids.shape == (0, 3)


@pytest.mark.parametrize(("value", "fixed"), [(0, 0), (1, ONE), (0.5, ONE // 2), (2, ONE), (-1, 0)])
def test_probabilities_are_kept_in_fixed_point_within_0_and_1(value: float, fixed: int) -> None:
    one_pixel = objects_in(np.ones((1, 1), np.int32), np.full((1, 1, 1), value, np.float16), (0, 0))
    assert one_pixel.sums.tolist() == [[fixed]]
