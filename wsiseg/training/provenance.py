"""Where weights come from, on paper: their licence, by that of the data, and their card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wsiseg.errors import InputFileError
from wsiseg.model.licence import OPEN, is_open
from wsiseg.model.weights import LICENCE_NAME, Weights
from wsiseg.training.config import TrainConfig

__all__ = [
    "OWN",
    "RESEARCH_ONLY",
    "Terms",
    "all_of",
    "card_of",
    "licence_of",
    "spdx_of",
    "terms_of",
]

RESEARCH_ONLY = "LicenseRef-research-use-only"
"""SPDX reference where data are not open, or nobody has said what they are."""

OWN = "annotated by the user"
"""Licence at origin of a user's own annotations: they add no condition."""

_NAMES = {name.casefold(): name for name in OPEN} | {"cc0": "CC0-1.0"}


@dataclass(frozen=True, slots=True)
class Terms:
    """Under what weights may be used."""

    expression: str
    """SPDX."""
    text: str
    """For the file LICENSE."""
    warning: str
    """What is to be said aloud; "" where there is nothing."""


def spdx_of(stated: str) -> str:
    """SPDX identifier of an open licence, however it is written ("CC BY 4.0"); "" for all else.

    Errs towards "": a licence that is not recognised is not taken for open.
    """
    return _NAMES.get("-".join(stated.split()).casefold(), "")


def terms_of(config: TrainConfig, rows: Sequence[dict[str, Any]], start: Weights | None) -> Terms:
    """Licence of weights trained on data of ``rows`` (of ``Examples``), from ``start``.

    As the config states; else all licences of data and start joined by AND, where any that is not
    open, or not stated, makes it research use only; so does a user's own data alone, of which
    nothing is known. A stated open licence over data that are not
    is the user's to answer for, and comes with a warning. Raises InputFileError where the stated
    file cannot be read.
    """
    derived = _derived(rows, start)
    expression = config.model.licence or derived or RESEARCH_ONLY
    closed = derived != "" and not is_open(derived)
    warning = ""
    if not derived and not config.model.licence:
        warning = (
            f"the weights are licensed {RESEARCH_ONLY}, as nothing says otherwise: all data are "
            "your own; set model.licence to what you choose"
        )
    elif is_open(expression) and closed:
        warning = (
            f"the weights are to be licensed {expression}, but they come from what is not open, or "
            f"states no licence ({_closed(rows, start)}): make sure that you may"
        )
    elif closed and not config.model.licence:
        warning = (
            f"the weights are for research use only: {_closed(rows, start)} are not open, or state "
            "no licence"
        )
    text = _file(config) or _text(config.model.name, expression, rows, start)
    return Terms(expression, text, warning)


def _derived(rows: Sequence[dict[str, Any]], start: Weights | None) -> str:
    stated = [licence for row in rows for licence in row["licences"] if licence != OWN]
    names = [spdx_of(licence) or RESEARCH_ONLY for licence in stated]
    if start is not None:
        names = [*(licence_of(start) or RESEARCH_ONLY).split(" AND "), *names]
    return all_of(names)


def all_of(licences: Iterable[str]) -> str:
    """SPDX expression of what is under each of ``licences``; "" where none is given."""
    names = dict.fromkeys(name or RESEARCH_ONLY for name in licences)
    return " AND ".join(f"({n})" if " OR " in n and n[0] != "(" else n for n in names)


def _closed(rows: Sequence[dict[str, Any]], start: Weights | None) -> str:
    found = [
        f"{row['set']} ({licence or 'no licence stated'})"
        for row in rows
        for licence in row["licences"]
        if licence != OWN and not spdx_of(licence)
    ]
    if start is not None and not is_open(licence_of(start)):
        found.insert(0, f"{start.facts['spec']['name']} ({licence_of(start) or 'none stated'})")
    return ", ".join(dict.fromkeys(found))


def licence_of(weights: Weights) -> str:
    """SPDX expression that ``weights`` state; "" where they state none."""
    return str(weights.facts["spec"].get("licence") or "")


def _file(config: TrainConfig) -> str:
    if config.model.licence_file is None:
        return ""
    path = config.resolved(config.model.licence_file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"cannot read the licence {path}: {error}") from error
    if not text.strip():
        raise InputFileError(f"the licence {path} is empty")
    return text


def _text(name: str, expression: str, rows: Sequence[dict[str, Any]], start: Weights | None) -> str:
    """A licence that names what the weights come from."""
    lines = [
        f'Licence of the weights "{name}"',
        f"SPDX-License-Identifier: {expression}",
        "",
        "It covers the weights and the model card in this folder; not the code of wsiseg, and not",
        "what is found with the weights in images.",
        "",
    ]
    if not is_open(expression):
        lines += [
            "For research use. What the weights come from was not given out for every use, or",
            "states no licence; whoever wants more has to settle that with its owners.",
            "",
        ]
    lines += ["The weights come from:", ""]
    lines += [f"- {line}" for line in _sources(rows)]
    lines.append("")
    if start is not None:
        spec = start.facts["spec"]
        lines += [f'They were adapted from the weights "{spec["name"]}", whose licence is:', ""]
        lines += [*_licence_text(start).splitlines(), ""]
    lines += ["No warranty. The weights are provided as they are. They are not a medical device."]
    return "\n".join(lines) + "\n"


