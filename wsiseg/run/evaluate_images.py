"""Evaluate a model, or files of predictions, on many labelled images: scores, files and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from wsiseg import __version__
from wsiseg.atomic import atomic_write, make_folder
from wsiseg.cores import cores
from wsiseg.engine.executor import Executor, Serial, Threads
from wsiseg.errors import InputFileError, SettingsError
from wsiseg.image.slide import MAX_MPP, MIN_MPP
from wsiseg.metrics import Resamples, Rules
from wsiseg.model.base import Model
from wsiseg.model.zoo import load_model
from wsiseg.run.evaluate_cases import (
    SYNONYMS,
    Case,
    cases_of_manifest,
    cases_of_points,
    of_split,
    read_truth,
)
from wsiseg.run.evaluate_image import Judged, judge
from wsiseg.run.evaluate_predictions import FromFolder, FromModel, Predictions
from wsiseg.run.evaluate_totals import Document, image_row, totals
from wsiseg.run.worst_page import write_worst_page
from wsiseg.training.readers.classes import class_key

__all__ = ["FILES", "EvaluationJob", "evaluate_images"]

FILES = ("results.json", "results.csv", "worst.html")
"""What is written into the output folder, besides ``cells/`` where a model ran."""

OnImage = Callable[[int, int], None]
"""Told of images done, and of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationJob:
    """What to evaluate, on what, and by which rules. Raises SettingsError for what cannot be."""

    manifest: Path | None = None
    """A manifest of labelled images; see ``cases_of_manifest``."""
    points: Path | None = None
    """A folder of images with centres; see ``cases_of_points``."""
    points_mpp: float | None = None
    """µm per px of the images in ``points``."""
    pred: Path | None = None
    """A folder of predictions; see ``FromFolder``."""
    model: str | Path | Model | None = None
    """A model to be run instead; the default model where neither is given."""
    split: str = "val"
    """Which images: "train", "val", ... or "all"."""
    out: Path | None = None
    """Folder for the files; None writes none."""
    unknown_mpp: float | None = None
    """µm per px of images whose pixel size is not known; None leaves them out, counted."""
    radius_um: float = 3.0
    """Reach of a centroid match, µm: 12 px at 0.25, 6 px at 0.5."""
    rules: Rules = field(default_factory=Rules)
    """IoU thresholds, ties, empties; not its radius and mpp."""
    rename: Mapping[str, str] = field(default_factory=lambda: dict(SYNONYMS))
    """Names of classes to be replaced, on both sides; case does not count, as in training."""
    resamples: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""
    device: str = "cpu"
    """Where a model runs."""
    precision: str = "auto"
    """How it computes."""
    workers: int | None = None
    """Images at once; None: one per core."""

    def __post_init__(self) -> None:
        rename = {class_key(old): class_key(new) for old, new in self.rename.items()}
        object.__setattr__(self, "rename", rename)
        if self.manifest is None and self.points is None:
            raise SettingsError("--manifest or --points must say which images to evaluate on")
        if self.pred is not None and self.model is not None:
            raise SettingsError("--pred and --model exclude each other: give one of them")
        if self.points is not None and self.points_mpp is None:
            raise SettingsError("--points needs --mpp, the µm per px of its images")
        if self.unknown_mpp is not None and self.manifest is None:
            raise SettingsError("--unknown-mpp is for images of a --manifest; there is none")
        if self.points_mpp is not None and self.points is None:
            raise SettingsError(
                "--mpp is the pixel size of --points; with --manifest each image has its own in "
                "the column mpp, and --unknown-mpp is for those where it is empty"
            )
        if not 0 < self.radius_um < inf:
            raise SettingsError(f"--radius must be more than 0 µm, got {self.radius_um}")
        for name, mpp in (("mpp", self.points_mpp), ("unknown-mpp", self.unknown_mpp)):
            if mpp is not None and not MIN_MPP <= mpp <= MAX_MPP:
                expected = f"{MIN_MPP:g} to {MAX_MPP:g} µm per px"
                raise SettingsError(f"--{name} must be {expected}, got {mpp}")


def evaluate_images(job: EvaluationJob, on_image: OnImage | None = None) -> Document:
    """Compare predictions with the truth of every image of ``job``, and write its files.

    The document (``results.json``): ``wsiseg`` (version), ``predictions`` (the model with its
    hash, or the folder), ``settings``, ``skipped`` (images left out, and why),
    ``centres_count_from`` (set with centres -> 0 or 1: what was taken off them), ``sets`` and
    ``total`` (see ``totals``), and ``images`` (a row each, as in ``results.csv``).

    A model sees each image whole, at its pixel size, through the engine of ``wsiseg.segment``.
    The bootstrap draws cases (patients or slides) where the manifest names them, else images.

    Raises InputFileError for manifests, truth and predictions that are not usable, the errors of
    ``load_model``, and OutputError where files cannot be written.
    """
    cases, skipped = _cases(job)
    rules = replace(job.rules, radius=job.radius_um, mpp=None)  # each image has its own mpp
    with _predictions(job, cases) as (predictions, facts):
        judged = _judge_all(cases, predictions, job, rules, on_image)
        found: Document = {
            "wsiseg": __version__,
            "predictions": facts,
            "settings": _settings(job, rules),
            "skipped": skipped,
            "centres_count_from": {c.set: c.origin for c in cases if c.centres},
            **_totals(judged, rules, job),
            "images": [image_row(one, rules) for one in judged],
        }
        if job.out is not None:
            _write(job.out, found)
            write_worst_page(job.out / "worst.html", found, judged, predictions)
    return found


