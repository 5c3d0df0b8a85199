"""Archives in an object store: real batches against a real S3 server, which is made to fail."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import geopandas
import pytest

FAILED, LOCKED, TERMINATED = 1, 75, 143
URL = "s3://archives/night/one"

Truth = dict[str, dict[str, str]]


def whole_and_as_undisturbed(bucket: Any, truth: Truth, slides: Iterable[str]) -> None:
    """Every slide is done, as ``segment`` makes it, and every object is what SHA256SUMS says."""
    status = bucket.status()
    for slide_id in slides:
        assert status[slide_id]["state"] == "done", status[slide_id]
        assert bucket.digests(slide_id) == truth[slide_id]
    sums = dict(line.split("  ")[::-1] for line in bucket.get("SHA256SUMS").decode().splitlines())
    assert {name: sha256(bucket.get(name)).hexdigest() for name in sums} == sums
    parts = [n for n in bucket.names() if n.startswith("cells/")]
    assert parts == [f"cells/slide_id={slide_id}/cells.parquet" for slide_id in sorted(slides)]
    assert not [n for n in bucket.names() if n.endswith("/lock") or "/done/" in n]


CASES = ("case-0", "case-1", "case-2")


@pytest.mark.timeout(300)
def test_an_archive_in_a_store_is_the_one_of_a_folder(
    bucket: Any, small_slides: Path, truth: Truth, tmp_path: Path, here: Any
) -> None:
    batch = ("batch", small_slides, "--model", "hematoxylin", "--out")
    first = here(*batch, URL, "--workers", 2)
    assert first.returncode == 0, first.stderr
    assert f"{URL}/cohort.parquet" in first.stdout
    whole_and_as_undisturbed(bucket, truth, CASES)
    cells = geopandas.read_parquet(f"{URL}/cells")["slide_id"].value_counts().to_dict()
    assert cells == {case: bucket.status()[case]["cells"] for case in CASES}
    # a copy of the bucket is an archive like any other
    for name in bucket.names():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.get(name))
    again = here(*batch, tmp_path / "copy", "--json")
    assert again.returncode == 0
    assert [s["attempts"] for s in json.loads(again.stdout)["slides"]] == [1, 1, 1]
    # no key is in anything that was written or said; the working folder has let go of the slides
    said = [first.stdout, first.stderr, *(str(bucket.get(name)) for name in bucket.names())]
    assert not any(bucket.SECRET in text or "planted-key-id" in text for text in said)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.name == "cells.parquet"]
    assert left == []
    assert json.loads(here("status", URL, "--json").stdout)["totals"]["done"] == 3
    assert here("verify", URL).returncode == 0
    # one byte is flipped, one object is lost
    name = "slides/case-1/cells.geojson.gz"
    data = bytearray(bucket.get(name))
    data[len(data) // 2] ^= 1
    bucket.put(name, bytes(data))
    found = here("verify", URL, "--json")
    assert found.returncode == FAILED
    assert json.loads(found.stdout)["damaged"] == [name]
    bucket.client.delete_object(Bucket="archives", Key=f"night/one/{name}")
    before = {case: bucket.get(f"slides/{case}/run.json") for case in CASES}
    assert here(*batch, URL, "--dry-run", "--json").returncode == 0
    assert here(*batch, URL).returncode == 0
    whole_and_as_undisturbed(bucket, truth, CASES)
    redone = [case for case in CASES if bucket.get(f"slides/{case}/run.json") != before[case]]
    assert redone == ["case-1"]


def kill_at(bucket: Any, number: int, part: str) -> tuple[list[Any], threading.Event]:
    """Kill the first of the processes when so many objects of slides were asked to be put."""
    processes, killed, count = list[Any](), threading.Event(), [0]

    def before(method: str, path: str) -> None:
        if method == "PUT" and part in path and not killed.is_set():
            count[0] += 1
            if count[0] == number:
                processes[0].kill()
                processes[0].wait()
                killed.set()

    bucket.before = before
    return processes, killed


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "what", "elsewhere"),
    [
        (9, "/slides/", True),
        *(
            pytest.param(number, what, elsewhere, marks=pytest.mark.soak)
            for number, what in (
                *((n, "/slides/") for n in (1, 2, 5, 6, 8, 13, 15)),
                *((n, "/cells/") for n in (1, 3)),
                *((n, "/done/") for n in (1, 2, 3)),
                *((1, n) for n in ("archive.json", "cohort.parquet", "SHA256SUMS", "status.json")),
                (1, "journal.jsonl"),
            )
            for elsewhere in (False, True)
        ),
    ],
)
def test_a_batch_that_is_killed_while_it_uploads_goes_on(
    bucket: Any,
    small_slides: Path,
    truth: Truth,
    tmp_path: Path,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    what: str,
    elsewhere: bool,
) -> None:
    """On the same machine without making anything again; elsewhere, without what was recorded."""
    processes, killed = kill_at(bucket, number, what)
    processes.append(kit.start(small_slides, URL, "--workers", 1))
    assert killed.wait(120)
    for name in bucket.names():  # nothing torn under a final name
        if name.startswith("slides/") and name.endswith(".json"):
            json.loads(bucket.get(name))
    cache = tmp_path / "cache"
    kept = {
        path.parts[-3]: (path.parents[1] / "run.json").read_bytes()
        for path in cache.rglob("made.json")
    }
    recorded = {Path(n).stem for n in bucket.names() if "/done/" in n}
    runs = {case: bucket.get(f"slides/{case}/run.json") for case in recorded}
    if elsewhere:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    second = kit.batch(small_slides, URL, "--workers", 1)
    assert second.returncode == 0, second.stderr
    whole_and_as_undisturbed(bucket, truth, CASES)
    stays = runs if elsewhere else runs | kept
    assert stays or (number, what) in ((1, "archive.json"), (1, "status.json")) or elsewhere
    assert {case: bucket.get(f"slides/{case}/run.json") for case in stays} == stays


@pytest.mark.timeout(300)
def test_a_store_that_is_gone_for_a_while_costs_nothing_and_a_second_batch_is_refused(
    bucket: Any, small_slides: Path, truth: Truth, tmp_path: Path, kit: Any
) -> None:
    seen, go_on = threading.Event(), threading.Event()

    def before(method: str, path: str) -> None:
        if method == "PUT" and "/slides/" in path and not seen.is_set():
            seen.set()
            go_on.wait(60)

    bucket.before = before
    first = kit.start(small_slides, URL, "--workers", 2)
    assert seen.wait(120)
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "other")}
    second = kit.batch(small_slides, URL, env=env)
    assert second.returncode == LOCKED, second.stderr
    assert str(first.pid) in second.stderr
    bucket.vanish()
    go_on.set()
    time.sleep(3)
    bucket.appear()
    assert first.wait(200) == 0
    whole_and_as_undisturbed(bucket, truth, CASES)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_shards_on_machines_that_share_only_the_store_make_one_archive(
    bucket: Any,
    small_slides: Path,
    truth: Truth,
    tmp_path: Path,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = []
    for i in (1, 2, 3):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine-{i}"))
        running.append(kit.start(small_slides, URL, "--workers", 1, "--shard", f"{i}/3"))
    assert [process.wait(300) for process in running] == [0, 0, 0]
    whole_and_as_undisturbed(bucket, truth, CASES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine-4"))
    again = kit.batch(small_slides, URL, "--json")
    assert again.returncode == 0, again.stderr
    assert [s["attempts"] for s in json.loads(again.stdout)["slides"]] == [1, 1, 1]


def test_what_others_have_at_a_url_is_not_touched(
    bucket: Any, small_slides: Path, kit: Any
) -> None:
    bucket.put("thesis.docx", b"years of work")
    done = kit.batch(small_slides, URL)
    assert done.returncode != 0
    assert "thesis.docx" in done.stderr
    assert bucket.names() == ["thesis.docx"]


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("it_hangs", [False, True])
def test_a_batch_that_is_terminated_while_its_store_is_gone_ends_in_time_and_loses_nothing(
    bucket: Any, small_slides: Path, truth: Truth, tmp_path: Path, kit: Any, it_hangs: bool
) -> None:
    gone, again = threading.Event(), threading.Event()

    def before(method: str, path: str) -> None:
        if method == "PUT" and "/slides/" in path and not gone.is_set():
            gone.set()
            if not it_hangs:
                threading.Thread(target=bucket.vanish).start()
        if gone.is_set() and it_hangs:
            again.wait(200)

    bucket.before = before
    first = kit.start(small_slides, URL, "--workers", 2)
    assert gone.wait(120)
    time.sleep(10)  # more is made, nothing can be sent
    kept = {
        path.parts[-3]: (path.parents[1] / "run.json").read_bytes()
        for path in (tmp_path / "cache").rglob("made.json")
    }
    assert kept
    first.terminate()
    assert first.wait(60) == TERMINATED
    again.set()
    if not it_hangs:
        bucket.appear()
    assert kit.batch(small_slides, URL).returncode == 0
    whole_and_as_undisturbed(bucket, truth, CASES)
    assert {case: bucket.get(f"slides/{case}/run.json") for case in kept} == kept
