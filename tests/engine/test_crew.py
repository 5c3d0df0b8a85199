"""Who is given items: judged when it has answered, and for its own faults."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from wsiseg.engine.crew import Crew, identity_of
from wsiseg.errors import ClusterError


class Answer(Future[Any]):
    """A future of the cluster; at first its result is on its way."""

    status, key = "finished", "x"

    def __init__(self, late: int = 0) -> None:
        super().__init__()
        self._late = late
        self.set_result(identity_of(abs))

    def result(self, timeout: float | None = None) -> Any:
        self._late -= 1
        if self._late >= 0:
            raise TimeoutError
        return super().result(timeout)


class Client:
    """What a crew asks of a client, of a release whose ``scheduler_info`` tells of five."""

    def __init__(self, workers: int, late: int = 0) -> None:
        self.there = {f"tcp://w{k}:1": 1 for k in range(workers)}
        self.late, self.silent = late, False

    def nthreads(self) -> dict[str, int]:
        return self.there

    def scheduler_info(self, n_workers: int = 5) -> dict[str, Any]:
        known = list(self.there)[: None if n_workers < 0 else n_workers]
        return {"workers": {name: {"resources": {"GPU": 1}} for name in known}}

    def submit(self, function: Any, *_: Any, **__: Any) -> Any:
        return Future() if self.silent else Answer(self.late * (function is identity_of))

    def cancel(self, futures: list[Any]) -> None:
        pass


def looks(client: Client, count: int, **how: Any) -> Crew:
    crew = Crew(client, abs, **how)
    crew.TURN_S = 0.0
    for _ in range(count):
        crew.look()
    return crew


def test_every_worker_with_the_resource_is_used() -> None:
    assert len(looks(Client(12), 1, resource="GPU").fit) == 12


def test_a_worker_whose_answer_is_late_is_waited_for() -> None:
    crew = looks(Client(2, late=2), 1)
    assert not crew.fit
    crew.look()
    crew.look()
    assert len(crew.fit) == 2
    assert not crew.left_out


def test_workers_that_die_unasked_are_no_reason_to_give_up_those_at_work() -> None:
    client = Client(1)
    crew = looks(client, 1)
    client.silent, client.there = True, Client(31).there
    crew.look()
    client.there = Client(1).there
    assert len(crew.look()) == 30
    assert len(crew.fit) == 1
    client.there = {}
    crew.look()  # others may come


def test_a_cluster_whose_workers_all_die_unasked_is_given_up() -> None:
    client = Client(31)
    client.silent = True
    crew = looks(client, 1)
    client.there = {}
    with pytest.raises(ClusterError, match="die when they load the model"):
        crew.look()
