"""load_model: built-in models and shipped weights by name, others by path; a table, no registry."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelError, UnknownModelError
from wsiseg.model.base import Model
from wsiseg.model.licence import VARIABLE, is_open, open_only
from wsiseg.model.shipped import shipped
from wsiseg.model.weights import LICENCE_NAME, Weights, load_weights, read_facts

__all__ = [
    "ModelInfo",
    "default_model",
    "find_weights",
    "load_model",
    "model_info",
    "models",
]

_ALWAYS = "hematoxylin"  # needs no weights
_PREFERRED = ("nuclei-he", "nuclei-he-open")
_DEVICES = ("cpu", "cuda", "mps", "openvino")
_PRECISIONS = ("auto", "fp32", "bf16", "int8")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a user chooses a model by."""

    name: str
    """Name for ``load_model``."""
    licence: str
    """Of its weights, as an SPDX expression."""
    is_open: bool
    """Whether that allows any use, commercial ones included."""
    licence_file: str | None
    """Path of its text; None: that of the package."""
    spacing: tuple[float, ...]
    """World units per px of the lattice it works on."""
    unit: str
    """Of the spacing."""
    classes: tuple[str, ...]
    """Names of its classes; (): it tells none apart."""
    scores: dict[str, dict[str, dict[str, Any]]]
    """Split -> set -> measure -> value, as its card reports them; {} where none were taken."""
    note: str
    """What it is for, in a sentence."""
    is_default: bool
    """Whether it is used where none is named."""


def default_model() -> str:
    """Name of the model that is used where none is named.

    The first of nuclei-he, nuclei-he-open and hematoxylin that is there; with WSISEG_OPEN_ONLY=1
    the first that is open. Raises SettingsError for another value of that variable.
    """
    there = shipped()
    wanted = _PREFERRED[1:] if open_only() else _PREFERRED
    return next((name for name in wanted if name in there), _ALWAYS)


def load_model(
    name_or_path: str | Path | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
    **options: Any,
) -> Model:
    """A model of the zoo, or the one in a weights folder or ``.safetensors`` file.

    None: ``default_model()``. Text is a name of the zoo where there is one, else a path; a Path is
    always a path. ``device``: "cpu", "cuda" (or "cuda:1"), "mps", or "openvino": the CPU by the
    library of that name. ``precision``: "fp32", "bf16", "int8" (of a CPU by openvino, which it
    asks for) or "auto": bf16 where the device computes it natively, else fp32. ``options``:
    ``batch``; of models with weights, ``mirrored`` (test-time augmentation); of ``hematoxylin``,
    ``stain``.

    Raises UnknownModelError, with the known names, MissingExtraError for openvino, or ModelError
    where weights, device or options cannot be used, or the licence of the weights is not open and
    WSISEG_OPEN_ONLY is 1.
    """
    if device.split(":")[0] not in _DEVICES or precision not in _PRECISIONS:
        raise ModelError(
            f"device must be one of {', '.join(_DEVICES)} and precision one of "
            f"{', '.join(_PRECISIONS)}; got {device!r} and {precision!r}"
        )
    chosen = default_model() if name_or_path is None else name_or_path
    if chosen in _BUILT_IN:
        return _made(_BUILT_IN[str(chosen)].make, str(chosen), device, options)
    path = _weights_path(chosen)
    unknown = options.keys() - {"batch", "mirrored"}
    if unknown:
        raise ModelError(
            f"model {str(chosen)!r} has weights and takes no {', '.join(sorted(unknown))}: leave "
            f"it out, or use {_ALWAYS!r}, which does"
        )
    if precision == "auto":
        precision = best_precision(device)
    elif precision == "int8" and device == "cpu":
        device = "openvino"
    weights = _allowed(load_weights(path), chosen)

    from wsiseg.model.unet import UNetModel

    return UNetModel(weights, device=device, precision=precision, **options)


def find_weights(name_or_path: str | Path) -> Weights:
    """The weights that ``load_model`` would use, to go on training from them.

    Raises as it does, and ModelError for models without weights.
    """
    if name_or_path in _BUILT_IN:
        raise ModelError(
            f"model {name_or_path!r} has no weights; there are some of "
            f"{', '.join(shipped()) or 'no model in this installation'}"
        )
    return _allowed(load_weights(_weights_path(name_or_path)), name_or_path)


def models() -> list[ModelInfo]:
    """The models of the zoo, the default first; tensors are not read, torch is not imported."""
    found = [_info(name) for name in (*_BUILT_IN, *shipped())]
    return sorted(found, key=lambda info: (not info.is_default, info.name))


