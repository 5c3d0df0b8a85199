"""UNetModel: a U-Net as the engine sees it, numpy in and out; and what its weights must say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsiseg.errors import ModelError
from wsiseg.geometry.links import components
from wsiseg.heap import keep_freed_memory
from wsiseg.model import distance, hv
from wsiseg.model.base import Maps, ModelSpec
from wsiseg.model.flood import Immersion
from wsiseg.model.unet import openvino
from wsiseg.model.unet.fused import available, fused_on_grid
from wsiseg.model.unet.lanes import Lanes
from wsiseg.model.unet.network import (
    UNet,
    UNetConfig,
    activated,
    enlarged,
    field,
    fold,
    map_sizes,
    normalised,
)
from wsiseg.model.unet.ranges import observed, ranges_of
from wsiseg.model.weights import Weights, check_tensors, fingerprint, load_weights, save_weights

__all__ = ["MARGIN", "Rule", "UNetModel", "default_spec", "rule_of", "save_unet", "weights_of"]

MARGIN = 32
"""Default margin of a patch, px. It is a knob of accuracy, not of exactness: patches lie on one
global lattice, so results do not depend on tiles whatever the margin. Margins from the radius of
``field`` up remove every effect of a patch's border; most of it is gone far below that, and at
512 px a margin of 16 costs 14 % more pixels, one of 32 31 %."""

Rule = hv.VoteRule | distance.DistanceRule
"""How maps become links: by votes of the HV map, or by an immersion of the DT map."""

_ALGORITHM = 3  # to be raised when the same tensors and facts give other maps or links


@dataclass(frozen=True, slots=True)
class _How:
    """How a model is run."""

    device: str
    precision: str
    mirrored: bool

    @property
    def on_openvino(self) -> bool:
        """Whether the network is run by OpenVINO."""
        return self.device == openvino.DEVICE

    @property
    def place(self) -> torch.device:
        """Of tensors: OpenVINO takes those of the CPU."""
        return torch.device("cpu" if self.on_openvino else self.device)


class UNetModel:
    """A LocalModel: uint8 pixels through a U-Net, links by the rule of its weights.

    ``device``: "cpu", "cuda", "cuda:1", "mps", or "openvino", which is the CPU with another
    library; ``precision``: "fp32", "bf16" (of torch, the trunk alone: heads are fp32) or, of
    openvino, "int8". ``mirrored``: maps are means over all 2^n mirror images of a patch
    (test-time augmentation), at 2^n times the cost. ``batch`` replaces that of the weights.
    On a CPU a forward uses one thread, so that its bits do not depend on the number of threads;
    the setting is global to the process, and made at each forward. Maps are bit-equal within one
    kind of device, precision, instruction set and torch version. Pickles by the path and hash of
    its weights, in full if they were made in memory.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        mirrored: bool = False,
        batch: int | None = None,
    ) -> None:
        self._weights, self._how = weights, _How(device, precision, mirrored)
        keep_freed_memory()
        self.config, self._rule, spec = _understood(weights)
        self._net = _placed(_built(self.config, weights), self._how)
        self._fused = not self._how.on_openvino and self._how.place.type == "cpu" and available()
        runner = openvino.VERSION if self._how.on_openvino else self._how.place.type
        kind = f"{weights.sha256} {runner} {precision} {mirrored} {self._fused}"
        versions = f"{_ALGORITHM} {hv.VERSION} {distance.VERSION}"
        sha = sha256(f"{kind} {versions}".encode()).hexdigest()
        self.spec: ModelSpec = replace(spec, sha256=sha, batch=batch or spec.batch)
        """What it is; ``sha256`` covers weights, facts and all else that the maps depend on."""
        self._on_grid = self._runner()
        self._lanes = Lanes(self._maps_of, str(self._how.place), self.spec.batch)

    @property
    def forward_bytes(self) -> int:
        """Bytes on the host that the features of a forward take, about."""
        if self._how.place.type != "cpu":
            return 0
        grid = prod(side // self.config.stem for side in self.spec.patch)
        each = self.spec.batch * grid * self.config.widths[0]
        # three on the finest grid, and the skips and coarser grids together; with OpenVINO, filters
        layers = 7 if self._how.on_openvino else 5
        return layers * each * (2 if self._how.precision == "bf16" else 4)

    @property
    def numerics(self) -> str:
        """What the bits of its maps depend on beside ``spec.sha256`` and the instruction set."""
        device = self._how.place
        chip = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        runner = f" {openvino.numerics()}" if self._how.on_openvino else ""
        return f"{chip.replace(' ', '-')}-{self._how.precision} torch-{torch.__version__}{runner}"

    def __reduce__(self) -> tuple[Callable[..., UNetModel], tuple[Any, ...]]:
        known = self._weights.path is not None
        source = (self._weights.path, self._weights.sha256) if known else (self._weights, None)
        return _reopened, (*source, asdict(self._how), self.spec.batch)

    def __call__(self, patches: NDArray[Any]) -> Maps:
        """Maps (B, ...) of ``patches`` (B, *patch, channels); any B, padded to the batch."""
        spec = self.spec
        if patches.shape[1:] != (*spec.patch, spec.channels):
            raise ModelError(
                f"model {spec.name!r} takes patches (B, {(*spec.patch, spec.channels)}), "
                f"got {patches.shape}"
            )
        starts = range(0, len(patches), spec.batch)
        parts = [self._forward(patches[i : i + spec.batch]) for i in starts]
        stacked = np.concatenate(parts) if parts else np.zeros((0, *self._map_shape), np.float16)
        first = 1 + spec.hv_channels
        return Maps(prob=stacked[:, 0], hv=stacked[:, 1:first], classes=stacked[:, first:])

    def ranges(self, patches: Iterable[NDArray[Any]]) -> dict[str, float]:
        """What int8 needs to know, as seen on ``patches`` (*patch, channels); of a model in fp32
        on the CPU. See ``wsiseg.model.unet.ranges``.
        """
        return observed(self._net, patches)

    def links(self, maps: Maps) -> NDArray[np.uint8]:
        """Links ``(*s)`` by ``wsiseg.model.hv`` or ``wsiseg.model.distance``."""
        if isinstance(self._rule, hv.VoteRule):
            return hv.links(maps, self._rule)
        return distance.links(maps, self._rule)

    def decode(self, maps: Maps) -> NDArray[np.int32]:
        """Instance labels ``(*s)``: the components of the links."""
        return components(self.links(maps))

    @property
    def _map_shape(self) -> tuple[int, ...]:
        return (sum(map_sizes(self.config).values()), *self.spec.patch)

    def _forward(self, patches: NDArray[Any]) -> NDArray[np.float16]:
        """Stacked maps (B, 1 + V + K, *patch) of at most one batch, run as a full one."""
        if self._how.place.type == "cpu" and torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        return self._lanes(patches)

    def _maps_of(self, pixels: Tensor) -> Tensor:
        """Stacked maps (B, 1 + V + K, *patch), float16, of ``pixels`` (B, *patch, C)."""
        x = normalised(pixels, self.config).to(self._net.stem.conv.weight.dtype)
        if not self._how.mirrored:
            return self._maps(x).half()
        views = [self._seen(x, axes) for axes in _mirrors(self.spec.ndim)]
        return torch.stack(views).mean(dim=0).half()

    def _seen(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Maps (B, 1 + V + K, *patch) of ``x``, looked at in a mirror across ``axes``."""
        dims = [2 + axis for axis in axes]
        maps = self._maps(x.flip(dims)).flip(dims)
        for axis in axes if self.config.vectors else ():
            maps[:, 1 + axis] *= -1  # offsets point the other way in a mirror
        return maps

    def _maps(self, x: Tensor) -> Tensor:
        """Maps (B, 1 + V + K, *patch) of ``x`` (B, C, *patch), float32."""
        return enlarged(activated(self._on_grid(x), self.config), self.config)

    def _runner(self) -> Callable[[Tensor], Tensor]:
        """The network up to its raw maps, by what runs it best."""
        if not self._how.on_openvino:
            return partial(fused_on_grid, self._net) if self._fused else self._net.on_grid
        precision, shape = self._how.precision, (self.spec.batch, *self.spec.patch)
        where = str(self._weights.path or "weights in memory")
        ranges = ranges_of(self._weights.facts, self._net, where) if precision == "int8" else None
        return openvino.OnOpenVINO(self._net, precision, shape, ranges)


def _mirrors(ndim: int) -> list[tuple[int, ...]]:
    """Every set of axes, the empty one first."""
    return [s for n in range(ndim + 1) for s in combinations(range(ndim), n)]


def default_spec(name: str, config: UNetConfig, **fields: Any) -> ModelSpec:
    """A spec that fits ``config``: 0.5 µm, patches of about 256 px with ``MARGIN``, batch 4.

    ``fields`` replace fields of the spec; ``classes`` are named "1", "2", ... by default.
    """
    stride = field(config)[1]
    n = config.ndim
    side = -(-(256 if n == 2 else 96) // stride) * stride
    spec = ModelSpec(
        name=name, ndim=n, spacing=(0.5,) * n, unit="um", channels=config.channels,
        hv_channels=_shape_channels(config),
        classes=tuple(str(k + 1) for k in range(config.classes)), patch=(side,) * n,
        margin=MARGIN if n == 2 else MARGIN // 2, batch=4, reach=_default_rule(config).reach,
        min_object=20, max_object=None, sha256="", licence="BSD-3-Clause",
    )  # fmt: skip
    return replace(spec, **fields)


def weights_of(net: UNet, spec: ModelSpec, rule: Rule | None = None, **facts: Any) -> Weights:
    """The tensors of ``net`` (not folded) with their facts, ready for ``save_weights``.

    ``rule``: by default that of the map it has. ``facts``: more to keep with them, as JSON values.
    """
    rule = rule or _default_rule(net.config)
    tensors = {name: value.detach().cpu().numpy().copy() for name, value in _state(net).items()}
    stated = {k: v for k, v in asdict(spec).items() if k not in ("sha256", "reach")}
    parts = {"config": asdict(net.config), "spec": stated, "rule": _stated_rule(rule)}
    facts = json.loads(
        json.dumps({"kind": "unet", **parts, **facts})
    )  # tuples as they come back: lists
    return Weights(tensors, facts, fingerprint(tensors, facts))


def save_unet(
    folder: str | Path,
    net: UNet,
    spec: ModelSpec,
    *,
    rule: Rule | None = None,
    card: str,
    licence: str,
    half: bool = False,
) -> Path:
    """Write ``net`` (not folded) as a weights folder that ``load_model`` reads; returns its file.

    ``card``: Markdown on training data, scores and limits; ``licence``: the full text;
    ``half``: store filters as float16.
    """
    weights = weights_of(net, spec, rule)
    _understood(weights)  # what could not be loaded is not saved
    return save_weights(folder, weights, card=card, licence=licence, half=half)


def _state(net: UNet) -> dict[str, Tensor]:
    """Tensors that matter: without the counters of batch normalisation."""
    state = net.state_dict()
    return {name: value for name, value in state.items() if not name.endswith("batches_tracked")}


def _understood(weights: Weights) -> tuple[UNetConfig, Rule, ModelSpec]:
    """Config, rule and spec (without a hash) that ``weights`` state; ModelError if they cannot."""
    where = str(weights.path or "weights in memory")
    if weights.facts.get("kind") != "unet":
        raise ModelError(f"{where}: of kind {weights.facts.get('kind')!r}, expected 'unet'")
    try:
        config = UNetConfig(**_as_tuples(weights.facts["config"]))
        rule = rule_of(weights)
        stated = _as_tuples(weights.facts["spec"])
        spec = ModelSpec(**stated, reach=rule.reach, sha256="")
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{where}: its config, rule or spec is not one of this version of wsiseg ({error})"
        ) from error
    _check_spec(spec, config, where)
    if not (config.vectors if isinstance(rule, hv.VoteRule) else config.distance):
        raise ModelError(f"{where}: its network lacks the map that its rule decodes")
    return config, rule, spec


def _default_rule(config: UNetConfig) -> Rule:
    return distance.DistanceRule() if config.distance else hv.RULE


def _shape_channels(config: UNetConfig) -> int:
    sizes = map_sizes(config)
    return sizes["hv"] + sizes["dt"]


def _stated_rule(rule: Rule) -> dict[str, Any]:
    kind = "votes" if isinstance(rule, hv.VoteRule) else "distance"
    return {"kind": kind, **asdict(rule)}


def rule_of(weights: Weights) -> Rule:
    """How the maps of ``weights`` become objects; ModelError where they do not say it."""
    try:
        return _read_rule(weights.facts["rule"])
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{weights.path or 'weights in memory'}: their rule is not one of this version of "
            f"wsiseg ({error})"
        ) from error


def _read_rule(stated: dict[str, Any]) -> Rule:
    values = {name: value for name, value in stated.items() if name != "kind"}
    if stated["kind"] == "votes":
        return hv.VoteRule(**values)
    if stated["kind"] != "distance":
        raise KeyError(f"rule of kind {stated['kind']!r}")
    immersion = Immersion(**_as_tuples(values.pop("immersion")))
    return distance.DistanceRule(**values, immersion=immersion)


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _check_spec(spec: ModelSpec, config: UNetConfig, where: str) -> None:
    n, stride = config.ndim, field(config)[1]
    stated = (spec.ndim, spec.channels, spec.hv_channels, len(spec.classes))
    if stated != (n, config.channels, _shape_channels(config), config.classes):
        raise ModelError(
            f"{where}: a network of {n} axes, {config.channels} channels and {config.classes} "
            f"classes does not fit a spec of (ndim, channels, hv, classes) {stated}"
        )
    if len(spec.patch) != n or any(p % stride for p in spec.patch) or min(spec.core) < 1:
        raise ModelError(
            f"{where}: the patch must be {n} multiples of the stride {stride} px, larger than "
            f"twice the margin; got {spec.patch} and margin {spec.margin}"
        )
    if len(spec.spacing) != n or min(spec.spacing) <= 0 or spec.batch < 1 or spec.margin < 0:
        raise ModelError(
            f"{where}: {n} positive spacings, a batch of 1 or more and a margin of 0 or more are "
            f"needed; got {spec.spacing}, {spec.batch} and {spec.margin}"
        )


def _built(config: UNetConfig, weights: Weights) -> UNet:
    """The network of ``config`` with its tensors, checked before anything is allocated."""
    with torch.device("meta"):
        empty = UNet(config)
    expected = {name: (tuple(value.shape), "float32") for name, value in _state(empty).items()}
    check_tensors(weights.tensors, expected, str(weights.path or "weights in memory"))
    net = UNet(config)
    tensors = {name: torch.tensor(values) for name, values in weights.tensors.items()}
    net.load_state_dict(tensors, strict=False)  # strict but for the counters: checked above
    return net


def _placed(net: UNet, how: _How) -> UNet:
    """``net`` folded, on its device, its trunk in the precision; for OpenVINO in fp32."""
    known = openvino.PRECISIONS if how.on_openvino else ("fp32", "bf16")
    if how.precision not in known:
        raise ModelError(
            f"precision on {how.device} must be {' or '.join(known)}, got {how.precision!r}"
        )
    net = fold(net).requires_grad_(False)
    try:
        net = net.to(how.place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {how.device!r} cannot be used ({reason}): try cpu") from error
    if how.precision == "bf16" and not how.on_openvino:
        for name, part in net.named_children():
            if name != "head":
                part.bfloat16()
    if net.config.ndim == 2:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def _reopened(
    source: Path | Weights, expected: str | None, how: dict[str, Any], batch: int
) -> UNetModel:
    """The model in another process; ModelError if its file has changed since."""
    weights = source if isinstance(source, Weights) else load_weights(source)
    if expected is not None and weights.sha256 != expected:
        raise ModelError(
            f"{weights.path} changed while it was in use: SHA-256 {weights.sha256[:16]}..., "
            f"expected {expected[:16]}..."
        )
    return UNetModel(weights, **how, batch=batch)
