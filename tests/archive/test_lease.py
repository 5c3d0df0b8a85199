"""The lock in a store: one of many holds it, the dead are succeeded, the succeeded are fenced."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from wsiseg.archive.lease import Lease, lease_holder
from wsiseg.engine.lock import Heartbeat, identity
from wsiseg.errors import LockedError
from wsiseg.storage.store import Store

NAME = ".wsiseg/lock"
FAST = Heartbeat(every_s=0.2, stale_s=1.0)


@pytest.fixture
def store(bucket: Any) -> Store:
    return Store("s3://archives/night/one")


def elsewhere(store: Store, beat: int = 1) -> bytes:
    """What a holder on another machine has written."""
    data = json.dumps(identity("e" * 32) | {"host": "elsewhere", "beat": beat}).encode()
    store.put(NAME, data)
    return data


def claims(store: Store, count: int) -> list[Lease]:
    """The leases that so many get who claim at once."""
    barrier = threading.Barrier(count)

    def claim(_: int) -> Lease | None:
        barrier.wait()
        try:
            return Lease(store, NAME, FAST)
        except LockedError:
            return None

    with ThreadPoolExecutor(count) as threads:
        return [lease for lease in threads.map(claim, range(count)) if lease]


@pytest.mark.timeout(120)
def test_of_many_who_claim_at_once_one_holds_it(store: Store) -> None:
    held = claims(store, 8)
    assert len(held) == 1
    assert str(held[0]._told["pid"]) in (lease_holder(store, NAME) or "")
    held[0].release()
    assert store.get(NAME) is None


@pytest.mark.timeout(120)
def test_of_many_who_succeed_a_dead_holder_elsewhere_one_holds_it(store: Store) -> None:
    elsewhere(store)
    held = claims(store, 6)
    assert len(held) == 1
    held[0].check()
    held[0].release()


@pytest.mark.timeout(120)
def test_a_holder_elsewhere_that_shows_life_keeps_it_however_wrong_the_clock(store: Store) -> None:
    stop = threading.Event()

    def live() -> None:
        for beat in range(1, 1000):
            elsewhere(store, beat)
            if stop.wait(FAST.every_s):
                return

    thread = threading.Thread(target=live)
    thread.start()
    time.sleep(0.1)
    told: list[str] = []
    with pytest.raises(LockedError, match="elsewhere"):
        Lease(store, NAME, Heartbeat(every_s=0.4, stale_s=0.0), told.append)
    stop.set()
    thread.join()
    assert told
    assert "elsewhere" in told[0]


@pytest.mark.timeout(120)
def test_who_was_succeeded_while_it_seemed_dead_is_told_and_removes_nothing(store: Store) -> None:
    lease = Lease(store, NAME, FAST)
    other = elsewhere(store)
    deadline = time.monotonic() + 30
    while not lease._lost and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(LockedError, match="taken over"):
        lease.check()
    lease.release()
    assert store.get(NAME) == other


@pytest.mark.timeout(120)
def test_what_this_process_has_let_grow_stale_is_succeeded_when_it_is(store: Store) -> None:
    Lease(store, NAME, FAST).release(silently=True)
    began = time.monotonic()
    Lease(store, NAME, FAST, lambda who: None).release()
    assert time.monotonic() - began >= FAST.watch_s
