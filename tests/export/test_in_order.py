import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.export.in_order import in_order


def test_results_come_in_the_order_of_the_calls_though_later_ones_are_ready_first():
    first_may_end, seen = threading.Event(), []

    def call(i: int) -> int:
        if i == 0:
            assert first_may_end.wait(10)
        elif i == 2:
            first_may_end.set()
        return i

    with in_order(seen.append, workers=3) as submit:
        for i in range(20):
            submit(call, i)
    assert seen == list(range(20))


@settings(max_examples=20, deadline=None)
@given(workers=st.integers(1, 5), calls=st.integers(0, 40))
def test_no_more_results_are_out_than_workers_and_two(workers, calls):
    out, most, lock = 0, 0, threading.Lock()

    def call() -> None:
        nonlocal out, most
        with lock:
            out += 1
            most = max(most, out)

    def take(_: None) -> None:
        nonlocal out
        with lock:
            out -= 1

    with in_order(take, workers) as submit:
        for _ in range(calls):
            submit(call)
    assert out == 0
    assert most <= workers + 2


def test_an_error_comes_at_the_place_of_its_result_and_stops_the_rest():
    seen, begun = [], []

    def call(i: int) -> int:
        begun.append(i)
        if i == 3:
            raise ValueError("the third")
        return i

    def run() -> None:
        with in_order(seen.append, workers=1) as submit:
            for i in range(1000):
                submit(call, i)

    with pytest.raises(ValueError, match="the third"):
        run()
    assert seen == [0, 1, 2]
    assert len(begun) < 10


def test_an_error_of_the_block_leaves_no_thread_behind():
    def run() -> None:
        with in_order(print, workers=4) as submit:
            submit(time.sleep, 0.01)
            raise RuntimeError("the source failed")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the source"):
        run()
    assert threading.active_count() == before
