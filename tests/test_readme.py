"""What README.md shows runs as it stands, and what it names is there."""

import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from wsiseg.cli import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cells;" in done.stdout
    assert (tmp_path / "cells.csv").stat().st_size > 1000
    assert (tmp_path / "run" / "cells.geojson.gz").exists()


def test_every_option_that_is_named_exists() -> None:
    shown = "".join(
        CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).output
        for name in ("segment", "info", "evaluate", "demo", "models", "train", "batch")
    )
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - {
        "--extra-index-url",
        "--check",
        "--dist",
        "--help",
    }
    missing = [option for option in sorted(named) if option not in shown]
    assert not missing


def test_every_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_ci_script_runs_the_test_command_of_the_readme() -> None:
    assert "test-command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"<!-- test-command -->\n```\npip install .*pytest.*\n```\n<!-- end -->", TEXT)
