"""batch, status, verify and manifest as a user meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAILED, USAGE = 1, 2

Here = Callable[..., subprocess.CompletedProcess[str]]


def test_help_names_every_command_and_option(here: Here) -> None:
    shown = here("--help").stdout
    assert all(name in shown for name in ("batch", "status", "verify", "manifest"))
    shown = here("batch", "--help").stdout
    for option in (
        *("--out", "--config", "--workers", "--only", "--retry-failed", "--fail-fast"),
        *("--max-failures", "--attempts", "--timeout", "--shard", "--dry-run", "--fresh"),
    ):
        assert option in shown


def test_a_batch_says_what_becomes_of_each_slide(
    small_slides: Path, tmp_path: Path, kit: Any
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copyfile(small_slides / "case-0.tiff", tmp_path / "in" / "case-0.tiff")
    (tmp_path / "in" / "bad.tiff").write_bytes(b"")
    done = kit.batch(tmp_path / "in", tmp_path / "out", "--workers", 1)
    assert done.returncode == FAILED
    assert "case-0: done" in done.stderr
    assert "bad: failed, unreadable" in done.stderr
    assert "1 of 2 slides are done, 1 have failed" in done.stdout
    assert "--retry-failed" in done.stdout
    assert "Traceback" not in done.stderr


def test_json_goes_to_standard_output_alone(archive: Path, small_slides: Path, kit: Any) -> None:
    done = kit.batch(small_slides, archive, "--json")
    found = json.loads(done.stdout)
    assert found["ok"]
    assert [slide["state"] for slide in found["slides"]] == ["done"] * 3


def test_quiet_says_nothing(archive: Path, small_slides: Path, kit: Any) -> None:
    done = kit.batch(small_slides, archive, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_fail_fast_stops_at_the_first_failure(small_slides: Path, tmp_path: Path, kit: Any) -> None:
    manifest = tmp_path / "m.csv"
    names = [f"case-{i},{small_slides}/case-{i}.tiff" for i in range(3)]
    bad = tmp_path / "bad.tiff"
    bad.write_bytes(b"x" * 10**6)  # the largest, so the first
    manifest.write_text("\n".join(["slide_id,path", f"bad,{bad}", *names]))
    done = kit.batch(manifest, tmp_path / "out", "--workers", 1, "--fail-fast")
    assert done.returncode == FAILED
    slides = kit.status(tmp_path / "out")
    assert slides.pop("bad")["state"] == "failed"
    assert {(s["state"], s["code"]) for s in slides.values()} == {("skipped", "max-failures")}


def test_a_dry_run_tells_what_there_is_and_writes_nothing(
    small_slides: Path, tmp_path: Path, kit: Any
) -> None:
    source = Path(shutil.copytree(small_slides, tmp_path / "in"))
    (source / "bad.tiff").write_bytes(b"")
    done = kit.batch(source, tmp_path / "out", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["slides"], found["to_run"], found["sampled"]) == (4, 4, 4)
    assert [*found["faults"]] == ["bad"]
    assert found["faults"]["bad"].startswith("unreadable")
    assert 0.1 < found["tissue_mm2"] < 1
    assert found["tiles"] == 3
    assert found["minutes"] > 0
    assert found["bytes"] > 10**5
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_what_is_done_has_nothing_to_do(
    archive: Path, small_slides: Path, kit: Any
) -> None:
    done = kit.batch(small_slides, archive, "--dry-run")
    assert "3 slides: 3 are done, 0 have failed, 0 are to be run" in done.stdout


def test_status_shows_an_archive_as_text_and_json(archive: Path, kit: Any) -> None:
    assert "3 of 3 slides are done" in kit.wsiseg("status", archive).stdout
    assert len(json.loads(kit.wsiseg("status", archive, "--json").stdout)["slides"]) == 3


def test_verify_finds_a_flipped_bit_and_a_missing_file(
    archive: Path, small_slides: Path, tmp_path: Path, kit: Any
) -> None:
    out = Path(shutil.copytree(archive, tmp_path / "out"))
    assert kit.wsiseg("verify", out).returncode == 0
    preview = out / "slides" / "case-1" / "preview.png"
    data = bytearray(preview.read_bytes())
    data[len(data) // 2] ^= 1
    preview.write_bytes(data)
    (out / "slides" / "case-0" / "run.json").unlink()
    done = kit.wsiseg("verify", out, "--json")
    assert done.returncode == FAILED
    found = json.loads(done.stdout)
    assert found["damaged"] == ["slides/case-1/preview.png"]
    assert found["missing"] == ["slides/case-0/run.json"]
    assert "slides/case-1/preview.png" in kit.wsiseg("verify", out).stdout
    preview.unlink()  # as it advises
    assert kit.batch(small_slides, out, "--workers", 2).returncode == 0
    assert kit.wsiseg("verify", out).returncode == 0


def test_a_manifest_of_a_folder_can_be_run(small_slides: Path, tmp_path: Path, kit: Any) -> None:
    path = tmp_path / "m.csv"
    done = kit.wsiseg("manifest", small_slides, "--out", path)
    assert "3 slides" in done.stdout
    dry = kit.batch(path, tmp_path / "out", "--dry-run")
    assert "3 are to be run" in dry.stdout


def test_no_name_of_a_file_commands_the_terminal(tmp_path: Path, kit: Any) -> None:
    (tmp_path / "m.csv").write_text("slide_id,path\na,x\x1b[31m.svs\nA,y.svs\n")
    said = kit.batch(tmp_path / "m.csv", tmp_path / "out").stderr
    assert "x?[31m.svs" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["batch", "{in}"], USAGE, "--out"),
        (["batch", "nothing", "--out", "o"], FAILED, "nothing"),
        (["batch", "{in}", "--out", "o", "--shard", "5/4"], USAGE, "shard"),
        (["batch", "{in}", "--out", "o", "--only", "case-9"], USAGE, "case-"),
        (["batch", "{in}", "--out", "o", "--model", "hematoxilin"], FAILED, "hematoxylin"),
        (["batch", "{in}", "--out", "o", "--workers", "0"], USAGE, "workers"),
        (["batch", "{in}", "--out", "o", "--config", "no.toml"], FAILED, "no.toml"),
        (["batch", "{in}", "--out", "o", "--format", "xml"], USAGE, "xml"),
        (["batch", "{in}", "--out", "o", "--log", "xml"], USAGE, "json"),
        (["batch", "{in}", "--out", "o", "--max-memory", "lots"], USAGE, "lots"),
        (["status", "{in}"], FAILED, "no archive"),
        (["verify", "{in}"], FAILED, "no archive"),
        (["manifest", "{in}", "--out", "m.txt"], FAILED, "m.txt"),
        (["manifest", "nothing"], FAILED, "nothing"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    words: list[str], code: int, message: str, small_slides: Path, tmp_path: Path, here: Here
) -> None:
    call = [word.replace("{in}", str(small_slides)) for word in words]
    done = here(*call, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == []
