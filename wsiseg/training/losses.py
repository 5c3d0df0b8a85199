"""Losses of the maps over what is known; 0 at perfect maps, and where nothing is known.

With p the predicted map, t its target in [0, 1], w >= 0 a weight per pixel (0: not known) and
sums over the pixels of a batch:

- NP, DT   cross-entropy -Σ w [t log p + (1 - t) log(1 - p)] / Σ w, less the same of t with
  itself, so that the least value is 0 for soft targets, too
- soft Dice (Milletari et al. 2016, 3DV)  1 - (2 Σ k p t + 1) / (Σ k (p² + t²) + 1), k = 1 where
  w > 0; sums over one image, then the mean over images, foreground and background
- HV       Σ w |p - t|² / Σ w, plus for each axis Σ w w' |∇p - ∇t|² / Σ w w', with forward
  differences ∇ between a pixel and the next, of weight w' (Graham et al. 2019, Medical Image
  Analysis 58, with a 5-px filter for ∇)
- TP       cross-entropy over the classes, weighted by that of the true class, + soft Dice, both
  where a nucleus has a class (ibid.)

A denominator Σ is 1 at least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from wsiseg.model.unet.network import HV_UNIT, UNetConfig, split

__all__ = ["LossWeights", "cross_entropy", "hv_loss", "losses", "soft_dice", "tp_loss"]

_HV_SCALE = 128.0  # px; of hv.VoteRule


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each map counts in the sum."""

    np: float = 1.0
    dice: float = 1.0
    dt: float = 2.0
    hv: float = 0.5
    tp: float = 0.5
    classes: tuple[float, ...] = ()
    """Of each class in TP; (): 1 each."""


def losses(
    raw: Tensor, targets: dict[str, Tensor], config: UNetConfig, weights: LossWeights
) -> dict[str, Tensor]:
    """Weighted losses by name, scalars, of raw maps (B, M, G, G) on the grid of the network."""
    maps = split(raw, config)
    found = {
        "np": weights.np * cross_entropy(maps["np"][:, 0], targets["np"], targets["np_weight"]),
        "dice": weights.dice * _foreground_dice(maps["np"][:, 0].sigmoid(), targets),
    }
    if config.distance:
        dt = cross_entropy(maps["dt"][:, 0], targets["dt"], targets["dt_weight"])
        found["dt"] = weights.dt * dt
    if config.vectors:
        scale = HV_UNIT * _HV_SCALE
        found["hv"] = weights.hv * hv_loss(maps["hv"], targets["hv"] / scale, targets["hv_weight"])
    if config.classes:
        found["tp"] = weights.tp * tp_loss(maps["tp"], targets["tp"], weights.classes)
    return found


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy (B, *s) above its least value, averaged by ``weight``."""
    entropy = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target))
    each = binary_cross_entropy_with_logits(logits, target, reduction="none") - entropy
    return (each * weight).sum() / weight.sum().clamp(min=1)


def soft_dice(p: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - Dice of maps (B, C, *s), averaged over B and C; ``weight`` (B, 1, *s)."""
    axes = tuple(range(2, p.ndim))
    common = (weight * p * target).sum(axes)
    both = (weight * (p * p + target * target)).sum(axes)
    dice: Tensor = 1 - (2 * common + 1) / (both + 1)
    return dice.mean()


def hv_loss(p: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error (B, n, *s) inside nuclei, and of the differences between their pixels."""
    error = p - target
    total = (error.square() * weight[:, None]).sum() / weight.sum().clamp(min=1)
    for axis in range(2, p.ndim):
        both = weight.narrow(axis - 1, 1, weight.shape[axis - 1] - 1) * weight.narrow(
            axis - 1, 0, weight.shape[axis - 1] - 1
        )
        total = total + (error.diff(dim=axis).square() * both[:, None]).sum() / both.sum().clamp(
            min=1
        )
    return total


def tp_loss(scores: Tensor, target: Tensor, classes: tuple[float, ...]) -> Tensor:
    """Cross-entropy and Dice of class scores (B, K, *s) where ``target`` (B, K, *s) is known."""
    known = target.sum(dim=1, keepdim=True)
    shape = (1, -1) + (1,) * (scores.ndim - 2)
    share = torch.tensor(classes or (1.0,) * scores.shape[1], device=scores.device).reshape(shape)
    weighted = target * share
    logs = log_softmax(scores, dim=1)
    entropy = (-logs * weighted).sum() / weighted.sum().clamp(min=1)
    return entropy + soft_dice(logs.exp() * known, target, known)


def _foreground_dice(p: Tensor, targets: dict[str, Tensor]) -> Tensor:
    both = torch.stack([p, 1 - p], dim=1)
    truth = torch.stack([targets["np"], 1 - targets["np"]], dim=1)
    return soft_dice(both, truth, (targets["np_weight"] > 0).float()[:, None])
