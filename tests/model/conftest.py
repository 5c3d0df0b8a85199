"""Small weights, as a package would ship them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsiseg.model import shipped
from wsiseg.model.weights import Weights, load_weights, save_weights, with_facts

Ship = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A network of random weights with two classes."""
    from wsiseg.model.unet import UNet, UNetConfig, default_spec, save_unet

    config = UNetConfig(2, 3, 2, (4, 5), (1, 1), (1,))
    spec = default_spec("tiny", config, classes=("a", "b"), patch=(24, 32), margin=4, batch=2)
    folder = tmp_path_factory.mktemp("tiny")
    return load_weights(save_unet(folder, UNet(config), spec, card="# tiny", licence="CC0"))


@pytest.fixture
def ship(tiny_weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    """``ship(name, licence, **facts)`` adds a weights folder to those of the package, which are
    none but these; all weights are allowed.
    """
    root = tmp_path / "shipped"
    monkeypatch.setattr(shipped, "ROOT", root)
    monkeypatch.delenv("WSISEG_OPEN_ONLY", raising=False)

    def add(name: str, licence: str, **facts: Any) -> Path:
        spec = {**tiny_weights.facts["spec"], "name": name, "licence": licence}
        weights = with_facts(tiny_weights, spec=spec, **facts)
        return save_weights(root / name, weights, card="# c", licence="text", half=True).parent

    return add
