"""Where a benchmark's result goes: JSON with machine, versions and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from wsiseg.jit import instruction_set
from wsiseg.run.report import versions

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Cores, memory, processor and system."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "instruction_set": instruction_set(),
        "system": platform.platform(),
    }


def commit() -> str:
    """The commit that was measured, marked if the tree had changes."""
    show = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(
        show, capture_output=True, text=True, check=False, cwd=RESULTS.parent
    ).stdout.strip()


def save(name: str, result: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` and return its path."""
    facts = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(facts | result, indent=2, ensure_ascii=False) + "\n")
    return path
