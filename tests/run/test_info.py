"""What is said of models: licence, classes and scores, and what to heed."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from wsiseg.model.zoo import ModelInfo
from wsiseg.run.info import licence_text, models_text

SCORES = {"val": {"kumar": {"pq": 0.6612}, "crchisto": {"f1": 0.82}, "lgg": {"pq": 0.7}}}


def told(name: str, licence: str, is_open: bool, **fields: object) -> dict[str, object]:
    info = ModelInfo(
        name=name, licence=licence, is_open=is_open, licence_file=f"w/{name}/LICENSE",
        spacing=(0.5, 0.5), unit="um", classes=(), scores={}, note="", is_default=False,
    )  # fmt: skip
    return asdict(info) | fields


def test_a_model_is_listed_with_licence_pixels_classes_scores_and_note() -> None:
    first = told(
        "nuclei-he", "CC-BY-NC-SA-4.0", False,
        classes=("a", "b"), scores=SCORES, note="what it is", is_default=True,
    )  # fmt: skip
    text = models_text([first, told("other", "CC0-1.0", True, spacing=(1.0, 0.5), unit="mm")])
    assert text == "\n".join(
        [
            "nuclei-he (default)",
            "  licence  CC-BY-NC-SA-4.0 (non-commercial use only)",
            "  pixels   0.5 µm",
            "  classes  a, b",
            "  val PQ   kumar 0.66, lgg 0.70",
            "  note     what it is",
            "",
            "other",
            "  licence  CC0-1.0",
            "  pixels   1 x 0.5 mm",
            "  classes  none",
        ]
    )


def test_an_open_licence_is_named_and_another_explained() -> None:
    assert licence_text(told("m", "CC0-1.0", True)) == "model m, licence CC0-1.0"
    said = licence_text(told("m", "CC-BY-NC-SA-4.0", False))
    for part in ("CC-BY-NC-SA-4.0: non-commercial", "w/m/LICENSE", "WSISEG_OPEN_ONLY=1"):
        assert part in said
    assert "not an open licence" in licence_text(told("m", "LicenseRef-x", False))


@pytest.mark.parametrize("scores", [{}, {"train": {"a": {"pq": 1.0}}}, {"val": {"a": {"f1": 1.0}}}])
def test_without_scores_on_validation_sets_there_is_no_line_of_them(scores: object) -> None:
    assert "PQ" not in models_text([told("m", "CC0-1.0", True, scores=scores)])
