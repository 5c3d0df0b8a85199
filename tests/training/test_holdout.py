"""Holding back: no pixel of a nucleus on both sides, nothing lost, always the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import InputFileError
from wsiseg.training.holdout import count, hold_out
from wsiseg.training.labelled import Labelled


def item(seed: int, nuclei: int, shape: tuple[int, int] = (150, 311)) -> Labelled:
    """Distinct nuclei, some of which touch; the last columns were not annotated."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    y, x = np.indices(shape)
    for k in range(1, nuclei + 1):
        cy, cx = rng.uniform(8, shape[0] - 8), rng.uniform(8, shape[1] - 30)
        labels[((y - cy) ** 2 + (x - cx) ** 2 < 60) & (labels == 0)] = k * 3
    image = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    known = x < shape[1] - 10
    return Labelled(f"s{seed}", image, labels, known=known, set="s")


@given(st.integers(0, 1000), st.integers(20, 60))
def test_one_crop_is_cut_between_its_nuclei(seed: int, nuclei: int) -> None:
    whole = item(seed, nuclei)
    (train,), (val,) = hold_out([whole], 0.25)
    assert count(train) + count(val) == count(whole)
    assert count(val) == round(0.25 * count(whole))
    assert (train.split, val.split) == ("train", "val")
    for part in (train, val):  # a nucleus is whole or absent, and known or not with all its pixels
        for k in np.unique(part.labels)[1:]:
            assert (part.labels == k).sum() == (whole.labels == k).sum()
        assert not (part.labels > 0)[~part.known].any()
    assert not np.isin(np.unique(train.labels)[1:], np.unique(val.labels)[1:]).any()
    assert train.known.sum() < whole.known.sum()


def test_the_halves_of_an_image_do_not_share_a_known_pixel() -> None:
    whole = item(3, 40)
    (train,), (val,) = hold_out([whole], 0.25)
    first = whole.labels.shape[1] - val.labels.shape[1]
    assert not (train.known[:, first:] & val.known).any()
    assert (train.known[:, first:] | val.known)[whole.known[:, first:]].all()
    np.testing.assert_array_equal(whole.image[:, first:], val.image)


def test_of_several_crops_some_are_held_back_whole() -> None:
    items = [item(seed, 12) for seed in range(8)]
    train, val = hold_out(items, 0.25)
    assert len(val) == 2
    assert [t.name for t in train] == [i.name for i in items if i.name not in {v.name for v in val}]
    again = hold_out(items[::-1], 0.25)
    assert {v.name for v in again[1]} == {v.name for v in val}


def test_too_few_nuclei_are_an_error_that_says_how_many_are_needed() -> None:
    with pytest.raises(InputFileError, match=r"s1: 4 nuclei are too few.*10 at least"):
        hold_out([item(1, 4)], 0.25)
