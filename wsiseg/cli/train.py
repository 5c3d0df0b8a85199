"""``wsiseg train``: a training by its file, or a model adapted to annotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiseg.cli.options import AsJson, Mpp, Quiet, Rename, Resume, renames
from wsiseg.cli.progress import training_progress
from wsiseg.cli.say import say_licence, show_json
from wsiseg.errors import SettingsError

if TYPE_CHECKING:
    from wsiseg.training.outcome import TrainProgress

__all__ = ["train"]


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
    rename: Rename = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    resume: Resume = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a TOML file, or adapt one to annotations: --from, --annotations, --slide."""
    if (config is None) == (annotations is None):
        raise SettingsError(
            "give a TOML file, or --from WEIGHTS with --annotations EXPORT.geojson and --slide "
            "SLIDE to fine-tune"
        )
    given = {"start": start, "steps": steps, "device": device}
    with training_progress(quiet) as show:
        if config is not None:
            if slide or mpp or rename:
                raise SettingsError("--slide, --mpp and --rename go with --annotations")
            done, text = _train(config, out, given, not resume, show)
        else:
            pairs = _pairs(slide or [], annotations or [])
            more = {"mpp": mpp, "renames": renames(rename), "fresh": not resume, "progress": show}
            done, text = _fine_tune(pairs, out, given, more)
    if as_json:
        show_json(done)
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

    from wsiseg.model.zoo import default_model
    from wsiseg.training.finetune import FineTune, fine_tune
    from wsiseg.training.outcome import trained_json
    from wsiseg.training.report import tuned_text

    start, how = given["start"] or default_model(), FineTune()
    if given["steps"] is not None:
        how = replace(how, schedule=replace(how.schedule, steps=given["steps"]))
    if given["device"] is not None:
        how = replace(how, machine=replace(how.machine, device=given["device"]))
    if more["progress"] is not None:
        say_licence(start)
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
