"""Trained weights state the ranges that int8 needs, seen on images as the model would see them."""

from pathlib import Path

import numpy as np
import pytest

from wsiseg.model.unet import UNet, UNetConfig, UNetModel, default_spec, weights_of
from wsiseg.model.weights import Weights, read_facts
from wsiseg.training.labelled import Labelled
from wsiseg.training.ranges import with_ranges
from wsiseg.training.train import train

CONFIG = UNetConfig(2, 3, 0, (4,), (1,), ())


@pytest.fixture
def weights() -> Weights:
    spec = default_spec("tiny", CONFIG, spacing=(0.25, 0.25), patch=(24, 32), margin=4)
    return weights_of(UNet(CONFIG), spec)


def _image(shape: tuple[int, int], grey: int = 0, mpp: float | None = 0.25) -> Labelled:
    image = np.full((*shape, 3), grey, dtype=np.uint8)
    return Labelled("i", image, labels=np.zeros(shape, dtype=np.int32), mpp=mpp)


def _stem(weights: Weights) -> float:
    """Range of the normalised pixels, (value - 127.5) / 64."""
    return float(weights.facts["ranges"]["stem"])


def test_the_middle_of_an_image_is_seen(weights: Weights) -> None:
    item = _image((43, 61), grey=100)
    item.image[:9] = item.image[-9:] = 0  # beyond the 24 rows of a patch
    assert _stem(with_ranges(weights, [item])) == pytest.approx(27.5 / 64, rel=5e-3)


def test_an_image_smaller_than_a_patch_lies_on_white(weights: Weights) -> None:
    assert _stem(with_ranges(weights, [_image((11, 13), 100)])) == pytest.approx(127.5 / 64, 5e-3)
    assert _stem(with_ranges(weights, [_image((24, 32), 100)])) == pytest.approx(27.5 / 64, 5e-3)
    assert _stem(with_ranges(weights, [_image((24, 31), 100)])) == pytest.approx(127.5 / 64, 5e-3)


def test_images_are_seen_at_the_spacing_of_the_model(weights: Weights) -> None:
    assert _stem(with_ranges(weights, [_image((12, 16), 100, mpp=0.5)])) < 0.45  # fills a patch
    assert _stem(with_ranges(weights, [_image((24, 32), 100, mpp=0.125)])) > 1.9


def test_of_many_images_some_are_seen_from_first_to_last(weights: Weights) -> None:
    items = [_image((24, 32), 100) for _ in range(100)]
    items[96] = _image((24, 32), 0)
    assert _stem(with_ranges(weights, items)) == pytest.approx(127.5 / 64, rel=5e-3)


def test_without_images_weights_stay_as_they_are(weights: Weights) -> None:
    assert with_ranges(weights, []) is weights


def test_a_training_states_them_for_its_own_network(work: Path) -> None:
    done = train(work / "train.toml", work / "out")
    facts = read_facts(done.weights)
    model = UNetModel(with_ranges(weights_of(UNet(CONFIG), default_spec("x", CONFIG)), []))
    assert model.config == CONFIG
    assert "encoder.0.0.first" in facts["ranges"]
    assert all(0 < value < 100 for value in facts["ranges"].values())
