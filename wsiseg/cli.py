"""The command line: commands into jobs, and with ``cli_archive`` all that prints.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done,
1 failed, 2 wrong usage, 75 another run is in the folder, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from wsiseg import cli_archive
from wsiseg.errors import LockedError, SettingsError, WsisegError

if TYPE_CHECKING:
    from wsiseg.run.report import Progress
    from wsiseg.training.outcome import TrainProgress

__all__ = ["app", "main"]

FAILED, USAGE, LOCKED, INTERRUPTED, TERMINATED = 1, 2, 75, 130, 143

app = typer.Typer(
    name="wsiseg",
    help="Gigapixel pathology slides into cells one can count on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

dataset = typer.Typer(help="Look at labelled images before training.", no_args_is_help=True)
app.add_typer(dataset, name="dataset")
cli_archive.register(app)

SlideArgument = Annotated[str, typer.Argument(help="Slide: SVS, NDPI, MRXS, TIFF, OME-TIFF, ...")]
Mpp = Annotated[
    float | None, typer.Option(help="µm per pixel of level 0, overriding the file's metadata.")
]
Scene = Annotated[int | None, typer.Option(help="Scene of a file with several; default the first.")]
Plane = Annotated[int | None, typer.Option(help="Plane of a z-stack; default the middle one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Terminated(BaseException):
    """SIGTERM arrived."""


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code without a word
            _stopped("interrupted", INTERRUPTED)
    except WsisegError as error:
        code = _failed(error)
    except (KeyboardInterrupt, typer.Abort):
        code = _stopped("interrupted", INTERRUPTED)
    except Terminated:
        code = _stopped("terminated", TERMINATED)
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        sys.stderr.close()
        code = FAILED
    except Exception as error:
        code = _usage(error)
    sys.exit(int(code or 0))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Gigapixel pathology slides into cells one can count on."""
    if version:
        from wsiseg import __version__

        print(f"wsiseg {__version__}")
        raise typer.Exit


@app.command()
def segment(
    slide: SlideArgument,
    out: Annotated[Path, typer.Option(help="Run folder; the same command resumes in it.")],
    model: Annotated[
        str | None,
        typer.Option(help="Model: a name of `wsiseg models` (default: its first), or weights."),
    ] = None,
    mpp: Mpp = None,
    scene: Scene = None,
    z: Plane = None,
    region: Annotated[
        int, typer.Option(help="Side of a region, px of the model's lattice; never the result.")
    ] = 1536,
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes (dask); default threads on all cores, 0 one thread."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Running dask scheduler, tcp://HOST:PORT.")
    ] = None,
    tissue: Annotated[
        str, typer.Option(help="auto, none (whole slide), or a GeoJSON file that limits the run.")
    ] = "auto",
    stain: Annotated[
        str, typer.Option(help="default, or macenko (dye vectors estimated from the slide).")
    ] = "default",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or openvino.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16, or int8 (by openvino: twice as fast).")
    ] = "auto",
    batch: Annotated[int | None, typer.Option(help="Patches of one forward.")] = None,
    tta: Annotated[
        bool,
        typer.Option("--tta", help="Average over mirror images: 4 times slower, a bit better."),
    ] = False,
    max_memory: Annotated[
        str | None, typer.Option(help="Bound for the memory of all processes, such as 4GB.")
    ] = None,
    simplify: Annotated[
        float,
        typer.Option(
            help="Simplify outlines by up to so many px of the lattice; areas stay exact."
        ),
    ] = 0.0,
    format: Annotated[
        str,
        typer.Option(
            help="Files of cells, comma-separated: geojson, csv; parquet is always written."
        ),
    ] = "geojson,parquet",
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with what is there, or start over.")
    ] = True,
    hash: Annotated[
        str, typer.Option(help="quick (size, time, head and tail) or full (every byte).")
    ] = "quick",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find every nucleus of a slide: GeoJSON for QuPath, GeoParquet, a picture, a record."""
    from wsiseg.run.job import Job, parse_memory

    if hash not in ("quick", "full"):
        raise SettingsError(f"--hash must be quick or full, got {hash!r}")
    job = Job(
        slide=slide,
        out=out,
        model=model,
        mpp=mpp,
        scene=scene,
        z=z,
        region=region,
        workers=workers,
        scheduler=scheduler,
        tissue=tissue,
        stain=stain,
        device=device,
        precision=precision,
        batch=batch,
        tta=tta,
        max_memory=parse_memory(max_memory) if max_memory else None,
        simplify=simplify,
        formats=tuple(filter(None, (part.strip() for part in format.split(",")))),
        fresh=not resume,
        full_hash=hash == "full",
    )
    _run(job, quiet=quiet, as_json=as_json)


@app.command()
def info(
    slide: SlideArgument,
    mpp: Mpp = None,
    scene: Scene = None,
    z: Plane = None,
    as_json: AsJson = False,
) -> None:
    """Say what a slide is: levels, pixel size, scanner, scenes."""
    from wsiseg.image.open import open_slide
    from wsiseg.run.info import describe, info_text

    with open_slide(slide, mpp=mpp, scene=scene, z=z) as opened:
        found = describe(opened)
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else info_text(found))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo slide and its cells.")] = Path(
        "wsiseg-demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Make a synthetic H&E slide with known cells, segment it, and compare."""
    from wsiseg.run.demo import demo_slide, demo_text, score_demo
    from wsiseg.run.job import Job

    _say(f"making a synthetic slide in {out} (a first run also compiles, once, for a while) ...")
    slide = demo_slide(out)
    job = Job(slide=slide.path, out=out, fresh=True)
    facts = _run(job, quiet=as_json, as_json=False, began=time.time())
    scores = score_demo(slide, out)
    print(json.dumps(facts | {"demo": scores}, indent=2) if as_json else demo_text(scores, out))


