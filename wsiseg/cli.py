"""The command line: commands into jobs, and the only module that prints.

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

from wsiseg.errors import LockedError, SettingsError, WsisegError

if TYPE_CHECKING:
    from wsiseg.run.report import Progress

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
    model: Annotated[str, typer.Option(help="Model; see `wsiseg models`.")] = "hematoxylin",
    mpp: Mpp = None,
    scene: Scene = None,
    z: Plane = None,
    region: Annotated[
        int, typer.Option(help="Side of a region, px of the model's lattice; never the result.")
    ] = 2048,
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
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Patches of one forward.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Bound for the regions in work, such as 4GB.")
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
    truth: Annotated[Path, typer.Option(help="Labels: .png, .npy, .tif, or .geojson[.gz].")],
    pred: Annotated[
        Path, typer.Option(help="Prediction in the same forms, cells.parquet, or a run folder.")
    ],
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
            help="Radius of a centroid match: px (default 12), or µm with --mpp (default 3)."
        ),
    ] = None,
    mpp: Mpp = None,
    as_json: AsJson = False,
) -> None:
    """Compare a prediction with the truth: Dice, AJI, AJI+, PQ, F1 and more."""
    from wsiseg.metrics import Rules
    from wsiseg.run.evaluate import evaluate as compare
    from wsiseg.run.evaluate import report_text

    if match_op not in (">", ">=") or empty not in ("nan", "0", "1"):
        raise SettingsError(f"--match-op is > or >=, --empty nan, 0 or 1; got {match_op}, {empty}")
    empties: dict[str, Literal["nan", 0, 1]] = {"nan": "nan", "0": 0, "1": 1}
    rules = Rules(
        iou=tuple(iou or (0.5,)),
        match_op=">" if match_op == ">" else ">=",
        empty=empties[empty],
        radius=radius or (12.0 if mpp is None else 3.0),
        mpp=mpp,
    )
    found = compare(truth, pred, rules)
    print(json.dumps(found, indent=2) if as_json else report_text(found))


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models, with licence and pixel size."""
    from wsiseg.model.zoo import models as known
    from wsiseg.run.info import models_text

    found = [asdict(model) for model in known()]
    print(json.dumps(found, indent=2) if as_json else models_text(found))


def _run(job: Any, *, quiet: bool, as_json: bool, began: float | None = None) -> dict[str, Any]:
    """Do a job with progress, and print its summary."""
    from wsiseg.run.report import process_began
    from wsiseg.run.segment import run
    from wsiseg.run.summary import summary_text

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
