"""An archive in real processes: the same files as ``segment``, and no work done twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import wsiseg
from wsiseg.archive.folder import ArchiveFolder
from wsiseg.archive.rows import SlideRow
from wsiseg.atomic import temporary_name
from wsiseg.errors import (
    ForeignFolderError,
    InputFileError,
    KeyMismatchError,
    SettingsError,
    UnknownModelError,
)

MODEL = {"model": "hematoxylin"}


def test_every_slide_has_the_files_that_segment_writes(
    archive: Path, truth: dict[str, dict[str, str]], kit: Any
) -> None:
    for slide_id in ("case-0", "case-1", "case-2"):
        folder = archive / "slides" / slide_id
        assert kit.digests(folder) == truth[slide_id]
        assert {"cells.parquet", "cells.geojson.gz", "preview.png", "run.json"} <= {
            *os.listdir(folder)
        }


def test_status_keeps_its_contract(archive: Path, kit: Any) -> None:
    slides = kit.status(archive)
    assert sorted(slides) == ["case-0", "case-1", "case-2"]
    for slide in slides.values():
        assert slide["state"] == "done"
        assert slide["code"] is None
        assert slide["attempts"] == 1
        assert slide["host"]
        assert slide["seconds"] > 0
        assert slide["peak_memory_bytes"] > 50e6
        assert slide["tiles"] >= 1
        assert slide["cells"] > 10
        assert len(slide["input_sha256"]) == len(slide["output_sha256"]) == 64
    assert "3 of 3 slides are done" in (archive / "status.md").read_text()


def test_outputs_hash_to_what_the_record_says(archive: Path, kit: Any) -> None:
    for record in kit.records(archive).values():
        for name, (size, digest) in record.outputs.items():
            data = (archive / "slides" / record.slide_id / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest)


def copy_of(archive: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(archive, tmp_path / "out"))


def test_a_second_batch_starts_nothing(archive: Path, small_slides: Path, tmp_path: Path) -> None:
    out, changes = copy_of(archive, tmp_path), list[Any]()
    before = {p: p.stat().st_mtime_ns for p in (out / "slides").rglob("*")}
    assert wsiseg.batch(small_slides, out, on_change=changes.append, **MODEL).ok
    assert changes == []
    assert {p: p.stat().st_mtime_ns for p in (out / "slides").rglob("*")} == before


def test_only_what_has_changed_is_run_again(
    archive: Path, small_slides: Path, truth: dict[str, dict[str, str]], tmp_path: Path, kit: Any
) -> None:
    """A file is missing, an input was replaced, a row has other settings: each slide by itself."""
    slides = Path(shutil.copytree(small_slides, tmp_path / "slides"))
    out, started = tmp_path / "out", list[str]()
    rows = [SlideRow(f"case-{i}", str(slides / f"case-{i}.tiff")) for i in range(3)]
    assert wsiseg.batch(rows, out, workers=2, **MODEL).ok
    (out / "slides" / "case-0" / "cells.geojson.gz").unlink()
    shutil.copyfile(slides / "case-0.tiff", slides / "case-1.tiff")

    def note(record: Any) -> None:
        started.extend([record.slide_id] if record.state == "running" else [])

    assert wsiseg.batch(rows, out, workers=2, on_change=note, **MODEL).ok
    assert sorted(started) == ["case-0", "case-1"]
    assert kit.digests(out / "slides" / "case-0") == truth["case-0"]
    assert kit.records(out)["case-1"].restarted is not None
    started.clear()
    rows[2] = SlideRow("case-2", rows[2].path, mpp=0.4)
    assert wsiseg.batch(rows, out, workers=2, on_change=note, **MODEL).ok
    assert started == ["case-2"]
    assert kit.digests(out / "slides" / "case-2") != truth["case-2"]


def test_other_settings_are_refused_by_name(
    archive: Path, small_slides: Path, tmp_path: Path
) -> None:
    out = copy_of(archive, tmp_path)
    with pytest.raises(KeyMismatchError, match="stain"):
        wsiseg.batch(small_slides, out, stain="macenko", **MODEL)
    with pytest.raises(KeyMismatchError, match="tissue"):
        wsiseg.batch(small_slides, out, tissue="none", **MODEL)


def test_fresh_replaces_the_results_of_other_settings(
    archive: Path, small_slides: Path, tmp_path: Path, kit: Any
) -> None:
    out = copy_of(archive, tmp_path)
    before = kit.records(out)["case-0"].content_key
    assert wsiseg.batch(small_slides, out, workers=2, fresh=True, tissue="none", **MODEL).ok
    assert kit.records(out)["case-0"].content_key != before


def test_slides_that_are_not_selected_are_skipped_and_run_next_time(
    small_slides: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = wsiseg.batch(small_slides, out, only=["case-1"], workers=1, **MODEL)
    assert first.ok
    assert [(r.state, r.code) for r in first.records] == [
        ("skipped", "not-selected"),
        ("done", None),
        ("skipped", "not-selected"),
    ]
    assert [r.state for r in wsiseg.batch(small_slides, out, workers=2, **MODEL).records] == (
        ["done"] * 3
    )


def test_an_unknown_id_is_named_with_those_that_are_near(
    small_slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="case-1"):
        wsiseg.batch(small_slides, tmp_path / "out", only=["case_1"], **MODEL)


def test_equal_content_is_two_slides(small_slides: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copyfile(small_slides / "case-0.tiff", tmp_path / "in" / folder / "x.tiff")
    outcome = wsiseg.batch(tmp_path / "in", tmp_path / "out", workers=1, **MODEL)
    assert [r.slide_id for r in outcome.of("done")] == ["a__x", "b__x"]


def test_shards_share_an_archive_without_overlap(
    small_slides: Path, truth: dict[str, dict[str, str]], tmp_path: Path, kit: Any
) -> None:
    out = tmp_path / "out"
    parts = [wsiseg.batch(small_slides, out, shard=(1, 3), workers=1, **MODEL)]
    assert sorted(kit.status(out)) == ["case-0", "case-1", "case-2"]  # those of others, too
    parts += [wsiseg.batch(small_slides, out, shard=f"{i}/3", workers=1, **MODEL) for i in (2, 3)]
    ids = [record.slide_id for part in parts for record in part.records]
    assert sorted(ids) == ["case-0", "case-1", "case-2"]
    slides = kit.status(out)
    assert {name: slide["state"] for name, slide in slides.items()} == dict.fromkeys(ids, "done")
    assert all(kit.digests(out / "slides" / name) == truth[name] for name in ids)
    assert kit.wsiseg("verify", out).returncode == 0
    assert wsiseg.batch(small_slides, out, **MODEL).ok  # as a whole: nothing is left to do


def test_slides_that_left_the_manifest_stay_in_the_archive(
    archive: Path, small_slides: Path, tmp_path: Path, kit: Any
) -> None:
    out = copy_of(archive, tmp_path)
    rows = [SlideRow("case-0", str(small_slides / "case-0.tiff"))]
    assert len(wsiseg.batch(rows, out, **MODEL).records) == 1
    assert {s["state"] for s in kit.status(out).values()} == {"done"}
    assert len(kit.status(out)) == 3


def test_folders_of_others_are_never_written_into(small_slides: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ForeignFolderError, match=r"thesis\.txt"):
        wsiseg.batch(small_slides, tmp_path, **MODEL)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_run_folder_is_no_archive(archive: Path, small_slides: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(archive / "slides" / "case-0", tmp_path / "run"))
    with pytest.raises(ForeignFolderError):
        wsiseg.batch(small_slides, run, **MODEL)


def test_a_link_that_leads_out_of_the_archive_fails_its_slide_alone(
    small_slides: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out" / "slides").mkdir(parents=True)
    (tmp_path / "out" / "slides" / "case-1").symlink_to(elsewhere)
    outcome = wsiseg.batch(small_slides, tmp_path / "out", workers=2, **MODEL)
    assert [r.code for r in outcome.of("failed")] == ["foreign-folder"]
    assert len(outcome.of("done")) == 2
    assert os.listdir(elsewhere) == []


def test_an_unknown_model_is_an_error_before_anything_is_run(
    small_slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnknownModelError):
        wsiseg.batch(small_slides, tmp_path / "out", model="hematoxilin")
    rows = [SlideRow("a", str(small_slides / "case-0.tiff"), model="nope")]
    with pytest.raises(UnknownModelError):
        wsiseg.batch(rows, tmp_path / "out", **MODEL)
    assert not (tmp_path / "out").exists()


def test_a_config_file_sets_jobs_and_policy(small_slides: Path, tmp_path: Path) -> None:
    config = tmp_path / "job.toml"
    config.write_text('model = "hematoxylin"\nformats = ["csv"]\n[batch]\nworkers = 2\n')
    outcome = wsiseg.batch(small_slides, tmp_path / "out", config=config, only=["case-0"])
    assert outcome.ok
    assert (tmp_path / "out" / "slides" / "case-0" / "cells.csv").exists()
    assert not (tmp_path / "out" / "slides" / "case-0" / "cells.geojson.gz").exists()


def test_run_json_names_no_other_folder_than_the_slides(archive: Path) -> None:
    found = json.loads((archive / "slides" / "case-0" / "run.json").read_text())
    assert found["slide"]["uri"].endswith("case-0.tiff")


@pytest.mark.parametrize(
    ("ids", "says"), [(("../../out-of-it",), "holds"), (("s", "S"), "more than one slide")]
)
def test_rows_from_code_are_held_to_the_rules_of_a_manifest(
    small_slides: Path, tmp_path: Path, ids: tuple[str, ...], says: str
) -> None:
    rows = [SlideRow(name, str(small_slides / f"case-{k}.tiff")) for k, name in enumerate(ids)]
    with pytest.raises(InputFileError, match=says):
        wsiseg.batch(rows, tmp_path / "out", **MODEL)


def test_a_shard_that_starts_leaves_what_others_are_writing(tmp_path: Path) -> None:
    folder = ArchiveFolder(tmp_path)
    folder.claim()
    other = tmp_path / temporary_name()
    other.write_text("half of status.json")
    with folder.locked((1, 2)):
        assert other.exists()
    with folder.locked(None):
        assert not other.exists()


def test_failures_of_slides_that_are_not_asked_for_stay(small_slides: Path, tmp_path: Path) -> None:
    rows = [
        SlideRow("lost", str(tmp_path / "lost.tiff")),
        SlideRow("case-0", str(small_slides / "case-0.tiff")),
    ]
    first = wsiseg.batch(rows, tmp_path / "out", workers=1, only=["lost"], **MODEL)
    assert [r.code for r in first.of("failed")] == ["missing-file"]
    again = wsiseg.batch(
        rows, tmp_path / "out", workers=1, only=["case-0"], retry_failed=True, **MODEL
    )
    assert [r.slide_id for r in again.of("done")] == ["case-0"]
    assert [r.code for r in again.of("failed")] == ["missing-file"]
    assert not again.ok


def test_a_slide_that_is_missing_at_the_start_counts_for_fail_fast(
    small_slides: Path, tmp_path: Path
) -> None:
    rows = [
        SlideRow("lost", str(tmp_path / "lost.tiff")),
        SlideRow("case-0", str(small_slides / "case-0.tiff")),
    ]
    for _ in range(2):  # looked for again, and missed again
        found = wsiseg.batch(rows, tmp_path / "out", fail_fast=True, **MODEL)
        assert [r.code for r in found.records] == ["max-failures", "missing-file"]
