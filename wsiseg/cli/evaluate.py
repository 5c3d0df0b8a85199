"""``wsiseg evaluate``: predictions and the truth, of one image or of many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wsiseg.cli.options import AsJson, Rename, given, renames
from wsiseg.cli.progress import image_progress
from wsiseg.cli.say import say_licence, show_json
from wsiseg.errors import SettingsError

__all__ = ["evaluate"]


def evaluate(
    truth: Annotated[
        Path | None, typer.Option(help="One file: .png, .npy, .tif labels or .geojson[.gz].")
    ] = None,
    pred: Annotated[
        Path | None,
        typer.Option(
            help="Prediction in the same forms, cells.parquet or a run folder; with --manifest or "
            "--points a folder of them, named as the images are."
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Many images: CSV with image, labels[, set, split, mpp, case]."),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="Folder of images, each with a CSV of centres (y, x, class[, split])."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Run this model on them (default without --pred: see `wsiseg models`)."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Images of this split (default val); all for every one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, results.csv and worst.html.")
    ] = None,
    iou: Annotated[
        list[float] | None, typer.Option(help="IoU threshold of a match; may be repeated.")
    ] = None,
    match_op: Annotated[str, typer.Option(help="> or >= at the threshold.")] = ">",
    empty: Annotated[
        str, typer.Option(help="Value where both sides are empty: nan, 0, 1.")
    ] = "nan",
    radius: Annotated[
        float | None,
        typer.Option(
            help="Radius of a centroid match: µm (default 3); of one file without --mpp, px (12)."
        ),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of the one file, or of --points.")
    ] = None,
    unknown_mpp: Annotated[
        float | None,
        typer.Option(help="µm per pixel of images whose mpp is empty; else they are left out."),
    ] = None,
    rename: Rename = None,
    device: Annotated[
        str | None, typer.Option(help="Of a model: cpu (default), cuda, mps or openvino.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of a model: auto (default), fp32, bf16 or int8.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare predictions with the truth: Dice, AJI, PQ, F1, classes, and the worst errors."""
    from wsiseg.metrics import Rules

    if match_op not in (">", ">=") or empty not in ("nan", "0", "1"):
        raise SettingsError(f"--match-op is > or >=, --empty nan, 0 or 1; got {match_op}, {empty}")
    if radius is not None and not radius > 0:
        raise SettingsError(f"--radius must be more than 0, got {radius:g}")
    empties: dict[str, Literal["nan", 0, 1]] = {"nan": "nan", "0": 0, "1": 1}
    rules = Rules(
        iou=tuple(iou or (0.5,)),
        match_op=">" if match_op == ">" else ">=",
        empty=empties[empty],
        radius=radius if radius is not None else 12.0 if mpp is None else 3.0,
        mpp=mpp,
    )
    of_many: dict[str, Any] = {
        "manifest": manifest,
        "points": points,
        "model": model,
        "split": split,
        "out": out,
    }
    of_many |= {"unknown-mpp": unknown_mpp, "rename": rename}
    of_model = {"device": device, "precision": precision}
    if truth is not None:
        _one_pair(truth, pred, rules, as_json, given(of_many | of_model))
        return
    if manifest is None and points is None:
        raise SettingsError(
            "give --truth and --pred, one file each; or, for many images, --manifest or --points, "
            "with --pred DIR or --model, and --out"
        )
    if pred is not None and (unused := given(of_model)):
        raise SettingsError(f"{unused}: for a model that is run; --pred is a folder of files")
    job: dict[str, Any] = {"manifest": manifest, "points": points, "points_mpp": mpp, "out": out}
    job |= {"pred": pred, "model": model, "split": split or "val", "unknown_mpp": unknown_mpp}
    job |= {"radius_um": 3.0 if radius is None else radius, "rules": rules}
    job |= {"device": device or "cpu", "precision": precision or "auto"}
    _many_images(job, rename, as_json)


def _one_pair(truth: Path, pred: Path | None, rules: Any, as_json: bool, unused: str) -> None:
    from wsiseg.run.evaluate import evaluate as compare
    from wsiseg.run.evaluate import report_text

    if pred is None or unused:
        beside = f", and not with {unused}" if unused else ""
        raise SettingsError(
            f"--truth goes with --pred, one file each{beside}; for many images give --manifest or "
            "--points, with --pred DIR or --model, and --out"
        )
    found = compare(truth, pred, rules)
    if as_json:
        show_json(found)
    else:
        print(report_text(found))


def _many_images(settings: dict[str, Any], rename: list[str] | None, as_json: bool) -> None:
    from wsiseg.run.evaluate_cases import SYNONYMS
    from wsiseg.run.evaluate_images import EvaluationJob, evaluate_images
    from wsiseg.run.evaluate_images_text import images_text

    job = EvaluationJob(**settings, rename=SYNONYMS | renames(rename))
    if job.pred is None:
        say_licence(settings["model"])
    with image_progress(quiet=as_json) as show:
        found = evaluate_images(job, show)
    if as_json:
        show_json(found)
    else:
        print(images_text(found, job.out))
