"""Commands for archives of many slides: batch, status, verify, manifest.

Exit codes of ``batch``: 0 all slides are done, 1 some have failed (now or earlier) or were left,
2 wrong usage, 75 another batch is at work in the archive, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiseg.errors import SettingsError

if TYPE_CHECKING:
    from wsiseg.archive.batch import Outcome
    from wsiseg.archive.records import Record

__all__ = ["register"]

FAILED = 1
_TELL_S = 5.0

Archive = Annotated[str, typer.Argument(help="Archive: the --out of wsiseg batch.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (batch, status, verify, manifest):
        app.command()(command)


def batch(
    source: Annotated[
        str, typer.Argument(help="Manifest (.csv, .parquet, .jsonl), folder, pattern or slide.")
    ],
    out: Annotated[
        str, typer.Option(help="Archive, a folder or s3://...; the same command resumes in it.")
    ],
    config: Annotated[
        Path | None, typer.Option(help=r"TOML file: settings of jobs, and \[batch].")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Slides at once, a process each; default one per core."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of slides whose row has none.")] = None,
    stain: Annotated[str | None, typer.Option(help="default or macenko.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps or openvino.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Files of cells: geojson, csv; parquet is always written.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Bound for the memory of all processes, such as 16GB.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Id of a slide to run; may be repeated.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try slides again that have failed.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first slide that fails.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(help="Stop when so many slides have failed.")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(help="Attempts of a slide that is not itself to blame; default 3.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds without progress after which a slide hangs; default 1800."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Running dask scheduler, tcp://HOST:PORT, whose workers do the regions."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/N: the i-th of N parts, which need no scheduler.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where an archive at a URL is worked on; default below ~/.cache."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do; writes nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with what is there, or start over.")
    ] = True,
    log: Annotated[str, typer.Option(help="Lines of progress: text or json.")] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    as_json: AsJson = False,
) -> None:
    """Segment an archive of slides: nothing is lost, and no bad slide stops the others."""
    from wsiseg.archive.batch import run_stoppable
    from wsiseg.archive.request import Request

    if log not in ("text", "json"):
        raise SettingsError(f"--log must be text or json, got {log!r}")
    formats = [f.strip() for f in format.split(",") if f.strip()] if format else None
    settings = {"model": model, "stain": stain, "device": device, "formats": formats}
    policy: dict[str, Any] = {"workers": workers, "attempts": attempts, "timeout_s": timeout}
    policy |= {"scheduler": scheduler, "max_failures": max_failures}
    policy |= {"work": str(work.resolve()) if work else None}
    request = Request.of(
        source,
        config=config,
        only=only or (),
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        fresh=not resume,
        shard=shard,
        max_memory=_memory(max_memory),
        **settings,
        **policy,
    )
    if dry_run:
        _estimate(request, out, as_json)
        return
    if not quiet:
        _say_licence(request.model)
    if quiet:
        outcome = run_stoppable(request, out)
    else:
        outcome = run_stoppable(request, out, _teller(log, len(request.rows)), _say)
    if as_json:
        print(json.dumps(_plain(outcome), indent=2))
    elif not quiet:
        print(_summary(outcome))
    if not outcome.ok:
        raise typer.Exit(FAILED)


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
    print(json.dumps(asdict(found), indent=2) if as_json else verdict_text(found))
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
            _say(text.format(done, total))

    return tell


def _estimate(request: Any, out: str, as_json: bool) -> None:
    from wsiseg.archive.estimate import estimate, estimate_json, estimate_text

    found = estimate(request, out)
    print(json.dumps(estimate_json(found), indent=2) if as_json else estimate_text(found))


def _teller(log: str, slides: int) -> Callable[[Record], None]:
    """Says each change of a slide as a line on standard error."""
    from wsiseg.archive.status_text import change_text

    ended = 0

    def tell(record: Record) -> None:
        nonlocal ended
        ended += record.state in ("done", "failed")
        if log == "json":
            shown = {k: v for k, v in record.plain().items() if v not in (None, "", [], {})}
            _say(json.dumps(shown))
        elif record.state != "running":
            _say(f"[{ended:,} of {slides:,}] {change_text(record)}")

    return tell


def _summary(outcome: Outcome) -> str:
    from wsiseg.archive.faults import AGAIN_NEXT_TIME

    done, failed = outcome.of("done"), outcome.of("failed")
    cells = sum(record.cells or 0 for record in done)
    lines = [
        f"{outcome.archive}: {len(done):,} of {len(outcome.records):,} slides are done, "
        f"{len(failed):,} have failed; {cells:,} cells"
    ]
    lines += [f"  {r.slide_id}: {r.code}: {r.message}" for r in failed[:10]]
    if len(failed) > 10:
        lines.append(f"  ... and {len(failed) - 10:,} more: see {outcome.archive}/status.md")
    if outcome.broken:
        lines.append(f"  stopped: {outcome.broken}")
    if any(record.code not in AGAIN_NEXT_TIME for record in failed):
        lines.append("  mend them or the manifest, then the same command with --retry-failed")
    lines.append(f"  {outcome.archive}/cohort.parquet: a row per slide")
    lines.append(f"  {outcome.archive}/cells: all cells, for GeoPandas, DuckDB and dask")
    return "\n".join(lines)


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "archive": str(outcome.archive),
        "ok": outcome.ok,
        "broken": outcome.broken,
        "slides": [record.plain() for record in outcome.records],
    }


def _memory(text: str | None) -> int | None:
    from wsiseg.run.job import parse_memory

    return parse_memory(text) if text else None


def _say_licence(model: str) -> None:
    from dataclasses import asdict

    from wsiseg.model.zoo import model_info
    from wsiseg.run.info import licence_text

    _say(licence_text(asdict(model_info(model))))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