def _sources(rows: Sequence[dict[str, Any]]) -> list[str]:
    licences: dict[str, set[str]] = {}
    for row in rows:
        licences.setdefault(row["set"] or "data without a name", set()).update(row["licences"])
    return [
        f"{name}: {', '.join(sorted(found - {''})) or 'no licence stated'}"
        for name, found in licences.items()
    ]


def _licence_text(start: Weights) -> str:
    path = None if start.path is None else start.path.parent / LICENCE_NAME
    if path is not None and path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    return licence_of(start) or "not stated"


def card_of(facts: dict[str, Any]) -> str:
    """Model card (Markdown) of weights by their facts: spec, training, scores, calibration."""
    spec, made = facts["spec"], facts["training"]
    parts = [
        [f"# {spec['name']}", "", facts["about"] or "Nuclei of H&E images.", ""],
        _input(spec),
        ["## Trained on", "", *_table_of_data(made["data"]), ""],
        _how(made),
        _scores(facts),
        _calibration(facts.get("calibration"), spec),
        ["## Licence", "", f"{spec['licence']}; see LICENSE beside this file. At origin:", ""],
        [*(f"- {line}" for line in _sources(made["data"])), ""],
        _limits(made),
    ]
    return "\n".join(line for part in parts for line in part)


def _input(spec: dict[str, Any]) -> list[str]:
    classes = ", ".join(spec["classes"]) or "none"
    return [
        f"Input: RGB of H&E at {spec['spacing'][0]:g} µm per px. Classes: {classes}. Licence: "
        f"{spec['licence']}.",
        "",
    ]


def _table_of_data(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| set | split | images | nuclei | µm per px | licence at origin |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        sizes = [f"{v:g}" for v in row["mpp"]] + ["unknown"] * bool(row["mpp_unknown"])
        nuclei = f"{row['nuclei']} {'outlines' if row['outlines'] else 'centres'}"
        licence = ", ".join(filter(None, row["licences"])) or "none stated"
        cells = (row["set"] or "-", row["split"], row["images"], nuclei, ", ".join(sizes), licence)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _how(made: dict[str, Any]) -> list[str]:
    config = made["config"]
    network, sampling, schedule = config["network"], config["sampling"], config["schedule"]
    origin = made["start"]
    widths = "-".join(map(str, network["widths"]))
    return [
        "## How",
        "",
        f"{made['parameters'] / 1e6:.2f} M parameters (widths {widths}, stem "
        f"{network['stem']}), {made['step']} of {schedule['steps']} steps of {sampling['batch']} "
        f"crops of {sampling['side']} px, seed {config['seed']}, rate {schedule['rate']:g}; "
        f"started from {origin['name'] + ' (' + origin['sha256'][:12] + ')' if origin else 'noise'}"
        f". Made by wsiseg {made['wsiseg']}.",
        "",
    ]


def _scores(facts: dict[str, Any]) -> list[str]:
    sets = facts["scores"].get("val", {})
    lines = ["## Scores", ""]
    if not sets:
        return [*lines, "None: there was no validation image.", ""]
    lines += [
        "Means over the validation images of each set, by the weights as they are stored; in "
        "brackets 95 % intervals over resampled cases, too narrow where these are few.",
        "",
    ]
    names = list(dict.fromkeys(k for scores in sets.values() for k in scores))
    lines.append(f"| set | {' | '.join(names)} |")
    lines.append("|---" * (len(names) + 1) + "|")
    around = facts.get("intervals", {}).get("val", {})
    for name, scores in sets.items():
        cells = (_number(scores.get(k), around.get(name, {}).get(k)) for k in names)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _number(value: float | int | None, around: Sequence[float] | None) -> str:
    if value is None:
        return ""
    shown = str(value) if isinstance(value, int) else f"{value:.3f}"
    return shown if around is None else f"{shown} ({around[0]:.2f} to {around[1]:.2f})"


def _calibration(found: dict[str, Any] | None, spec: dict[str, Any]) -> list[str]:
    if not spec["classes"]:
        return []
    if found is None:
        return [
            "Class probabilities were not calibrated: too few validation nuclei of a class.",
            "",
        ]
    return [
        f"Class probabilities are calibrated (temperature {found['temperature']:g}) on "
        f"{found['nuclei']} validation nuclei: expected calibration error {found['ece'][0]:.3f} "
        f"before, {found['ece'][1]:.3f} after; the likeliest class is right for "
        f"{100 * found['accuracy']:.0f} %.",
        "",
    ]


def _limits(made: dict[str, Any]) -> list[str]:
    return [
        "## Limits",
        "",
        "The validation images also chose among the weights of this training, so expect a little "
        "less elsewhere. Stains, scanners and organs unlike those above were not tried. Not for "
        "diagnosis.",
        "",
        *(f"- {limit}" for limit in made["config"]["model"].get("limits", ())),
        "",
    ]
