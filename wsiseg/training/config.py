"""TrainConfig: everything that a training is told, from a TOML file or from code, checked once.

Sections are the dataclasses of the parts that use them (Sampling, UNetConfig, ...), filled by
their own annotations, so that a setting is written down in one place. ``workflows/
train_nuclei.toml`` is an example.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelError, SettingsError
from wsiseg.model.distance import DistanceRule
from wsiseg.model.hv import RULE, VoteRule
from wsiseg.model.unet import UNetConfig
from wsiseg.model.unet import field as field_of
from wsiseg.settings import fill, flat, plain, read_toml
from wsiseg.training.labelled import CLASSES
from wsiseg.training.loop import Machine
from wsiseg.training.losses import LossWeights
from wsiseg.training.sample import Sampling
from wsiseg.training.state import Schedule

__all__ = ["Data", "Product", "TrainConfig", "Validation", "read_config"]


@dataclass(frozen=True, slots=True)
class Data:
    """A folder of labelled images, ``[[data]]``."""

    path: Path
    """Of any layout that ``wsiseg dataset check`` reads; $NAMES of the environment are replaced."""
    sets: tuple[str, ...] = ()
    """Only these sets of it; (): all, or those of ``share``."""
    share: tuple[tuple[str, float], ...] = ()
    """Share of the crops that each set gets; (): as many as it has images."""
    mpp: float | None = None
    """µm per px, where the layout states none."""
    split: str | None = None
    """Read only "train" or "val"; images whose layout states no split belong to it."""
    held_out: float = 0.0
    """Share of the cases that becomes val, where the layout states no split."""
    renames: tuple[tuple[str, str], ...] = ()
    """Name of a class in the files -> one of the model's, or "": not known."""
    licence: str = ""
    """Licence at origin, where the layout states none."""


@dataclass(frozen=True, slots=True)
class Validation:
    """When the running mean is scored, and what follows from that, ``[validation]``."""

    every: int = 1000
    """Steps between two validations; there is one after the last step, too."""
    patience: int = 0
    """Stop after so many validations without a new best mean PQ; 0: never."""
    sets: tuple[str, ...] = ()
    """Sets whose mean counts; (): all with outlines, or all where none has any."""
    keep: str = "best"
    """"best" (of all validations) or "last": which weights are the result."""
    pictures: int = 12
    """Images that are drawn with their outlines; 0: none."""


@dataclass(frozen=True, slots=True)
class Product:
    """What the weights are called and how they are used, ``[model]``."""

    name: str = "my-nuclei"
    about: str = ""
    """What it is for, in a sentence."""
    classes: tuple[str, ...] = CLASSES
    """Names, in the order of the TP map; (): no classes."""
    limits: tuple[str, ...] = ()
    """Known failures, a sentence each, for the card."""
    licence: str = ""
    """SPDX expression; "": derived from the licences of the data, never more open than they are."""
    licence_file: Path | None = None
    """Its full text; by default a text that names the data and their licences."""
    patch: int = 512
    """Px of a side of a patch at inference."""
    margin: int = 32
    """Px of it, each side, that are thrown away."""
    batch: int = 1
    """Patches of one forward."""
    min_object: int = 60
    """Objects of fewer px are dropped."""


