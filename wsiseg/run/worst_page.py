"""worst.html: where predictions fail, image by image and error by error, in one file to open.

The page holds its pictures and asks no network for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import isnan
from pathlib import Path
from typing import Any

from wsiseg.atomic import atomic_write
from wsiseg.geometry import Box
from wsiseg.image.open import open_slide
from wsiseg.metrics import ERROR_TYPES
from wsiseg.run.error_cases import ErrorCase
from wsiseg.run.error_pictures import (
    PRED_RGB,
    TRUTH_RGB,
    Picture,
    Scene,
    crop_of,
    draw_crop,
    field_of,
)
from wsiseg.run.evaluate_cases import read_truth
from wsiseg.run.evaluate_image import Judged
from wsiseg.run.evaluate_predictions import Predictions
from wsiseg.run.evaluate_totals import error_base, remarks

__all__ = ["pick_errors", "pick_images", "write_worst_page"]

IMAGES = 3
"""Worst images shown of a set."""
ERRORS = 12
"""Errors shown of a set and type."""

_IMAGE_PX, _CROP_PX = 760, 260
_MEANING = {
    "missed": ("true nuclei that no prediction stands for", "largest first", "true nuclei"),
    "false": ("predictions that stand for no true nucleus", "largest first", "predictions"),
    "merged": (
        "predictions that cover at least half of two or more true nuclei",
        "most nuclei first",
        "predictions",
    ),
    "split": (
        "true nuclei that hold at least half of two or more predictions",
        "most parts first",
        "true nuclei",
    ),
    "boundary": (
        "pairs with an IoU from 0.1 to 0.7 that no merge or split explains; up to 0.5 they count "
        "as one missed and one false in PQ",
        "lowest IoU first",
        "true nuclei",
    ),
}

_OF_CENTRES = {  # where only true centres are known
    "missed": (
        "true centres without the centre of a prediction within {radius:g} µm",
        "farthest from any prediction first",
    ),
    "false": (
        "predictions whose centre has no true one within {radius:g} µm (or a nearer one took it)",
        "largest first",
    ),
}

Shown = tuple[Judged, ErrorCase]


def write_worst_page(
    path: Path,
    found: Mapping[str, Any],
    judged: Sequence[Judged],
    predictions: Predictions,
) -> None:
    """Write the page of an evaluation ``found`` (see ``evaluate_images``) to ``path``.

    Images, truth and predictions are read again for what is shown.
    """
    drawing = _Drawing(predictions, found["settings"]["rename"])
    parts = [_head(found), _tables(found)]
    for name in found["sets"]:
        of_set = [one for one in judged if one.case.set == name]
        parts += _section(name, found, of_set, drawing)
    parts.append("</main></body></html>\n")
    with atomic_write(path) as file:
        file.writelines(part.encode() for part in parts)


def pick_images(judged: Sequence[Judged], count: int = IMAGES) -> list[Judged]:
    """The images of lowest PQ (F1 of detection, where only centres are known), worst first."""
    known = [one for one in judged if not isnan(_quality(one))]
    return sorted(known, key=_quality)[:count]


def pick_errors(judged: Sequence[Judged], kind: str, count: int = ERRORS) -> list[Shown]:
    """The worst errors of one type, taken from the images in turn: no image takes all places."""
    rounds: list[tuple[int, tuple[float, ...], int, Shown]] = []
    for i, one in enumerate(judged):
        of_kind = [error for error in one.worst if error.kind == kind]
        of_kind.sort(key=lambda error: error.severity, reverse=True)
        for turn, error in enumerate(of_kind):
            rounds.append((turn, tuple(-v for v in error.severity), i, (one, error)))
    rounds.sort(key=lambda row: row[:3])
    return [shown for *_, shown in rounds[:count]]


class _Drawing:
    """Draws pieces of images; the image at work is read once."""

    def __init__(self, predictions: Predictions, rename: Mapping[str, str]) -> None:
        self._predictions, self._rename = predictions, rename
        self._last: tuple[str, Scene] | None = None

    def image(self, one: Judged) -> Picture:
        """A whole image."""
        scene = self._scene(one)
        box = field_of(scene.pixels.shape[:2])
        return draw_crop(scene, box, width=min(_IMAGE_PX, 2 * box.shape[1]))

    def errors(self, shown: Sequence[Shown]) -> list[Picture]:
        """A picture of each, in the given order, drawn image by image."""
        pictures: dict[int, Picture] = {}
        for i in sorted(range(len(shown)), key=lambda i: shown[i][0].case.name):
            one, error = shown[i]
            scene = self._scene(one)
            box = crop_of(error, scene.mpp, scene.pixels.shape[:2])
            pictures[i] = draw_crop(scene, box, width=_CROP_PX, focus=error)
        return [pictures[i] for i in range(len(shown))]

    def _scene(self, one: Judged) -> Scene:
        case = one.case
        if self._last is None or self._last[0] != case.name:
            with open_slide(case.image) as slide:
                pixels = slide.read_level(0, Box.of_shape(slide.space.shape))
            pred = self._predictions.read(case)[0]
            scene = Scene(pixels, read_truth(case, self._rename), pred, case.mpp or 1.0)
            self._last = (case.name, scene)
        return self._last[1]


def _quality(one: Judged) -> float:
    name = next((n for n in one.scores if n.startswith("pq@")), "f1@detection")
    return one.scores[name].value()


def _section(
    name: str, document: Mapping[str, Any], judged: Sequence[Judged], drawing: _Drawing
) -> Iterator[str]:
    found, radius = document["sets"][name], document["settings"]["radius_um"]
    yield f'<section><h2 id="{escape(name)}">{escape(name)}</h2>'
    worst = pick_images(judged)
    if worst:
        more = f" of {len(judged)}" if len(judged) > len(worst) else ""
        yield f"<h3>The worst {len(worst)}{more} images</h3><div class=images>"
        yield from (_figure(drawing.image(one), _image_text(one)) for one in worst)
        yield "</div>"
    picked = {kind: pick_errors(judged, kind) for kind in ERROR_TYPES if kind in found["errors"]}
    pictures = iter(drawing.errors([shown for errors in picked.values() for shown in errors]))
    for kind, errors in picked.items():
        yield _kind_text(kind, found, radius)
        yield "<div class=crops>"
        yield from (_figure(next(pictures), _error_text(one, error)) for one, error in errors)
        yield "</div>"
    yield "</section>"


def _kind_text(kind: str, found: Mapping[str, Any], radius: float) -> str:
    count, whole = found["errors"][kind], error_base(found, kind)
    meaning, order, side = _MEANING[kind]
    if not found["outlined"]["images"]:
        meaning, order = (text.format(radius=radius) for text in _OF_CENTRES[kind])
    part = f" ({count / whole:.1%} of {whole:,} {side})" if whole else ""
    return f"<h3>{kind}: {count:,}{part}</h3><p>{escape(meaning.capitalize())}; {order}.</p>"


def _figure(picture: Picture, text: str) -> str:
    photo, lines = picture.uris()
    width, height = picture.size
    return (
        f'<figure tabindex=0 style="width:{width}px"><div class=stack '
        f'style="aspect-ratio:{width}/{height}"><img src="{photo}" alt="">'
        f'<img class=lines src="{lines}" alt="outlines"></div>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _image_text(one: Judged) -> str:
    values = [f"{label} {one.scores[key].value():.3f}" for key, label in _shown_metrics(one)]
    errors = ", ".join(f"{count} {kind}" for kind, count in one.errors.items())
    counts = f"{one.truth} true, {one.pred} predicted nuclei"
    return f"<b>{escape(one.case.name)}</b><br>{' · '.join(values)}<br>{counts}; {errors}"


def _shown_metrics(one: Judged) -> Iterator[tuple[str, str]]:
    for key, label in (("dice", "Dice"), ("aji", "AJI")):
        if key in one.scores:
            yield key, label
    pq = next((n for n in one.scores if n.startswith("pq@")), None)
    if pq:
        yield pq, "PQ"
    yield "f1@detection", "F1 of centres"


def _error_text(one: Judged, error: ErrorCase) -> str:
    y, x = (round((error.box[i] + error.box[i + 2]) / 2) for i in (0, 1))
    note = f"{escape(error.note)}, " if error.note else ""
    return f"{note}{escape(Path(one.case.name).name)}<br>at x {x}, y {y}"


def _head(found: Mapping[str, Any]) -> str:
    made = found["predictions"]
    what = f"model {made['model']}" if "model" in made else f"predictions in {made['folder']}"
    hashed = f" ({made['sha256'][:12]})" if "sha256" in made else ""
    total, skipped = found["total"], len(found["skipped"])
    left_out = f"; {skipped} left out, of unknown pixel size" if skipped else ""
    return (
        '<!doctype html><html lang=en><head><meta charset="utf-8">'
        '<meta name=viewport content="width=device-width"><title>Worst cases</title>'
        f"<style>{_style()}</style></head><body><main><h1>Worst cases</h1>"
        f"<p>{escape(what + hashed)}, wsiseg {escape(found['wsiseg'])}. {total['images']} images "
        f"of the split “{escape(found['settings']['split'])}”, {total['truth']:,} true and "
        f"{total['predicted']:,} predicted nuclei{left_out}.</p>"
        '<input type=checkbox id=bare><label class=legend for=bare><span class="key truth"></span>'
        'truth, solid <span class="key pred"></span>prediction, dashed; in pictures of errors '
        "their own outlines are strong, those around them thin. "
        "<b>Click here to hide or show all lines</b>, or hold the pointer over a picture to see it "
        "without.</label>"
    )


def _tables(found: Mapping[str, Any]) -> str:
    rows = {**found["sets"], "all": found["total"]} if len(found["sets"]) > 1 else found["sets"]
    threshold = f"{found['settings']['iou'][0]:g}"
    columns = {
        "Dice": "dice",
        "AJI": "aji",
        "PQ": f"pq@{threshold}",
        "F1 of centres": "f1@detection",
    }
    heads = "".join(f"<th>{name}" for name in ("set", "images", "cases", *columns, *ERROR_TYPES))
    lines = []
    for name, row in rows.items():
        cells = [_score(row["metrics"].get(key)) for key in columns.values()]
        cells += [
            f"{row['errors'].get(kind, '–'):,}" if kind in row["errors"] else "–"
            for kind in ERROR_TYPES
        ]
        link = f'<a href="#{escape(name)}">{escape(name)}</a>' if name != "all" else "<b>all</b>"
        body = "".join(f"<td>{cell}" for cell in (row["images"], row["cases"], *cells))
        lines.append(f"<tr><th>{link}{body}")
    note = (
        "Means over images, with 95 % bootstrap intervals over cases (none where there is one "
        "case); errors are counts."
    )
    notes = "".join(f"<br>{escape(remark)}" for remark in remarks(found))
    return f"<table><tr>{heads}{''.join(lines)}</table><p class=note>{note}{notes}</p>"


def _score(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["mean"] is None:
        return "–"
    interval = metric["mean_95"]
    around = f" <small>{interval[0]:.2f}–{interval[1]:.2f}</small>" if interval else ""
    return f"{metric['mean']:.3f}{around}"


def _style() -> str:
    truth, pred = ("#" + bytes(rgb).hex() for rgb in (TRUTH_RGB, PRED_RGB))
    return (
        "body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fff;margin:0}"
        "main{max-width:1640px;margin:auto;padding:1.2rem}h2{border-top:2px solid #ddd;"
        "padding-top:1rem;margin-top:2.2rem}h3{margin:1.4rem 0 .2rem}p{margin:.2rem 0 .6rem}"
        "table{border-collapse:collapse;margin-top:1rem}th,td{padding:.2rem .7rem;text-align:right;"
        "border-bottom:1px solid #e4e4e4}th:first-child{text-align:left}small,.note,figcaption{"
        "color:#555}.images,.crops{display:flex;flex-wrap:wrap;gap:14px}figure{margin:0;"
        "max-width:100%}figcaption{font-size:12.5px;overflow-wrap:anywhere}.stack{position:relative;"
        "background:#eee}.stack img{position:absolute;inset:0;width:100%;height:100%}"
        "figure:hover .lines,figure:focus .lines,#bare:checked~section .lines{visibility:hidden}"
        "#bare{position:absolute;opacity:0}#bare:focus-visible+label{outline:2px solid #06c}"
        ".legend{display:block;cursor:pointer;background:#f3f3f5;padding:.5rem .8rem;"
        "border-radius:6px}.key{display:inline-block;width:1.6em;height:.95em;border-radius:3px;"
        "margin:0 .45em 0 .6em;vertical-align:-.1em;background:#8a6aa0}"
        f".truth{{border:3px solid {truth}}}.pred{{border:3px dashed {pred}}}"
    )
