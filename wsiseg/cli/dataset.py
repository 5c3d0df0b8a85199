"""``wsiseg dataset``: labelled images before they are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiseg.cli.options import AsJson, Rename, renames
from wsiseg.cli.say import FAILED, show_json

__all__ = ["dataset"]

dataset = typer.Typer(help="Look at labelled images before training.", no_args_is_help=True)


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
    rename: Rename = None,
    as_json: AsJson = False,
) -> None:
    """Find shifted, swapped, empty and overlapping labels; exit code 1 where any is severe."""
    from dataclasses import asdict

    from wsiseg.training.check import check_dataset, check_text
    from wsiseg.training.contact_sheet import contact_sheet
    from wsiseg.training.dataset import read_noted
    from wsiseg.training.labelled import CLASSES
    from wsiseg.training.readers.classes import ClassMap

    found = read_noted(folder, ClassMap(CLASSES, renames(rename)), mpp=mpp)
    findings = check_dataset(found.items, found.notes)
    if out is not None:
        contact_sheet(found.items, out, findings)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        print(check_text(findings, found.items), end="")
        if out is not None:
            print(f"contact sheet: {out}")
    if any(finding.severity == "severe" for finding in findings):
        raise typer.Exit(FAILED)
