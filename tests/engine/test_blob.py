"""What goes into a blob comes out of it, and no damage passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.engine.blob import HEADER_SIZE, Label, digest, pack, sealed_size, unpack

LABEL = Label("key", "grid", "00000007")
DTYPES = ["?", "u1", "i1", "i2", "<i4", ">i4", "u4", "i8", "u8", "f2", "f4", "f8"]
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
    ),
    max_size=4,
)
META = st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans()), max_size=4)


@given(ARRAYS, META, st.booleans())
def test_arrays_and_meta_come_back_as_they_were(arrays, meta, transposed):
    arrays = {name: a.T if transposed else a for name, a in arrays.items()}
    found, found_meta = unpack(LABEL, b"".join(pack(LABEL, arrays, meta)))
    assert found_meta == meta
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array, strict=False)
        assert found[name].shape == array.shape


def test_equal_results_are_equal_bytes_whatever_the_order_of_names():
    a, b = np.arange(3, dtype=np.int32), np.ones((2, 0), np.float32)
    one = b"".join(pack(LABEL, {"a": a, "b": b}, {"x": 1, "y": 2}))
    other = b"".join(pack(LABEL, {"b": b, "a": a}, {"y": 2, "x": 1}))
    assert one == other


def test_a_flipped_bit_at_any_position_is_detected():
    blob = b"".join(pack(LABEL, {"x": np.arange(5, dtype=np.uint8)}, {"n": 1}))
    for at in range(len(blob)):
        for bit in (0, 3, 7):
            damaged = bytearray(blob)
            damaged[at] ^= 1 << bit
            with pytest.raises(ValueError, match=r"label or size|checksum"):
                unpack(LABEL, bytes(damaged))


def test_a_blob_cut_short_or_grown_anywhere_is_detected():
    blob = b"".join(pack(LABEL, {"x": np.arange(5, dtype=np.uint8)}, {"n": 1}))
    for size in range(len(blob)):
        with pytest.raises(ValueError, match="label or size"):
            unpack(LABEL, blob[:size])
    with pytest.raises(ValueError, match="label or size"):
        unpack(LABEL, blob + b"\0")


@pytest.mark.parametrize(
    "other",
    [Label("k", "grid", "00000007"), Label("key", "g", "00000007"), Label("key", "grid", "8")],
)
def test_a_blob_of_another_run_grid_or_place_is_refused(other):
    blob = b"".join(pack(LABEL, {}, {}))
    assert sealed_size(LABEL, blob[:HEADER_SIZE]) == len(blob)
    assert sealed_size(other, blob[:HEADER_SIZE]) is None
    with pytest.raises(ValueError, match="another label"):
        unpack(other, blob)


def test_arrays_that_come_back_can_be_written_to():
    found, _ = unpack(LABEL, b"".join(pack(LABEL, {"x": np.zeros(3, np.int32)}, {})))
    found["x"][1] = 5
    assert found["x"].tolist() == [0, 5, 0]


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": object()}])
def test_meta_that_is_not_plain_is_refused(meta):
    with pytest.raises((ValueError, TypeError)):
        pack(LABEL, {}, meta)


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
