"""``wsiseg segment``: one slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiseg.cli.options import AsJson, Mpp, Plane, Quiet, Resume, Scene, SlideArgument
from wsiseg.cli.progress import run_progress
from wsiseg.cli.say import say, say_licence, show_json
from wsiseg.errors import SettingsError

if TYPE_CHECKING:
    from wsiseg.run.job import Job

__all__ = ["run_job", "segment"]


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
    resume: Resume = True,
    hash: Annotated[
        str, typer.Option(help="quick (size, time, head and tail) or full (every byte).")
    ] = "quick",
    quiet: Quiet = False,
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
    if not quiet:
        say_licence(model)
    run_job(job, quiet=quiet, as_json=as_json)


def run_job(job: Job, *, quiet: bool, as_json: bool, began: float | None = None) -> dict[str, Any]:
    """Do a job with progress, and print its summary, or its facts as JSON."""
    from wsiseg.run.report import process_began
    from wsiseg.run.segment import run
    from wsiseg.run.summary import summary_text

    with run_progress(quiet) as show:
        facts = run(job, show, notice=say, began=began or process_began()).facts
    if as_json:
        show_json(facts)
    elif not quiet:
        print(summary_text(facts, job.out))
    return facts
