"""load_model: built-in models by name, trained ones by path; an explicit table, no registry."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelError, UnknownModelError
from wsiseg.model.base import Model

__all__ = ["DEFAULT", "ModelInfo", "load_model", "models"]

DEFAULT = "hematoxylin"
"""The model that is used where none is named."""

_DEVICES = ("cpu", "cuda", "mps")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a user chooses a model by."""

    name: str
    """Name for ``load_model``."""
    licence: str
    """Of its weights, as an SPDX expression."""
    spacing: tuple[float, ...]
    """World units per px of the lattice it works on."""
    unit: str
    """Of the spacing."""
    classes: tuple[str, ...]
    """Names of its classes; (): it tells none apart."""
    note: str
    """What it is for, in a sentence."""
    is_default: bool
    """Whether it is used where none is named."""


def load_model(
    name_or_path: str | Path = DEFAULT,
    *,
    device: str = "cpu",
    precision: str = "auto",
    **options: Any,
) -> Model:
    """A model of the zoo, or the one in a weights folder or ``.safetensors`` file.

    ``device``: "cpu", "cuda" (or "cuda:1") or "mps". ``precision``: "fp32", "bf16" or "auto":
    bf16 where the device computes it natively, else fp32. ``options`` go to built-in models
    (``hematoxylin``: ``stain``).

    Raises UnknownModelError, with the known names, or ModelError where weights, device or
    options cannot be used.
    """
    if device.split(":")[0] not in _DEVICES or precision not in ("auto", "fp32", "bf16"):
        raise ModelError(
            f"device must be one of {', '.join(_DEVICES)} and precision auto, fp32 or bf16; got "
            f"{device!r} and {precision!r}"
        )
    if str(name_or_path) in _BUILT_IN:
        make = _BUILT_IN[str(name_or_path)][0]
        return _made(make, str(name_or_path), device, options)
    path = Path(name_or_path)
    if not path.exists():
        raise _unknown(str(name_or_path))
    if options:
        raise ModelError(f"a model of weights takes no options, got {', '.join(options)}")
    return _of_weights(path, device, precision)


def models() -> list[ModelInfo]:
    """The models of the zoo, the default first."""
    found = []
    for name, (make, note) in _BUILT_IN.items():
        spec = make().spec
        facts = (spec.licence, spec.spacing, spec.unit, spec.classes, note, name == DEFAULT)
        found.append(ModelInfo(name, *facts))
    return sorted(found, key=lambda info: (not info.is_default, info.name))


def _hematoxylin(**options: Any) -> Model:
    from wsiseg.model.hematoxylin import Hematoxylin

    return Hematoxylin(**options)


_BUILT_IN: dict[str, tuple[Callable[..., Model], str]] = {
    "hematoxylin": (
        _hematoxylin,
        "nuclei of H&E by stain unmixing and bounded watershed; no weights, runs on the CPU",
    ),
}


def _made(make: Callable[..., Model], name: str, device: str, options: dict[str, Any]) -> Model:
    if device != "cpu":
        _log.warning("model %s runs on the CPU; device %s is not used", name, device)
    try:
        return make(**options)
    except TypeError as error:
        raise ModelError(f"model {name!r} does not take these options: {error}") from error


def _unknown(name: str) -> UnknownModelError:
    near = difflib.get_close_matches(name, _BUILT_IN, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UnknownModelError(
        f"no model {name!r}: known are {', '.join(sorted(_BUILT_IN))}, and paths of weights "
        f"folders or .safetensors files (there is none of that name){hint}"
    )


def _of_weights(path: Path, device: str, precision: str) -> Model:
    from wsiseg.model.weights import load_weights

    weights = load_weights(path)  # before torch, which takes a second to import

    from wsiseg.model.unet import UNetModel

    if precision == "auto":
        precision = _best_precision(device)
    return UNetModel(weights, device=device, precision=precision)


def _best_precision(device: str) -> str:
    """bf16 where it is native, and so faster: emulated, it is several times slower than fp32."""
    if device.startswith("cuda"):
        import torch

        native = torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
        return "bf16" if native else "fp32"
    return "bf16" if device == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:  # not Linux: fp32 is right everywhere
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})
