"""A residual U-Net with NP, HV, DT and TP maps, in 2-D and 3-D: network and its field.

Every layer is local and none looks at statistics of its input at inference, so a map value is a
function of the pixels within ``field(config)`` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn, relu_
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsiseg.errors import ModelError

__all__ = [
    "HV_UNIT",
    "UNet",
    "UNetConfig",
    "activated",
    "enlarged",
    "field",
    "fold",
    "map_sizes",
    "normalised",
    "space_to_depth",
    "split",
]

HV_UNIT = 1 / 8
"""HV is the output of its head times this, clipped to [-1, 1]: at a scale of 128 px, an output of
1 is 16 px, so that nuclei need outputs of order 1."""

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """All that is needed to build the network."""

    ndim: int = 2
    """2 or 3."""
    channels: int = 3
    """Of the input."""
    classes: int = 0
    """K of the TP map; 0: none."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels per level, finest first."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Residual blocks of the encoder, per level."""
    decoder_blocks: tuple[int, ...] = (1, 1, 1)
    """Residual blocks of the decoder, per level but the coarsest, finest first."""
    stem: int = 1
    """Space-to-depth factor at the input (1, 2 or 4), undone by linear upsampling at the end."""
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    """Subtracted from the input, per channel, in units of the pixels."""
    std: tuple[float, ...] = (64.0, 64.0, 64.0)
    """Divides it after that."""
    vectors: bool = True
    """Whether it has the HV map: offsets from the centroid."""
    distance: bool = False
    """Whether it has the DT map: distance to the border, 1 at the deepest pixel of an object."""
    temperature: float = 1.0
    """Divides the class scores before the softmax (Guo et al. 2017, ICML): 1 as trained, fitted
    afterwards so that a probability of 0.8 is right 8 times in 10."""

    def __post_init__(self) -> None:
        levels = len(self.widths)
        counts = (*self.widths, *self.blocks, *self.decoder_blocks, self.channels)
        fits = (
            self.ndim in _CONV
            and self.stem in (1, 2, 4)
            and 1 <= levels <= 8
            and (len(self.blocks), len(self.decoder_blocks)) == (levels, levels - 1)
            and len(self.mean) == len(self.std) == self.channels
            and all(isinstance(n, int) and 0 <= n <= 4096 for n in (*counts, self.classes))
            and min(*self.widths, self.channels) > 0
            and min(self.std) > 0
            and self.temperature > 0
            and sum(self.blocks) + sum(self.decoder_blocks) <= 256
        )
        if not fits:
            raise ModelError(
                "a U-Net needs 2 or 3 axes, a stem of 1, 2 or 4, a width and a number of blocks "
                "per level, decoder blocks for all levels but one, a mean and a positive std per "
                f"channel; got {self}"
            )


def map_sizes(config: UNetConfig) -> dict[str, int]:
    """Channels of each raw map, in their order: np, hv, dt and tp."""
    vectors, distance = config.ndim * config.vectors, int(config.distance)
    return {"np": 1, "hv": vectors, "dt": distance, "tp": config.classes}


def field(config: UNetConfig) -> tuple[int, int]:
    """Radius and stride of the network, px.

    An output depends on no input further than the radius along any axis (a patch narrower than
    that is felt through its zero padding). A shift of the input by a multiple of the stride
    shifts the output; by another shift it does not.

    ``radius`` counts from the block of stride px that holds the output, so it covers the worst
    place in the block: a 3-px filter at stride s reaches s px beyond, pooling by 2 nothing more,
    nearest upsampling from 2s to s up to s, linear upsampling by f up to f + f/2 - 1.
    """
    stride, radius = config.stem, config.stem
    skips: list[tuple[int, int]] = []
    for level, count in enumerate(config.blocks):
        stride *= 2 if level else 1
        radius += 2 * stride * count
        skips.append((radius, stride))
    coarsest = stride
    for (skip, fine), count in zip(skips[-2::-1], config.decoder_blocks[::-1], strict=True):
        radius = max(radius + stride - fine, skip) + 2 * fine * count
        stride = fine
    if config.stem > 1:
        radius += config.stem + config.stem // 2 - 1
    return radius, coarsest


class UNet(nn.Module):
    """Residual encoder and decoder with additive skips (ResUNet; Zhang et al. 2018, IEEE GRSL 15).

    One 1-px head for all maps: NP (foreground), HV (one per axis) and TP (classes) as in
    HoVer-Net, DT (distance) as in Naylor et al. 2019 (IEEE TMI 38), but of unit depth.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        n, widths = config.ndim, config.widths
        self.stem = _conv(n, config.channels * config.stem**n, widths[0], 3)
        self.encoder = nn.ModuleList(
            _blocks(n, w, k) for w, k in zip(widths, config.blocks, strict=True)
        )
        self.down = nn.ModuleList(_conv(n, a, b, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_conv(n, b, a, 1) for a, b in pairwise(widths))
        decoder = zip(widths, config.decoder_blocks, strict=False)  # the coarsest level has none
        self.decoder = nn.ModuleList(_blocks(n, w, k) for w, k in decoder)
        self.head = _CONV[n](widths[0], sum(map_sizes(config).values()), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Raw maps (B, M, *s), float32, M as in ``map_sizes``, of normalised pixels (B, C, *s)."""
        return enlarged(self.on_grid(x), self.config)

    def on_grid(self, x: Tensor) -> Tensor:
        """Raw maps (B, M, *s / stem): before they are brought to the pixels of the input."""
        x = relu_(self.stem(space_to_depth(x, self.config.stem)))  # (B, W0, *s / stem)
        x = self.encoder[0](x)
        skips = []
        for down, blocks in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = blocks(relu_(down(x)))  # (B, Wi, *s / (stem * 2^i))
        for level in reversed(range(len(skips))):
            x = _doubled(self.up[level](x))
            x = self.decoder[level](relu_(x + skips[level]))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round HV to 0.1 px
            raw: Tensor = self.head(x.float())
        return raw


def normalised(pixels: Tensor, config: UNetConfig) -> Tensor:
    """Network input (B, C, *s), float32, of pixels (B, *s, C)."""
    x = pixels.movedim(-1, 1).float()  # a view: channels stay last in memory
    mean, std = _mean_and_std(config, x.device)
    return (x - mean) / std


@lru_cache
def _mean_and_std(config: UNetConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Once per device: a CUDA graph cannot copy them from the host. Each (1, C, 1, ...)."""
    shape = (1, -1) + (1,) * config.ndim
    with torch.inference_mode(False):  # a training may ask for them later
        mean, std = (torch.tensor(v, device=device) for v in (config.mean, config.std))
        return mean.reshape(shape), std.reshape(shape)


def split(raw: Tensor, config: UNetConfig) -> dict[str, Tensor]:
    """The raw maps by name, each (B, M of it, *s); those that the network lacks are empty."""
    sizes = map_sizes(config)
    return dict(zip(sizes, torch.split(raw, list(sizes.values()), dim=1), strict=True))


def enlarged(raw: Tensor, config: UNetConfig) -> Tensor:
    """Maps (B, M, *s) of those on the grid of the network (B, M, *s / stem)."""
    if config.stem == 1:
        return raw
    mode, factor = _LINEAR[config.ndim], float(config.stem)
    return interpolate(raw, scale_factor=factor, mode=mode, align_corners=False)


def activated(raw: Tensor, config: UNetConfig) -> Tensor:
    """Maps (B, M, *s) of raw maps, both on the grid of the network, where losses are taken, too:
    prob, hv, dt and classes in turn.
    """
    maps = split(raw, config)
    vectors = (maps["hv"] * HV_UNIT).clamp(-1, 1)
    classes = (maps["tp"] / config.temperature).softmax(dim=1)
    return torch.cat([maps["np"].sigmoid(), vectors, maps["dt"].sigmoid(), classes], dim=1)


def fold(net: UNet) -> UNet:
    """Fold the normalisation of ``net``, in place, into its filters; for inference only."""
    net.eval()
    for module in net.modules():
        if isinstance(module, _ConvNorm):
            module.fold()
    return net


class _ConvNorm(nn.Module):
    """A filter bank and its batch normalisation."""

    def __init__(self, ndim: int, shape: tuple[int, int], kernel: int, stride: int) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        conv = _CONV[ndim](*shape, kernel, stride=stride, padding=padding, bias=False)
        self.conv: _ConvNd = conv
        self.norm: _BatchNorm | nn.Identity = _NORM[ndim](shape[1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out

    def fold(self) -> None:
        """Put the normalisation into the filters."""
        if not isinstance(self.norm, nn.Identity):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class _Residual(nn.Module):
    """Two 3-px filter banks and a way around them (He et al. 2016, CVPR)."""

    def __init__(self, ndim: int, width: int) -> None:
        super().__init__()
        self.first = _conv(ndim, width, width, 3)
        self.second = _conv(ndim, width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return relu_(self.second(relu_(self.first(x))).add_(x))


def _doubled(x: Tensor) -> Tensor:
    """Nearest upsampling by 2; in the dtype of ``x``, which autocast would make float32."""
    with torch.autocast(x.device.type, enabled=False):
        return interpolate(x, scale_factor=2.0, mode="nearest")


def _conv(ndim: int, before: int, after: int, kernel: int, stride: int = 1) -> _ConvNorm:
    return _ConvNorm(ndim, (before, after), kernel, stride)


def _blocks(ndim: int, width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(ndim, width) for _ in range(count)))


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """(B, C, *s) -> (B, C * factor^n, *s / factor): each block of pixels becomes channels."""
    if factor == 1:
        return x
    batch, channels, *shape = x.shape
    split: Sequence[int] = [v for s in shape for v in (s // factor, factor)]
    n = len(shape)
    order = [0, 1, *(3 + 2 * i for i in range(n)), *(2 + 2 * i for i in range(n))]
    small = [s // factor for s in shape]
    return x.reshape(batch, channels, *split).permute(order).reshape(batch, -1, *small)
