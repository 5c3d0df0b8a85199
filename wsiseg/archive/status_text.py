"""Status for people: Markdown for the archive, plain lines for the terminal.

File names and messages come from outside: what would be markup in them is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wsiseg.archive.records import CODES, STATES, Record

__all__ = ["change_text", "markdown", "status_lines"]

_ROWS = 500  # of the table; all of them are in status.parquet
_ORDER = ("failed", "running", "preempted", "interrupted", "pending", "skipped", "done")
_MARKUP = {ord(c): f"&#{ord(c)};" for c in "|[]`*_~\\$!"}


def markdown(status: Mapping[str, Any], records: Sequence[Record]) -> str:
    """``status.md``: totals, then a table with what needs attention first."""
    totals = status["totals"]
    rows = sorted(records, key=lambda r: (_ORDER.index(r.state), r.slide_id))
    lines = [
        f"# {totals['done']:,} of {totals['slides']:,} slides are done",
        "",
        f"Updated {status['updated']}. {_sentence(totals)}.",
        "",
        *_code_lines(totals["codes"]),
        "| slide | state | code | attempts | s | GB | tiles | cells | mm² | message |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|",
        *map(_row, rows[:_ROWS]),
    ]
    if len(rows) > _ROWS:
        lines += ["", f"... and {len(rows) - _ROWS:,} more: see status.parquet"]
    return "\n".join([*lines, ""])


def status_lines(status: Mapping[str, Any], holders: Sequence[str], shown: int = 20) -> list[str]:
    """The same for the terminal: totals, what runs and what failed."""
    totals, slides = status["totals"], status["slides"]
    lines = [f"{totals['done']:,} of {totals['slides']:,} slides are done; {_sentence(totals)}"]
    running = [slide for slide in slides if slide["state"] == "running"]
    if holders:
        left = status.get("remaining_s")
        to_go = f", about {left / 60:,.0f} minutes to go" if left is not None else ""
        lines.append(f"at work: {', '.join(holders)} (updated {status['updated']}{to_go})")
    else:
        lines.append("no batch is at work here" + _left(totals))
        running = []
    lines += [f"  running  {_running(slide, status)}" for slide in running[:shown]]
    failed = [slide for slide in slides if slide["state"] == "failed"]
    lines += [f"  failed   {_failed(slide)}" for slide in failed[:shown]]
    if len(failed) > shown:
        lines.append(f"  ... and {len(failed) - shown:,} more that failed: see status.md")
    return lines


def change_text(record: Record) -> str:
    """A line for a slide whose state has changed."""
    head = f"{record.slide_id}: {record.state}"
    if record.state == "done":
        return f"{head}, {record.cells or 0:,} cells in {record.seconds or 0:.1f} s"
    if record.message:
        again = " (will be tried again)" if record.state == "pending" else ""
        return f"{head}{again}, {record.code}: {record.message}"
    return f"{head} ({CODES[record.code]})" if record.code else head


def _sentence(totals: Mapping[str, Any]) -> str:
    states = [f"{totals[s]:,} {s}" for s in STATES if totals[s] and s != "done"]
    found = f"{totals['cells']:,} cells on {totals['tissue_mm2']:,.2f} mm² of tissue"
    return "; ".join([found, ", ".join(states)] if states else [found])


def _left(totals: Mapping[str, Any]) -> str:
    left = totals["running"] + totals["pending"] + totals["preempted"] + totals["interrupted"]
    return f": {left:,} slides are left, and the same command goes on with them" if left else ""


def _code_lines(codes: Mapping[str, int]) -> list[str]:
    lines = [f"- {n:,} {code}: {CODES.get(code, '')}" for code, n in codes.items()]
    return [*lines, ""] if lines else []


def _row(record: Record) -> str:
    memory = None if record.peak_memory_bytes is None else record.peak_memory_bytes / 1e9
    cells = [
        _plain(record.slide_id),
        record.state,
        record.code or "",
        str(record.attempts),
        _number(record.seconds, ".1f"),
        _number(memory, ".2f"),
        _number(record.tiles, ","),
        _number(record.cells, ","),
        _number(record.tissue_mm2, ".2f"),
        _plain(record.message or record.restarted or ""),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _plain(text: str) -> str:
    """``text`` without anything that Markdown or HTML would take for markup."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return escape(shown).translate(_MARKUP)


def _running(slide: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    at = status.get("progress", {}).get(slide["slide_id"])
    how_far = f", region {at[0]:,} of {at[1]:,}" if at else ""
    return f"{slide['slide_id']} since {slide['started']}{how_far}"


def _failed(slide: Mapping[str, Any]) -> str:
    return f"{slide['slide_id']} ({Path(slide['path']).name!r}) {slide['code']}: {slide['message']}"
