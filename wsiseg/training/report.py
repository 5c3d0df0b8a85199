"""What a training came to, for people: scores, where the files are, what to do next."""

from __future__ import annotations

from typing import Any

from wsiseg.training.finetune import Judgement, judgement_of
from wsiseg.training.outcome import Sets, Trained

__all__ = ["trained_text", "tuned_text"]

_FEW = 50  # nuclei: a score of fewer may be luck


def trained_text(trained: Trained) -> str:
    """The summary of ``wsiseg train CONFIG.toml``."""
    lines = [
        f"trained {trained.step} steps in {_time(trained.seconds)}; the weights are those of step "
        f"{trained.best_step}",
        *_scores(trained.scores),
        *_calibration(trained.calibration),
        *_files(trained),
        f"next: wsiseg segment SLIDE --out run --model {trained.weights}",
        f"      wsiseg train --from {trained.weights} --annotations EXPORT.geojson --slide SLIDE",
    ]
    return "\n".join(lines)


def tuned_text(trained: Trained) -> str:
    """The summary of a fine-tuning: whether it helped, on nuclei that it has not seen."""
    lines = [
        f"fine-tuned {trained.step} steps in {_time(trained.seconds)}",
        *_verdict(judgement_of(trained), trained),
        *_files(trained),
    ]
    return "\n".join(lines)


def _verdict(judgement: Judgement | None, trained: Trained) -> list[str]:
    use = f"wsiseg segment SLIDE --out run --model {trained.weights}"
    if judgement is None:
        return [
            "nothing could be scored before and after: look at a result before you rely on it",
            f"next: {use}",
        ]
    said = f"PQ on {judgement.nuclei} nuclei held back: {judgement.before:.3f} before, "
    said += f"{judgement.after:.3f} after"
    if judgement.better:
        word = ["it got better", f"next: {use}"]
    elif judgement.worse:
        word = ["it got worse: keep the weights that you had, and annotate more or other places"]
    else:
        word = ["it is about the same: annotate what goes wrong now, then run this again"]
    few = judgement.nuclei < _FEW
    care = [f"so few nuclei tell little: annotate {_FEW} to 200 for a surer answer"] if few else []
    return [f"{said}: {word[0]}", *care, *word[1:]]


def _scores(sets: Sets) -> list[str]:
    if not sets:
        return ["no validation images, so no scores"]
    lines = []
    for name, scores in sets.items():
        values = [f"{k} {v:.3f}" for k, v in scores.items() if k != "images" and v is not None]
        lines.append(f"  {name or '(no set)'} ({scores['images']} images): {', '.join(values)}")
    return ["val, means over images:", *lines]


def _calibration(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"classes: {100 * found['accuracy']:.0f} % of {found['nuclei']} nuclei right; calibration "
        f"error {found['ece'][0]:.3f} before, {found['ece'][1]:.3f} after (temperature "
        f"{found['temperature']:g})"
    ]


def _files(trained: Trained) -> list[str]:
    return [
        f"weights   {trained.weights} ({trained.licence}; card.md and LICENSE beside them)",
        f"log       {trained.folder / 'log.csv'}, pictures/, summary.json",
    ]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
