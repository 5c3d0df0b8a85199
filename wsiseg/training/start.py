"""The network that a training begins with: drawn at random, or from weights that are there."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsiseg.errors import ModelError, SettingsError
from wsiseg.model.unet import UNet, UNetConfig, map_sizes
from wsiseg.model.weights import Weights
from wsiseg.settings import fill
from wsiseg.training.config import TrainConfig

__all__ = ["adopt", "network_of", "new_network"]

_SAME = ("ndim", "channels", "widths", "blocks", "decoder_blocks", "stem", "mean", "std")
_NEAR = 0.05  # of the spacing: what still counts as the same lattice


def new_network(config: TrainConfig, weights: Weights | None) -> UNet:
    """The network of ``config``, from its seed; from ``weights`` where there are some.

    Raises ModelError as ``adopt``, or where the device cannot be used.
    """
    torch.manual_seed(config.seed)
    net = UNet(config.network)
    if weights is not None:
        adopt(net, weights, config)
    _set_norms(net, config.norms)
    device = config.machine.device
    try:
        net = net.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {device!r} cannot be used ({reason}): try cpu") from error
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def network_of(weights: Weights) -> UNetConfig:
    """The config that ``weights`` state; ModelError where they are of no U-Net."""
    where = weights.path or "the weights"
    if weights.facts.get("kind") != "unet":
        raise ModelError(f"{where}: of kind {weights.facts.get('kind')!r}, expected 'unet'")
    try:
        return fill(UNetConfig, weights.facts.get("config"), "config")
    except SettingsError as error:
        raise ModelError(f"{where}: not weights of this version of wsiseg: {error}") from error


def adopt(net: UNet, weights: Weights, config: TrainConfig) -> None:
    """Fill ``net`` from ``weights``: the trunk, and all rows of the head that mean the same.

    Rows of a class go by its name; classes that the weights do not know, and maps that they lack,
    keep their random start. The temperature of the weights goes into the rows of their classes.
    Raises ModelError, naming each difference, where the trunk or the pixel size are others.
    """
    theirs, where = network_of(weights), str(weights.path or "the weights")
    _check_same(theirs, config, weights, where)
    state = net.state_dict()
    for name, value in state.items():
        if name.startswith("head.") or name.endswith("batches_tracked"):
            continue
        given = weights.tensors.get(name)
        if given is None or given.shape != tuple(value.shape):
            got = "no such tensor" if given is None else str(given.shape)
            raise ModelError(f"{where}: tensor {name} must be {tuple(value.shape)}, got {got}")
        value.copy_(torch.tensor(given))
    names = tuple(weights.facts["spec"]["classes"])
    rows = _rows(net.config, config.model.classes), _rows(theirs, names)
    for part in ("head.weight", "head.bias"):
        _copy_rows(state[part], torch.tensor(weights.tensors[part]), *rows, theirs.temperature)


def _check_same(theirs: UNetConfig, config: TrainConfig, weights: Weights, where: str) -> None:
    differ = [
        f"{f.name} {getattr(theirs, f.name)}, expected {getattr(config.network, f.name)}"
        for f in fields(UNetConfig)
        if f.name in _SAME and getattr(theirs, f.name) != getattr(config.network, f.name)
    ]
    spec = weights.facts.get("spec")
    spacing = spec.get("spacing") if isinstance(spec, dict) else None
    wanted = config.sampling.spacing
    if not isinstance(spacing, list) or any(abs(s / wanted - 1) > _NEAR for s in spacing):
        differ.append(f"spacing {spacing}, expected {wanted}")
    if differ:
        raise ModelError(
            f"{where}: weights of another network cannot be started from: {'; '.join(differ)}"
        )


def _rows(config: UNetConfig, classes: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """What each row of the head is for -> its number."""
    rows: list[tuple[str, str]] = []
    for name, count in map_sizes(config).items():
        rows += [(name, classes[i] if name == "tp" else str(i)) for i in range(count)]
    return {row: i for i, row in enumerate(rows)}


def _copy_rows(
    mine: Tensor,
    given: Tensor,
    rows: dict[tuple[str, str], int],
    theirs: dict[tuple[str, str], int],
    temperature: float,
) -> None:
    for row in rows.keys() & theirs.keys():
        scale = temperature if row[0] == "tp" else 1.0
        mine[rows[row]] = given[theirs[row]] / scale


class _FrozenNorm(nn.BatchNorm2d):
    """Batch normalisation by its running statistics, in training too; scale and shift learn."""

    def train(self, mode: bool = True) -> _FrozenNorm:
        super().train(False)
        return self


def _set_norms(net: UNet, share: float) -> None:
    """Let a batch count ``share`` in the running statistics; 0 freezes them."""
    for parent in list(net.modules()):
        for name, norm in list(parent.named_children()):
            if not isinstance(norm, _BatchNorm):
                continue
            norm.momentum = share
            if share == 0:
                frozen = _FrozenNorm(norm.num_features).train(False)
                frozen.load_state_dict(norm.state_dict())
                setattr(parent, name, frozen)
