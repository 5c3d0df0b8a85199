"""Every item is given out once, and neighbours to one worker."""

from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.shares import Shares


@given(st.integers(0, 60), st.integers(1, 4), st.lists(st.sampled_from("abcdef"), max_size=90))
def test_shares_give_out_each_item_once_whoever_asks(n: int, workers: int, asks: list[str]) -> None:
    """Workers may never ask again (lost), or ask for the first time later (new)."""
    shares = Shares(range(n), list("abcdef")[:workers])
    given_out = [item for worker in asks for item in shares.take(worker)]
    assert len(given_out) == len(set(given_out)) == min(n, len(asks))
    rest = [item for _ in range(n) for item in shares.take("z")]
    assert sorted(given_out + rest) == list(range(n))


def test_shares_are_runs_of_neighbours() -> None:
    shares = Shares(range(10), ["a", "b"])
    turns = [(worker, shares.take(worker)[0]) for worker in "ab" * 5]
    assert [x for worker, x in turns if worker == "a"] == [0, 1, 2, 3, 4]
    assert [x for worker, x in turns if worker == "b"] == [5, 6, 7, 8, 9]
