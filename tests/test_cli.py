"""The command line as a user meets it: output, exit codes, signals."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsiseg.engine.lock import RunLock
from wsiseg.synth import he_slide, write_he_slide

OK, FAILED, USAGE, LOCKED, INTERRUPTED, TERMINATED = 0, 1, 2, 75, 130, 143

Here = Callable[..., subprocess.CompletedProcess[str]]


def wsiseg(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsiseg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "slide.tiff"
    write_he_slide(path, he_slide((1200, 1400), np.random.default_rng(1)))
    return path


def test_help_names_every_command_and_option(here: Here) -> None:
    shown = here("--help").stdout
    assert all(c in shown for c in ("segment", "info", "demo", "evaluate", "train", "dataset"))
    shown = here("segment", "--help").stdout
    for option in (
        *("--out", "--model", "--mpp", "--region", "--workers", "--scheduler", "--tissue"),
        *("--stain", "--device", "--precision", "--batch", "--max-memory", "--resume", "--fresh"),
        *("--format", "--quiet", "--json", "--scene", "--hash"),
    ):
        assert option in shown


def test_segment_writes_files_and_says_what_and_where(slide: Path, tmp_path: Path) -> None:
    done = wsiseg("segment", slide, "--out", tmp_path / "run", "--format", "geojson,csv")
    assert done.returncode == OK, done.stderr
    assert re.search(r"[\d,]+ cells on [\d.]+ mm² of tissue", done.stdout)
    for name in ("cells.geojson.gz", "cells.parquet", "cells.csv", "preview.png", "run.json"):
        assert name in done.stdout
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert "QuPath" in done.stdout
    assert re.search(r"region \d+ of \d+", done.stderr)  # plain lines without a terminal
    assert "\x1b" not in done.stderr


def test_json_goes_to_standard_output_alone(slide: Path, tmp_path: Path) -> None:
    done = wsiseg("segment", slide, "--out", tmp_path / "run", "--json")
    facts = json.loads(done.stdout)
    assert facts == json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["seconds"]["total"] >= facts["seconds"]["startup"] > 0


def test_quiet_says_nothing(slide: Path, tmp_path: Path) -> None:
    done = wsiseg("segment", slide, "--out", tmp_path / "run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (OK, "", "")


def test_info_tells_a_slide_as_text_and_json(slide: Path) -> None:
    assert "0.5 x 0.5 µm" in wsiseg("info", slide).stdout
    found = json.loads(wsiseg("info", slide, "--json").stdout)
    assert (found["width"], found["height"]) == (1400, 1200)
    assert found["mpp"] == {"x": 0.5, "y": 0.5}


@pytest.mark.data
def test_info_without_a_pixel_size_says_so_and_is_fine(slides: Path, here: Here) -> None:
    path = slides / "tcga-cr-7395-01a-01-ts1.svs"
    done = here("info", path)
    assert done.returncode == OK
    assert "mpp" in done.stdout
    assert "null" in done.stdout
    assert "--mpp" in done.stdout
    found = json.loads(here("info", path, "--json").stdout)
    assert found["mpp"] is None
    assert "--mpp" in found["remedy"]


@pytest.mark.data
def test_segment_without_a_pixel_size_fails_and_names_the_option(
    slides: Path, tmp_path: Path, here: Here
) -> None:
    path = slides / "tcga-cr-7395-01a-01-ts1.svs"
    done = here("segment", path, "--out", tmp_path / "run")
    assert done.returncode == FAILED
    assert "--mpp" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["segment"], USAGE, "Missing argument"),
        (["segment", "x.svs"], USAGE, "--out"),
        (["segment", "no-such.svs", "--out", "run"], FAILED, "no-such.svs"),
        (["segment", "{slide}", "--out", "run", "--model", "hematoxilin"], FAILED, "hematoxylin"),
        (["segment", "{slide}", "--out", "run", "--format", "xml"], USAGE, "xml"),
        (["segment", "{slide}", "--out", "run", "--max-memory", "lots"], USAGE, "lots"),
        (["segment", "{slide}", "--out", "run", "--tissue", "no.geojson"], FAILED, "no.geojson"),
        (["segment", "{slide}", "--out", "run", "--bogus"], USAGE, "--bogus"),
        (["evaluate", "--truth", "a.png", "--pred", "b.png"], FAILED, "a.png"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    words: list[str], code: int, message: str, slide: Path, tmp_path: Path, here: Here
) -> None:
    done = here(*(w.replace("{slide}", str(slide)) for w in words), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_exit_code_75(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / ".wsiseg").mkdir(parents=True)
    lock = RunLock(out / ".wsiseg")
    try:
        done = wsiseg("segment", slide, "--out", out)
    finally:
        lock.release()
    assert done.returncode == LOCKED
    assert str(os.getpid()) in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, INTERRUPTED, "interrupted"), (signal.SIGTERM, TERMINATED, "terminated")],
)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_signal_leaves_a_folder_that_resumes(
    number: int, code: int, word: str, workers: str, slide: Path, tmp_path: Path
) -> None:
    words = ["segment", slide, "--out", tmp_path / "run", "--region", "256"]
    command = [sys.executable, "-m", "wsiseg", *map(str, words), "--workers", workers]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("region "):
                break
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == code, rest
    assert word in rest
    assert "same command" in rest
    assert "Traceback" not in rest
    done = wsiseg(*words, "--json")
    assert done.returncode == OK, done.stderr
    assert json.loads(done.stdout)["regions"]["resumed"] > 0


def test_a_full_disk_is_a_named_error_and_the_run_resumes(slide: Path, tmp_path: Path) -> None:
    words = ["segment", str(slide), "--out", str(tmp_path / "run"), "--region", "500"]
    limited = (
        "import resource, sys; from wsiseg.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "
        f"sys.argv = ['wsiseg', *{words!r}]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited], capture_output=True, text=True, check=False
    )
    assert done.returncode == FAILED, done.stderr
    assert "file-size limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "preview.png").exists()
    again = wsiseg(*words, "--json")
    assert again.returncode == OK, again.stderr
    assert json.loads(again.stdout)["regions"]["resumed"] > 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that none can write")
def test_a_folder_that_cannot_be_written_is_a_named_error(slide: Path, here: Here) -> None:
    done = here("segment", slide, "--out", "/proc/run")
    assert done.returncode == FAILED
    assert "--out" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_compares_with_the_known_cells(tmp_path: Path, shipped_weights: None) -> None:
    done = wsiseg("demo", "--out", tmp_path / "demo", "--json")
    assert done.returncode == OK, done.stderr
    facts = json.loads(done.stdout)
    assert facts["demo"]["f1"] > 0.9
    assert facts["cells"] > 1000
    assert list((tmp_path / "demo").rglob("cells.geojson.gz"))


def test_models_lists_names_licences_and_scores(here: Here) -> None:
    text = here("models").stdout
    assert re.search(
        r"hematoxylin.*\n  licence  BSD-3-Clause\n.*\n.*\n  val PQ   gbm40 0\.70", text
    )
    assert text.count("(default)") == 1
    found = json.loads(here("models", "--json").stdout)
    keys = {"name", "licence", "is_open", "spacing", "classes", "scores", "note", "is_default"}
    assert all(keys <= model.keys() for model in found)
    assert [model["is_default"] for model in found] == [True] + [False] * (len(found) - 1)


@pytest.fixture(scope="session")
def closed_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that is not for commercial use."""
    from wsiseg.model.unet import UNet, UNetConfig, default_spec, save_unet

    config = UNetConfig(widths=(4, 4), blocks=(1, 1), decoder_blocks=(1,), stem=4)
    spec = default_spec("closed", config, licence="CC-BY-NC-SA-4.0", margin=8)
    folder = tmp_path_factory.mktemp("weights") / "closed"
    save_unet(folder, UNet(config), spec, card="# closed", licence="text")
    return folder