def _network() -> UNetConfig:
    return UNetConfig(stem=2, distance=True, decoder_blocks=(1, 2, 1))


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that a training is told. SettingsError, naming the key, for what cannot be."""

    data: tuple[Data, ...] = ()
    model: Product = field(default_factory=Product)
    network: UNetConfig = field(default_factory=_network)
    """``classes`` follows from ``model.classes``; ``temperature`` is fitted at the end."""
    rule: DistanceRule | VoteRule = field(default_factory=DistanceRule)
    """How maps become objects; of DT maps in TOML. A network without DT votes."""
    sampling: Sampling = field(default_factory=Sampling)
    """``sets`` follows from ``share`` in the data."""
    loss: LossWeights = field(default_factory=LossWeights)
    schedule: Schedule = field(default_factory=Schedule)
    machine: Machine = field(default_factory=lambda: Machine(precision="auto"))
    """``precision`` may be "auto": bf16 where the device computes it natively, else fp32; resolved
    when a training begins, for the device that it runs on."""
    validation: Validation = field(default_factory=Validation)
    start: tuple[str, ...] = ()
    """Weights to start from (``from`` in TOML), each a name of ``wsiseg models`` or a path; of
    several, their mean."""
    norms: float = 0.1
    """Share of a batch in the running statistics of batch normalisation; 0: they are frozen."""
    seed: int = 0
    checkpoint: int = 500
    """Steps between two checkpoints; never the result."""
    log_every: int = 50
    """Steps per row of the log; never the result."""
    root: Path = Path()
    """Folder that paths are relative to."""

    def __post_init__(self) -> None:
        shares = tuple(pair for data in self.data for pair in data.share)
        _check_shares(self.data)
        _put(
            self, "network", replace(self.network, classes=len(self.model.classes), temperature=1.0)
        )
        _put(self, "sampling", replace(self.sampling, sets=shares or self.sampling.sets))
        if not self.network.distance and isinstance(self.rule, DistanceRule):
            _put(self, "rule", RULE)
        _check_limits(flat(plain(self)))
        _check_choices(self)
        _check_start(self)
        _check_network(self)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON values; paths as they were written."""
        return {key: value for key, value in plain(self).items() if key != "root"}

    def resolved(self, path: Path | str) -> Path:
        """``path`` from ``root``, with the environment's variables replaced."""
        text = os.path.expanduser(os.path.expandvars(str(path)))
        if unset := re.findall(r"\$\w+|\$\{\w+\}", text):
            raise SettingsError(f"{path}: the environment has no {', '.join(unset)}: set it")
        return self.root / text


_TOML_NAMES = {"from": "start"}
_FIXED = {
    "root": "paths are relative to the folder of the file",
    "network.classes": "it is the number of model.classes",
    "network.temperature": "it is fitted at the end of training",
    "network.ndim": "training is for images",
    "sampling.sets": "give each set its share in [[data]]",
}

_LIMITS = {
    r"data\.\d+\.mpp": (0.01, 100),
    r"data\.\d+\.held_out": (0, 0.9),
    r"data\.\d+\.share\..*": (0, math.inf),
    r"model\.(patch|batch|min_object)": (1, 100_000),
    r"model\.margin": (0, 10_000),
    r"rule\.threshold": (0, 1),
    r"sampling\.spacing": (0.01, 100),
    r"sampling\.(side|batch)": (1, 100_000),
    r"sampling\.(on_nucleus|glass)": (0, 1),
    r"sampling\.(scale|scale_unknown|bend)": (0, 16),
    r"sampling\.colour\.(coarse|blur|noise|jpeg)": (0, 1),
    r"sampling\.emphasis\.(contact|background)": (0, 100),
    r"sampling\.colour\.coarsest": (1, 16),
    r"sampling\.colour\.(stain|offset|brightness|gamma)": (0, 0.9),
    r"loss\.(np|dice|dt|hv|tp)": (0, math.inf),
    r"schedule\.steps": (0, math.inf),
    r"schedule\.(warmup|decay)": (0, math.inf),
    r"schedule\.rate": (1e-9, 10),
    r"schedule\.last": (0, 1),
    r"schedule\.ema": (0, 0.999999),
    r"machine\.threads": (0, 4096),
    r"machine\.workers": (0, 4096),
    r"validation\.(patience|pictures)": (0, math.inf),
    r"validation\.every|checkpoint|log_every": (1, math.inf),
    r"norms": (0, 1),
    r"seed": (0, 2**63),
}


