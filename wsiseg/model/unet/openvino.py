"""The folded network on a CPU by OpenVINO: fp32, bf16, or int8 by the ranges of its weights.

The graph is made of the filters themselves, step for step that of ``UNet.on_grid``. In int8 what a
bank reads is rounded to 256 values within its range, and its filters to 255 per channel (Jacob et
al. 2018, CVPR); their products are summed exactly, and rounded once more for the next bank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsiseg.errors import MissingExtraError, ModelError
from wsiseg.jit import has_feature
from wsiseg.model.unet.network import UNet
from wsiseg.model.unet.ranges import banks

if TYPE_CHECKING:
    import openvino

__all__ = ["DEVICE", "PRECISIONS", "VERSION", "OnOpenVINO", "numerics"]

DEVICE = "openvino"
"""Name of the device."""

PRECISIONS = ("fp32", "bf16", "int8")
"""What it computes in."""

VERSION = "openvino-1"
"""To be raised when the same filters and ranges give other maps."""

# products of 8 and of 16 bits, summed in 32: without the former, sums of older chips overflow
_BYTES = ("avx512vnni", "avxvnni", "amx-int8")
_HALVES = ("avx512bf16", "amx-bf16")
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not int8
_TINY = 1e-6  # range of a bank that reads nothing but 0


class OnOpenVINO:
    """``net.on_grid`` for inputs of one ``shape`` (B, *s); ``net`` is folded, on the CPU.

    Thread-safe: each caller has a compiled network of its own, which computes on the caller's
    thread alone, so that bits do not depend on how many there are. Compiled ones are kept for
    later callers. ``ranges`` are needed for int8, see ``ranges.observed``.

    Raises MissingExtraError without openvino, and ModelError where the chip lacks the instructions
    of the precision.
    """

    def __init__(
        self, net: UNet, precision: str, shape: tuple[int, ...], ranges: Mapping[str, float] | None
    ) -> None:
        _check(precision)
        self._hint = _HINTS[precision]
        self._model = _Graph(net, ranges if precision == "int8" else None).model(shape)
        self._idle: deque[Any] = deque()  # infer requests

    def __call__(self, x: Tensor) -> Tensor:
        """Raw maps (B, M, *s / stem), float32, of normalised pixels (B, C, *s)."""
        pixels = x.movedim(1, -1).float().contiguous().numpy()
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled()
        request.infer([pixels], share_inputs=True)
        raw = torch.tensor(request.get_output_tensor(0).data)
        self._idle.append(request)
        return raw

    def _compiled(self) -> Any:
        how = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": 1,
            "ENABLE_CPU_PINNING": False,  # other processes have cores, too
        }
        return _core().compile_model(self._model, "CPU", how).create_infer_request()


def numerics() -> str:
    """What bits depend on beside the instruction set: ``openvino-2026.4.1-avx512vnni...``."""
    features = [name for name in (*_BYTES, *_HALVES) if has_feature(name)]
    version = _openvino().__version__.split("-")[0]
    return "-".join(["openvino", version, *features])


def _check(precision: str) -> None:
    _openvino()
    needed = {"fp32": (), "bf16": _HALVES, "int8": _BYTES}[precision]
    if needed and not any(has_feature(name) for name in needed):
        raise ModelError(
            f"precision {precision} on {DEVICE} needs a chip with {' or '.join(needed)}, and this "
            "one has none of them: use fp32"
        )


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            f"device {DEVICE} needs the package openvino: install the extra, "
            "pip install 'wsiseg[openvino]'"
        ) from error
    return openvino


@cache
def _core() -> Any:
    return _openvino().Core()


class _Graph:
    """The nodes of a folded network; in int8 where there are ``ranges``."""

    def __init__(self, net: UNet, ranges: Mapping[str, float] | None) -> None:
        self._openvino = _openvino()
        self._op = self._openvino.opset13
        self._config, self._ranges = net.config, ranges
        self._convs: dict[str, Any] = {name: part.conv for name, part in banks(net).items()}
        self._convs["head"] = net.head

    def model(self, shape: tuple[int, ...]) -> openvino.Model:
        """Normalised pixels (B, *s, C), float32, to raw maps (B, M, *s / stem)."""
        config, op = self._config, self._op
        pixels = op.parameter([*shape, config.channels], np.float32)
        x = op.transpose(pixels, [0, config.ndim + 1, *range(1, config.ndim + 1)])
        if config.stem > 1:
            x = op.space_to_depth(x, "depth_first", config.stem)
        x = self._cut("stem", self._stored("stem", x))
        x = self._blocks("encoder.0", config.blocks[0], x)
        skips = []
        for level, count in enumerate(config.blocks[1:]):
            skips.append(self._stored(f"down.{level}", x))
            x = self._cut(f"down.{level}", skips[-1])
            x = self._blocks(f"encoder.{level + 1}", count, x)
        for level in reversed(range(len(skips))):
            x = self._doubled(self._bank(f"up.{level}", self._stored(f"up.{level}", x)))
            x = op.relu(op.add(x, skips[level]))
            x = self._blocks(f"decoder.{level}", config.decoder_blocks[level], x)
        return self._openvino.Model([self._bank("head", self._stored("head", x))], [pixels], "unet")

    def _blocks(self, name: str, count: int, x: Any) -> Any:
        for block in (f"{name}.{k}" for k in range(count)):
            x = self._stored(f"{block}.first", x)
            y = self._stored(f"{block}.second", self._cut(f"{block}.first", x))
            x = self._op.relu(self._op.add(self._bank(f"{block}.second", y), x))
        return x

    def _cut(self, name: str, x: Any) -> Any:
        return self._op.relu(self._bank(name, x))

    def _bank(self, name: str, x: Any) -> Any:
        conv, op = self._convs[name], self._op
        pad = list(conv.padding)
        y = op.convolution(x, self._filters(conv), list(conv.stride), pad, pad, list(conv.dilation))
        return op.add(y, conv.bias.detach().reshape(1, -1, *[1] * self._config.ndim).numpy())

    def _filters(self, conv: Any) -> Any:
        """In int8, -127 to 127 steps for the largest of each output channel."""
        filters = conv.weight.detach().contiguous().numpy()
        if self._ranges is None:
            return self._op.constant(filters)
        high = np.abs(filters).max(axis=tuple(range(1, filters.ndim)), keepdims=True)
        high = np.maximum(high, np.float32(_TINY))
        return self._op.fake_quantize(filters, -high, high, -high, high, 255)

    def _stored(self, name: str, x: Any) -> Any:
        """In int8, what the bank ``name`` reads: 0 to 255 steps, and for pixels -128 to 127."""
        if self._ranges is None:
            return x
        high = np.float32(max(self._ranges[name], _TINY))
        low = -high * np.float32(128 / 127) if name == "stem" else np.float32(0)
        return self._op.fake_quantize(x, low, high, low, high, 256)

    def _doubled(self, x: Any) -> Any:
        n = self._config.ndim
        return self._op.interpolate(
            x,
            np.full(n, 2, dtype=np.float32),
            mode="nearest",
            shape_calculation_mode="scales",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
            axes=list(range(2, 2 + n)),
        )
