"""The folded network on a CPU: the layers of ``UNet`` with what follows a filter bank fused in.

oneDNN adds the way around a block and cuts at 0 while a result is still in registers; done apart,
both cost as much as a sixth of the filters. The arithmetic is that of ``UNet.forward`` but for
rounding: in bfloat16, a sum is rounded once, not twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wsiseg.model.unet.network import UNet, space_to_depth

__all__ = ["available", "fused_on_grid"]

_PIXELS = 1 << 13  # of the grid that the head casts to float32 at once, so that they stay cached


def available() -> bool:
    """Whether this build of torch has the fused filter banks of oneDNN."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def fused_on_grid(net: UNet, x: Tensor) -> Tensor:
    """As ``net.on_grid(x)``, of a folded ``net``; for inference on a CPU."""
    x = _cut(net.stem.conv, space_to_depth(x, net.config.stem))
    x = _through(net.encoder[0], x)
    skips = []
    for down, blocks in zip(net.down, net.encoder[1:], strict=True):
        skips.append(x)
        x = _through(blocks, _cut(down.conv, x))
    for level in reversed(range(len(skips))):
        x = _through(net.decoder[level], _joined(net.up[level](x), skips[level]))
    return _headed(net.head, x)


def _through(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = _cut(block.second.conv, _cut(block.first.conv, x), x)
    return x


def _cut(conv: Any, x: Tensor, around: Tensor | None = None) -> Tensor:
    """max(0, conv(x) + around)."""
    how = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
    pointwise = torch.ops.mkldnn._convolution_pointwise
    if around is None:
        out: Tensor = pointwise(x, conv.weight, conv.bias, *how, "relu", [], "")
    else:
        out = pointwise.binary(x, around, conv.weight, conv.bias, *how, "add", 1.0, "relu", [], "")
    return out


def _joined(coarse: Tensor, skip: Tensor) -> Tensor:
    """max(0, skip + coarse enlarged by 2), in the memory of ``skip`` (B, C, *s)."""
    batch, channels, *shape = coarse.shape
    pairs = [v for s in shape for v in (s, 2)]
    ones = [v for s in shape for v in (s, 1)]
    skip.view(batch, channels, *pairs).add_(coarse.view(batch, channels, *ones))
    return skip.relu_()


def _headed(head: Any, x: Tensor) -> Tensor:
    """Raw maps (B, M, *s) of features (B, W, *s) by a 1-px filter bank, in float32."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])  # a view where channels are last
    weight = head.weight.flatten(1).t()
    raw = torch.empty(len(rows), weight.shape[1])
    for start in range(0, len(rows), _PIXELS):
        part = slice(start, start + _PIXELS)
        torch.addmm(head.bias, rows[part].float(), weight, out=raw[part])
    return raw.reshape(len(x), *x.shape[2:], weight.shape[1]).movedim(-1, 1)
