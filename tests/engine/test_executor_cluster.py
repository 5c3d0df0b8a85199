"""A cluster of unlike workers: those that compute as we do, and have what it takes, are used."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from wsiseg.engine.executor import Dask
from wsiseg.errors import ClusterError


def place_and_time(_: int) -> tuple[int, float, float]:
    began = time.monotonic()
    time.sleep(0.01)
    return os.getpid(), began, time.monotonic()


@pytest.fixture(scope="module")
def mixed(
    dask_cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, dict[str, int]]]:
    """A worker with a GPU and two threads, one without, and one of another version."""
    site = tmp_path_factory.mktemp("other")
    (site / "sitecustomize.py").write_text("import wsiseg\nwsiseg.__version__ = '0.0.9'\n")
    started = {
        "gpu": dask_cluster.worker("--resources", "GPU=1", "--nthreads", "2"),
        "plain": dask_cluster.worker(),
        "other": dask_cluster.worker("--name", "other", PYTHONPATH=str(site)),
    }
    with Dask(scheduler=dask_cluster.address) as executor:
        executor.client.wait_for_workers(3, timeout=60)
    return dask_cluster, {name: process.pid for name, process in started.items()}


def test_a_worker_of_another_version_is_left_out_and_named(mixed: Any) -> None:
    cluster, pids = mixed
    with Dask(scheduler=cluster.address) as executor:
        found = dict(executor.map(place_and_time, range(60)))
        (why,) = executor.left_out.values()
    assert sorted(found) == list(range(60))
    assert {pid for pid, *_ in found.values()} == {pids["gpu"], pids["plain"]}
    assert "is not of our kind" in why
    assert 'wsiseg: "0.1.0" -> "0.0.9"' in why


def test_items_that_need_a_gpu_go_where_one_is_one_at_a_time(mixed: Any) -> None:
    cluster, pids = mixed
    with Dask(scheduler=cluster.address, resource="GPU") as executor:
        found = [result for _, result in executor.map(place_and_time, range(30))]
    assert {pid for pid, *_ in found} == {pids["gpu"]}
    spans = sorted((began, ended) for _, began, ended in found)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_a_resource_that_no_worker_has_is_named_with_the_remedy(mixed: Any) -> None:
    cluster, _ = mixed
    with (
        Dask(scheduler=cluster.address, resource="QPU") as executor,
        pytest.raises(ClusterError, match=r'dask worker --resources "QPU=1"'),
    ):
        list(executor.map(abs, [1]))


def test_where_no_worker_is_of_our_kind_nothing_is_run(
    mixed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster, _ = mixed
    monkeypatch.setattr("wsiseg.engine.numerics.ALGORITHM", 999)
    with (
        Dask(scheduler=cluster.address) as executor,
        pytest.raises(ClusterError, match=r"algorithm: 999 -> \d"),
    ):
        list(executor.map(touch, [str(tmp_path / "mark")]))
    assert not (tmp_path / "mark").exists()


def touch(path: str) -> None:
    Path(path).touch()
