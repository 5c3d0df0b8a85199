"""Lease: a lock that is an object of a store, for an archive that is published there.

The object is created only where there is none, and replaced only while it is what was seen, so of
many claimants one wins. Its holder replaces it every 15 s. A holder on this host is judged by its
process; one elsewhere counts as dead when its object is old by our clock *and* does not change
while we watch, so that no wrong clock breaks a living one; whoever comes early waits until then.
A holder that could not renew its lease for long writes nothing, since another may have it.
"""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from wsiseg.engine.lock import Heartbeat, identity, lives_here
from wsiseg.errors import LockedError, OutputError
from wsiseg.storage.store import Seen, Store

__all__ = ["Lease", "lease_holder", "must_be_dead"]

Waiting = Callable[[str], None]
_SHARE = 0.75  # of the time after which others take over, for which silence is no danger
_left = set[str]()  # tokens of those that this process has let grow stale


class Lease:
    """The object ``name``, held from creation until ``release``.

    Where its holder may be dead, ``waiting`` is called every now and then with the holder's name
    until that is known; it may raise to end the wait.

    Raises LockedError where a living batch holds it, OutputError where the store fails.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        heartbeat: Heartbeat | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self._store, self._name, self._waiting = store, name, waiting
        self._heartbeat = heartbeat or Heartbeat()
        self._told = identity(uuid4().hex)
        self._beats, self._lost = 0, False
        self._tag = self._acquire()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="wsiseg-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """LockedError where it was taken over; OutputError where it could not be renewed."""
        if self._lost:
            raise LockedError(
                f"{self._store.url} was taken over by another batch, to which this one seemed "
                "dead: this one publishes no more; what it has made is kept on this machine"
            )
        if time.monotonic() - self._renewed > _SHARE * self._heartbeat.stale_s:
            found = OutputError(f"cannot reach {self._store.url}: its lock could not be renewed")
            found.errno = errno.ENOTCONN
            raise found

    def release(self, *, silently: bool = False) -> None:
        """Give it back, if it is still ours; ``silently``: let it grow stale instead."""
        self._stop.set()
        if silently:
            _left.add(self._told["token"])
            return
        self._thread.join(self._heartbeat.every_s)
        with suppress(OutputError):
            if not self._lost and self._token() == self._told["token"]:
                self._store.remove(self._name)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat.every_s) and not self._lost:
            with suppress(OutputError):
                self._renew()

    def _renew(self) -> None:
        began = time.monotonic()
        if not self._store.replace(self._name, self._content(), self._tag):
            # not what we last saw: another has it, or the answer to an earlier renewal was lost
            self._lost = self._token() != self._told["token"]
        seen = self._store.look(self._name)
        if seen is None or self._lost:
            self._lost = True
            return
        self._tag, self._renewed = seen.tag, began

    def _acquire(self) -> str:
        for _ in range(20):  # each failed turn means that another moved it
            if self._claimed():
                seen = self._store.look(self._name)
                # read again, for stores that do not know conditions
                if seen is not None and self._token() == self._told["token"]:
                    return seen.tag
        raise LockedError(f"{self._store.url} keeps changing hands: are several batches starting?")

    def _claimed(self) -> bool:
        self._renewed = time.monotonic()
        if self._store.create(self._name, self._content()):
            return True
        seen = self._store.look(self._name)
        if seen is None:
            return False
        if self._token() == self._told["token"]:  # the answer to our own request was lost
            return True
        must_be_dead(self._store, self._name, seen, self._heartbeat, self._waiting)
        self._renewed = time.monotonic()
        return self._store.replace(self._name, self._content(), seen.tag)

    def _content(self) -> bytes:
        self._beats += 1
        return json.dumps(self._told | {"beat": self._beats}).encode()

    def _token(self) -> str | None:
        return _read(self._store, self._name).get("token")


def lease_holder(store: Store, name: str, heartbeat: Heartbeat | None = None) -> str | None:
    """Who holds the lease ``name``, such as "process 17 on host"; None: nobody who lives."""
    seen = store.look(name)
    if seen is None:
        return None
    told = _read(store, name)
    alive = _lives(told)
    if alive is None:
        alive = _age(seen) <= (heartbeat or Heartbeat()).stale_s
    return _who(told) if alive else None


def must_be_dead(
    store: Store,
    name: str,
    seen: Seen,
    heartbeat: Heartbeat | None = None,
    waiting: Waiting | None = None,
) -> None:
    """LockedError where the holder of the lease ``name`` lives; ``seen`` is its object."""
    heartbeat = heartbeat or Heartbeat()
    told = _read(store, name)
    alive = _lives(told)
    left = min(max(0.0, heartbeat.stale_s - _age(seen)), heartbeat.stale_s)
    deadline = time.monotonic() + left + heartbeat.watch_s
    while alive is None and time.monotonic() < deadline:
        if waiting is not None:
            waiting(_who(told))
        time.sleep(heartbeat.every_s / 10)
        now = store.look(name)
        alive = None if now == seen else now is not None
    if alive:
        raise LockedError(
            f"{store.url} is in use by {_who(told)}: wait for it, stop it, or choose another --out"
        )


def _read(store: Store, name: str) -> dict[str, Any]:
    with suppress(ValueError, TypeError):
        return dict(json.loads(store.get(name) or b"{}"))
    return {}


def _lives(told: dict[str, Any]) -> bool | None:
    if told.get("token") in _left:
        return None
    known = {name: value for name, value in told.items() if name != "beat"}
    try:
        return lives_here(known)
    except TypeError:
        return None


def _age(seen: Seen) -> float:
    """Seconds since it was renewed, by our clock and that of the store; inf where unknown."""
    if seen.modified is None:
        return float("inf")
    return (datetime.now(UTC) - seen.modified).total_seconds()


def _who(told: dict[str, Any]) -> str:
    if "pid" not in told:
        return "a batch whose record cannot be read"
    return f"process {told['pid']} on {told['host']}, since {told['since']}"
