"""What a peer's script does with its inputs; runs under the peer's own python, so it knows nothing.

    python <peer>.py FOLDER REPEATS

FOLDER holds one ``<k>.npz`` per window (arrays ``prob``, ``labels``). Prints one line of
JSON: version, what was timed, and per step seconds (least, middle) summed over the windows and the
number of objects.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


def main(package: str, um_per_px: float, prepare: Callable[[Any], dict[str, Callable[[], int]]]):
    """Time the steps that ``prepare`` makes of each window: name -> call that counts objects."""
    files = sorted(Path(sys.argv[1]).glob("*.npz"))
    repeats = int(sys.argv[2])
    steps: dict[str, dict[str, float]] = {}
    for file in files:
        for name, work in prepare(np.load(file)).items():
            found = work()  # warm
            seen = []
            for _ in range(repeats):
                began = time.process_time()
                work()
                seen.append(time.process_time() - began)
            row = steps.setdefault(name, {"least_s": 0.0, "middle_s": 0.0, "objects": 0})
            row["least_s"] += min(seen)
            row["middle_s"] += median(seen)
            row["objects"] += int(found)
    result = {"version": version(package), "um_per_px": um_per_px, "steps": steps}
    print(json.dumps(result))
