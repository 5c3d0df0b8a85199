"""A manifest is read as it was written, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wsiseg.engine.manifest import MANIFEST, Manifest, differences, plain
from wsiseg.errors import RunFolderError

SOME = Manifest("k", {"model": {"sha": "ab"}}, {"region": [512, 512]}, ("t1", "t2"), 3)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) is None
    SOME.write(tmp_path)
    assert Manifest.read(tmp_path) == SOME
    assert SOME.created_by.startswith("wsiseg ")


@pytest.mark.parametrize(
    "change", [{"key": 1}, {"parts": []}, {"tokens": "t"}, {"grid": None}, {"surplus": 1}]
)
def test_a_field_of_another_type_is_damage(tmp_path: Path, change: dict[str, object]) -> None:
    SOME.write(tmp_path)
    fields = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**fields, **change}))
    with pytest.raises(RunFolderError, match=r"damaged.*--fresh"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "{}", "\xff"])
def test_text_that_is_no_manifest_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(RunFolderError, match=r"damaged.*--fresh"):
        Manifest.read(tmp_path)


def test_every_cut_is_damage(tmp_path: Path) -> None:
    SOME.write(tmp_path)
    whole = (tmp_path / MANIFEST).read_bytes()
    for size in range(len(whole)):
        (tmp_path / MANIFEST).write_bytes(whole[:size])
        with pytest.raises(RunFolderError, match="--fresh"):
            Manifest.read(tmp_path)


def test_another_schema_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"schema": 9, "created_by": "wsiseg 7.0"}))
    with pytest.raises(RunFolderError, match=r"schema 9.*wsiseg 7\.0.*--fresh"):
        Manifest.read(tmp_path)


def test_differences_name_each_leaf_with_old_and_new() -> None:
    old = {"mpp": 0.5, "model": {"name": "a", "sha": "1"}, "gone": None, "same": [1, 2]}
    new = {"mpp": 0.25, "model": {"name": "a", "sha": "2"}, "came": True, "same": [1, 2]}
    assert differences(old, new) == [
        "came: absent -> true",
        "gone: null -> absent",
        'model.sha: "1" -> "2"',
        "mpp: 0.5 -> 0.25",
    ]
    assert differences(old, old) == []


def test_plain_values_equal_what_was_stored() -> None:
    assert plain({"region": (512, 512), "x": {"y": 1}}) == {"region": [512, 512], "x": {"y": 1}}
    with pytest.raises(ValueError, match="JSON"):
        plain({"x": float("nan")})
