"""Scores of whole sets: only what was annotated counts."""

from __future__ import annotations

import numpy as np

from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.scoring import known_part, within_known
from wsiseg.training.validate import Found, score


def _image(shape: tuple[int, int] = (60, 97)) -> np.ndarray:
    return np.zeros((*shape, 3), np.uint8)


def _discs(columns: tuple[int, ...], shape: tuple[int, int] = (60, 97)) -> np.ndarray:
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for k, column in enumerate(columns, 1):
        labels[(y - 30) ** 2 + (x - column) ** 2 < 100] = k
    return labels


def test_nuclei_mostly_outside_of_what_was_annotated_are_not_missed() -> None:
    labels = _discs((15, 45, 80))
    known = np.broadcast_to(np.arange(97) < 42, labels.shape)  # the second: less than half
    item = Labelled("k", _image(), labels, known=known, mpp=0.25)
    reduced = known_part(item)
    assert reduced.labels is not None
    assert np.unique(reduced.labels).tolist() == [0, 1]
    nothing = np.zeros((0, 2), np.float64)
    first = Found(_discs((15,)), np.array([[30.0, 15.0]]), np.zeros((1, 0), np.float32))
    assert score(within_known(first, reduced), reduced)["pq"] == 1
    none = Found(np.zeros((60, 97), np.int32), nothing, np.zeros((0, 0), np.float32))
    assert score(none, reduced)["pq"] == 0
    # the known part of the second is no background: who finds it is not wrong
    part = np.where((labels == 2) & known, 2, _discs((15,))).astype(np.int32)
    both = Found(part, np.array([[30.0, 15.0], [30.0, 39.0]]), np.zeros((2, 0), np.float32))
    assert score(within_known(both, reduced), reduced)["pq"] == 1


def test_centres_where_nothing_was_annotated_do_not_count() -> None:
    points = np.array([[10.0, 10.0], [10.0, 80.0], [59.4, 20.0]])
    known = np.broadcast_to(np.arange(97) < 40, (60, 97))
    centres = Centres(points, np.array([1, 2, 3], np.uint8))
    reduced = known_part(Labelled("c", _image(), centres=centres, known=known)).centres
    assert reduced is not None
    assert reduced.points.tolist() == [[10, 10], [59.4, 20]]
    assert reduced.kinds.tolist() == [1, 3]


def test_where_all_is_known_nothing_is_left_out() -> None:
    item = Labelled("a", _image(), _discs((15, 45)))
    assert known_part(item) is item
