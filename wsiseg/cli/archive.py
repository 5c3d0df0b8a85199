"""``wsiseg status``, ``verify`` and ``manifest``: before and after a batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wsiseg.cli.options import AsJson
from wsiseg.cli.say import FAILED, say, show_json

__all__ = ["manifest", "status", "verify"]

_TELL_S = 5.0

Archive = Annotated[str, typer.Argument(help="Archive: the --out of wsiseg batch.")]


def status(
    archive: Archive,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every 2 s until the batch ends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how far an archive is: what is done, at work, failed, and why."""
    from wsiseg.archive.look import status_of
    from wsiseg.archive.status_text import status_lines

    while True:
        found, holders = status_of(archive)
        found["at_work"] = holders  # a batch that died has left its own name in the file
        shown = json.dumps(found) if as_json else "\n".join(status_lines(found, holders))
        print(shown, flush=True)
        if not (watch and holders):
            return
        time.sleep(2)


def verify(archive: Archive, as_json: AsJson = False) -> None:
    """Check every file of an archive against its hash; exit code 1 where one is damaged."""
    from dataclasses import asdict

    from wsiseg.archive.check import verdict_text, verify_archive

    found = verify_archive(archive, _every(_TELL_S, "{:,} of {:,} files are checked"))
    if as_json:
        show_json(asdict(found))
    else:
        print(verdict_text(found))
    if not found.sound:
        raise typer.Exit(FAILED)


def manifest(
    source: Annotated[str, typer.Argument(help="Folder or pattern of slides, or its URL.")],
    out: Annotated[Path, typer.Option(help="Manifest to write: .csv, .parquet or .jsonl.")] = Path(
        "manifest.csv"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a manifest; known slides keep their ids.")
    ] = False,
) -> None:
    """Write a manifest of the slides of a folder, to be edited and given to wsiseg batch."""
    from wsiseg.archive.manifest import write_manifest
    from wsiseg.archive.scan import rows_of

    count = write_manifest(rows_of(source), out, overwrite=overwrite)
    print(f"{out}: {count:,} slides; next: wsiseg batch {out} --out archive --dry-run")


def _every(seconds: float, text: str) -> Callable[[int, int], None]:
    """Says how far something is on standard error, but not more often than that."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(text.format(done, total))

    return tell