def test_a_run_says_its_licence_once_and_records_it(
    slide: Path, closed_weights: Path, tmp_path: Path, shipped_weights: None
) -> None:
    for model, licence in (("hematoxylin", "BSD-3-Clause"), (closed_weights, "CC-BY-NC-SA-4.0")):
        out = tmp_path / licence
        done = wsiseg("segment", slide, "--out", out, "--model", model)
        assert done.returncode == OK, done.stderr
        assert (done.stderr + done.stdout).count(f"licence {licence}") == 1
        assert ("WSISEG_OPEN_ONLY=1" in done.stderr) == (model == closed_weights)
        assert json.loads((out / "run.json").read_text())["model"]["licence"] == licence


def test_open_only_refuses_other_weights_before_anything_is_written(
    slide: Path, closed_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    words = ["segment", slide, "--out", tmp_path / "run", "--model"]
    monkeypatch.setenv("WSISEG_OPEN_ONLY", "1")
    done = here(*words, closed_weights)
    assert done.returncode == FAILED
    assert "CC-BY-NC-SA-4.0, which is not an open licence" in done.stderr
    assert "Traceback" not in done.stderr
    monkeypatch.setenv("WSISEG_OPEN_ONLY", "yes")
    done = here(*words, "hematoxylin")
    assert done.returncode == USAGE
    assert "WSISEG_OPEN_ONLY must be 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_demo_says_its_licence_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    from wsiseg.run import demo

    monkeypatch.setattr(demo, "_SHAPE", (600, 700))
    done = here("demo", "--out", tmp_path / "demo")
    assert done.returncode == OK, done.stderr
    assert (done.stderr + done.stdout).count(", licence ") == 1


def test_evaluate_of_labels_with_themselves_is_perfect(tmp_path: Path) -> None:
    labels = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((5, 5), int))
    labels[::5] = 0
    np.save(tmp_path / "a.npy", labels)
    done = wsiseg("evaluate", "--truth", tmp_path / "a.npy", "--pred", tmp_path / "a.npy", "--json")
    assert done.returncode == OK, done.stderr
    assert '"pq": 1.0' in done.stdout


def test_version_is_printed() -> None:
    assert wsiseg("--version").stdout.startswith("wsiseg 0.")


def test_a_name_in_another_encoding_is_printed(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / os.fsdecode(b"s\xff.tiff")
    odd.symlink_to(slide)
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")  # as in most languages
    done = wsiseg("info", odd)
    assert done.returncode == OK, done.stderr
    assert "s\\udcff.tiff" in done.stdout


def test_a_closed_pipe_is_no_traceback(slide: Path) -> None:
    command = f"{sys.executable} -m wsiseg info {slide} | head -1; sleep 0.1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