@app.command()
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
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW name of a class; may be repeated.")
    ] = None,
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
        _one_pair(truth, pred, rules, as_json, _given(of_many | of_model))
        return
    if pred is not None and (unused := _given(of_model)):
        raise SettingsError(f"{unused}: for a model that is run; --pred is a folder of files")
    job: dict[str, Any] = {"manifest": manifest, "points": points, "points_mpp": mpp, "out": out}
    job |= {"pred": pred, "model": model, "split": split or "val", "unknown_mpp": unknown_mpp}
    job |= {"radius_um": 3.0 if radius is None else radius, "rules": rules}
    job |= {"device": device or "cpu", "precision": precision or "auto"}
    _many_images(job, rename or [], as_json)


def _given(options: dict[str, Any]) -> str:
    """The options that were given, as they are written; "" without any."""
    return ", ".join(f"--{name}" for name, value in options.items() if value is not None)


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
    print(json.dumps(found, indent=2) if as_json else report_text(found))


def _many_images(settings: dict[str, Any], rename: list[str], as_json: bool) -> None:
    from wsiseg.model.zoo import model_info
    from wsiseg.run.evaluate_cases import SYNONYMS
    from wsiseg.run.evaluate_images import EvaluationJob, evaluate_images
    from wsiseg.run.evaluate_images_text import images_text
    from wsiseg.run.info import licence_text

    job = EvaluationJob(**settings, rename=SYNONYMS | _renames(rename))
    if job.pred is None:
        _say(licence_text(asdict(model_info(settings["model"]))))
    last = -1

    def show(done: int, total: int) -> None:
        nonlocal last
        tenth = 10 * done // total
        if tenth > last and not as_json:
            _say(f"image {done} of {total}")
        last = max(last, tenth)

    found = evaluate_images(job, show)
    print(
        json.dumps(found, indent=2, ensure_ascii=False) if as_json else images_text(found, job.out)
    )


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file of a training; none to fine-tune.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Weights to start from: a name of `wsiseg models`, or a path."),
    ] = None,
    annotations: Annotated[
        list[Path] | None, typer.Option(help="QuPath GeoJSON with nuclei; may be repeated.")
    ] = None,
    slide: Annotated[
        list[Path] | None, typer.Option(help="Slide of each --annotations, in the same order.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; the same command resumes in it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the whole training.")] = None,
    mpp: Mpp = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW name of a class; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a TOML file, or adapt one to annotations: --from, --annotations, --slide."""
    if (config is None) == (annotations is None):
        raise SettingsError(
            "give a TOML file, or --from WEIGHTS with --annotations EXPORT.geojson and --slide "
            "SLIDE to fine-tune"
        )
    given = {"start": start, "steps": steps, "device": device}
    with _training_progress(quiet) as show:
        if config is not None:
            if slide or mpp or rename:
                raise SettingsError("--slide, --mpp and --rename go with --annotations")
            done, text = _train(config, out, given, fresh, show)
        else:
            pairs = _pairs(slide or [], annotations or [])
            reading = {"mpp": mpp, "renames": _renames(rename or [])}
            done, text = _fine_tune(pairs, out, given, reading | {"fresh": fresh, "progress": show})
    if as_json:
        print(json.dumps(done, indent=2, ensure_ascii=False))
    elif not quiet:
        print(text)


def _train(
    path: Path,
    out: Path | None,
    given: dict[str, Any],
    fresh: bool,
    show: Callable[[TrainProgress], None] | None,
) -> tuple[dict[str, Any], str]:
    from dataclasses import replace

    from wsiseg.training.config import read_config
    from wsiseg.training.outcome import trained_json
    from wsiseg.training.report import trained_text
    from wsiseg.training.train import train as run

    config = read_config(path)
    if given["start"] is not None:
        config = replace(config, start=(str(_existing(given["start"])),))
    if given["steps"] is not None:
        config = replace(config, schedule=replace(config.schedule, steps=given["steps"]))
    if given["device"] is not None:
        config = replace(config, machine=replace(config.machine, device=given["device"]))
    done = run(config, out or Path(f"{path.stem}-run"), fresh=fresh, progress=show)
    return trained_json(done), trained_text(done)


def _fine_tune(
    pairs: list[tuple[Path, Path]], out: Path | None, given: dict[str, Any], more: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    from dataclasses import replace

    from wsiseg.model.zoo import default_model, model_info
    from wsiseg.run.info import licence_text
    from wsiseg.training.finetune import FineTune, fine_tune
    from wsiseg.training.outcome import trained_json
    from wsiseg.training.report import tuned_text

    start, how = given["start"] or default_model(), FineTune()
    if given["steps"] is not None:
        how = replace(how, schedule=replace(how.schedule, steps=given["steps"]))
    if given["device"] is not None:
        how = replace(how, machine=replace(how.machine, device=given["device"]))
    if more["progress"] is not None:
        _say(licence_text(asdict(model_info(start))))
    done = fine_tune(start, pairs, out or Path(f"{Path(start).name}-tuned"), how, **more)
    return trained_json(done), tuned_text(done)


def _existing(start: str) -> str | Path:
    """A path that was written on the command line is relative to where we are."""
    return Path(start).resolve() if Path(start).exists() else start


def _pairs(slides: list[Path], annotations: list[Path]) -> list[tuple[Path, Path]]:
    if len(slides) != len(annotations):
        raise SettingsError(
            f"each --annotations needs its --slide, in the same order; got {len(annotations)} and "
            f"{len(slides)}"
        )
    return list(zip(slides, annotations, strict=True))


@dataset.callback()
def _dataset() -> None:
    """Look at labelled images before training."""


@dataset.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="Labelled images, of any layout that is known.")],
    out: Annotated[Path | None, typer.Option(help="Contact sheet, a PNG.")] = None,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel, where the layout states none.")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW name of a class; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find shifted, swapped, empty and overlapping labels; exit code 1 where any is severe."""
    from wsiseg.training.check import check_dataset, check_text
    from wsiseg.training.contact_sheet import contact_sheet
    from wsiseg.training.dataset import read_noted
    from wsiseg.training.labelled import CLASSES
    from wsiseg.training.readers.classes import ClassMap

    found = read_noted(folder, ClassMap(CLASSES, _renames(rename or [])), mpp=mpp)
    findings = check_dataset(found.items, found.notes)
    if out is not None:
        contact_sheet(found.items, out, findings)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        print(check_text(findings, found.items), end="")
        if out is not None:
            print(f"contact sheet: {out}")
    if any(finding.severity == "severe" for finding in findings):
        raise typer.Exit(FAILED)


