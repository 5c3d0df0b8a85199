"""The dataset check: what is wrong with labelled images before they are trained on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from wsiseg.training.checks.finding import SEVERITIES, Finding
from wsiseg.training.checks.fit import check_fit, check_swaps, fit_of
from wsiseg.training.checks.objects import check_empty, check_objects
from wsiseg.training.checks.sets import (
    check_cases,
    check_classes,
    check_copies,
    check_spacing,
    counts_of,
)
from wsiseg.training.dataset import read_noted
from wsiseg.training.labelled import CLASSES, Labelled
from wsiseg.training.readers.reading import Note

__all__ = ["Finding", "check_dataset", "check_text"]

_MUCH_OVERLAP = 0.05  # part of the px, or of the nuclei, of an image
_SHOWN = 30  # findings of one severity, in the text


def check_dataset(
    items: Sequence[Labelled] | str | Path,
    notes: Sequence[Note] = (),
    *,
    classes: Sequence[str] = CLASSES,
) -> list[Finding]:
    """What is wrong with labelled images, or with those of a folder; the severe first.

    Severe: labels that are ``shifted`` (by 3 to 12 px), ``swapped``, ``inverted``, ``empty`` on a
    stained image, that cover everything (``covers all``), ids shared by nuclei (``parts apart``),
    much overlap or many copies of nuclei, ``copy`` and ``case in both splits``. Warnings and infos
    are to be looked at. ``notes`` are those of ``read_noted``: overlapping outlines do not show in
    the labels any more. A folder is read with its notes.
    """
    if isinstance(items, str | Path):
        found = read_noted(items)
        items, notes = found.items, found.notes
    fits = [fit_of(item) for item in items]
    swaps = check_swaps(items, fits)
    swapped = {finding.name for finding in swaps}
    each = [
        finding
        for item, fit in zip(items, fits, strict=True)
        for finding in ([] if item.name in swapped else check_fit(item, fit)) + check_objects(item)
    ]
    findings = [
        *each,
        *swaps,
        *check_empty(items),
        *check_copies(items),
        *check_cases(items),
        *check_spacing(items),
        *check_classes(items, classes),
        *map(_of_note, notes),
    ]
    return sorted(findings, key=lambda f: SEVERITIES.index(f.severity))


def check_text(findings: Sequence[Finding], items: Sequence[Labelled]) -> str:
    """A summary to print: the sets, then the findings by severity; ends in a line break."""
    lines = [f"{len(items)} images"]
    lines += [f"  {line}" for line in _sets(items)]
    for severity in SEVERITIES:
        of_it = [finding for finding in findings if finding.severity == severity]
        if of_it:
            kinds = Counter(finding.kind for finding in of_it)
            lines.append(f"{severity}: " + ", ".join(f"{n} x {kind}" for kind, n in kinds.items()))
            lines += [f"  {f.name}: {f.kind}: {f.detail}" for f in of_it[:_SHOWN]]
            if len(of_it) > _SHOWN:
                lines.append(f"  and {len(of_it) - _SHOWN} more")
    if not any(finding.severity == "severe" for finding in findings):
        lines.append("nothing severe found")
    return "\n".join(lines) + "\n"


def _of_note(note: Note) -> Finding:
    much = note.count > _MUCH_OVERLAP * note.of
    severe = note.kind in ("overlap", "duplicate") and much
    return Finding(note.name, note.kind, note.detail, "severe" if severe else "warning")


def _sets(items: Sequence[Labelled]) -> list[str]:
    """A line per set: images by split, nuclei, pixel sizes."""
    groups: dict[str, list[Labelled]] = defaultdict(list)
    for item in items:
        groups[item.set].append(item)
    return [f"{name or '(no set)'}: {_contents(members)}" for name, members in groups.items()]


def _contents(members: Sequence[Labelled]) -> str:
    splits = Counter(item.split for item in members)
    spacings = {"unknown" if item.mpp is None else f"{item.mpp:.4g}" for item in members}
    sizes = sorted(spacings)
    size = ", ".join(sizes) if len(sizes) <= 4 else f"{sizes[0]} to {sizes[-1]}"
    nuclei = int(counts_of(members, 255).sum())
    what = "centres" if all(item.centres is not None for item in members) else "nuclei"
    return f"{splits['train']} train, {splits['val']} val, {nuclei} {what}, mpp {size}"
