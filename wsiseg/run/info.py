"""Info: what a slide is, and what models there are, as values and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsiseg.image.slide import Slide

__all__ = ["describe", "info_text", "models_text"]


def describe(slide: Slide) -> dict[str, Any]:
    """Facts about a slide, ready for JSON; ``mpp`` is None where it is not believable."""
    return {
        "uri": slide.uri,
        "format": slide.format,
        "vendor": slide.vendor,
        "width": slide.space.shape[1],
        "height": slide.space.shape[0],
        "mpp": slide.mpp and {"x": slide.mpp[1], "y": slide.mpp[0]},
        "mpp_source": slide.mpp_source,
        "mpp_problem": slide.mpp_problem,
        "remedy": None if slide.mpp else "give the pixel size: --mpp MICROMETRES_PER_PIXEL",
        "objective": slide.objective,
        "levels": [
            {
                "width": level.shape[1],
                "height": level.shape[0],
                "downsample": {"x": level.downsample[1], "y": level.downsample[0]},
            }
            for level in slide.levels
        ],
        "scene": slide.scene,
        "scenes": list(slide.scenes),
        "z": slide.z,
        "z_count": slide.z_count,
        "associated": sorted(slide.associated),
        "properties": slide.properties,
    }


def info_text(found: dict[str, Any]) -> str:
    """The facts of ``describe`` for people."""
    rows = [
        ("slide", found["uri"]),
        ("format", " · ".join(dict.fromkeys(filter(None, [found["format"], found["vendor"]])))),
        ("size", f"{found['width']:,} x {found['height']:,} px{_extent(found)}"),
        ("mpp", _mpp(found)),
    ]
    if found["objective"]:
        rows.append(("objective", f"{found['objective']:g}x"))
    rows += [(f"level {k}", _level(level)) for k, level in enumerate(found["levels"])]
    if len(found["scenes"]) > 1:
        rows.append(("scenes", f"{len(found['scenes'])}, this is {found['scene']} (--scene)"))
    if found["z_count"] > 1:
        rows.append(("z planes", f"{found['z_count']}, this is {found['z']} (--z)"))
    if found["associated"]:
        rows.append(("associated", ", ".join(found["associated"])))
    return "\n".join(f"{name:<11} {value}" for name, value in rows)


def models_text(found: Sequence[dict[str, Any]]) -> str:
    """A table of models."""
    heads = ("model", "µm/px", "classes", "licence", "note")
    rows = [heads] + [
        (
            model["name"] + (" (default)" if model["is_default"] else ""),
            " x ".join(f"{v:g}" for v in dict.fromkeys(model["spacing"])),
            ", ".join(model["classes"]) or "none",
            model["licence"],
            model["note"],
        )
        for model in found
    ]
    widths = [max(len(row[c]) for row in rows) for c in range(len(heads) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def _extent(found: dict[str, Any]) -> str:
    mpp = found["mpp"]
    if not mpp:
        return ""
    return f", {found['width'] * mpp['x'] / 1e3:.2f} x {found['height'] * mpp['y'] / 1e3:.2f} mm"


def _mpp(found: dict[str, Any]) -> str:
    mpp = found["mpp"]
    if not mpp:
        return f"null: {found['mpp_problem']}; {found['remedy']}"
    return f"{mpp['x']:g} x {mpp['y']:g} µm ({found['mpp_source']})"


def _level(level: dict[str, Any]) -> str:
    down = level["downsample"]
    return f"{level['width']:,} x {level['height']:,} px, 1:{down['x']:.6g}"
