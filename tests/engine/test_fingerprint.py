"""A fingerprint changes when the input does, and content does not change with place or time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine import fingerprint as module
from wsiseg.engine.fingerprint import SAMPLE, fingerprint, fingerprint_array
from wsiseg.errors import UnreadableSlideError
from wsiseg.image.parts import series_uid

SIZE = 3 * SAMPLE + 17


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A file of which a MiB in the middle is not sampled."""
    path = tmp_path / "a.svs"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return path


def flip(path: Path, at: int) -> None:
    """Change one byte, but not the time of change."""
    before = path.stat()
    with path.open("rb+") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def later(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_a_file_is_its_size_time_and_the_hashes_of_both_ends(slide: Path) -> None:
    found, data = fingerprint(slide), slide.read_bytes()
    assert found["kind"] == "file"
    assert found["size"] == SIZE
    assert found["mtime_ns"] == slide.stat().st_mtime_ns
    assert found["head"] == hashlib.sha256(data[:SAMPLE]).hexdigest()
    assert found["tail"] == hashlib.sha256(data[-SAMPLE:]).hexdigest()
    assert "full" not in found
    assert json.loads(json.dumps(found)) == found == fingerprint(str(slide))


@pytest.mark.parametrize("at", [0, SAMPLE - 1, SIZE - SAMPLE, SIZE - 1])
def test_a_changed_byte_in_a_sample_changes_both_hashes(slide: Path, at: int) -> None:
    before = fingerprint(slide)
    flip(slide, at)
    after = fingerprint(slide)
    assert after["content"] != before["content"]
    assert after["key"] != before["key"]


def test_a_changed_byte_between_the_samples_is_found_by_full_alone(slide: Path) -> None:
    before, before_full = fingerprint(slide), fingerprint(slide, full=True)
    assert before_full["full"] == hashlib.sha256(slide.read_bytes()).hexdigest()
    flip(slide, SAMPLE + 5)
    assert fingerprint(slide) == before
    assert fingerprint(slide, full=True)["key"] != before_full["key"]


def test_content_depends_on_neither_path_nor_time_nor_full(slide: Path, tmp_path: Path) -> None:
    before = fingerprint(slide)
    copy = tmp_path / "elsewhere.tif"
    shutil.copy2(slide, copy)
    assert fingerprint(copy) == before
    later(copy)
    assert fingerprint(copy)["content"] == before["content"]
    assert fingerprint(copy)["key"] != before["key"]
    assert fingerprint(slide, full=True)["content"] == before["content"]


def test_an_empty_and_a_small_file_have_fingerprints(tmp_path: Path) -> None:
    contents = set()
    for size in (0, 1, 2, SAMPLE):
        (tmp_path / "a").write_bytes(bytes(size))
        contents.add(fingerprint(tmp_path / "a")["content"])
    assert len(contents) == 4


# folders


@pytest.fixture
def zarr(tmp_path: Path) -> Path:
    """A folder of 40 chunks of equal size and three metadata files."""
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    for name in (".zgroup", "0/.zarray", "zarr.json"):
        (folder / name).write_text('{"zarr_format": 2}')
    for chunk in range(40):
        (folder / "0" / f"{chunk}.0").write_bytes(bytes([chunk]) * 100)
    return folder


def test_a_folder_is_its_listing(zarr: Path) -> None:
    found = fingerprint(zarr)
    assert (found["kind"], found["files"]) == ("folder", 43)
    assert found["size"] == 40 * 100 + 3 * 18
    assert json.loads(json.dumps(found)) == found


def test_a_copied_folder_has_the_same_content(zarr: Path, tmp_path: Path) -> None:
    shutil.copytree(zarr, tmp_path / "b.zarr")  # keeps times of files
    assert fingerprint(tmp_path / "b.zarr") == fingerprint(zarr)
    later(tmp_path / "b.zarr" / "0" / "7.0")
    assert fingerprint(tmp_path / "b.zarr")["content"] == fingerprint(zarr)["content"]
    assert fingerprint(tmp_path / "b.zarr")["key"] != fingerprint(zarr)["key"]


def renamed(folder: Path) -> None:
    (folder / "0" / "39.0").rename(folder / "0" / "40.0")


def removed(folder: Path) -> None:
    (folder / "0" / "7.0").unlink()


def grown(folder: Path) -> None:
    before = (folder / "0" / "7.0").stat()
    (folder / "0" / "7.0").write_bytes(bytes(101))
    os.utime(folder / "0" / "7.0", ns=(before.st_atime_ns, before.st_mtime_ns))


def other_metadata(folder: Path) -> None:
    flip(folder / "0" / ".zarray", 5)


def other_sample(folder: Path) -> None:
    flip(folder / "0" / "0.0", 50)


@pytest.mark.parametrize("change", [renamed, removed, grown, other_metadata, other_sample])
def test_what_changes_in_a_folder_changes_both_hashes(zarr: Path, change: Any) -> None:
    before = fingerprint(zarr)
    change(zarr)
    after = fingerprint(zarr)
    assert after["content"] != before["content"]
    assert after["key"] != before["key"]


def test_full_finds_a_change_in_any_chunk(zarr: Path) -> None:
    for chunk in range(40):
        before = fingerprint(zarr, full=True)["key"]
        flip(zarr / "0" / f"{chunk}.0", 99)
        assert fingerprint(zarr, full=True)["key"] != before


def test_an_empty_folder_and_odd_names_have_fingerprints(tmp_path: Path) -> None:
    empty = fingerprint(tmp_path)["key"]
    (tmp_path / os.fsdecode(b"caf\xe9\n.bin")).write_bytes(b"1")
    assert fingerprint(tmp_path)["key"] != empty


# formats of several files


def test_an_mrxs_slide_counts_with_its_folder(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        (tmp_path / f"{stem}.mrxs").write_bytes(b"thumbnail")
        (tmp_path / stem).mkdir()
        (tmp_path / stem / "Slidedat.ini").write_text("[GENERAL]")
        (tmp_path / stem / "Data0000.dat").write_bytes(bytes(2000))
    first = fingerprint(tmp_path / "a.mrxs")
    assert (first["kind"], first["parts"], first["size"]) == ("files", 2, 9 + 9 + 2000)
    assert fingerprint(tmp_path / "b.mrxs")["content"] == first["content"]
    flip(tmp_path / "b" / "Slidedat.ini", 1)
    assert fingerprint(tmp_path / "b.mrxs")["content"] != first["content"]


def dicom(path: Path, series: bytes, pixels: bytes) -> None:
    element = b"\x20\x00\x0e\x00UI" + len(series).to_bytes(2, "little") + series
    path.write_bytes(bytes(128) + b"DICM" + bytes(40) + element + pixels)


def test_a_dicom_file_counts_with_its_series_and_no_other(tmp_path: Path) -> None:
    dicom(tmp_path / "1.dcm", b"1.2.3", b"level 0")
    dicom(tmp_path / "2.dcm", b"1.2.3", b"level 1")
    alone = fingerprint(tmp_path / "1.dcm")
    assert alone["parts"] == 2
    assert fingerprint(tmp_path / "2.dcm") == alone
    dicom(tmp_path / "3.dcm", b"1.2.4", b"another series")
    (tmp_path / "notes.txt").write_text("hello")
    assert fingerprint(tmp_path / "1.dcm") == alone
    dicom(tmp_path / "4.dcm", b"1.2.3", b"level 2")
    assert fingerprint(tmp_path / "1.dcm")["content"] != alone["content"]


def test_real_dicom_names_its_series(slides: Path) -> None:
    uid = series_uid(slides / "small_dicom.dcm")
    assert uid is not None
    assert uid.startswith(b"1.2.826.0.1.3680043.8.498.")
    assert fingerprint(slides / "small_dicom.dcm")["kind"] == "file"
    assert series_uid(slides / "cmu-1-small-region.svs") is None


def test_every_real_slide_has_its_own_content(slides: Path) -> None:
    files = [path for path in slides.iterdir() if path.is_file()]
    assert len({fingerprint(path)["content"] for path in files}) == len(files) > 5


# what cannot be read


def test_what_cannot_be_read_is_a_typed_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "loop.svs").symlink_to("loop.svs")
    for name in ("absent.svs", "pipe.svs", "loop.svs", "a\0b"):
        with pytest.raises(UnreadableSlideError, match="cannot read"):
            fingerprint(tmp_path / name)
    with pytest.raises(UnreadableSlideError, match="cannot read"):
        fingerprint(tmp_path)  # a folder that holds a pipe


def test_a_file_that_changes_while_it_is_read_is_a_typed_error(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256

    def growing(data: bytes = b"") -> Any:
        with slide.open("ab") as file:
            file.write(b"more")
        return sha256(data)

    monkeypatch.setattr(module.hashlib, "sha256", growing)
    with pytest.raises(UnreadableSlideError, match="changed while it was read"):
        fingerprint(slide)


# arrays


@given(st.sampled_from(["u1", "<u2", "f4", "?"]), st.lists(st.integers(0, 4), max_size=4))
def test_an_array_is_its_values_whatever_its_memory(dtype: str, shape: list[int]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    found = fingerprint_array(array)
    assert found["values"] == hashlib.sha256(array.tobytes()).hexdigest()
    assert found == fingerprint_array(np.array(array, order="F"))
    assert found == fingerprint_array(np.repeat(array[None], 2, axis=0)[0])
    assert json.loads(json.dumps(found)) == found


def test_arrays_of_other_values_shape_or_type_differ() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    others = [array + 1, array.reshape(4, 3), array.view(np.int8), array.astype(np.uint16), array.T]
    assert len({fingerprint_array(a)["key"] for a in [array, *others]}) == 6


# at URLs


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    if files.exists("/prints"):
        files.rm("/prints", recursive=True)


def put(memory: Any, root: Path) -> None:
    for file in root.rglob("*"):
        if file.is_file():
            memory.pipe(f"/prints/{file.relative_to(root).as_posix()}", file.read_bytes())


def test_content_at_a_url_is_that_of_the_same_files_on_a_disk(memory: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = {"small.svs": 9, "one.svs": SAMPLE, "big.ndpi": SIZE, "m.mrxs": 5, "m/Index.dat": 10}
    files |= {"m/Slidedat.ini": 40, **{f"m/Data{i:04}.dat": SIZE // (i + 1) for i in range(20)}}
    files |= {"z.zarr/zarr.json": 77, "z.zarr/0/zarr.json": 7, "z.zarr/é/c/0": 8}
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(random.bytes(size))
    for name, uid in (("1.dcm", b"1.2"), ("2.dcm", b"1.2"), ("3.dcm", b"9.9")):
        dicom(tmp_path / name, uid, name.encode())
    put(memory, tmp_path)
    for name in ("small.svs", "one.svs", "big.ndpi", "m.mrxs", "z.zarr", "1.dcm"):
        there, here = fingerprint(f"memory://prints/{name}"), fingerprint(tmp_path / name)
        assert (there["content"], there["size"]) == (here["content"], here["size"]), name
        assert there["key"] == fingerprint(f"memory://prints/{name}")["key"] != here["key"]
        assert fingerprint(f"memory://prints/{name}", full=True)["key"] != there["key"]
    assert fingerprint(f"file://{tmp_path}/small.svs") == fingerprint(tmp_path / "small.svs")


def test_an_object_that_is_replaced_has_another_key(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/prints/a.svs", b"x" * 50)
    first = fingerprint("memory://prints/a.svs")
    memory.pipe("/prints/a.svs", b"x" * 50)
    second = fingerprint("memory://prints/a.svs")
    assert (second["content"], second["key"] != first["key"]) == (first["content"], True)
    with pytest.raises(UnreadableSlideError, match="no such file"):
        fingerprint("memory://prints/nothing.svs")
