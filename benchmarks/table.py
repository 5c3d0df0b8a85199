"""The table of goals and results in README.md, made from results/*.json.

python benchmarks/table.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table.py begins -->", "<!-- table.py ends -->"

Told = dict[str, Any]
Row = tuple[str, str, str, Callable[[Told], str]]


def speed(told: Told) -> str:
    return f"{told['seconds_per_mm2']:.2f} s/mm², {told['mpx_s']:.2f} Mpx/s"


def overhead(told: Told) -> str:
    return f"{told['end_to_end_over_forward']:.2f}"


def busy(told: Told) -> str:
    return f"{100 * told['network_share_of_core_time']:.0f} %"


def stages(told: Told) -> str:
    rows = sorted(told["stages"].items(), key=lambda item: -item[1]["share_of_core_time"])
    shares = [(name, 100 * row["share_of_core_time"]) for name, row in rows]
    return ", ".join(f"{name} {share:.1f} %" for name, share in shares if share >= 0.05)


def areas(told: Told) -> str:
    found = told["areas"]
    return f"{found['cores_over_tissue']:.2f} and {found['with_margins_over_tissue']:.2f}"


def start(told: Told) -> str:
    return f"{told['help_s']:.2f} s"


def roof(told: Told) -> str:
    forward = told["forward"]
    return (
        f"{forward['gflop_s']:.0f} GFLOP/s on a core, {100 * forward['share_of_gemm_peak']:.0f} % "
        f"of its GEMM peak; {forward['ns_per_px']:.0f} ns/px, floor "
        f"{forward['floor_ns_per_px']:.0f}"
    )


def decode(told: Told) -> str:
    rows = told["groups"]["decode"]
    if "tiatoolbox: _proc_np_hv" not in rows:
        return "tiatoolbox was left out"
    theirs = rows["tiatoolbox: _proc_np_hv"]["s_per_mm2"]
    dt, hv = (rows[f"wsiseg: {kind}"]["s_per_mm2"] for kind in ("unit distance", "HV"))
    return f"{theirs / dt:.1f} x (HV {theirs / hv:.1f} x): {theirs:.2f} to {dt:.3f} s/mm²"


def polygons(told: Told) -> str:
    group = "polygons and measurements"
    both = [told["groups"][name] for name in (group, f"{group}, crowded")]

    def rates(call: str) -> str:
        biopsy, crowded = (rows[call]["objects_per_s"] / 1000 for rows in both)
        return f"{biopsy:.0f} k/s on the biopsy, {crowded:.0f} k/s where nuclei are crowded"

    plain = "wsiseg, without moments"
    if plain not in both[0]:
        return rates("wsiseg")
    return f"{rates('wsiseg')}; without moments of shape and colour {rates(plain)}"


def reading(told: Told) -> str:
    found = {name: f["1024 px"] for name, f in told["codecs"].items() if name.startswith("jpeg ")}
    return "; ".join(
        f"{name.removeprefix('jpeg ')} {f['times openslide']['cpu']:.1f} x, {f['scaling']:.2f}"
        for name, f in found.items()
        if "times openslide" in f
    )


def scaling(told: Told) -> str:
    gains = " / ".join(f"{gain:.2f} x" for gain in told["gain"]["2"])
    patches = " / ".join(f"{gain:.2f} x" for gain in told["gain_in_patches"]["2"])
    return f"{gains} (patches {patches})"


def memory(told: Told) -> str:
    most = max(told["rows"], key=lambda row: row["peak_rss_bytes"])
    ratios = [f"{name}: {ratio:.2f} x" for name, ratio in told["most_over_least"].items()]
    return "; ".join([*ratios, f"{most['peak_rss_bytes'] / 1e9:.2f} GB at most"])


def scale(told: Told) -> str:
    size, found = max(told["gigapixels"].items(), key=lambda item: float(item[0]))
    run = found["whole"]
    return (
        f"{run['after_regions_s']:.0f} s for {run['cells'] / 1e6:.2f} million cells on {size} Gpx, "
        f"{run['peak_rss_bytes'] / 1e9:.2f} GB"
    )


def export(told: Told) -> str:
    rows = [row for name, row in told["id and class"].items() if "looked at" not in name]
    return " / ".join(f"{row['wall_s']:.2f} s" for row in rows)


ROWS: tuple[Row, ...] = (
    (
        "biopsy end to end, 2 cores: (total - start-up) / analysed mm²",
        "<= 3.2 s/mm²", "throughput", speed,
    ),
    (
        "end to end less start-up / bare forward over the same patches",
        "<= 1.25", "throughput", overhead,
    ),
    ("share of the cores' time in the network", "", "throughput", busy),
    ("all stages, share of the cores' time", "", "throughput", stages),
    (
        "area run / tissue: cores of patches, and with margins",
        "<= 1.3 and <= 1.5", "throughput", areas,
    ),
    ("`wsiseg --help`", "< 0.4 s", "throughput", start),
    ("bare forward against the machine", "", "roofline", roof),
    ("decode: tiatoolbox `_proc_np_hv` / ours, per mm²", ">= 10 x", "kernels", decode),
    ("labels to polygons and measurements, per core", ">= 200 k/s", "kernels", polygons),
    (
        "JPEG TIFF in 1024 px: OpenSlide / ours per core, and 2 threads / 1",
        ">= 4 x, >= 1.7", "reading", reading,
    ),
    (
        "a million cells: GeoJSON.gz / GeoParquet / window of 2000² px",
        "<= 8 / 6 / 0.15 s", "export", export,
    ),
    ("stitch, trace and write a million cells", "<= 60 s, <= 4 GB", "scale", scale),
    ("peak memory, largest / smallest", "<= 1.10 x, <= 4 GB", "memory", memory),
    ("2 dask workers / 1, steady state, region 1024", ">= 1.8 x", "scaling", scaling),
)  # fmt: skip
"""What, goal, result, and how to tell it."""


def lines() -> Iterator[str]:
    yield "| what | goal | measured | with |"
    yield "|---|---|---|---|"
    for what, goal, name, shown in ROWS:
        yield f"| {what} | {goal} | {measured(name, shown)} | `{name}.py` |"


def measured(name: str, shown: Callable[[Told], str]) -> str:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return "not measured"
    told = json.loads(path.read_text())
    try:
        return f"{shown(told)} ({told['date']})"
    except KeyError:  # the script tells other things by now
        return "not measured anew"


def main() -> None:
    text = README.read_text()
    table = "\n".join((BEGIN, "", *lines(), "", END))
    README.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.DOTALL))
    print(table)


if __name__ == "__main__":
    main()
