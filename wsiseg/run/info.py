"""Info: what a slide is, and what models there are, as values and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsiseg.image.slide import Slide

__all__ = ["describe", "info_text", "licence_text", "models_text"]


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
    """The models of ``wsiseg.model.zoo.models`` (as dicts) for people, one block each."""
    return "\n\n".join(_model(model) for model in found)


def licence_text(model: dict[str, Any]) -> str:
    """What a run says of its model (a dict of ModelInfo): name and licence, and what to heed."""
    said = f"model {model['name']}, licence {model['licence']}"
    if model["is_open"]:
        return said
    return (
        f"{said}: {_heed(model)}; see {model['licence_file']}; WSISEG_OPEN_ONLY=1 takes an open "
        "model instead"
    )


def _model(model: dict[str, Any]) -> str:
    licence, unit = model["licence"], model["unit"].replace("um", "µm")
    rows = [
        ("licence", licence if model["is_open"] else f"{licence} ({_heed(model)})"),
        ("pixels", f"{' x '.join(f'{v:g}' for v in dict.fromkeys(model['spacing']))} {unit}"),
        ("classes", ", ".join(model["classes"]) or "none"),
        ("val PQ", _val_pq(model["scores"])),
        ("note", model["note"]),
    ]
    head = model["name"] + (" (default)" if model["is_default"] else "")
    return "\n".join([head, *(f"  {name:<8} {value}" for name, value in rows if value)])


def _heed(model: dict[str, Any]) -> str:
    return "non-commercial use only" if "-NC" in model["licence"] else "not an open licence"


def _val_pq(scores: dict[str, dict[str, dict[str, Any]]]) -> str:
    """PQ of each validation set that has one."""
    sets = scores.get("val", {})
    return ", ".join(f"{name} {found['pq']:.2f}" for name, found in sets.items() if "pq" in found)


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
