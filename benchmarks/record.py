"""Where a benchmark's result goes: JSON with machine, versions and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from wsiseg.jit import instruction_set
from wsiseg.run.report import versions

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "scipy", "opencv-python-headless", "imagecodecs", "distributed")
"""Their speed is measured beside ours, or as a part of it."""


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Cores, memory, processor and system."""
    return {
        "cores": cores(),
        "processor": processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "instruction_set": instruction_set(),
        "system": platform.platform(),
    }


def processor() -> str:
    """Its name, as far as the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def commit() -> str:
    """The commit that was measured, marked if the tree had changes other than results."""
    changed = _git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/results")
    return _git("describe", "--always", "--abbrev=12") + ("-dirty" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    )
    return done.stdout.strip()


def save(name: str, result: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` and return its path."""
    facts = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions() | {name: version(name) for name in LIBRARIES},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(facts | result, indent=2, ensure_ascii=False) + "\n")
    return path


def finish(name: str, result: dict[str, Any], *, quick: bool) -> None:
    """Keep the result, unless it is that of a quick run."""
    if quick:
        print("not written: a quick run shows that all works, and measures nothing worth keeping")
    else:
        print(f"written to {save(name, result).relative_to(RESULTS.parents[1])}")