def read_config(path: str | Path) -> TrainConfig:
    """The training of a TOML file; paths in it are relative to its folder.

    Raises SettingsError, naming file and key, for unknown keys, wrong types and impossible values;
    InputFileError where the file cannot be read or is no TOML.
    """
    path = Path(path)
    table = read_toml(path)
    try:
        base = TrainConfig(root=path.resolve().parent)
        config = fill(TrainConfig, table, base=base, names=_TOML_NAMES, fixed=_FIXED)
        if not config.data:
            raise SettingsError("[[data]] is missing: a training needs a folder of labelled images")
    except (SettingsError, ModelError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return config


def _put(config: TrainConfig, name: str, value: Any) -> None:
    object.__setattr__(config, name, value)


def _check_shares(data: Sequence[Data]) -> None:
    without = [str(d.path) for d in data if not d.share]
    if without and any(d.share for d in data):
        raise SettingsError(
            f"share must be given for all data or for none, and is not for {', '.join(without)}: "
            "a set without a share would never be drawn"
        )
    names = [name for d in data for name, _ in d.share]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"share is given twice for {', '.join(twice)}")
    if names and not sum(share for d in data for _, share in d.share) > 0:
        raise SettingsError("share must be above 0 for one set at least")


def _check_limits(values: dict[str, Any]) -> None:
    for key, value in values.items():
        limits = next((v for k, v in _LIMITS.items() if re.fullmatch(k, key)), None)
        if limits is None or value is None or isinstance(value, str | list | bool | dict):
            continue
        low, high = limits
        if not low <= value <= high or not math.isfinite(value):
            upper = f" to {high:g}" if math.isfinite(high) else " or more"
            raise SettingsError(f"{key} must be {low:g}{upper}, got {value!r}")


def _check_choices(config: TrainConfig) -> None:
    kind = config.machine.device.split(":")[0]
    precisions = ("bf16", "fp16", "fp32") if kind == "cuda" else ("bf16", "fp32")
    for key, got, allowed in (
        ("machine.device", kind, ("cpu", "cuda", "mps")),
        ("machine.precision", config.machine.precision, ("auto", *precisions)),
        ("validation.keep", config.validation.keep, ("best", "last")),
        *(("data.split", data.split, (None, "train", "val")) for data in config.data),
    ):
        if got not in allowed:
            names = ", ".join(str(name) for name in allowed if name is not None)
            raise SettingsError(f"{key} must be one of {names}, got {got!r}")
    wrong = re.findall(r"[^\w.+-]", config.model.name)
    if wrong or not config.model.name:
        raise SettingsError(
            f"model.name must be letters, digits and . + - _, got {config.model.name!r}"
        )


def _check_start(config: TrainConfig) -> None:
    if isinstance(config.start, str):
        raise SettingsError(f"start must be a tuple of texts, got {config.start!r}")
    if "" in config.start:
        raise SettingsError("from must name weights, got ''")
    if len(config.start) > 1 and config.model.licence_file is None:
        raise SettingsError(
            "model.licence_file is missing: the mean of several weights needs a text with the "
            "licences of all of them"
        )
    if config.schedule.steps == 0 and not config.start:
        raise SettingsError("schedule.steps must be 1 or more where no weights are started from")


def _check_network(config: TrainConfig) -> None:
    stride, k = field_of(config.network)[1], len(config.model.classes)
    for key, side in (("sampling.side", config.sampling.side), ("model.patch", config.model.patch)):
        if side % stride:
            raise SettingsError(
                f"{key} must be a multiple of {stride}, the stride of the network, got {side}"
            )
    if config.model.patch <= 2 * config.model.margin:
        raise SettingsError(
            f"model.patch must be more than two margins of {config.model.margin} px, got "
            f"{config.model.patch}"
        )
    given = config.loss.classes
    if given and (len(given) != k or min(given) < 0):
        raise SettingsError(
            f"loss.classes must be {k} numbers of 0 or more, one for each of "
            f"{', '.join(config.model.classes) or 'no classes'}, got {list(given)}"
        )
    if not (config.network.distance or config.network.vectors):
        raise SettingsError("network needs distance or vectors, else nothing tells nuclei apart")
