from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.export.texts import chosen, of_width, split, woven

WORDS = st.lists(st.binary(max_size=9), min_size=1, max_size=5)


@st.composite
def tables(draw):
    """Columns of equal length: options, and which of them each row has."""
    n = draw(st.integers(0, 20))
    options = draw(st.lists(WORDS, min_size=1, max_size=4))
    return [
        (w, draw(st.lists(st.integers(-1, len(w) - 1), min_size=n, max_size=n))) for w in options
    ]


@given(tables())
def test_woven_rows_are_the_strings_of_every_column(columns):
    rows = woven([chosen(words, np.array(index, dtype=int)) for words, index in columns])
    picked = zip(*([words[i] for i in index] for words, index in columns), strict=True)
    expected = [b"".join(row) for row in picked]
    assert rows.tolist() == expected
    assert rows.joined() == b"".join(expected)
    assert len(rows) == len(expected)


@given(tables(), st.data())
def test_grouped_rows_are_joined_without_a_gap(columns, data):
    rows = woven([chosen(words, np.array(index, dtype=int)) for words, index in columns])
    inner = data.draw(st.sets(st.integers(1, max(len(rows) - 1, 1))))
    cuts = sorted({0, *(c for c in inner if c < len(rows)), len(rows)})
    joined = [b"".join(rows.tolist()[a:b]) for a, b in pairwise(cuts)]
    assert rows.grouped(np.array(cuts)).tolist() == joined


@given(st.lists(st.booleans(), max_size=9))
def test_strings_that_are_not_wanted_are_empty(wanted):
    texts = chosen([b"ab", b"c"], np.arange(len(wanted)) % 2)
    expected = [t if w else b"" for t, w in zip(texts.tolist(), wanted, strict=True)]
    assert texts.where(np.array(wanted, bool)).tolist() == expected


@given(st.lists(st.binary(max_size=9).map(lambda b: b.replace(b",", b"")), min_size=1))
def test_split_cuts_at_every_separator(words):
    assert split(b",".join(words), b",").tolist() == words


def test_rows_of_fixed_width_are_their_bytes():
    rows = np.array([[1, 2], [3, 4], [5, 6]], dtype="<u2")
    assert of_width(rows).tolist() == [
        bytes([1, 0, 2, 0]),
        bytes([3, 0, 4, 0]),
        bytes([5, 0, 6, 0]),
    ]
    assert of_width(rows[:, ::-1]).tolist()[0] == bytes([2, 0, 1, 0])
    assert of_width(rows[:0]).tolist() == []
