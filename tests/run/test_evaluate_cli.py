"""``wsiseg evaluate`` on many images, as a user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


def wsiseg(*words, cwd):
    command = [sys.executable, "-m", "wsiseg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def world(tmp_path):
    labels = np.zeros((60, 70), np.uint16)
    labels[5:15, 5:15], labels[30:42, 30:44] = 1, 2
    (tmp_path / "pred").mkdir()
    rows = ["image,labels,set,split,mpp,case\n"]
    for name in ("a", "b", "c"):
        Image.new("RGB", (70, 60), "pink").save(tmp_path / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / f"{name}_labels.png")
        Image.fromarray(labels).save(tmp_path / "pred" / f"{name}.png")
        rows.append(f"{name}.png,{name}_labels.png,s,val,{'' if name == 'c' else 0.25},{name}\n")
    (tmp_path / "m.csv").write_text("".join(rows))
    return tmp_path


def test_many_images_end_in_a_table_and_in_files(world):
    done = wsiseg("evaluate", "--manifest", "m.csv", "--pred", "pred", "--out", "out", cwd=world)
    assert done.returncode == 0, done.stderr
    assert "pred on 2 images of split val: 4 true and 4 predicted nuclei" in done.stdout
    assert "1.000 (1.00-1.00)" in done.stdout
    assert "Left out: 1 images of unknown pixel size (s); give --unknown-mpp" in done.stdout
    assert "image 2 of 2" in done.stderr
    for name in ("results.json", "results.csv", "worst.html"):
        assert f"out/{name}:" in done.stdout
        assert (world / "out" / name).stat().st_size > 0


def test_json_goes_to_standard_output_alone(world):
    words = ("--manifest", "m.csv", "--model", "hematoxylin", "--json", "--unknown-mpp", "0.5")
    done = wsiseg("evaluate", *words, cwd=world)
    assert json.loads(done.stdout)["total"]["images"] == 3
    assert "licence" in done.stderr
    assert not (world / "out").exists()


PAIR = ("--truth", "a_labels.png", "--pred", "b_labels.png")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--manifest or --points"),
        (["--truth", "a_labels.png"], 2, "--truth goes with --pred"),
        (["--truth", "a_labels.png", "--pred", "b_labels.png", "--out", "x"], 2, "one file each"),
        ([*PAIR, "--rename", "a=b"], 2, "not with --rename"),
        ([*PAIR, "--split", "val", "--device", "cpu"], 2, "not with --split, --device"),
        ([*PAIR, "--unknown-mpp", "0.5", "--precision", "fp32"], 2, "--unknown-mpp, --precision"),
        ([*PAIR, "--radius", "0"], 2, "--radius must be more than 0"),
        (["--manifest", "m.csv", "--pred", "pred", "--radius", "0"], 2, "--radius must be more"),
        (["--manifest", "m.csv", "--pred", "pred", "--mpp", "0.5"], 2, "pixel size of --points"),
        (["--manifest", "m.csv", "--pred", "pred", "--device", "cpu"], 2, "--device: for a model"),
        (["--manifest", "m.csv", "--pred", "pred", "--model", "hematoxylin"], 2, "exclude"),
        (["--manifest", "m.csv", "--pred", "pred", "--rename", "a"], 2, "OLD=NEW"),
        (["--manifest", "m.csv", "--pred", "pred", "--split", "test"], 1, "there are val"),
        (["--manifest", "no.csv", "--pred", "pred"], 1, "no.csv"),
        (["--manifest", "m.csv", "--model", "hematoxilin"], 1, "hematoxylin"),
    ],
)
def test_mistakes_are_named_without_a_traceback(world, words, code, message, here):
    done = here("evaluate", *words, cwd=world)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
