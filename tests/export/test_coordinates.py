import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsiseg.export.coordinates import FARTHEST, ring_texts

HUNDREDTHS = st.integers(-int(FARTHEST) * 100, int(FARTHEST) * 100)
NEAR = st.integers(-99_999, 99_999)
RINGS = st.lists(st.lists(st.tuples(HUNDREDTHS | NEAR, HUNDREDTHS | NEAR), min_size=1), min_size=1)


def texts(rings: list[np.ndarray]) -> list[str]:
    offsets = np.cumsum([0, *map(len, rings)])
    return [t.decode() for t in ring_texts(np.concatenate(rings), offsets).tolist()]


@given(RINGS)
@example([[(int(FARTHEST) * 100, -int(FARTHEST) * 100)] * 3])
@example([[(-1, 1)], [(0, -99)], [(999, 1000)], [(99_999, -100_000)]])
def test_json_reads_the_very_same_numbers(rings):
    given_ = [np.array(ring) / 100.0 for ring in rings]
    for text, ring in zip(texts(given_), given_, strict=True):
        assert json.loads(f"[{text}]") == ring.tolist()


@given(RINGS)
def test_no_number_could_be_shorter(rings):
    for text, ring in zip(texts([np.array(r) / 100.0 for r in rings]), rings, strict=True):
        numbers = text.replace("[", "").replace("]", "").split(",")
        assert numbers == [shortest(v) for vertex in ring for v in vertex]


def shortest(hundredths: int) -> str:
    whole, rest = divmod(abs(hundredths), 100)
    fraction = f".{rest:02}".rstrip("0") if rest else ""
    return "-" * (hundredths < 0) + str(whole) + fraction


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0, "0"),
        (0.1, "0.1"),
        (-0.01, "-0.01"),
        (9.99, "9.99"),
        (10, "10"),
        (1e12, "1" + "0" * 12),
    ],
)
def test_numbers_are_written_as_one_would(value, text):
    assert texts([np.array([[value, 5.5]])]) == [f"[{text},5.5]"]
    assert texts([np.array([[7.0, value]])]) == [f"[7,{text}]"]


def test_every_number_of_two_decimals_near_a_corner_of_a_slide_is_itself():
    values = np.arange(-20_000, 20_000).reshape(-1, 2) / 100.0 + [131_072, 0]
    values = np.round(values, 2)
    assert json.loads(f"[{texts([values])[0]}]") == values.tolist()


def test_no_rings_give_no_texts():
    assert len(ring_texts(np.zeros((0, 2)), np.zeros(1, np.int64))) == 0