def _renames(pairs: list[str]) -> dict[str, str]:
    """OLD=NEW; an empty NEW means that the class is not known."""
    wrong = [pair for pair in pairs if not pair.partition("=")[0] or "=" not in pair]
    if wrong:
        raise SettingsError(f"--rename must be OLD=NEW, got {wrong[0]!r}")
    return {old: new for old, _, new in (pair.partition("=") for pair in pairs)}


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models: licence, pixel size, classes, PQ on validation sets."""
    from wsiseg.model.zoo import models as known
    from wsiseg.run.info import models_text

    found = [asdict(model) for model in known()]
    print(json.dumps(found, indent=2) if as_json else models_text(found))


def _run(job: Any, *, quiet: bool, as_json: bool, began: float | None = None) -> dict[str, Any]:
    """Do a job with progress, and print the licence of its model first and its summary last."""
    from wsiseg.model.zoo import model_info
    from wsiseg.run.info import licence_text
    from wsiseg.run.report import process_began
    from wsiseg.run.segment import run
    from wsiseg.run.summary import summary_text

    if not quiet:
        _say(licence_text(asdict(model_info(job.model))))
    with _progress(quiet) as show:
        facts = run(job, show, notice=_say, began=began or process_began()).facts
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    elif not quiet:
        print(summary_text(facts, job.out))
    return facts


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """What is told of a run's progress: a bar in a terminal, plain lines without one."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield from _bar()
    else:
        yield _lines()


