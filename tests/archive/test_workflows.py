"""The workflows of archives run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.config import read_config

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"


@pytest.mark.parametrize("name", ["archive.py", "archive.sbatch", "cluster.toml", "cluster.sbatch"])
def test_a_workflow_is_short(name: str) -> None:
    assert len((WORKFLOWS / f"segment_{name}").read_text().splitlines()) < 80


def test_the_config_of_a_cluster_is_one_that_can_be_used() -> None:
    settings, policy = read_config(WORKFLOWS / "segment_cluster.toml")
    assert settings["model"] == "hematoxylin"
    assert policy.cluster is not None
    assert policy.cluster.leaving == ["--lifetime", "28200s", "--lifetime-stagger", "300s"]


def test_the_workflow_runs_an_archive(small_slides: Path, tmp_path: Path) -> None:
    words = (WORKFLOWS / "segment_archive.py", WORKFLOWS / "segment_archive.toml")
    call = [sys.executable, *map(str, words), str(small_slides), str(tmp_path / "out")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "case-2: done" in done.stderr
    assert len(done.stdout.splitlines()) == 4  # a header, and a row per slide


def test_tasks_of_the_slurm_array_do_the_archive_together(
    small_slides: Path, tmp_path: Path, kit: Any
) -> None:
    script = WORKFLOWS / "segment_archive.sbatch"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for task in ("1", "2"):
        told = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "PATH": path}
        told |= {"SLURM_CPUS_PER_TASK": "1", "CONFIG": str(WORKFLOWS / "segment_archive.toml")}
        call = ["bash", str(script), str(small_slides), str(tmp_path / "out")]
        done = subprocess.run(call, env=os.environ | told, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {slide["state"] for slide in kit.status(tmp_path / "out").values()} == {"done"}


def test_a_preempted_task_of_the_array_is_told_apart(small_slides: Path, tmp_path: Path) -> None:
    """``exec`` in the script: SLURM's signal reaches the batch, whose exit code is the job's."""
    script = WORKFLOWS / "segment_archive.sbatch"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = {"PATH": path, "CONFIG": str(WORKFLOWS / "segment_archive.toml")}
    call = ["bash", str(script), str(small_slides), str(tmp_path / "out")]
    with subprocess.Popen(
        call, env=os.environ | told, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        while not list(tmp_path.glob("out/status.json")) and process.poll() is None:
            time.sleep(0.02)
        process.terminate()
        assert process.wait(60) == 143
