"""Weights of the package are found by name, told by licence, and small enough to be shipped."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from wsiseg.errors import ModelError, SettingsError, UnknownModelError
from wsiseg.model import shipped as module
from wsiseg.model.licence import is_open
from wsiseg.model.shipped import ROOT, shipped
from wsiseg.model.weights import FILE_NAME, load_weights, read_facts
from wsiseg.model.zoo import default_model, find_weights, load_model, model_info, models

CLOSED, OPEN = "CC-BY-NC-SA-4.0", "CC0-1.0"
PROJECT = ROOT.parents[1]


def test_without_weights_the_default_needs_none(ship):
    assert shipped() == {}
    assert default_model() == "hematoxylin"
    assert [info.name for info in models()] == ["hematoxylin"]


def test_folders_with_tensors_are_names_and_others_are_not(ship, tmp_path):
    ship("b", OPEN)
    ship("a", OPEN)
    (module.ROOT / "empty").mkdir()
    (module.ROOT / "README.md").write_text("text")
    assert list(shipped()) == ["a", "b"]
    assert shipped()["a"] == module.ROOT / "a"
    assert shipped(tmp_path / "elsewhere") == {}


def test_the_best_that_is_there_and_allowed_is_the_default(ship, monkeypatch):
    ship("nuclei-he-open", OPEN)
    assert default_model() == "nuclei-he-open"
    ship("nuclei-he", CLOSED)
    ship("a-first", OPEN)
    for value, wanted in {"0": "nuclei-he", "": "nuclei-he", "1": "nuclei-he-open"}.items():
        monkeypatch.setenv("WSISEG_OPEN_ONLY", value)
        assert default_model() == wanted
        assert load_model(precision="fp32").spec.name == wanted
        assert model_info().name == wanted
        assert models()[0].name == wanted
        assert [info.is_default for info in models()] == [True, False, False, False]
    monkeypatch.setenv("WSISEG_OPEN_ONLY", "true")
    with pytest.raises(SettingsError, match="WSISEG_OPEN_ONLY"):
        load_model()


def test_without_open_weights_open_only_falls_back_to_none(ship, monkeypatch):
    ship("nuclei-he", CLOSED)
    monkeypatch.setenv("WSISEG_OPEN_ONLY", "1")
    assert default_model() == "hematoxylin"
    assert load_model().spec.name == "hematoxylin"


@pytest.mark.parametrize("by_path", [False, True])
def test_open_only_refuses_others_and_says_why_and_what_instead(ship, monkeypatch, by_path):
    folder = ship("nuclei-he", CLOSED)
    asked = folder if by_path else "nuclei-he"
    assert load_model(asked, precision="fp32").spec.licence == CLOSED
    monkeypatch.setenv("WSISEG_OPEN_ONLY", "1")
    for use in (load_model, find_weights, model_info):
        with pytest.raises(ModelError, match=f"{CLOSED}.*not an open licence.*'hematoxylin'"):
            use(asked)
    assert "nuclei-he" in [info.name for info in models()]  # listed all the same


def test_a_listed_model_is_as_loaded_with_scores_and_note(ship):
    scores = {"val": {"kumar": {"pq": 0.66}}}
    folder = ship("nuclei-he", CLOSED, scores=scores, about="nuclei of H&E")
    info, spec = model_info("nuclei-he"), load_model("nuclei-he", precision="fp32").spec
    assert (info.name, info.licence, info.spacing, info.unit, info.classes) == (
        spec.name, spec.licence, spec.spacing, spec.unit, spec.classes,
    )  # fmt: skip
    assert (info.scores, info.note, info.is_open) == (scores, "nuclei of H&E", False)
    assert Path(info.licence_file) == folder / "LICENSE"
    assert info in models()
    by_path = model_info(folder)
    assert (by_path.name, by_path.is_default, by_path.licence_file) == (
        "nuclei-he", False, info.licence_file,
    )  # fmt: skip


def test_half_weights_give_the_maps_of_their_rounded_values(ship, tiny_weights):
    folder = ship("n", OPEN)
    loaded = find_weights("n")
    assert loaded.sha256 == load_weights(folder).sha256
    for name, values in tiny_weights.tensors.items():
        stored = values.astype(np.float16) if values.ndim > 1 else values
        assert np.array_equal(loaded.tensors[name], stored.astype(np.float32))
    patches = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    assert np.isfinite(load_model("n", precision="fp32")(patches).prob).all()


def test_names_are_suggested_and_models_without_weights_have_none(ship):
    ship("nuclei-he", CLOSED)
    with pytest.raises(UnknownModelError, match=r"known are hematoxylin, nuclei-he.*nuclei-he\?"):
        load_model("nuclei-eh")
    with pytest.raises(UnknownModelError, match="known are"):
        load_model(Path("nuclei-he"))  # a Path is a path
    with pytest.raises(ModelError, match="no weights; there are some of nuclei-he"):
        find_weights("hematoxylin")


@pytest.mark.parametrize("spec", [None, {"name": "n"}, [1]])
def test_a_spec_that_is_not_ours_is_a_named_error(ship, spec, tiny_weights, tmp_path):
    from wsiseg.model.weights import save_weights, with_facts

    save_weights(tmp_path / "n", with_facts(tiny_weights, spec=spec), card="c", licence="l")
    with pytest.raises(ModelError, match="n: its spec is not one of this version"):
        model_info(tmp_path / "n")


def test_listing_reads_headers_only_and_imports_no_torch(ship):
    folder = ship("nuclei-he", CLOSED)
    data = (folder / FILE_NAME).read_bytes()
    (folder / FILE_NAME).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code = (
        "import pathlib, sys, wsiseg.model.shipped as s, wsiseg.model.zoo as z\n"
        f"s.ROOT = pathlib.Path({str(module.ROOT)!r})\n"
        "assert [m.name for m in z.models()] == ['nuclei-he', 'hematoxylin']\n"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_the_package_ships_is_small_complete_and_honestly_licensed():
    """Holds for whatever lies in the real folder: the wheel has to stay below 40 MB."""
    files = [path for path in ROOT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 38e6
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = project["license"].split(" AND ")
    assert named[0] == "BSD-3-Clause"
    licences = {path for pattern in project["license-files"] for path in PROJECT.glob(pattern)}
    assert PROJECT / "LICENSE" in licences
    for name, folder in shipped(ROOT).items():
        assert sorted(p.name for p in folder.iterdir()) == ["LICENSE", "card.md", FILE_NAME]
        facts = read_facts(folder)
        assert facts["spec"]["name"] == name
        assert facts["spec"]["licence"] in named or is_open(facts["spec"]["licence"])
        assert facts["spec"]["licence"] in (folder / "LICENSE").read_text(encoding="utf-8")
        assert folder / "LICENSE" in licences
        assert facts["scores"]["val"]
        assert len(facts["about"]) > 20
        assert load_weights(folder).facts == facts
    assert all(is_open(read_facts(f)["spec"]["licence"]) for n, f in shipped(ROOT).items()
               if n.endswith("-open"))  # fmt: skip


def test_scores_of_the_model_without_weights_are_those_of_its_benchmark():
    import json

    results = PROJECT / "benchmarks" / "results" / "accuracy.json"
    sets = json.loads(results.read_text(encoding="utf-8"))["sets"]
    measured = {name: {"pq": found["hematoxylin"]["pq"]} for name, found in sets.items()}
    assert model_info("hematoxylin").scores == {"val": measured}
