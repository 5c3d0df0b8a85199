"""The picture of roofline.py: where a second goes, per stage and per operator."""

from __future__ import annotations

from math import log10
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from wsiseg.export.lettering import draw_text, text_width

__all__ = ["draw"]

SIZE = (1240, 900)
INK, GREY, PALE, WHITE = (30, 32, 38), (120, 124, 132), (222, 225, 230), (255, 255, 255)
FLOOR, ABOVE, MEMORY = (32, 92, 160), (128, 178, 224), (214, 120, 44)
KINDS = {"bf16": FLOOR, "fp32": (120, 110, 190)}
STAGES = {
    "network": ABOVE, "decode": (214, 120, 44), "measure": (236, 186, 84), "read": (88, 160, 92),
    "tissue": (60, 120, 70), "trace": (196, 86, 96), "stitch": (150, 92, 160),
    "store": (176, 160, 96), "write": (120, 110, 190), "preview": (190, 150, 196), "verify": GREY,
    "cores idle": PALE,
}  # fmt: skip
"""In the order of the bar."""
OPERATORS = 12  # shown one by one
INTENSITIES = (0.5, 2000.0)  # FLOP per byte, from left to right
SLOWEST = 5.0  # GFLOP/s, at the bottom

Told = dict[str, Any]
Frame = tuple[int, int, int, int]
Color = tuple[int, int, int]


def draw(roofline: Told, throughput: Told | None, path: Path) -> None:
    """Write the picture as PNG; ``throughput`` is the result of throughput.py, if there is one."""
    image = Image.new("RGB", SIZE, WHITE)
    pen = ImageDraw.Draw(image)
    forward = roofline["forward"]
    title = (
        f"{roofline['model']['name']}: {forward['flop_per_px'] / 1000:.1f} kFLOP/px, "
        f"{forward['gflop_s']:.0f} GFLOP/s on one core, "
        f"{100 * forward['share_of_gemm_peak']:.0f} % of its GEMM peak"
    )
    draw_text(pen, (40, 44), title, 24, INK)
    if throughput is None:
        draw_text(pen, (40, 114), "throughput.py tells the stages of the whole job", 18, GREY)
    else:
        _whole_job(pen, (40, 84), roofline, throughput)
    _Roofs(pen, (90, 330, 560, 820), roofline).draw()
    _operators(pen, (660, 330, 1200, 820), roofline)
    image.save(path, optimize=True)


def _whole_job(pen: Any, at: tuple[int, int], roofline: Told, job: Told) -> None:
    """One bar: wall seconds per mm² by stage, the floor of the network within its own."""
    x, y = at
    threads = job["forwards_at_once"]
    seconds = {
        stage: job["stages"][stage]["core_s_per_mm2"] / threads
        for stage in sorted(job["stages"], key=[*STAGES].index)
    }
    floor = _network_floor(roofline, job, threads)
    scale = (SIZE[0] - 2 * x) / sum(seconds.values())
    text = f"whole job, {threads} cores: {job['seconds_per_mm2']:.2f} s/mm² of what is analysed"
    draw_text(pen, (x, y + 14), text, 18, INK)
    left, top = float(x), y + 34
    for stage, value in seconds.items():
        pen.rectangle((left, top, left + value * scale, top + 54), fill=STAGES[stage])
        if stage == "network":
            pen.rectangle((left, top, left + floor * scale, top + 54), fill=FLOOR)
        left += value * scale
    above = seconds.pop("network") - floor
    keys = [(FLOOR, f"network at GEMM peak {floor:.2f}"), (ABOVE, f"above it {above:.2f}")]
    keys += [(STAGES[name], f"{name} {s:.2f}") for name, s in seconds.items() if s >= 0.005]
    _keys(pen, (x, top + 84), keys)
    draw_text(pen, (x, top + 142), f"s/mm² of each; slide {job['slide']}", 14, GREY)


def _keys(pen: Any, at: tuple[int, int], keys: list[tuple[Color, str]]) -> None:
    """What the colours are, in lines."""
    x, y = at
    for colour, label in keys:
        need = round(text_width(label, 16)) + 50
        if x + need > SIZE[0] - at[0]:
            x, y = at[0], y + 28
        pen.rectangle((x, y - 13, x + 14, y + 1), fill=colour)
        draw_text(pen, (x + 20, y), label, 16, INK)
        x += need


def _network_floor(roofline: Told, job: Told, threads: int) -> float:
    """Wall seconds per analysed mm² at the GEMM peak of all cores, margins of patches included."""
    forward, peaks = roofline["forward"], roofline["peaks_by_threads"]
    most = peaks.get(str(threads)) or peaks["1"]
    patch = forward["patch"]
    flop = forward["flop_per_px"] * job["patches"] * patch[0] * patch[1]
    return float(flop / most[forward["peak"]] / 1e9 / job["areas"]["cores_mm2"])


