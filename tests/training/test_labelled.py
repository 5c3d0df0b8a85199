"""A labelled image is refused, by name, where its parts do not fit each other."""

from __future__ import annotations

import numpy as np
import pytest

from wsiseg.errors import InputFileError
from wsiseg.training.labelled import CLASSES, Centres, Labelled

RGB = np.zeros((7, 9, 3), dtype=np.uint8)
LABELS = np.ones((7, 9), dtype=np.int32)
CENTRES = Centres(np.zeros((2, 2)), np.zeros(2, dtype=np.uint8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": RGB[..., 0], "labels": LABELS}, r"RGB image .* uint8 \(7, 9\)"),
        ({"image": RGB.astype(float), "labels": LABELS}, r"RGB image .* float64"),
        ({"image": np.zeros((7, 9, 4), np.uint8), "labels": LABELS}, r"\(7, 9, 4\)"),
        ({}, "either outlines or centres"),
        ({"labels": LABELS, "centres": CENTRES}, "either outlines or centres"),
        ({"labels": LABELS.T}, r"labels of \(9, 7\) px beside an image of \(7, 9\)"),
        ({"labels": LABELS, "known": LABELS[:3] > 0}, r"annotated area of \(3, 9\)"),
        ({"labels": LABELS, "mpp": 0.0}, "leave it empty"),
        ({"labels": LABELS, "mpp": float("nan")}, "cannot be"),
        ({"labels": LABELS, "mpp": -0.25}, "cannot be"),
        ({"labels": LABELS, "split": "test"}, "train or val, got 'test'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_name_of_the_image(fields, message):
    with pytest.raises(InputFileError, match=message) as error:
        Labelled(**{"name": "slides/a.png", "image": RGB, **fields})
    assert "slides/a.png" in str(error.value)


def test_outlines_or_centres_alone_are_enough_and_nothing_else_is_assumed():
    drawn = Labelled("a", RGB, labels=LABELS)
    clicked = Labelled("b", RGB, centres=CENTRES)
    for item in (drawn, clicked):
        assert item.mpp is None
        assert item.known is None
        assert not item.kinds.any()
        assert item.split == "train"
    assert drawn.kinds is not clicked.kinds  # nothing shared between images


def test_the_classes_are_those_of_the_shipped_models_in_the_order_of_their_heads():
    assert CLASSES == ("epithelial", "inflammatory", "spindle", "other")
