"""Models are found by name or path, and what is not there is said with what is."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from wsiseg.errors import ModelError, UnknownModelError
from wsiseg.model import zoo
from wsiseg.model.base import LocalModel
from wsiseg.model.weights import Weights, load_weights, save_weights
from wsiseg.model.zoo import default_model, load_model, models


@pytest.fixture(autouse=True)
def _all_weights_allowed(monkeypatch):
    monkeypatch.delenv("WSISEG_OPEN_ONLY", raising=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A weights folder of a network of random weights."""
    from wsiseg.model.unet import UNet, UNetConfig, default_spec, save_unet

    config = UNetConfig(2, 3, 2, (4, 5), (1, 1), (1,))
    spec = default_spec("tiny", config, classes=("a", "b"), patch=(24, 32), margin=4, batch=2)
    folder = tmp_path_factory.mktemp("zoo") / "tiny"
    save_unet(folder, UNet(config), spec, card="# tiny", licence="CC0")
    return folder


def _edited(tiny, folder, **facts):
    """A sound copy of the folder with other facts."""
    weights = load_weights(tiny)
    changed = Weights(weights.tensors, {**weights.facts, **facts}, "")
    return save_weights(folder, changed, card="c", licence="l")


def test_the_default_model_loads_by_name():
    model = load_model()
    assert isinstance(model, LocalModel)
    assert model.spec.name == default_model()
    assert load_model(default_model()).spec == model.spec


def test_every_listed_model_loads_and_is_as_listed():
    found = models()
    assert [info.is_default for info in found] == [True] + [False] * (len(found) - 1)
    for info in found:
        spec = load_model(info.name).spec
        assert (info.licence, info.spacing, info.unit, info.classes) == (
            spec.licence, spec.spacing, spec.unit, spec.classes,
        )  # fmt: skip
        assert len(info.note) > 20


def test_built_in_models_pickle_small():
    packed = pickle.dumps(load_model("hematoxylin"))
    assert len(packed) < 1000
    assert pickle.loads(packed).spec == load_model("hematoxylin").spec


def test_a_weights_folder_or_file_loads_by_path(tiny):
    model = load_model(tiny, precision="fp32")
    assert isinstance(model, LocalModel)
    assert model.spec.classes == ("a", "b")
    assert model.spec == load_model(str(tiny / "model.safetensors"), precision="fp32").spec
    patches = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    assert model(patches).classes.shape == (2, 2, 24, 32)


def test_auto_precision_is_bf16_where_the_cpu_has_it(tiny, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx512f avx512_bf16 sse\n")
    assert zoo._cpu_has_bf16(info)
    info.write_text("flags : fpu avx512f avx512_bf16x sse\n")
    assert not zoo._cpu_has_bf16(info)
    assert not zoo._cpu_has_bf16(tmp_path / "none")
    named = "bf16" if zoo._cpu_has_bf16() else "fp32"
    assert load_model(tiny).spec.sha256 == load_model(tiny, precision=named).spec.sha256


@pytest.mark.parametrize("name", ["hematoxilin", "Hematoxylin", "hematoxylin2"])
def test_a_misspelt_name_is_told_its_neighbour(name):
    with pytest.raises(UnknownModelError, match=r"did you mean hematoxylin\?") as caught:
        load_model(name)
    assert isinstance(caught.value, KeyError)


def test_an_unknown_name_is_told_all_names(tmp_path):
    for name in ("zzz", tmp_path / "none.safetensors"):
        with pytest.raises(UnknownModelError, match=r"known are hematoxylin, .*paths") as caught:
            load_model(name)
        assert "did you mean" not in str(caught.value)


def test_options_that_a_model_does_not_take_are_refused(tiny):
    with pytest.raises(ModelError, match="colour"):
        load_model("hematoxylin", colour=3)
    with pytest.raises(ModelError, match=r"takes no stain: .*use 'hematoxylin'"):
        load_model(tiny, stain=None)


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"precision": "int4"}])
def test_unknown_devices_and_precisions_are_refused(options):
    with pytest.raises(ModelError, match="device must be one of"):
        load_model("hematoxylin", **options)


def test_a_device_that_a_built_in_model_cannot_use_is_said(caplog):
    load_model("hematoxylin", device="cuda")
    assert "runs on the CPU" in caplog.text


def test_facts_of_another_kind_or_version_are_refused(tiny, tmp_path):
    facts = load_weights(tiny).facts
    cases = {
        "of kind 'tree'": {"kind": "tree"},
        "not one of this version.*depth": {"config": {**facts["config"], "depth": 3}},
        "not one of this version.*name": {
            "spec": {k: v for k, v in facts["spec"].items() if k != "name"}
        },
        "not one of this version": {"rule": None},
        "U-Net needs": {"config": {**facts["config"], "stem": 5}},
        "does not fit a spec": {"spec": {**facts["spec"], "classes": ["a"]}},
        "multiples of the stride": {"spec": {**facts["spec"], "patch": [24, 31]}},
    }
    for message, changed in cases.items():
        with pytest.raises(ModelError, match=message):
            load_model(_edited(tiny, tmp_path / "edited", **changed))


def test_tensors_that_do_not_fit_the_config_are_refused(tiny, tmp_path):
    facts = load_weights(tiny).facts
    wider = {**facts["config"], "widths": [4, 6]}
    with pytest.raises(ModelError, match=r"tensor .* must be float32"):
        load_model(_edited(tiny, tmp_path / "e", config=wider))
    deeper = {**facts["config"], "blocks": [1, 2]}
    with pytest.raises(ModelError, match="lacks"):
        load_model(_edited(tiny, tmp_path / "e", config=deeper))
    weights = load_weights(tiny)
    doubles = {name: v.astype(np.float64) for name, v in weights.tensors.items()}
    file = save_weights(tmp_path / "d", replace(weights, tensors=doubles), card="c", licence="l")
    with pytest.raises(ModelError, match=r"must be float32.*got float64"):
        load_model(file)


def test_torch_is_imported_only_for_a_model_that_needs_it():
    code = (
        "import sys, wsiseg.model.zoo as z, wsiseg.model.weights\n"
        "z.models(); z.load_model('hematoxylin')\n"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
