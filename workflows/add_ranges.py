"""Add to weights what --precision int8 needs: the ranges of what their filters read.

python workflows/add_ranges.py mine/weights --data labelled

For weights that ``wsiseg train`` wrote before it added them itself. The data are those they were
trained on, or others like them: a folder of any layout that ``wsiseg train`` reads. Filters stay as
they are, but the weights are others by hash, so finished runs are not gone on with.
"""

import argparse
from pathlib import Path

import numpy as np

from wsiseg.model.weights import LICENCE_NAME, Weights, load_weights, rounded, save_weights
from wsiseg.training.dataset import read_dataset
from wsiseg.training.ranges import with_ranges


def main(words: list[str] | None = None) -> None:
    """Replace the weights in a folder by the same with ranges."""
    asked = _arguments().parse_args(words)
    old = load_weights(asked.weights)
    new = with_ranges(old, read_dataset(asked.data, mpp=asked.mpp, split="train"))
    card, licence = ((asked.weights / name).read_text() for name in ("card.md", LICENCE_NAME))
    save_weights(asked.weights, new, card=card, licence=licence, half=_is_half(old))
    stored = load_weights(asked.weights)
    print(f"{asked.weights}: SHA-256 {old.sha256[:16]} is now {stored.sha256[:16]}")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="weights folder, which is changed")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled images")
    parser.add_argument("--mpp", type=float, help="µm per px of images that state none")
    return parser


def _is_half(weights: Weights) -> bool:
    """Whether storing filters as float16 loses nothing."""
    stored = rounded(weights).tensors
    return all(np.array_equal(stored[name], values) for name, values in weights.tensors.items())


if __name__ == "__main__":
    main()
