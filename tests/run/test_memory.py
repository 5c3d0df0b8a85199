"""--max-memory bounds what the processes of a run hold, or names the least that can be."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import SettingsError
from wsiseg.geometry import Space
from wsiseg.run.job import Job
from wsiseg.run.memory import Budget, left_for_the_next, region_bytes
from wsiseg.synth import OracleModel, he_slide, write_he_slide

MB = 10**6


def plan_for(side: int, batch: int) -> Any:
    model = OracleModel(2, patch=(side, side), margin=16, batch=batch)
    return SimpleNamespace(model=model, spec=model.spec, space=Space.regular((9000, 9000), (1, 1)))


def budget_for(max_memory: int | None, workers: int | None, **more: Any) -> Budget:
    """The budget of a process that holds 300 MB."""
    held = SimpleNamespace(rss=300 * MB)
    job = Job(slide="x", out=Path("y"), max_memory=max_memory, workers=workers, **more)
    with patch.object(psutil.Process, "memory_info", lambda _: held):
        return Budget.of(job)


bounds = given(
    st.integers(1, 40_000).map(lambda mb: mb * MB),
    st.sampled_from([None, 0, 1, 2, 7]),
    st.sampled_from([128, 512]),
    st.sampled_from([1, 8]),
)


@bounds
def test_bases_and_regions_and_what_is_remembered_stay_within_the_bound(
    bound: int, workers: int | None, side: int, batch: int
) -> None:
    plan, budget = plan_for(side, batch), budget_for(bound, workers)
    try:
        region = budget.region(plan, 2048)
        budget.check(plan, region)
    except SettingsError:
        return
    threads = 1 if workers else budget.threads(plan, region)
    each = budget.base + budget.memo + threads * region_bytes(plan, region)
    assert (workers or 1) * each + bool(workers) * budget.base <= bound


@bounds
def test_the_least_that_an_error_names_is_enough(
    bound: int, workers: int | None, side: int, batch: int
) -> None:
    plan, budget = plan_for(side, batch), budget_for(bound, workers)
    try:
        budget.check(plan, budget.region(plan, 2048))
    except SettingsError as error:
        found = re.search(r"at least (\d+)MB", str(error))
        assert found is not None
        least = int(found[1]) * MB
        assert least > bound
        budget_for(least, workers).check(plan, 1024)
        with pytest.raises(SettingsError):
            budget_for(least - 3 * MB * (workers or 1), workers).check(plan, 1024)


def test_without_a_bound_regions_are_as_asked_and_use_all_cores() -> None:
    budget, plan = budget_for(None, None), plan_for(512, 1)
    assert budget.region(plan, 2048) == 2048
    assert budget.threads(plan, 2048) == len(psutil.Process().cpu_affinity())


def test_less_memory_means_fewer_threads_before_smaller_regions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16), raising=False)
    plan = plan_for(512, 1)
    one = region_bytes(plan, 2048)
    base = budget_for(None, None).base
    plenty, some = (budget_for(base + int(n * one / 0.75), None) for n in (20, 4))
    assert plenty.threads(plan, plenty.region(plan, 2048)) == 16
    assert some.region(plan, 2048) == 2048
    assert 2 <= some.threads(plan, 2048) <= 5


def test_on_a_cluster_the_bound_is_that_of_each_process() -> None:
    alone = budget_for(8000 * MB, 0)
    cluster = budget_for(8000 * MB, 4, scheduler="tcp://somewhere:8786")
    assert cluster.processes == 1
    assert cluster.room == pytest.approx(alone.room, rel=0.01)


def test_bands_are_at_least_one_region_wide_and_hold_what_they_share() -> None:
    plan = plan_for(512, 1)
    assert budget_for(None, 0).band(plan, 2048) > 1
    tight = budget_for(None, 0).base + 200 * MB
    assert budget_for(tight, 0).band(plan, 256) >= 1


def test_what_a_run_leaves_behind_is_free_for_the_next_and_no_more() -> None:
    def base() -> int:
        return Budget.of(Job(slide="s", out=Path("o"), max_memory=8000 * MB)).base

    held = [np.ones(100 * MB, np.uint8)]
    before = base()
    with left_for_the_next():
        held.append(np.ones(200 * MB, np.uint8))
        assert base() > before + 150 * MB
    assert abs(base() - before) < 50 * MB
    held.append(np.ones(100 * MB, np.uint8))  # not of a run
    assert base() > before + 50 * MB


def segment(slide: Path, out: Path, bound: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["segment", str(slide), "--out", str(out), "--max-memory", bound]
    words += ["--model", "hematoxylin", "--format", "parquet", "--quiet", *more]
    return subprocess.run(
        [sys.executable, "-m", "wsiseg", *words], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "slide.tif"
    write_he_slide(path, he_slide((2301, 2789), np.random.default_rng(3)))
    return path


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["threads", "processes"])
def test_the_bound_holds_in_a_run_and_a_smaller_one_is_refused(
    slide: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    refused = segment(slide, tmp_path / "run", "20MB", *more)
    assert refused.returncode == 2
    least = re.search(r"--max-memory must be at least (\d+)MB", refused.stderr)
    assert least is not None
    bound = int(least[1]) + 30  # what a process holds differs a little from run to run
    done = segment(slide, tmp_path / "run", f"{bound}MB", *more)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["grid"]["region"] < 1536
    assert made["cells"] > 100
    assert made["peak_rss_bytes"] <= bound * MB
