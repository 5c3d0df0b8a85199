"""Losses: least at perfect maps, blind to what is not known, as their equations read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.model.unet.network import HV_UNIT, UNetConfig, map_sizes
from wsiseg.training.losses import (
    LossWeights,
    cross_entropy,
    hv_loss,
    losses,
    soft_dice,
    tp_loss,
)

SEEDS = st.integers(0, 2**32 - 1)
CONFIG = UNetConfig(2, 3, 3, (4,), (1,), (), distance=True)
NAMES = {"np", "dice", "dt", "hv", "tp"}


def _logit(p):
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def _targets(seed, shape=(2, 9, 11), classes=3, soft=False):
    """Random targets with unknown areas: float64 arrays by name."""
    rng = np.random.default_rng(seed)
    inside = rng.random(shape) < 0.5
    kind = rng.integers(-1, classes, shape)
    tp = (kind[:, None] == np.arange(classes)[:, None, None]) & inside[:, None]
    share = rng.random(shape) if soft else inside.astype(float)
    return {
        "np": share,
        "np_weight": rng.choice([0.0, 1.0, 2.5], shape),
        "dt": rng.random(shape),
        "dt_weight": rng.choice([0.0, 0.5, 1.0], shape),
        "hv": rng.normal(0, 8, (shape[0], 2, *shape[1:])),
        "hv_weight": inside * 1.0,
        "tp": tp.astype(float),
    }


def _perfect(targets):
    """Raw maps (B, M, H, W) that give ``targets``."""
    tp = np.where(targets["tp"] > 0, 30.0, -30.0)
    maps = [_logit(targets["np"])[:, None], targets["hv"] / 16, _logit(targets["dt"])[:, None], tp]
    return np.concatenate(maps, axis=1)


def _raw(seed, shape=(2, 9, 11), config=CONFIG):
    channels = sum(map_sizes(config).values())
    return np.random.default_rng(seed + 1).normal(0, 2, (shape[0], channels, *shape[1:]))


def _tensors(targets):
    return {name: torch.from_numpy(values) for name, values in targets.items()}


def _each(raw, targets, weights=LossWeights(), config=CONFIG):  # noqa: B008
    found = losses(torch.from_numpy(raw), _tensors(targets), config, weights)
    return {name: float(value) for name, value in found.items()}


# what the equations of the module's docstring say, in numpy


def _np_entropy(raw, t, w):
    p = 1 / (1 + np.exp(-raw))
    each = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    with np.errstate(divide="ignore", invalid="ignore"):
        least = -(np.where(t > 0, t * np.log(t), 0) + np.where(t < 1, (1 - t) * np.log(1 - t), 0))
    return ((each - least) * w).sum() / max(w.sum(), 1)


def _np_dice(p, t, w):
    scores = [
        (2 * (w[b] * p[b, c] * t[b, c]).sum() + 1)
        / ((w[b] * (p[b, c] ** 2 + t[b, c] ** 2)).sum() + 1)
        for b in range(p.shape[0])
        for c in range(p.shape[1])
    ]
    return 1 - np.mean(scores)


def _np_hv(p, t, w):
    error, total = p - t, 0.0
    for b in range(len(p)):
        total += (w[b] * (error[b] ** 2).sum(axis=0)).sum()
    total /= max(w.sum(), 1)
    for axis in (0, 1):
        both = np.take(w, range(1, w.shape[axis + 1]), axis + 1) * np.take(
            w, range(w.shape[axis + 1] - 1), axis + 1
        )
        steps = (np.diff(error, axis=axis + 2) ** 2).sum(axis=1)
        total += (both * steps).sum() / max(both.sum(), 1)
    return total


def _np_tp(scores, t, share):
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    known = t.sum(axis=1)
    weighted = t * np.reshape(share, (1, -1, 1, 1))
    entropy = -(logs * weighted).sum() / max(weighted.sum(), 1)
    return entropy + _np_dice(np.exp(logs) * known[:, None], t, known)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, soft=st.booleans())
def test_losses_are_what_their_equations_say(seed, soft):
    targets, raw = _targets(seed, soft=soft), _raw(seed)
    weights = LossWeights(0.7, 1.1, 2.0, 0.5, 0.3, classes=(1.0, 2.0, 0.5))
    foreground = 1 / (1 + np.exp(-raw[:, 0]))
    both = np.stack([foreground, 1 - foreground], axis=1)
    truth = np.stack([targets["np"], 1 - targets["np"]], axis=1)
    known = (targets["np_weight"] > 0) * 1.0
    expected = {
        "np": 0.7 * _np_entropy(raw[:, 0], targets["np"], targets["np_weight"]),
        "dice": 1.1 * _np_dice(both, truth, known),
        "dt": 2.0 * _np_entropy(raw[:, 3], targets["dt"], targets["dt_weight"]),
        "hv": 0.5 * _np_hv(raw[:, 1:3], targets["hv"] / 16, targets["hv_weight"]),
        "tp": 0.3 * _np_tp(raw[:, 4:], targets["tp"], weights.classes),
    }
    assert _each(raw, targets, weights) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, soft=st.booleans())
def test_perfect_maps_lose_nothing_and_others_do(seed, soft):
    targets = _targets(seed, soft=soft)
    best, random = _each(_perfect(targets), targets), _each(_raw(seed), targets)
    assert best.keys() == random.keys() == NAMES
    for name in NAMES:
        assert best[name] == pytest.approx(0, abs=2e-6)
        assert random[name] > 0.05


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_no_step_away_from_soft_targets_is_rewarded(seed):
    targets = _targets(seed, soft=True)
    rng = np.random.default_rng(seed)
    best = _perfect(targets)
    for size in (0.01, 1.0):
        worse = _each(best + rng.normal(0, size, best.shape), targets)
        assert all(value > -1e-9 for value in worse.values())
        assert worse["np"] > 0
        assert worse["dt"] > 0


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_what_is_not_known_has_a_gradient_of_exactly_0(seed):
    targets = _targets(seed)
    raw = torch.from_numpy(_raw(seed)).requires_grad_(True)
    found = losses(raw, _tensors(targets), CONFIG, LossWeights())
    torch.stack(list(found.values())).sum().backward()
    gradient = np.moveaxis(raw.grad.numpy(), 1, 0)
    untyped = targets["tp"].sum(axis=1) == 0
    masked = [targets["np_weight"] == 0, *[targets["hv_weight"] == 0] * 2,
              targets["dt_weight"] == 0, *[untyped] * 3]  # fmt: skip
    for channel, mask in zip(gradient, masked, strict=True):
        assert mask.any()
        assert not channel[mask].any()
        assert (channel[~mask] != 0).mean() > 0.9


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_values_where_nothing_is_known_change_no_loss(seed):
    targets, raw = _targets(seed), _raw(seed)
    other = raw.copy()
    for channels, weight in (([0], "np_weight"), ([1, 2], "hv_weight"), ([3], "dt_weight")):
        for c in channels:
            other[:, c][targets[weight] == 0] = 50
    assert _each(other, targets) == pytest.approx(_each(raw, targets), rel=1e-12)


def test_where_nothing_at_all_is_known_every_loss_is_0():
    targets = {name: np.zeros_like(values) for name, values in _targets(0).items()}
    raw = torch.from_numpy(_raw(0)).requires_grad_(True)
    found = losses(raw, _tensors(targets), CONFIG, LossWeights())
    assert {name: value.item() for name, value in found.items()} == dict.fromkeys(NAMES, 0.0)
    torch.stack(list(found.values())).sum().backward()
    assert not raw.grad.any()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_weights_scale_their_loss_alone(name):
    targets, raw = _targets(3), _raw(3)
    plain = _each(raw, targets, LossWeights(1, 1, 1, 1, 1))
    scaled = _each(raw, targets, LossWeights(**{**dict.fromkeys(NAMES, 1.0), name: 7.0}))
    assert scaled == pytest.approx({**plain, name: 7 * plain[name]})


def test_dice_is_averaged_over_maps_not_over_their_pixels():
    target = torch.zeros((1, 2, 10, 10))
    target[:, 0, :1], target[:, 1, 1:] = 1, 1  # 10 and 90 px
    half_missed = target.clone()
    half_missed[:, 0, :, 5:] = 0  # half of the small map, and nothing of the large one
    weight = torch.ones((1, 1, 10, 10))
    expected = (1 - (2 * 5 + 1) / (5 + 10 + 1)) / 2
    assert float(soft_dice(half_missed, target, weight)) == pytest.approx(expected)


def test_foreground_and_background_count_alike_in_dice():
    few = {**_targets(0), "np": np.zeros((2, 9, 11)), "np_weight": np.ones((2, 9, 11))}
    few["np"][:, 0, :2] = 1
    nothing = _perfect({**few, "np": np.zeros((2, 9, 11))})
    # all background: 1 - 1/2 (foreground 1/3, background 2*97+1 of 97+99+1)
    expected = 1 - (1 / 3 + 195 / 197) / 2
    assert _each(nothing, few)["dice"] == pytest.approx(expected, abs=1e-5)


def test_hv_counts_a_false_slope_that_its_values_hide():
    target = torch.zeros((1, 1, 1, 8))
    weight = torch.ones((1, 1, 8))
    flat = torch.ones((1, 1, 1, 8))
    saw = flat * torch.tensor([1.0, -1.0]).repeat(4)
    assert float(hv_loss(flat, target, weight)) == 1
    assert float(hv_loss(saw, target, weight)) == 1 + 4
    gap = weight.clone()
    gap[..., 4] = 0  # differences across what is not known do not count
    assert float(hv_loss(saw, target, gap)) == 1 + 4
    assert float(hv_loss(flat, target, gap)) == 1


def test_hv_is_in_units_of_the_head():
    targets = _targets(1)
    targets["hv_weight"][:] = 1
    raw = _perfect(targets)
    raw[:, 1:3] += 1 / (HV_UNIT * 128)  # 1 px
    assert _each(raw, targets, LossWeights(hv=1))["hv"] == pytest.approx(2 / 16**2)


def test_a_class_that_weighs_more_is_learned_first():
    target = torch.tensor([[1.0, 0], [0, 1]]).reshape(1, 2, 1, 2)
    scores = torch.zeros((1, 2, 1, 2), requires_grad=True)
    tp_loss(scores, target, (1.0, 9.0)).backward()
    first, second = scores.grad[0, 0, 0, 0].abs(), scores.grad[0, 1, 0, 1].abs()
    assert second > 3 * first


def test_maps_that_a_network_lacks_have_no_loss():
    for fields, names in (
        ({"vectors": False, "distance": True, "classes": 0}, {"np", "dice", "dt"}),
        ({"vectors": True, "distance": False}, {"np", "dice", "hv", "tp"}),
    ):
        config = UNetConfig(**{"ndim": 2, "classes": 3, "widths": (4,), "blocks": (1,),
                               "decoder_blocks": (), **fields})  # fmt: skip
        found = _each(_raw(0, config=config), _targets(0), config=config)
        assert found.keys() == names


def test_extreme_maps_have_finite_losses_and_gradients():
    target, weight = torch.tensor([[0.0, 1.0, 0.5]]), torch.ones((1, 3))
    for size in (1e4, -1e4):
        logits = torch.full((1, 3), size, requires_grad=True)
        value = cross_entropy(logits, target, weight)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()
