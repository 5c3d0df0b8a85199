import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsiseg.errors import SpaceError
from wsiseg.geometry.links import FOREGROUND, components, links_of

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=12)
MASKS = SHAPES.flatmap(lambda s: hnp.arrays(bool, s))


@given(MASKS)
def test_components_of_a_mask_are_those_of_scipy(mask: np.ndarray) -> None:
    expected, _ = ndimage.label(mask)
    assert np.array_equal(components(links_of(mask.astype(np.int32))), expected)


@given(SHAPES.flatmap(lambda s: hnp.arrays(np.int32, s, elements=st.integers(0, 3))))
def test_touching_labels_are_kept_apart(labels: np.ndarray) -> None:
    found = components(links_of(labels))
    for value in (1, 2, 3):
        expected, count = ndimage.label(labels == value)
        pairs = np.unique(np.stack([expected, found])[:, labels == value], axis=1)
        assert pairs.shape[1] == count  # a bijection between parts and components
    assert np.array_equal(found > 0, labels > 0)


def test_a_link_to_background_or_out_of_the_array_joins_nothing() -> None:
    links = np.array([[0x83, 0x00, 0x81], [0x80, 0x80, 0x82]], np.uint8)
    assert components(links).tolist() == [[1, 0, 2], [1, 3, 2]]


def test_a_spiral_is_one_object() -> None:
    mask = np.zeros((41, 41), bool)
    y = x = 20
    mask[y, x] = True
    for k, (dy, dx) in zip(range(1, 19), [(0, 1), (1, 0), (0, -1), (-1, 0)] * 5, strict=False):
        for _ in range(2 * ((k + 1) // 2)):
            y, x = y + dy, x + dx
            mask[y, x] = True
    assert components(links_of(mask.astype(np.int32))).max() == 1


def test_the_foreground_bit_leaves_room_for_seven_axes() -> None:
    assert FOREGROUND == 0x80
    with pytest.raises(SpaceError, match="at most 7 axes"):
        links_of(np.zeros((1,) * 8, np.int32))
