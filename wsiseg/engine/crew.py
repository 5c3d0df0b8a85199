"""Crew: the workers of a cluster that may be given items, since they compute as we do.

Every worker, also one that joins later, is asked what it is before it is given anything, and is
left out where it is not of our kind. An item is bound to its worker: what becomes of the items of
a worker that is lost is decided here, and not by the scheduler, which blames them all.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from wsiseg.engine.cluster import reached
from wsiseg.engine.manifest import differences
from wsiseg.engine.numerics import software
from wsiseg.errors import ClusterError, SettingsError

__all__ = ["Crew", "Held", "Member", "identity_of"]

_log = logging.getLogger(__name__)


class Held:
    """A function that travels as bytes; a process that is given it loads it once, when needed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._lock, self._loaded = data, Lock(), False
        self._function: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (self._data,)

    def function(self) -> Callable[[Any], Any]:
        """The function; raises what loading it raises."""
        with self._lock:
            if not self._loaded:
                self._function, self._loaded = pickle.loads(self._data), True
            return self._function  # type: ignore[no-any-return]


def identity_of(function: Any) -> dict[str, Any]:
    """What must be equal wherever ``function`` runs: our software, and what it says of itself by a
    method ``identity``.
    """
    inner = function.function() if isinstance(function, Held) else function
    own = getattr(inner, "identity", dict)
    return {**software(), **own()}


@dataclass(slots=True, eq=False)
class Member:
    """A worker of the cluster."""

    address: str
    slots: int
    """Items at once."""
    held: Any
    """Future of the function, there."""
    said: Any
    """Future of what it is."""
    fit: bool = False
    """Whether it is of our kind."""
    sign: float = 0.0
    """When it last finished an item, or was given one after a pause."""
    items: dict[Any, int] = field(default_factory=dict)
    """Future -> item of those that it has, in the order in which it was given them."""


