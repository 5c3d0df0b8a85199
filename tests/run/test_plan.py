"""Plans: options that a model cannot follow are refused before any work, and by their names."""

from pathlib import Path

import pytest

from wsiseg.errors import SettingsError, UnknownModelError, UnreadableSlideError
from wsiseg.model.weights import Weights, save_weights
from wsiseg.model.zoo import load_model
from wsiseg.run.job import Job
from wsiseg.run.plan import plan_of


def job(folder: Path, model: object) -> Job:
    return Job(slide=folder / "none.svs", out=folder / "run", model=model, tta=True)


def test_mirror_images_need_a_model_with_weights(tmp_path: Path) -> None:
    message = "--tta averages .* the model 'hematoxylin' has no network: .* a path of weights"
    with pytest.raises(SettingsError, match=message):
        plan_of(job(tmp_path, "hematoxylin"))
    with pytest.raises(UnknownModelError):
        plan_of(job(tmp_path, "hematoxilin"))


def test_a_loaded_model_cannot_be_told_to_use_mirror_images(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--tta .*loaded already.*mirrored=True"):
        plan_of(job(tmp_path, load_model("hematoxylin")))


def test_models_with_weights_may_use_mirror_images(tmp_path: Path) -> None:
    spec = {"name": "w", "licence": "MIT", "spacing": [0.5, 0.5], "unit": "um", "classes": []}
    save_weights(tmp_path / "w", Weights({}, {"spec": spec}, ""), card="c", licence="l")
    with pytest.raises(UnreadableSlideError, match=r"none\.svs"):  # the next thing to go wrong
        plan_of(job(tmp_path, tmp_path / "w"))
