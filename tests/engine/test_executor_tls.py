"""A cluster that speaks TLS takes those with a certificate of its authority, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsiseg.engine.executor import Dask
from wsiseg.errors import ClusterError

PARTS = {"ca-file": "ca", "cert": "cert", "key": "key"}


def test_only_who_is_known_is_let_in(
    new_dask_cluster: Callable[..., Any],
    certificates: Callable[[Path], dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = certificates(tmp_path / "ours")
    options = [f"--tls-{name}={ours[part]}" for name, part in PARTS.items()]
    cluster = new_dask_cluster(*options, protocol="tls")
    cluster.worker()
    with Dask(scheduler=cluster.address, tls=ours) as executor:
        assert sorted(executor.map(abs, [-1, 2])) == [(-1, 1), (2, 2)]
    monkeypatch.setattr(Dask, "PATIENCE_S", 2)
    others = certificates(tmp_path / "others")
    for tls in (others, None):
        with (
            pytest.raises(ClusterError, match=r"tls://127\.0\.0\.1:\d+ cannot be used"),
            Dask(scheduler=cluster.address, tls=tls),
        ):
            pass