class Crew:
    """The workers that ``client`` sees; ``function`` is loaded by each of them.

    ``resource``: name of a resource, such as GPU: only workers that have it count, and each works
    on as many items at once as it has of it.
    """

    TURN_S = 1.0
    """Seconds between two looks at who is there."""
    PATIENCE_S = 300.0
    """Seconds without any worker after which the cluster is given up."""
    RESTART_S = 10.0
    """For a worker that hangs to be started again."""
    _LOST_UNASKED = 20  # workers in a row that died of loading the function

    def __init__(
        self,
        client: Any,
        function: Any,
        resource: str | None = None,
        left_out: dict[str, str] | None = None,
    ) -> None:
        self._client, self._resource = client, resource
        self._expected = identity_of(function)
        data = _pickled(function)
        with reached():
            self._data = client.submit(bytes, data, pure=False)
        self._members: dict[str, Member] = {}
        self.left_out = {} if left_out is None else left_out
        """Address -> why a worker is given nothing."""
        self._there: set[str] = set()
        self._looked, self._seen = -self.TURN_S, time.monotonic()
        self._had_fit, self._lost_unasked = False, 0

    def look(self) -> list[Member]:
        """Take in those that have answered; members that are gone since the last look.

        Raises ClusterError where there is no worker that can be used, and none to wait for.
        """
        gone = []
        if time.monotonic() - self._looked >= self.TURN_S:
            gone = self._meet()
            self._looked = time.monotonic()
        for member in self._unsure():
            if member.said.done():
                self._judge(member)
        self._check_hope()
        return gone

    @property
    def fit(self) -> list[Member]:
        """Members that may be given items."""
        return [member for member in self._members.values() if member.fit]

    @property
    def addresses(self) -> list[str]:
        """Of all members, asked or not."""
        return list(self._members)

    def give(
        self,
        member: Member,
        work: Callable[[Held, Any], Any],
        item: Any,
        key: str | None = None,
        *,
        priority: int = 0,
    ) -> Any:
        """The future of ``work(function, item)`` on a member, and on no other."""
        need = {} if self._resource is None else {"resources": {self._resource: 1}}
        there = {"workers": [member.address], "allow_other_workers": False, "pure": False}
        how = {"key": key, "priority": priority}
        with reached():
            return self._client.submit(work, member.held, item, **how, **there, **need)

    def is_busy(self, member: Member) -> bool:
        """Whether a member is at work for others, so that our items wait for no fault of its own.

        One that does not answer is not, nor one at what nobody waits for any more.
        """
        at, ours = member.address, {future.key for future in member.items}
        with suppress(Exception):
            scheduler, within = self._client.scheduler, {"callback_timeout": self.RESTART_S}
            how = {"msg": {"op": "call_stack", "keys": None}, "workers": [at]}
            running = set(self._client.sync(scheduler.broadcast, **how, **within)[at])
            wanted = self._client.sync(scheduler.processing, workers=[at], **within)[at]
            return not running & ours and not running.isdisjoint(wanted)
        return False

    def give_up(self, member: Member, why: str) -> None:
        """Give a member nothing more; its nanny, if it has one, starts another in its place."""
        self._leave_out(member, why)
        with suppress(Exception):  # without a nanny it stays as it is
            self._client.restart_workers(
                [member.address], timeout=self.RESTART_S, raise_for_error=False
            )

    def close(self) -> None:
        """Cancel all that is at work."""
        for member in self._members.values():
            self._release(member)
        with suppress(Exception):
            self._client.cancel([self._data])

    def _meet(self) -> list[Member]:
        with reached():
            there = self._client.nthreads()
            new = there.keys() - self._members.keys() - self.left_out.keys()
            slots = self._slots(there, new) if new else {}
        self._there = set(there)
        gone = [self._members.pop(a) for a in list(self._members) if a not in there]
        for member in gone:
            self._lost_unasked += not member.fit
            self._release(member)
        for address in sorted(new):
            if slots.get(address):
                self._members[address] = self._asked(address, slots[address])
        return gone

    def _slots(self, there: Mapping[str, int], new: set[str]) -> dict[str, int]:
        """Items at once of new workers; 0 for one that lacks what is needed."""
        if self._resource is None:
            return {address: there[address] for address in new}
        known = self._client.scheduler_info(n_workers=-1)["workers"]  # else 5 by some releases
        slots = {a: int(known[a]["resources"].get(self._resource, 0)) for a in new if a in known}
        return {address: min(n, there[address]) for address, n in slots.items()}

    def _asked(self, address: str, slots: int) -> Member:
        there: dict[str, Any] = {
            "workers": [address],
            "allow_other_workers": False,
            "pure": False,
            "priority": 1,
        }
        with reached():
            held = self._client.submit(Held, self._data, **there)
            said = self._client.submit(identity_of, held, **there)
        return Member(address, slots, held, said)

    def _unsure(self) -> Iterator[Member]:
        return (member for member in list(self._members.values()) if not member.fit)

    def _judge(self, member: Member) -> None:
        """Take a member in, or leave it out; one whose answer is not here yet is left as it is."""
        try:
            why = self._misfit(member)
        except TimeoutError:
            return
        if why is None:
            member.fit = self._had_fit = True
            return
        if member.said.cancelled():
            raise ClusterError("the scheduler of the cluster is lost")
        self._leave_out(member, f"is not of our kind: {why}")

    def _leave_out(self, member: Member, why: str) -> None:
        self.left_out[member.address] = told = f"worker {member.address} {why}"
        _log.warning("%s: it is left out", told)
        self._release(self._members.pop(member.address))

    def _misfit(self, member: Member) -> str | None:
        """How it differs from this process; TimeoutError where it cannot say so just now."""
        try:
            found = member.said.result(timeout=self.TURN_S)
        except TimeoutError as error:
            if member.said.status != "error":  # lost, or on a slow way: the next look tells
                raise
            return f"{type(error).__name__}: {error}"
        except Exception as error:  # of another version, or without the model: whatever that gives
            return f"{type(error).__name__}: {error}"
        return "; ".join(differences(self._expected, found)) or None

    def _check_hope(self) -> None:
        if self.fit:
            self._lost_unasked = 0
        if self._lost_unasked > self._LOST_UNASKED:
            raise ClusterError("workers of the cluster die when they load the model")
        if self._members:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > self.PATIENCE_S:
            raise ClusterError(f"the cluster had no worker for {self.PATIENCE_S:g} s")
        elif self._there and not self._had_fit:
            raise ClusterError(f"no worker of the cluster can be used: {self._reason()}")

    def _reason(self) -> str:
        for why in self.left_out.values():
            return f"{why}; use workers of one kind and one environment"
        return (
            f"none has the resource {self._resource}; start those that have one as `dask worker "
            f'--resources "{self._resource}=1" ...`'
        )

    def _release(self, member: Member) -> None:
        with suppress(Exception):  # a scheduler that is gone has let go of all
            self._client.cancel([*member.items, member.said, member.held])


def _pickled(function: Any) -> bytes:
    try:
        return pickle.dumps(function)
    except Exception as error:  # whatever the __reduce__ of a slide or a model raises
        raise SettingsError(
            f"what is to be run cannot go to another process ({type(error).__name__}: {error}): "
            "give slide and model as paths or names, or leave workers and scheduler out"
        ) from error
