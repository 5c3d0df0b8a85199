"""``wsiseg batch``: an archive of slides.

Exit codes: 0 all slides are done, 1 some have failed (now or earlier) or were left, 2 wrong usage,
75 another batch is at work in the archive, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiseg.cli.options import AsJson, Quiet, Resume
from wsiseg.cli.say import FAILED, say, say_licence, show_json
from wsiseg.errors import SettingsError

if TYPE_CHECKING:
    from wsiseg.archive.batch import Outcome
    from wsiseg.archive.records import Record

__all__ = ["batch"]


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
    resume: Resume = True,
    log: Annotated[str, typer.Option(help="Lines of progress: text or json.")] = "text",
    quiet: Quiet = False,
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
        say_licence(request.model)
    if quiet:
        outcome = run_stoppable(request, out)
    else:
        outcome = run_stoppable(request, out, _teller(log, len(request.rows)), say)
    if as_json:
        show_json(_plain(outcome))
    elif not quiet:
        print(_summary(outcome))
    if not outcome.ok:
        raise typer.Exit(FAILED)


def _estimate(request: Any, out: str, as_json: bool) -> None:
    from wsiseg.archive.estimate import estimate, estimate_json, estimate_text

    found = estimate(request, out)
    if as_json:
        show_json(estimate_json(found))
    else:
        print(estimate_text(found))


def _teller(log: str, slides: int) -> Callable[[Record], None]:
    """Says each change of a slide as a line on standard error."""
    from wsiseg.archive.status_text import change_text

    ended = 0

    def tell(record: Record) -> None:
        nonlocal ended
        ended += record.state in ("done", "failed")
        if log == "json":
            shown = {k: v for k, v in record.plain().items() if v not in (None, "", [], {})}
            say(json.dumps(shown))
        elif record.state != "running":
            say(f"[{ended:,} of {slides:,}] {change_text(record)}")

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
