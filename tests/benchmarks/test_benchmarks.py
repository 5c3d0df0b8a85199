"""Benchmarks that a user can run: their table, their quick runs, what they say when stuck."""

from __future__ import annotations

import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PEERS = ("tiatoolbox", "cellpose", "stardist")


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def test_the_table_in_the_readme_is_that_of_the_results() -> None:
    table = "\n".join(script("table")["lines"]())
    assert table in (FOLDER / "README.md").read_text(), "run python benchmarks/table.py"


@pytest.mark.parametrize("row", [row[2] for row in script("table")["ROWS"]])
def test_every_row_of_the_table_names_a_script(row: str) -> None:
    assert (FOLDER / f"{row}.py").exists()


def test_every_script_with_a_result_is_in_the_readme() -> None:
    text = (FOLDER / "README.md").read_text()
    mains = [p.name for p in FOLDER.glob("*.py") if "__main__" in p.read_text()]
    assert [name for name in mains if f"`{name}`" not in text and name != "table.py"] == []


def test_an_absent_peer_stops_with_the_way_to_make_it(tmp_path: Path) -> None:
    pythons = script("peer")["pythons"]
    python = tmp_path / "stardist" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(SystemExit, match=r"make\.sh .* tiatoolbox\n.*\n *--without tiatoolbox"):
        pythons(Namespace(peers=tmp_path, without=["cellpose"]))
    assert pythons(Namespace(peers=tmp_path, without=["cellpose", "tiatoolbox"])) == {
        "stardist": python
    }


def test_results_name_no_path_of_a_machine() -> None:
    for path in (FOLDER / "results").glob("*.json"):
        text = path.read_text()
        assert not any(root in text for root in ("/root/", "/home/", "/work/", "/tmp/")), path.name


@pytest.mark.soak
@pytest.mark.data
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("data", "shipped_weights")
@pytest.mark.parametrize("name", ["throughput", "kernels", "memory", "scaling", "roofline"])
def test_a_quick_run_ends_well_and_keeps_nothing(name: str) -> None:
    result = FOLDER / "results" / f"{name}.json"
    before = result.stat().st_mtime_ns if result.exists() else None
    words = ["--without", *PEERS] if name == "kernels" else []
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a quick run" in done.stdout
    assert (result.stat().st_mtime_ns if result.exists() else None) == before
