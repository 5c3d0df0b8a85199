"""Slides in an object store: commands against a real S3 server, which counts and interferes."""

from __future__ import annotations

import json
import threading
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsiseg.archive.scan import rows_of
from wsiseg.archive.stamp import Stamp, stamps_of
from wsiseg.errors import InputFileError
from wsiseg.synth import he_slide, write_he_slide

Truth = dict[str, dict[str, str]]
SLIDES = "s3://archives/slides"


def upload(bucket: Any, path: Path, name: str) -> None:
    bucket.client.put_object(Bucket="archives", Key=f"slides/{name}", Body=path.read_bytes())


def planted(bucket: Any, out: Path, *said: str) -> list[str]:
    """Where a key of the store was written or said."""
    files = [(str(path), path.read_bytes()) for path in out.rglob("*") if path.is_file()]
    texts = [*files, *((text[:80], text.encode()) for text in said)]
    keys = (bucket.SECRET.encode(), b"planted-key-id")
    return [name for name, data in texts if any(key in data for key in keys)]


@pytest.mark.timeout(120)
def test_a_slide_in_a_store_has_the_cells_of_the_one_on_a_disk(
    bucket: Any, big_slide: Path, truth: Truth, tmp_path: Path, kit: Any
) -> None:
    upload(bucket, big_slide, "big.tiff")
    asked: list[str] = []
    bucket.before = lambda method, path: asked.append(f"{method} {path}")
    words = ("--model", "hematoxylin", "--quiet", "--workers", 2)  # dask, which pickles the slide
    done = kit.wsiseg("segment", f"{SLIDES}/big.tiff", "--out", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    assert kit.digests(tmp_path / "out") == truth["big"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["slide"]["uri"].startswith("s3:")
    assert planted(bucket, tmp_path / "out", done.stdout, done.stderr) == []
    assert not (tmp_path / "cache" / "wsiseg" / "staging").exists()
    assert {line.partition(" ")[0] for line in asked} <= {"GET", "HEAD"}
    missing = kit.wsiseg("segment", f"{SLIDES}/none.tiff", "--out", tmp_path / "none", *words)
    assert missing.returncode == 1
    assert missing.stderr.strip() == f"wsiseg: {SLIDES}/none.tiff: cannot be opened: no such file"


def test_folders_and_patterns_of_a_store_are_listed(bucket: Any) -> None:
    names = ("", "a.svs", "1/b.svs", "1/b.txt", "1/", "2/b.svs", "z.zarr/.zattrs", "z.zarr/0/0.tif")
    for name in names:
        bucket.client.put_object(Bucket="archives", Key=f"slides/{name}", Body=b"x")
    found = {row.slide_id: row.path for row in rows_of(f"{SLIDES}/")}
    assert found == {
        "1__b": f"{SLIDES}/1/b.svs",
        "2__b": f"{SLIDES}/2/b.svs",
        "a": f"{SLIDES}/a.svs",
        "z": f"{SLIDES}/z.zarr",
    }
    assert [row.slide_id for row in rows_of(f"{SLIDES}/*/*.svs")] == ["1__b", "2__b"]
    assert [look.bytes for look in stamps_of(found.values()) if isinstance(look, Stamp)] == [
        1,
        1,
        1,
        2,
    ]
    for missing in (f"{SLIDES}/none.svs", "s3://nobucket/a.svs"):
        assert list(stamps_of([missing])) == [None]
        with pytest.raises(InputFileError, match="no such"):
            rows_of(missing)


@pytest.mark.timeout(240)
def test_a_manifest_in_a_store_names_slides_there_and_here(
    bucket: Any, small_slides: Path, truth: Truth, tmp_path: Path, kit: Any
) -> None:
    upload(bucket, small_slides / "case-0.tiff", "a/case-0.tiff")
    upload(bucket, small_slides / "case-1.tiff", "b/case-1.tiff")
    picture = tmp_path / "p.png"  # what is read as a whole is copied first
    Image.fromarray(tifffile.imread(small_slides / "case-2.tiff")).save(picture)
    upload(bucket, picture, "p.png")
    text = f"""path,mpp
{SLIDES}/a/case-0.tiff,
b/case-1.tiff,
{small_slides}/case-2.tiff,
p.png,0.5
gone.svs,0.5
"""
    bucket.client.put_object(Bucket="archives", Key="slides/m.csv", Body=text.encode())
    out = tmp_path / "out"
    done = kit.batch(f"{SLIDES}/m.csv", out, "--workers", 2)
    status = kit.status(out)
    assert {k: (v["state"], v["code"]) for k, v in status.items()} == {
        **dict.fromkeys(("case-0", "case-1", "case-2", "p"), ("done", None)),
        "gone": ("failed", "missing-file"),
    }, done.stderr
    assert done.returncode == 1
    for name in ("case-0", "case-1"):
        assert kit.digests(out / "slides" / name) == truth[name]
    assert planted(bucket, out, done.stdout, done.stderr) == []
    (copy,) = (tmp_path / "cache").rglob("data/p.png")
    assert copy.read_bytes() == picture.read_bytes()
    # of what is done nothing is read again, and a store that refuses takes nothing back
    asked: list[str] = []
    bucket.before = lambda method, path: asked.append(f"{method} {path}")
    again = kit.batch(f"{SLIDES}/m.csv", out, "--json")
    assert not [line for line in asked if line.startswith("GET") and line.endswith("tiff")]
    here = tmp_path / "m.csv"
    for name in ("b/", "p.", "gone."):
        text = text.replace(f"\n{name}", f"\n{SLIDES}/{name}")
    here.write_text(text)
    bucket.answer = ("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>")
    refused = kit.batch(here, out, "--json")
    for later in (again, refused):
        slides = {s["slide_id"]: s for s in json.loads(later.stdout)["slides"]}
        assert [slides[name]["attempts"] for name in ("case-0", "case-1", "case-2", "p")] == [1] * 4
        assert [name for name, s in slides.items() if s["state"] != "done"] == ["gone"]


@pytest.mark.timeout(120)
def test_an_object_that_is_replaced_while_it_is_read_is_read_again_as_a_whole(
    bucket: Any, small_slides: Path, big_slide: Path, truth: Truth, tmp_path: Path, kit: Any
) -> None:
    upload(bucket, big_slide, "x.tiff")
    reads: Counter[str] = Counter()
    lock = threading.Lock()

    def replace(method: str, path: str) -> None:
        with lock:
            reads[method] += path.endswith("x.tiff")
            now = method == "GET" and reads["GET"] == 15
        if now:
            upload(bucket, small_slides / "case-2.tiff", "x.tiff")

    bucket.before = replace
    config = tmp_path / "job.toml"
    config.write_text("[batch]\nworkers = 1\nbackoff_s = 0.1\n")
    done = kit.batch(f"{SLIDES}/x.tiff", tmp_path / "out", "--config", config)
    assert done.returncode == 0, done.stderr
    record = kit.status(tmp_path / "out")["x"]
    assert (record["state"], record["attempts"]) == ("done", 2), reads
    assert kit.digests(tmp_path / "out" / "slides" / "x") == truth["case-2"]


@pytest.mark.timeout(120)
def test_a_batch_copies_slides_of_slow_storage_when_told_to(
    small_slides: Path, truth: Truth, tmp_path: Path, kit: Any
) -> None:
    sizes = [path.stat().st_size for path in small_slides.iterdir()]
    config = tmp_path / "job.toml"
    config.write_text(f'[batch]\nworkers = 1\nstaging = "fast"\nstaging_bytes = {max(sizes)}\n')
    done = kit.batch(small_slides, tmp_path / "out", "--config", config)
    assert done.returncode == 0, done.stderr
    kit.all_as_undisturbed(tmp_path / "out", truth)
    (left,) = (tmp_path / "fast").glob("*/data/*")  # there was room for one at a time
    assert sha256(left.read_bytes()).digest() in {
        sha256(path.read_bytes()).digest() for path in small_slides.iterdir()
    }
    records = kit.status(tmp_path / "out").values()
    assert {Path(record["path"]).parent for record in records} == {small_slides}


@pytest.mark.timeout(120)
def test_a_slide_keeps_its_id_when_another_of_its_name_is_added(tmp_path: Path, kit: Any) -> None:
    slides = tmp_path / "slides"
    (slides / "1").mkdir(parents=True)
    write_he_slide(slides / "1" / "x.tiff", he_slide((150, 170), np.random.default_rng(1)))
    assert kit.batch(slides, tmp_path / "out").returncode == 0
    (slides / "2").mkdir()
    write_he_slide(slides / "2" / "x.tiff", he_slide((150, 170), np.random.default_rng(2)))
    assert kit.batch(slides, tmp_path / "out").returncode == 0
    found = {k: (v["state"], v["attempts"]) for k, v in kit.status(tmp_path / "out").items()}
    assert found == {"x": ("done", 1), "2__x": ("done", 1)}
    only = kit.batch(slides, tmp_path / "out", "--only", "x", "--json")
    assert only.returncode == 0, only.stderr
