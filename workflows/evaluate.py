"""Evaluate a model on the validation images of the shared data, beside published figures.

    python workflows/evaluate.py --data DIR [--model NAME] [--out DIR]

DIR holds ``nuclei/manifest.csv`` and ``points/crchisto``. What is published was measured on the
test images of the same sets, ours on validation images: easier, and few. The same as

    wsiseg evaluate --manifest DIR/nuclei/manifest.csv --points DIR/points/crchisto --mpp 0.55
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from wsiseg.errors import WsisegError
from wsiseg.run.evaluate_images import EvaluationJob, evaluate_images
from wsiseg.run.evaluate_images_text import images_text

ROOT = Path(__file__).resolve().parents[1]
MPP = 0.55  # of crchisto, as its authors state it

# Test images: means of Dice, AJI, PQ and pooled F of Graham et al. 2019 (HoVer-Net); of crchisto
# Sirinukunwattana et al. 2016 (SC-CNN with NEP), detection within 6 px = 3.3 µm, class F1 of given
# nuclei. The F by class are recalled, not read off the paper.
ANCHORS = {
    "kumar": {"Dice": 0.826, "AJI": 0.618, "PQ": 0.597},
    "consep": {
        "Dice": 0.853,
        "AJI": 0.571,
        "PQ": 0.547,
        "F1 of centres": 0.748,
        "F_c epithelial": 0.635,
        "F_c inflammatory": 0.631,
        "F_c spindle": 0.566,
    },
    "crchisto": {"F1 of centres": 0.802, "weighted class F1": 0.784},
}


def measured(found: dict[str, Any]) -> dict[str, float | None]:
    """Our figures of one set, by the names of the anchors."""
    metrics = found["metrics"]
    means = {"Dice": "dice", "AJI": "aji", "PQ": "pq@0.5"}
    figures = {name: metrics[key]["mean"] for name, key in means.items() if key in metrics}
    figures["F1 of centres"] = metrics["f1@detection"]["pooled"]
    for name, scores in found.get("classes", {}).items():
        figures[f"F_c {name}"] = scores["f1_type"]["pooled"]
    if "weighted_f1" in found:
        figures["weighted class F1"] = found["weighted_f1"]["classification"]["value"]
    return figures


def beside_anchors(found: dict[str, Any]) -> str:
    """A line for each published figure."""
    lines = [f"{'set':10}{'figure':20}{'here (val)':>12}{'published (test)':>18}"]
    for name, anchors in ANCHORS.items():
        if name not in found["sets"]:
            continue
        ours = measured(found["sets"][name])
        for figure, anchor in anchors.items():
            value = ours.get(figure)
            shown = "-" if value is None else f"{value:.3f}"
            lines.append(f"{name:10}{figure:20}{shown:>12}{anchor:>18.3f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("WSISEG_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--model", help="name or weights; by default that of `wsiseg segment`")
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    options = parser.parse_args()
    job = EvaluationJob(
        manifest=options.data / "nuclei" / "manifest.csv",
        points=options.data / "points" / "crchisto",
        points_mpp=MPP,
        model=options.model,
        out=options.out,
    )
    try:
        found = evaluate_images(job)
    except WsisegError as error:
        print(error, file=sys.stderr)
        return 1
    print(images_text(found, options.out))
    print()
    print(beside_anchors(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