def model_info(name_or_path: str | Path | None = None) -> ModelInfo:
    """What ``load_model`` would load, told as fast as ``models``; raises as it does."""
    chosen = default_model() if name_or_path is None else name_or_path
    info = _info(chosen)
    _refuse_closed(info.licence, chosen)
    return info


@dataclass(frozen=True, slots=True)
class _BuiltIn:
    """A model that is code."""

    make: Callable[..., Model]
    note: str
    scores: dict[str, dict[str, dict[str, Any]]]


def _hematoxylin(**options: Any) -> Model:
    from wsiseg.model.hematoxylin import Hematoxylin

    return Hematoxylin(**options)


_BUILT_IN = {
    _ALWAYS: _BuiltIn(
        _hematoxylin,
        "nuclei of H&E by stain unmixing and bounded watershed; no weights, runs on the CPU",
        {  # benchmarks/accuracy.py: mean per image, at 0.25 µm
            "val": {
                "gbm40": {"pq": 0.7046},
                "kumar": {"pq": 0.3102},
                "lgg": {"pq": 0.6728},
                "consep": {"pq": 0.2688},
                "dsb_colour": {"pq": 0.3902},
            }
        },
    ),
}


def _info(name_or_path: str | Path) -> ModelInfo:
    if name_or_path in _BUILT_IN:
        return _info_built_in(str(name_or_path))
    path = _weights_path(name_or_path)
    facts = read_facts(path)
    try:
        spec = facts["spec"]
        info = ModelInfo(
            name=spec["name"],
            licence=spec["licence"],
            is_open=is_open(spec["licence"]),
            licence_file=str((path if path.is_dir() else path.parent) / LICENCE_NAME),
            spacing=tuple(spec["spacing"]),
            unit=spec["unit"],
            classes=tuple(spec["classes"]),
            scores=facts.get("scores", {}),
            note=facts.get("about", ""),
            is_default=name_or_path == default_model(),
        )
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: its spec is not one of this version of wsiseg ({error!r})"
        ) from error
    return info


def _info_built_in(name: str) -> ModelInfo:
    model = _BUILT_IN[name]
    spec = model.make().spec
    return ModelInfo(
        name=name,
        licence=spec.licence,
        is_open=is_open(spec.licence),
        licence_file=None,
        spacing=spec.spacing,
        unit=spec.unit,
        classes=spec.classes,
        scores=model.scores,
        note=model.note,
        is_default=name == default_model(),
    )


def _weights_path(name_or_path: str | Path) -> Path:
    """Folder of shipped weights of that name, or the path itself; UnknownModelError."""
    folder = shipped().get(name_or_path) if isinstance(name_or_path, str) else None
    path = folder or Path(name_or_path)
    if not path.exists():
        raise _unknown(str(name_or_path))
    return path


def _allowed(weights: Weights, asked: str | Path) -> Weights:
    """``weights``, unless their licence is not open and only open ones are wanted."""
    spec = weights.facts.get("spec")
    licence = spec.get("licence") if isinstance(spec, dict) else None
    _refuse_closed(str(licence or ""), asked)
    return weights


def _refuse_closed(licence: str, asked: str | Path) -> None:
    if not open_only() or is_open(licence):
        return
    raise ModelError(
        f"the weights of {str(asked)!r} are licensed {licence or 'in no stated way'}, which is "
        f"not an open licence, and {VARIABLE}=1 allows open weights only: use "
        f"{default_model()!r}, or unset {VARIABLE} where that licence allows your use"
    )


def _made(make: Callable[..., Model], name: str, device: str, options: dict[str, Any]) -> Model:
    if device != "cpu":
        _log.warning("model %s runs on the CPU; device %s is not used", name, device)
    try:
        return make(**options)
    except TypeError as error:
        raise ModelError(f"model {name!r} does not take these options: {error}") from error


def _unknown(name: str) -> UnknownModelError:
    known = sorted({*_BUILT_IN, *shipped()})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UnknownModelError(
        f"no model {name!r}: known are {', '.join(known)}, and paths of weights "
        f"folders or .safetensors files (there is none of that name){hint}"
    )


def best_precision(device: str) -> str:
    """bf16 where it is native, and so faster: emulated, it is several times slower than fp32."""
    if device.startswith("cuda"):
        import torch

        native = torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
        return "bf16" if native else "fp32"
    return "bf16" if device in ("cpu", "openvino") and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:  # not Linux: fp32 is right everywhere
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})
