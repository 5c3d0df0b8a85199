"""Every item is given out once, and neighbours to one worker."""

import sys
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.shares import Shares


@given(st.integers(0, 60), st.integers(1, 4), st.lists(st.sampled_from("abcdef"), max_size=90))
def test_shares_give_out_each_item_once_whoever_asks(n: int, workers: int, asks: list[str]) -> None:
    """Workers may never ask again (lost), or ask for the first time later (new)."""
    shares = Shares(n, list("abcdef")[:workers])
    given_out = [i for worker in asks if (i := shares.take(worker)) is not None]
    assert len(given_out) == len(set(given_out)) == min(n, len(asks))
    assert shares.left == n - len(given_out)
    rest = [shares.take("z") for _ in range(shares.left)]
    assert sorted(given_out + rest) == list(range(n))
    assert shares.take("a") is None


def test_shares_are_runs_of_neighbours() -> None:
    shares = Shares(10, ["a", "b"])
    turns = [(worker, shares.take(worker)) for worker in "ab" * 5]
    assert [x for worker, x in turns if worker == "a"] == [0, 1, 2, 3, 4]
    assert [x for worker, x in turns if worker == "b"] == [5, 6, 7, 8, 9]


def test_ten_million_items_take_no_memory_and_stay_runs() -> None:
    shares = Shares(10**7, ["a", "b", "c"])
    found = [shares.take(worker) for worker in "abc" * 1000]
    assert sum(map(sys.getsizeof, shares._runs.values())) < 1000
    assert len(set(found)) == 3000
    assert len(list(groupby(sorted(found), key=lambda i: i // 10**6))) == 3
