"""What several commands are told in the same way, and how it is checked."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wsiseg.errors import SettingsError

__all__ = ["AsJson", "Mpp", "Plane", "Quiet", "Rename", "Resume", "Scene", "SlideArgument"]
__all__ += ["given", "renames"]

SlideArgument = Annotated[
    str, typer.Argument(help="Slide: SVS, NDPI, MRXS, TIFF, ..., or s3://...")
]
Mpp = Annotated[
    float | None, typer.Option(help="µm per pixel of level 0, overriding the file's metadata.")
]
Scene = Annotated[int | None, typer.Option(help="Scene of a file with several; default the first.")]
Plane = Annotated[int | None, typer.Option(help="Plane of a z-stack; default the middle one.")]
Rename = Annotated[list[str] | None, typer.Option(help="OLD=NEW name of a class; may be repeated.")]
Resume = Annotated[
    bool, typer.Option("--resume/--fresh", help="Go on with what is there, or start over.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def renames(pairs: list[str] | None) -> dict[str, str]:
    """OLD=NEW; an empty NEW means that the class is not known."""
    wrong = [pair for pair in pairs or () if not pair.partition("=")[0] or "=" not in pair]
    if wrong:
        raise SettingsError(f"--rename must be OLD=NEW, got {wrong[0]!r}")
    return {old: new for old, _, new in (pair.partition("=") for pair in pairs or ())}


def given(options: dict[str, Any]) -> str:
    """The options that were given, as they are written; "" without any."""
    return ", ".join(f"--{name}" for name, value in options.items() if value is not None)
