"""Settings of a batch: what a file may say, and what is refused by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.config import Policy, checked_settings, read_config
from wsiseg.archive.request import Request, parse_shard
from wsiseg.archive.rows import SlideRow
from wsiseg.errors import InputFileError, SettingsError
from wsiseg.model.licence import VARIABLE
from wsiseg.model.shipped import shipped

ROWS = [SlideRow(f"s{i}", f"/none/{i}.svs") for i in range(200)]


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(text)
    return path


def test_a_file_gives_settings_and_policy(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        'model = "./mine"\nformats = ["csv"]\nmax_memory = "4GB"\nmpp = 1\n'
        "[batch]\nworkers = 3\ntimeout_s = 60\n",
    )
    settings, policy = read_config(path)
    assert settings == {
        "model": str(tmp_path / "mine"),
        "formats": ["csv"],
        "max_memory": 4 * 10**9,
        "mpp": 1.0,
    }
    assert policy == Policy(workers=3, timeout_s=60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "x"', "did you mean model"),
        ("workers = 2", r"workers cannot be set: it belongs in \[batch\]"),
        ('slide = "x"', "manifest"),
        ("[batch]\nworker = 2", r"batch.worker is unknown: did you mean workers"),
        ("[batch]\nworkers = 0", "workers"),
        ("[batch]\ntimeout_s = -1", "timeout_s"),
        ('stain = "pink"', "stain"),
        ("region = 1", "region"),
    ],
)
def test_mistakes_name_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"job\.toml: .*{message}"):
        read_config(config(tmp_path, text))


@pytest.mark.parametrize("text", ["[", "\xff"])
def test_what_is_no_toml_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputFileError, match=r"job\.toml"):
        read_config(path)


@pytest.mark.parametrize(
    "settings", [{"model": object()}, {"out": "x"}, {"bogus": 1}, {"scheduler": "tcp://a:1"}]
)
def test_settings_that_no_worker_can_be_told_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        checked_settings(settings)


def test_arguments_go_before_the_file(tmp_path: Path) -> None:
    path = config(tmp_path, 'model = "hematoxylin"\nstain = "macenko"\n[batch]\nworkers = 3\n')
    request = Request.of(ROWS, config=path, stain="default", workers=5, attempts=None)
    assert (request.model, request.settings["stain"]) == ("hematoxylin", "default")
    assert (request.policy.workers, request.policy.attempts) == (5, 3)


def test_rows_go_before_everything() -> None:
    request = Request.of([SlideRow("a", "/a.svs", mpp=0.5, stain="macenko")], model="hematoxylin")
    settings = request.job_settings(request.rows[0])
    assert (settings["mpp"], settings["stain"], settings["model"]) == (
        *(0.5, "macenko"),
        "hematoxylin",
    )


def test_memory_is_shared_out_between_workers() -> None:
    request = Request.of(ROWS, workers=4, max_memory="8GB")
    assert request.job_settings(ROWS[0])["max_memory"] == 2 * 10**9
    assert request.threads == 1


def test_as_many_workers_as_the_bound_of_memory_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1 << 40]
    monkeypatch.setattr("wsiseg.archive.request.cores", lambda: 8)
    monkeypatch.setattr("wsiseg.archive.request.free_memory", lambda: free[0])
    assert Request.of(ROWS).workers == 8
    request = Request.of(ROWS, max_memory="10GB")
    assert request.workers == 3
    free[0] = 4 << 30
    assert Request.of(ROWS, max_memory="10GB").workers == 1
    assert request.workers == 3  # whatever others take meanwhile: shares stay equal
    assert request.job_settings(ROWS[0])["max_memory"] == 10 * 10**9 // 3


def test_files_that_were_replaced_are_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one process, too, which remembers hashes."""
    monkeypatch.delenv(VARIABLE, raising=False)
    weights, region = tmp_path / "weights", tmp_path / "region.geojson"
    shutil.copytree(shipped()["nuclei-he"], weights)
    region.write_text("{}")
    request = Request.of(ROWS, model=weights, tissue=str(region))
    before = request.parts()
    assert request.parts() == before
    region.write_text('{"type": "FeatureCollection"}')
    other = request.parts()
    assert {name for name in before if before[name] != other[name]} == {"tissue_sha256"}
    row = replace(ROWS[0], model=str(weights))
    asked = request.asked(row, "", "")
    with (weights / "model.safetensors").open("ab") as file:
        file.write(b"x")
    changed = request.parts()
    assert {name for name in other if other[name] != changed[name]} == {"model_sha256"}
    assert request.asked(row, "", "") != asked


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_slide_belongs_to_exactly_one_shard(count: int) -> None:
    shards = [Request.of(ROWS, shard=f"{i + 1}/{count}") for i in range(count)]
    owners = [sum(shard.mine(row) for shard in shards) for row in ROWS]
    assert set(owners) == {1}
    sizes = [sum(map(shard.mine, ROWS)) for shard in shards]
    assert min(sizes) > 0.5 * len(ROWS) / count


def test_the_shard_of_a_slide_does_not_depend_on_the_others() -> None:
    some = Request.of(ROWS[50:], shard="2/5")
    every = Request.of(ROWS, shard="2/5")
    assert [r for r in ROWS[50:] if every.mine(r)] == [r for r in ROWS[50:] if some.mine(r)]


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/0", "-1/2", "1/2/3"])
def test_impossible_shards_are_named(text: str) -> None:
    with pytest.raises(SettingsError, match="shard"):
        parse_shard(text)


def test_a_shard_cannot_start_over() -> None:
    with pytest.raises(SettingsError, match="fresh"):
        Request.of(ROWS, shard="1/2", fresh=True)
