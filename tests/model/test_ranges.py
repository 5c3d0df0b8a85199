"""Ranges: the largest that each filter bank reads, and refused where they are not its network's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsiseg.errors import ModelError
from wsiseg.model.unet import UNet, UNetConfig, UNetModel, default_spec, fold, weights_of
from wsiseg.model.unet.network import normalised
from wsiseg.model.unet.ranges import banks, observed, ranges_of
from wsiseg.model.weights import with_facts

CONFIG = UNetConfig(2, 3, 1, (4, 5), (1, 1), (1,))


@pytest.fixture
def net() -> UNet:
    torch.manual_seed(0)
    return fold(UNet(CONFIG)).requires_grad_(False)


def _patches(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


def test_they_are_the_largest_values_over_all_patches(net: UNet) -> None:
    patches = _patches(3)
    found = observed(net, patches)
    assert set(found) == {*banks(net), "head"}
    with torch.inference_mode():
        x = normalised(torch.from_numpy(patches), CONFIG)
        first = torch.relu(net.stem(x))
    assert found["stem"] == pytest.approx(float(x.abs().max()), rel=5e-3)
    assert found["encoder.0.0.first"] == pytest.approx(float(first.max()), rel=5e-3)
    each = [observed(net, patches[k : k + 1]) for k in range(3)]
    assert found == {name: max(one[name] for one in each) for name in found}


def test_looking_leaves_no_trace(net: UNet) -> None:
    x = normalised(torch.from_numpy(_patches(1)), CONFIG)
    before = net.on_grid(x)
    assert observed(net, _patches(2)) == observed(net, _patches(2))
    assert torch.equal(net.on_grid(x), before)
    assert not any(part._forward_pre_hooks for part in net.modules())


def test_without_a_patch_there_are_none(net: UNet) -> None:
    with pytest.raises(ModelError, match="at least one patch"):
        observed(net, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"stem": 1.0},
        {"more": 1.0},
        {"stem": -1.0},
        {"stem": float("nan")},
        {"stem": "wide"},
        {"stem": None},
    ],
)
def test_ranges_of_another_network_are_refused(net: UNet, wrong: dict[str, object]) -> None:
    sound = observed(net, _patches(1))
    assert ranges_of({"ranges": sound}, net, "w") == sound
    stated = wrong if wrong == {"stem": 1.0} else {**sound, **wrong}
    with pytest.raises(ModelError, match=r"^w: its ranges are not those of its network"):
        ranges_of({"ranges": stated}, net, "w")


@pytest.mark.parametrize("stated", [[1.0], "all", 3])
def test_ranges_must_be_a_table(net: UNet, stated: object) -> None:
    with pytest.raises(ModelError, match="its ranges are not those of its network"):
        ranges_of({"ranges": stated}, net, "w")


def test_weights_without_ranges_are_told_how_to_get_them(net: UNet) -> None:
    with pytest.raises(ModelError, match=r"w: int8 needs the ranges .*add_ranges\.py"):
        ranges_of({}, net, "w")


def test_they_are_a_part_of_the_hash() -> None:
    weights = weights_of(UNet(CONFIG), default_spec("tiny", CONFIG, patch=(16, 24), margin=2))
    found = UNetModel(weights).ranges(_patches(1))
    assert with_facts(weights, ranges=found).sha256 != weights.sha256