class _Roofs:
    """GFLOP/s against FLOP per byte, a dot per operator, its area the time it takes."""

    def __init__(self, pen: Any, frame: Frame, roofline: Told) -> None:
        self.pen, self.frame = pen, frame
        self.peaks = roofline["peaks_by_threads"]["1"]
        self.rows = [r for r in roofline["layers"] if r["flop_per_px"] > 0]
        self.fastest = 10 ** (log10(self.peaks["bf16_gflop_s"]) + 0.25)

    def draw(self) -> None:
        x0, y0 = self.frame[:2]
        text = "operators with FLOP: GFLOP/s by FLOP per byte"
        draw_text(self.pen, (x0 - 50, y0 - 18), text, 16, INK)
        self._axes()
        for kind, colour in KINDS.items():
            self._flat_roof(kind, colour)
        for name, speed in self.peaks["copy_gb_s"].items():
            self._slope(name, speed)
        longest = max(r["ns_per_px"] for r in self.rows)
        for row in self.rows:
            self._dot(row, 3 + 13 * (row["ns_per_px"] / longest) ** 0.5)
        self.pen.rectangle(self.frame, outline=GREY)

    def _at(self, intensity: float, rate: float) -> tuple[float, float]:
        x0, y0, x1, y1 = self.frame
        u = log10(intensity / INTENSITIES[0]) / log10(INTENSITIES[1] / INTENSITIES[0])
        v = log10(rate / SLOWEST) / log10(self.fastest / SLOWEST)
        return x0 + u * (x1 - x0), y1 - v * (y1 - y0)

    def _axes(self) -> None:
        x0, y0, x1, y1 = self.frame
        for value in (1, 10, 100, 1000):
            x = self._at(value, SLOWEST)[0]
            self.pen.line((x, y0, x, y1), fill=PALE)
            place = (x - text_width(str(value), 14) / 2, y1 + 20)
            draw_text(self.pen, place, str(value), 14, GREY)
        for value in (10, 100):
            y = self._at(INTENSITIES[0], value)[1]
            self.pen.line((x0, y, x1, y), fill=PALE)
            draw_text(self.pen, (x0 - 10 - text_width(str(value), 14), y + 5), str(value), 14, GREY)

    def _flat_roof(self, kind: str, colour: Color) -> None:
        peak = self.peaks[f"{kind}_gflop_s"]
        knee = peak / self.peaks["copy_gb_s"]["L2"]
        left = self._at(max(INTENSITIES[0], knee), peak)
        right = self._at(INTENSITIES[1], peak)
        self.pen.line((*left, *right), fill=colour, width=3)
        label = f"{kind} GEMM {peak:.0f}"
        place = (right[0] - text_width(label, 14) - 4, right[1] - 7)
        draw_text(self.pen, place, label, 14, INK)

    def _slope(self, name: str, speed: float) -> None:
        peak = self.peaks["bf16_gflop_s"]
        first, knee = max(INTENSITIES[0], SLOWEST / speed), peak / speed
        ends = (*self._at(first, first * speed), *self._at(knee, peak))
        self.pen.line(ends, fill=MEMORY, width=2)
        x, y = self._at((first * knee) ** 0.5, (first * knee) ** 0.5 * speed)
        draw_text(self.pen, (x + 10, y + 16), f"{name} {speed:.0f} GB/s", 13, MEMORY)

    def _dot(self, row: Told, radius: float) -> None:
        intensity = row["flop_per_px"] / row["bytes_per_px"]
        x, y = self._at(max(INTENSITIES[0], intensity), max(SLOWEST, row["gflop_s"]))
        box = (x - radius, y - radius, x + radius, y + radius)
        self.pen.ellipse(box, fill=ABOVE, outline=FLOOR, width=2)


def _operators(pen: Any, frame: Frame, roofline: Told) -> None:
    """Bars of the operators that take longest, each over its floor."""
    x0, y0, x1, y1 = frame
    forward, rows = roofline["forward"], roofline["layers"]
    text = (
        f"ns per px on one core: {forward['ns_per_px']:.0f} measured, "
        f"{forward['floor_ns_per_px']:.0f} each at its own roof"
    )
    draw_text(pen, (x0, y0 - 18), text, 16, INK)
    bars = [(_label(r), r["ns_per_px"], r["floor_ns_per_px"]) for r in rows[:OPERATORS]]
    rest = rows[OPERATORS:]
    if rest:
        both = (sum(r[key] for r in rest) for key in ("ns_per_px", "floor_ns_per_px"))
        bars.append((f"{len(rest)} others", *both))
    step = (y1 - y0) / (len(bars) + 1)
    scale = (x1 - x0 - 90) / max(bar[1] for bar in bars)
    for k, (label, time, floor) in enumerate(bars):
        top = y0 + k * step + 18
        draw_text(pen, (x0, top - 5), label, 13, GREY)
        for ns, colour in ((time, ABOVE), (floor, FLOOR)):
            pen.rectangle((x0, top, x0 + ns * scale, top + step * 0.42), fill=colour)
        place = (x0 + time * scale + 8, top + step * 0.36)
        draw_text(pen, place, f"{time:.1f} / {floor:.1f}", 13, INK)
    draw_text(pen, (x0, y1 + 20), "dark: the floor; light: above it", 14, GREY)


def _label(row: Told) -> str:
    """Such as "4 x convolution 32 to 32, 3x3, on 256x256  bf16 peak"."""
    shapes = [tuple(map(int, s.split("x"))) for s in row["shapes"].split() if s]
    name = row["operator"].strip("_").removesuffix("_pointwise")
    times = f"{row['times']} x " if row["times"] > 1 else ""
    out = shapes[-1]
    if "conv" in name:
        filters = next(s for s in shapes[1:] if len(s) == len(out) and s[0] == out[1])
        size, grid = ("x".join(map(str, s[2:])) for s in (filters, out))
        around = " + x" if len(shapes) > 4 else ""
        what = f"{filters[1]} to {filters[0]}, {size}, on {grid}{around}"
    else:
        what = "x".join(map(str, out))
    return f"{times}{name} {what}  {row['bound_by']}"
