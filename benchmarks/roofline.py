"""The floor for a network on this machine, how far it is, and which layer the time goes to.

Measured: peak of matrix products in bfloat16 and float32, and bandwidth of copies that fit the
second level cache, the last level cache, and neither. Each operator of one forward is timed
alone, its FLOP and bytes counted from its shapes. Its floor is the larger of FLOP / peak and
bytes / bandwidth of the memory its tensors fit in. One thread, as the engine runs a forward;
processor seconds of the thread, the least of several.

python benchmarks/roofline.py [--model nuclei-he] [--precision auto] [--rounds 20] [--quick]

Writes results/roofline.json and, with the stages of results/throughput.json, roofline.png.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from biopsy import densest, options_for, plan_for, slide_at
from operators import Operator, watched
from peaks import CAPACITY, machine_peaks
from record import RESULTS, finish
from roofline_plot import draw
from torch.utils.flop_counter import FlopCounterMode

from wsiseg.model.unet import UNetModel
from wsiseg.model.unet.network import UNet
from wsiseg.run.plan import Plan

Row = dict[str, Any]


def floor(operator: Operator, peaks: dict[str, Any]) -> tuple[float, str]:
    """Seconds that the operator needs at least, and what binds it."""
    kind = _kind(operator.dtype)
    memory = next((name for name, size in CAPACITY.items() if operator.bytes <= size), "memory")
    by_flop = operator.flop / peaks[f"{kind}_gflop_s"] / 1e9
    by_bytes = operator.bytes / peaks["copy_gb_s"][memory] / 1e9
    return (by_flop, f"{kind} peak") if by_flop >= by_bytes else (by_bytes, memory)


def _kind(dtype: str) -> str:
    return "bf16" if dtype == "bfloat16" else "fp32"


def layers(operators: list[Operator], peaks: dict[str, Any], px: int) -> list[Row]:
    """Operators of equal name and shapes in one row, the longest first; per px of the patch."""
    groups: dict[tuple[str, str], list[Operator]] = defaultdict(list)
    for operator in operators:
        groups[operator.name, operator.shapes].append(operator)
    rows = [_layer(same, peaks, px) for same in groups.values()]
    return sorted(rows, key=lambda row: -row["ns_per_px"])


def _layer(same: list[Operator], peaks: dict[str, Any], px: int) -> Row:
    seconds = sum(min(operator.seconds) for operator in same)
    least, bound = floor(same[0], peaks)
    flop, moved = sum(o.flop for o in same), sum(o.bytes for o in same)
    return {
        "operator": same[0].name,
        "shapes": same[0].shapes,
        "times": len(same),
        "dtype": same[0].dtype,
        "flop_per_px": round(flop / px, 1),
        "bytes_per_px": round(moved / px, 2),
        "ns_per_px": round(seconds / px * 1e9, 3),
        "floor_ns_per_px": round(least * len(same) / px * 1e9, 3),
        "bound_by": bound,
        "gflop_s": round(flop / seconds / 1e9, 1),
        "gb_s": round(moved / seconds / 1e9, 1),
    }


def forward(model: UNetModel, rows: list[Row], seconds: float, peaks: dict[str, Any]) -> Row:
    """The forward as a whole, beside its floor."""
    spec = model.spec
    px = spec.batch * int(np.prod(spec.patch))
    flop = sum(row["flop_per_px"] for row in rows)
    dtype = max(rows, key=lambda row: row["flop_per_px"])["dtype"]
    peak = peaks[f"{_kind(dtype)}_gflop_s"]
    return {
        "patch": list(spec.patch),
        "batch": spec.batch,
        "peak": f"{_kind(dtype)}_gflop_s",
        "flop_per_px": round(flop),
        "flop_per_px_by_torch": round(flop_by_torch(model) / px),
        "ns_per_px": round(seconds / px * 1e9, 2),
        "sum_of_operators_ns_per_px": round(sum(row["ns_per_px"] for row in rows), 2),
        "floor_by_flop_ns_per_px": round(flop / peak, 2),
        "floor_ns_per_px": round(sum(row["floor_ns_per_px"] for row in rows), 2),
        "gflop_s": round(flop * px / seconds / 1e9, 1),
        "share_of_gemm_peak": round(flop * px / seconds / 1e9 / peak, 3),
    }


def flop_by_torch(model: UNetModel) -> float:
    """FLOP of one forward by torch's own counter, to check ours."""
    spec = model.spec
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        UNet(model.config).on_grid(torch.zeros(spec.batch, spec.channels, *spec.patch))
    return float(counter.get_total_flops())


def lines(result: dict[str, Any]) -> Iterator[str]:
    whole = result["forward"]
    yield json.dumps(result["peaks_by_threads"])
    yield (
        f"{whole['flop_per_px']:,.0f} FLOP/px; {whole['ns_per_px']:.1f} ns/px measured, "
        f"{whole['floor_by_flop_ns_per_px']:.1f} at the GEMM peak, "
        f"{whole['floor_ns_per_px']:.1f} with each operator at its own roof"
    )
    for r in result["layers"]:
        yield (
            f"{r['operator'][:28]:28} x{r['times']:<2} {r['ns_per_px']:7.2f} ns/px "
            f"(floor {r['floor_ns_per_px']:6.2f}, {r['bound_by']:9}) {r['gflop_s']:7.1f} GFLOP/s "
            f"{r['gb_s']:6.1f} GB/s  {r['shapes']}"
        )


def measure(plan: Plan, options: Namespace) -> dict[str, Any]:
    """Peaks, forward and layers."""
    model = plan.model
    assert isinstance(model, UNetModel)
    spec = model.spec
    window = next(densest(plan, spec.patch[0], 1))
    patches = np.repeat(window.pixels[None], spec.batch, axis=0)
    operators, seconds = watched(model, patches, options.rounds)
    peaks = machine_peaks(options.seconds)
    rows = layers(operators, peaks["1"], patches[..., 0].size)
    return {
        "model": {"name": spec.name, "sha256": spec.sha256},
        "peaks_by_threads": peaks,
        "forward": forward(model, rows, seconds, peaks["1"]),
        "layers": rows,
    }


def picture(result: dict[str, Any], path: Path) -> None:
    """Draw it, with the stages of the whole job if they were measured."""
    stages = RESULTS / "throughput.json"
    draw(result, json.loads(stages.read_text()) if stages.exists() else None, path)


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement of a peak")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.01
    torch.set_num_threads(1)
    with slide_at(options.slide, quick=options.quick) as slide:
        plan = plan_for(slide, options.model, precision=options.precision)
        result = measure(plan, options)
    print("\n".join(lines(result)))
    with tempfile.TemporaryDirectory() as folder:
        picture(result, (Path(folder) if options.quick else RESULTS) / "roofline.png")
    finish("roofline", result, quick=options.quick)


if __name__ == "__main__":
    main()
