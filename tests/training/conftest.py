"""Small labelled images, and a training of them that takes a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsiseg.synth import SyntheticSlide, he_slide

Write = Callable[..., Path]

TOML = """
seed = 3
checkpoint = 3
log_every = 2
[[data]]
path = "data"
[model]
name = "tiny"
classes = ["a", "b"]
patch = 64
margin = 8
min_object = 5
[network]
widths = [4, 8]
blocks = [1, 1]
decoder_blocks = [1]
[sampling]
side = 64
batch = 2
[schedule]
steps = 9
warmup = 2
rate = 0.01
[machine]
threads = 1
precision = "fp32"
[validation]
every = 4
pictures = 2
"""


@pytest.fixture(scope="session")
def tissue() -> SyntheticSlide:
    """An H&E image of 160 x 317 px with some 40 nuclei, none of which fills it."""
    return he_slide((160, 317), np.random.default_rng(1), mpp=0.25, density=30_000)


@pytest.fixture
def work(tmp_path: Path, tissue: SyntheticSlide) -> Path:
    """A folder with ``data/`` (6 images, 2 of them val, classes a and b) and ``train.toml``."""
    rows = ["image,labels,set,split,mpp,case,licence"]
    (tmp_path / "data").mkdir()
    for k in range(6):
        y, x = 79 * (k // 3), 105 * (k % 3)
        window = (slice(y, y + 79), slice(x, x + 105))
        name = write_pair(tmp_path / "data" / f"i{k}", tissue, window)
        rows.append(
            f"{name}.png,{name}_labels.png,syn,{'val' if k % 3 == 2 else 'train'},0.25,c{k},CC0"
        )
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "train.toml").write_text(TOML)
    return tmp_path


@pytest.fixture
def edited(work: Path) -> Write:
    """``edited(old, new)``: the TOML file with text replaced, which must be there."""

    def edit(*pairs: tuple[str, str]) -> Path:
        text = TOML
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (work / "train.toml").write_text(text)
        return work / "train.toml"

    return edit


def write_pair(stem: Path, tissue: SyntheticSlide, window: tuple[slice, slice]) -> str:
    labels = tissue.labels[window]
    cv2.imwrite(f"{stem}.png", tissue.rgb[window][..., ::-1])
    cv2.imwrite(f"{stem}_labels.png", labels.astype(np.uint16))
    rows = [f"{i},{'ab'[i % 2]}" for i in np.unique(labels) if i]
    stem.with_name(f"{stem.name}_types.csv").write_text("\n".join(["id,class", *rows]) + "\n")
    return stem.name
