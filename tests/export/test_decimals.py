import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.export.decimals import decimals

FINITE = {"allow_infinity": False, "allow_subnormal": False}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_json_reads_the_same_numbers_and_nan_is_nothing(dtype, data):
    width = np.dtype(dtype).itemsize * 8
    column = np.array(data.draw(st.lists(st.floats(width=width, **FINITE))), dtype)
    texts = [t.decode() for t in decimals(column).tolist()]
    read = np.array([json.loads(t) if t else np.nan for t in texts], dtype)
    np.testing.assert_array_equal(read, column)
    assert not any(t.endswith(".0") for t in texts)


@given(st.lists(st.floats(width=32, **FINITE), min_size=1))
def test_a_number_has_the_same_text_wherever_it_stands(values):
    column = np.array(values, np.float32)
    assert decimals(column).tolist() == [
        decimals(column[i : i + 1]).tolist()[0] for i in range(len(values))
    ]


def test_numbers_are_as_short_as_they_can_be():
    column = np.array([0.1, 3, -2.5, np.nan, 0, 16777217], np.float32)
    assert decimals(column).tolist() == [b"0.1", b"3", b"-2.5", b"", b"0", b"16777216"]
    assert decimals(np.array([[1.0, 2.0], [3.0, 4.5]])[:, 1]).tolist() == [b"2", b"4.5"]
    assert decimals(column[:0]).tolist() == []
