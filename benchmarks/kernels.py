"""Each kernel of ours beside the library call it replaces, on the same maps in the same run.

Processor seconds per mm² of slide, each on the grid it works on, over windows of the stitched
biopsy, one thread; least and median of several calls. Packages that come with wsiseg[dev] run in
this process, others by their own python (see peer.py).

python benchmarks/kernels.py --peers DIR [--windows 12] [--side 1024] [--repeats 5] [--quick]
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from biopsy import Window, densest, options_for, plan_for, slide_at
from kernel_calls import CROWDED, GROUPS
from peer import add_options, call, pythons
from record import finish
from timing import Seconds, timed, total

from wsiseg.model.base import LocalModel
from wsiseg.run.plan import Plan

Rows = dict[str, dict[str, Any]]
"""Name of a call -> its row of the table."""


def theirs(pythons: dict[str, Path], windows: list[Window], model: LocalModel, n: int) -> Any:
    """Rows of the peers' calls, and peer -> version."""
    rows: Rows = {}
    versions = {}
    area = sum(window.mm2 for window in windows)
    with tempfile.TemporaryDirectory() as name:
        for k, window in enumerate(windows):
            labels = model.decode(window.maps)
            np.savez(Path(name) / f"{k:03}.npz", prob=window.maps.prob, labels=labels)
        for peer, python in pythons.items():
            told = call(peer, python, Path(name), n)
            versions[peer] = told["version"]
            for step, r in told["steps"].items():
                seconds = Seconds(r["least_s"], r["middle_s"])
                rows[f"{peer}: {step}"] = row(seconds, r["objects"], area, told["um_per_px"])
    return rows, versions


def ours(windows: list[Window], model: LocalModel, n: int, um_per_px: float) -> dict[str, Rows]:
    """Rows of all calls in this process, by group."""
    return {
        name: group(name, windows[:1] if name == CROWDED else windows, model, n, um_per_px)
        for name in GROUPS
    }


def group(
    name: str, windows: list[Window], model: LocalModel, repeats: int, um_per_px: float
) -> Rows:
    seconds: dict[str, list[Seconds]] = defaultdict(list)
    found: Counter[str] = Counter()
    for window in windows:
        for what, work in GROUPS[name](window, model).items():
            found[what] += work()
            seconds[what].append(timed(work, repeats))
    area = sum(window.mm2 for window in windows)
    return {what: row(total(s), found[what], area, um_per_px) for what, s in seconds.items()}


def row(seconds: Seconds, objects: int, mm2: float, um_per_px: float) -> dict[str, Any]:
    return {
        "um_per_px": um_per_px,
        "s_per_mm2": round(seconds.least / mm2, 5),
        "median_s_per_mm2": round(seconds.middle / mm2, 5),
        "objects": objects,
        "objects_per_s": round(objects / seconds.least),
    }


def lines(groups: dict[str, Rows]) -> Iterator[str]:
    for name, rows in groups.items():
        yield name
        for what, r in rows.items():
            yield (
                f"  {what:44} {r['s_per_mm2']:9.4f} s/mm² (median {r['median_s_per_mm2']:.4f}) "
                f"{r['objects']:>6,} objects, {r['objects_per_s']:>9,} /s"
            )


def measure(plan: Plan, options: Namespace) -> dict[str, Any]:
    """The peers first, so that a failing one is told at once."""
    model, spacing = plan.model, float(plan.space.spacing[0])
    assert isinstance(model, LocalModel)
    peers = pythons(options)
    windows = list(densest(plan, options.side, options.windows))
    rows, versions = theirs(peers, windows, model, options.repeats)
    groups = ours(windows, model, options.repeats, spacing)
    groups["decode"] |= rows
    return {
        "model": {"name": model.spec.name, "sha256": model.spec.sha256},
        "windows": {
            "count": len(windows),
            "side_px": options.side,
            "mm2": round(sum(window.mm2 for window in windows), 4),
        },
        "repeats": options.repeats,
        "peers": versions | dict.fromkeys(options.without, "left out"),
        "groups": groups,
    }


def main() -> None:
    parser = options_for(__doc__)
    add_options(parser)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--side", type=int, default=1024, help="px of a window")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.quick:
        options.windows, options.side, options.repeats = 1, 512, 1
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with slide_at(options.slide, quick=options.quick) as slide:
        result = measure(plan_for(slide, options.model), options)
    print("\n".join(lines(result["groups"])))
    print(result["peers"])
    finish("kernels", result, quick=options.quick)


if __name__ == "__main__":
    main()
