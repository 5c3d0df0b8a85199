"""Signals that wait until they are asked for."""

import os
import signal
import threading

import pytest

from wsiseg.errors import InterruptedRunError
from wsiseg.interrupt import Stop, stoppable

pytestmark = pytest.mark.timeout(30)

STATES = [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "preempted")]


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "state"), STATES)
def test_a_signal_waits_and_is_told_apart(number: signal.Signals, state: str) -> None:
    before = signal.getsignal(number)
    with stoppable() as stop:
        stop.check()
        assert (stop.asked, stop.state) == (False, None)
        send(number)
        assert (stop.asked, stop.state) == (True, state)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("again", [False, True])
def test_asked_for_or_sent_twice_it_does_what_it_would_have_done(again: bool) -> None:
    with stoppable() as stop:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT) if again else stop.check()
    with stoppable() as stop:
        send(signal.SIGTERM)  # which has no handler that raises
        with pytest.raises(InterruptedRunError, match="SIGTERM"):
            send(signal.SIGTERM) if again else stop.check()


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with stoppable() as stop:
            send(signal.SIGINT)
            assert not stop.asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stoppable() as stop:
            seen.append((stop, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(seen[0][0], Stop)
    assert seen[0][1] is before