def _cases(job: EvaluationJob) -> tuple[list[Case], list[dict[str, str]]]:
    """Cases to evaluate, with a pixel size each, and those left out for want of one."""
    cases = cases_of_manifest(job.manifest) if job.manifest else []
    if job.points is not None:
        cases += cases_of_points(job.points, job.points_mpp)
    if not cases:
        raise InputFileError(f"{job.manifest}: there is no image in it")
    kept, skipped = [], []
    for case in of_split(cases, job.split):
        if case.mpp is None and job.unknown_mpp is not None:
            case = replace(case, mpp=job.unknown_mpp)
        if case.mpp is None:
            skipped.append({"image": case.name, "set": case.set, "reason": "unknown pixel size"})
        else:
            kept.append(case)
    if not kept:
        raise InputFileError(
            f"all {len(skipped)} images are of unknown pixel size: fill in the column mpp of "
            f"{job.manifest}, or give --unknown-mpp"
        )
    return kept, skipped


@contextmanager
def _predictions(
    job: EvaluationJob, cases: Sequence[Case]
) -> Iterator[tuple[Predictions, Document]]:
    """Where predictions come from, and what to say of it; the output folder is made here."""
    if job.out is not None:
        make_folder(job.out)
    if job.pred is not None:
        folder = FromFolder(job.pred, job.rename)
        folder.check(cases)
        yield folder, {"folder": str(job.pred)}
        return
    model = (
        job.model
        if isinstance(job.model, Model)
        else load_model(job.model, device=job.device, precision=job.precision)
    )
    spec = model.spec
    facts: Document = {"model": spec.name, "sha256": spec.sha256, "licence": spec.licence}
    facts |= {"spacing_um": list(spec.spacing), "classes": list(spec.classes)}
    if job.out is not None:
        yield FromModel(model, job.out / "cells", job.rename), facts
        return
    with TemporaryDirectory(prefix="wsiseg-") as folder_name:
        yield FromModel(model, Path(folder_name), job.rename), facts


def _judge_all(
    cases: Sequence[Case],
    predictions: Predictions,
    job: EvaluationJob,
    rules: Rules,
    on_image: OnImage | None,
) -> list[Judged]:
    """Every case, in order, several at a time."""

    def one(index: int) -> Judged:
        case = cases[index]
        truth = read_truth(case, job.rename)
        return judge(case, truth, predictions.read(case), predictions.file(case), rules)

    found: dict[int, Judged] = {}
    for index, judged in _executor(job.workers).map(one, range(len(cases))):
        found[index] = judged
        if on_image is not None:
            on_image(len(found), len(cases))
    return [found[index] for index in range(len(cases))]


def _executor(workers: int | None) -> Executor:
    threads = workers if workers is not None else cores()
    return Threads(threads) if threads > 1 else Serial()


def _totals(judged: Sequence[Judged], rules: Rules, job: EvaluationJob) -> Document:
    def of(part: Sequence[Judged]) -> Document:
        cases = [f"{one.case.set}/{one.case.case}" for one in part]
        drawn = Resamples.draw(cases, count=job.resamples, seed=job.seed)
        return totals(part, rules, drawn)

    names = dict.fromkeys(one.case.set for one in judged)
    sets = {name: of([one for one in judged if one.case.set == name]) for name in names}
    return {"sets": sets, "total": of(judged)}


def _settings(job: EvaluationJob, rules: Rules) -> Document:
    facts = asdict(rules)
    return {
        "manifest": None if job.manifest is None else str(job.manifest),
        "points": None if job.points is None else str(job.points),
        "points_mpp": job.points_mpp,
        "split": job.split,
        "unknown_mpp": job.unknown_mpp,
        "radius_um": job.radius_um,
        "iou": list(rules.iou),
        "match_op": facts["match_op"],
        "empty": facts["empty"],
        "rename": dict(job.rename),
        "bootstrap": {"resamples": job.resamples, "seed": job.seed, "level": 0.95},
    }


def _write(out: Path, found: Document) -> None:
    """``results.json`` and ``results.csv``."""
    with atomic_write(out / "results.json") as file:
        text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
        file.write(text.encode() + b"\n")
    columns = list(dict.fromkeys(name for row in found["images"] for name in row))
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found["images"])
    with atomic_write(out / "results.csv") as file:
        file.write(table.getvalue().encode())