def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("regions"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]} objects"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("segmenting", total=None, found="0")

        def show(progress: Progress) -> None:
            bar.update(
                task, completed=progress.done, total=progress.total, found=f"{progress.found:,}"
            )

        yield show


def _lines() -> Callable[[Progress], None]:
    """Plain lines, one for each tenth of the work."""
    last = -1

    def show(progress: Progress) -> None:
        nonlocal last
        tenth = 10 * progress.done // max(progress.total, 1)
        if tenth == last:
            return
        last = tenth
        left = "" if progress.remaining is None else f", about {progress.remaining:.0f} s to go"
        _say(f"region {progress.done} of {progress.total}, {progress.found:,} objects so far{left}")

    return show


@contextlib.contextmanager
def _training_progress(quiet: bool) -> Iterator[Callable[[TrainProgress], None] | None]:
    """As ``_progress``, for a training."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield from _training_bar()
    else:
        yield _training_lines()


def _training_bar() -> Iterator[Callable[[TrainProgress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=None, loss="")

        def show(progress: TrainProgress) -> None:
            if progress.said:
                bar.console.print(progress.said, markup=False, highlight=False)
            loss = f"{progress.loss:.3f}"
            bar.update(task, completed=progress.step, total=progress.steps, loss=loss)

        yield show


def _training_lines() -> Callable[[TrainProgress], None]:
    """Plain lines: what happened, and one for each twentieth of the steps."""
    last = -1

    def show(progress: TrainProgress) -> None:
        nonlocal last
        if progress.said:
            _say(progress.said)
            return
        part = 20 * progress.step // progress.steps
        if part == last:
            return
        last = part
        left = "" if progress.remaining is None else f", about {progress.remaining:.0f} s to go"
        _say(f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}{left}")

    return show


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _failed(error: WsisegError) -> int:
    _say(f"wsiseg: {error}")
    if isinstance(error, LockedError):
        return LOCKED
    return USAGE if isinstance(error, SettingsError) else FAILED


def _stopped(how: str, code: int) -> int:
    _say(f"wsiseg: {how}; what is done is kept, and the same command goes on from there")
    return code


def _usage(error: Exception) -> int:
    """Click's own complaints about the command line; anything else is a bug and is shown whole."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", USAGE))


def _terminate(*_: object) -> NoReturn:
    raise Terminated
