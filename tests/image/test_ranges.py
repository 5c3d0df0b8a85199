"""Slides at URLs: the same pixels as on a disk, for less than the whole file where it can be."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsiseg.engine.fingerprint import fingerprint
from wsiseg.errors import (
    OutputError,
    SettingsError,
    UnreadableSlideError,
    UnsupportedFormatError,
    WsisegError,
)
from wsiseg.geometry import Box
from wsiseg.image import open_slide
from wsiseg.image.slide import Slide
from wsiseg.storage import remote, staging
from wsiseg.storage.staging import Staging

H, W = 997, 1013
URL = "memory://ranges"

Fetched = Callable[[], int]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Puts a file or folder into a store; gives its URL."""
    monkeypatch.setenv("WSISEG_STAGING", str(tmp_path / "staging"))
    memory = fsspec.filesystem("memory")

    def copied(path: Path) -> str:
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        for file in files:
            memory.pipe(f"/ranges/{file.relative_to(path.parent).as_posix()}", file.read_bytes())
        return f"{URL}/{path.name}"

    yield copied
    if memory.exists("/ranges"):
        memory.rm("/ranges", recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """How many bytes were read of files in the store by ranges."""
    made: list[remote.Ranges] = []
    start = remote.Ranges.__init__

    def init(self: remote.Ranges, path: remote.UrlPath) -> None:
        start(self, path)
        made.append(self)

    monkeypatch.setattr(remote.Ranges, "__init__", init)
    return lambda: sum(ranges.count for ranges in made)


def pixels(slide: Slide, box: Box, level: int = 0) -> Any:
    try:
        return slide.read_level(level, box)
    except WsisegError as error:  # of a damaged tile: the same on both sides
        return type(error).__name__


def same(path: Path, url: str, **options: Any) -> str:
    """Nothing that decides cells differs between a file and its copy in the store."""
    with open_slide(path, **options) as here, open_slide(url, **options) as there:
        facts = [
            (s.format, s.mpp, s.mpp_note, s.objective, s.scenes, s.z_count) for s in (here, there)
        ]
        assert facts[0] == facts[1]
        assert [(k.shape, k.downsample, k.tile, k.holes) for k in here.levels] == [
            (k.shape, k.downsample, k.tile, k.holes) for k in there.levels
        ]
        again = pickle.loads(pickle.dumps(there))
        for k, level in enumerate(here.levels):
            middle = Box(
                tuple(s // 3 for s in level.shape), tuple(s // 3 + 150 for s in level.shape)
            )
            for box in (middle, Box((0, 0), (40, 60))):
                for slide in (there, again):
                    assert np.array_equal(pixels(here, box, k), pixels(slide, box, k))
        assert fingerprint(url)["content"] == fingerprint(path)["content"]
        return there.format


def noise(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pyramid(path: Path, *, big: bool, order: str, sub: bool, description: str | None) -> None:
    """A tiled TIFF of two levels, in SubIFDs or one after the other."""
    rgb = noise((H, W, 3))
    how = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg"}
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as tiff:
        told = {"description": description, "metadata": None} if description else {}
        tiff.write(rgb, subifds=int(sub), **how, **told)
        is_svs = (description or "").startswith("Aperio") and not sub
        if is_svs:
            tiff.write(rgb[::9, ::9], **told)  # a thumbnail is what comes second
        tiff.write(rgb[::2, ::2], subfiletype=int(not is_svs), **how, **told)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=16)
@given(
    big=st.booleans(),
    order=st.sampled_from("<>"),
    sub=st.booleans(),
    description=st.sampled_from([None, "Aperio Image|MPP = 0.25|AppMag = 40", "x" * 90_000]),
)
def test_every_layout_of_a_tiff_is_read_by_ranges(
    big: bool,
    order: Any,
    sub: bool,
    description: str | None,
    put: Any,
    fetched: Any,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, big=big, order=order, sub=sub, description=description)
    url, before = put(path), fetched()
    staging = tmp_path / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    found = same(path, url)
    if not (description or "").startswith("Aperio"):
        assert found.startswith("tiff")
        assert not staging.exists()
    elif order == "<":
        assert found == "aperio"
        assert not staging.exists()
    assert fetched() > before


def test_opening_and_a_region_take_a_small_part_of_the_file(
    put: Any, fetched: Fetched, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    pixels = noise((4000, 4100, 3))
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", bigtiff=True)
    with open_slide(put(path)) as slide:
        assert fetched() < 400_000
        assert np.array_equal(slide.read_level(0, Box((9, 9), (300, 300))), pixels[9:300, 9:300])
    assert fetched() < 400_000 + 4 * 256 * 256 * 3 < path.stat().st_size / 30


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_is_read_chunk_by_chunk(version: Any, put: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=version)
    rgb = noise((3, 97, 113))
    chunks = {"chunks": (1, 32, 32), "shape": rgb.shape, "dtype": rgb.dtype, "fill_value": 7}
    group.create_array("0", **chunks)[:, :64] = rgb[:, :64]
    scale = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "cyx"]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs.update(
        {"multiscales": [image]} if version == 2 else {"ome": {"multiscales": [image]}}
    )
    assert same(path, put(path)) == f"ome-zarr (zarr v{version})"
    with pytest.raises(UnsupportedFormatError, match="not a zarr"):
        open_slide(URL)


def test_a_chunk_that_does_not_come_is_not_taken_for_background(
    put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    how = {"shape": (64, 64), "dtype": "uint8", "fill_value": 0, "chunks": (32, 32)}
    group.create_array("0", **how)[...] = noise((64, 64))
    axes = [{"name": n, "type": "space"} for n in "yx"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    url, box = put(path), Box((0, 0), (64, 64))
    with open_slide(url) as slide:
        for error, number in ((PermissionError, errno.EACCES), (RuntimeError, errno.EIO)):

            def refused(*_: object, error: type[Exception] = error, **__: object) -> None:
                raise error("SECRET")

            monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", refused)
            with pytest.raises(UnreadableSlideError) as caught:
                slide.read_level(0, box)
            cause = caught.value.__cause__
            assert cause is not None
            assert isinstance(cause.__cause__, OSError)
            assert (cause.__cause__.errno, "SECRET" in str(caught.value)) == (number, False)
            monkeypatch.undo()
        assert np.array_equal(slide.read_level(0, box), open_slide(path).read_level(0, box))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "staged"),
    [
        ("cmu-1-small-region.svs", False),
        ("tcga-cr-7395-01a-01-ts1.svs", False),
        ("OS-2-ndpi.ome.tif", False),
        ("yb10kx5k.zstd.tiff", False),
        ("odd/test_orient6.tif", False),
        ("test3-DAPI-2-387.ndpi", True),
        ("small_dicom.dcm", True),
        ("tiles/no-tissue.png", True),
    ],
)
def test_real_slides_are_the_same(
    name: str, staged: bool, slides: Path, put: Any, fetched: Fetched, tmp_path: Path
) -> None:
    same(slides / name, put(slides / name))
    assert (tmp_path / "staging").exists() == staged


def jpeg_2000(path: Path) -> None:
    """An Aperio file whose compression only OpenSlide reads."""
    pixels = noise((100, 120, 3))
    tifffile.imwrite(
        *(path, pixels), tile=(64, 64), photometric="rgb", compression="jpeg2000", metadata=None,
        description="Aperio Image|MPP = 0.25",
    )  # fmt: skip


def test_what_openslide_would_read_is_copied_first(put: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    jpeg_2000(path)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags[259].valueoffset
    data[at : at + 2] = (33003).to_bytes(2, "little")  # Aperio's YCbCr JPEG 2000
    path.write_bytes(data)
    assert same(path, put(path)) == "aperio"
    assert (tmp_path / "staging").exists()


def test_slides_of_a_disk_are_copied_when_asked(tmp_path: Path) -> None:
    path, staging = tmp_path / "a.tif", Staging.of(tmp_path / "cache", 10 << 20)
    tifffile.imwrite(path, noise((200, 300, 3)), tile=(64, 64), photometric="rgb")
    with open_slide(path, staging=staging) as slide, open_slide(path) as plain:
        assert slide.uri == str(path)
        (copy,) = (tmp_path / "cache").glob("*/data/a.tif")
        assert copy.read_bytes() == path.read_bytes()
        box = Box((0, 0), (200, 300))
        assert np.array_equal(slide.read_level(0, box), plain.read_level(0, box))
        assert np.array_equal(
            pickle.loads(pickle.dumps(slide)).read_level(0, box), plain.read_level(0, box)
        )
    with pytest.raises(SettingsError, match="staging_bytes"):
        open_slide(path, staging=Staging.of(tmp_path / "cache", 1000))


def test_slides_that_a_worker_keeps_open_make_room_for_others(tmp_path: Path) -> None:
    staging, told = Staging.of(tmp_path / "cache", 400_000), []
    for number in range(4):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, noise((200, 300, 3), number), tile=(64, 64), photometric="rgb")
        with open_slide(path, staging=staging) as slide:
            told.append(pickle.dumps(slide))
    found = [pickle.loads(data).read_level(0, Box((0, 0), (200, 300))) for data in told]
    assert all(np.array_equal(px, noise((200, 300, 3), k)) for k, px in enumerate(found))
    assert len(list((tmp_path / "cache").glob("*/data"))) == 1


def test_a_slide_that_was_replaced_does_not_open_again(put: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((200, 300, 3)), tile=(64, 64), photometric="rgb")
    with open_slide(put(path)) as slide:
        told = pickle.dumps(slide)
    tifffile.imwrite(path, noise((200, 300, 3), 1), tile=(64, 64), photometric="rgb")
    put(path)
    with pytest.raises(UnreadableSlideError, match="replaced"):
        pickle.loads(told)


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_replaced_while_it_is_copied_is_not_mixed_up(
    remote: bool, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise((50, 60, 3))).save(path)
    where, real = put(path) if remote else path, staging._fill

    def filled(*args: Any) -> None:
        real(*args)
        monkeypatch.undo()
        Image.fromarray(noise((50, 60, 3), 1)).save(path)
        if remote:
            put(path)

    monkeypatch.setattr(staging, "_fill", filled)
    cache = Staging.of(tmp_path / "cache", 10 << 20)
    if remote:
        with pytest.raises(UnreadableSlideError, match="replaced") as caught:
            open_slide(where, staging=cache)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ESTALE
    with open_slide(where, staging=cache) as slide:
        assert np.array_equal(slide.read_level(0, Box((0, 0), (50, 60))), noise((50, 60, 3), 1))


def test_slides_of_one_name_in_two_folders_have_two_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Staging.of(tmp_path / "cache", 10 << 20)
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "s.tif"
        tifffile.imwrite(path, noise((50, 60, 3), number), photometric="rgb")
        os.utime(path, (1e9, 1e9))
        monkeypatch.chdir(path.parent)
        with open_slide("s.tif", staging=cache) as slide:
            found = slide.read_level(0, Box((0, 0), (50, 60)))
        assert np.array_equal(found, noise((50, 60, 3), number))


def test_no_room_for_a_skeleton_is_no_fault_of_the_slide(
    put: Any, disk_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((900, 900, 3)), tile=(64, 64), photometric="rgb")
    url = put(path)
    for folder in (disk_of(16), tmp_path / "nowhere"):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with pytest.raises(OutputError, match="TMPDIR") as caught:
            open_slide(url)
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(tempfile, "tempdir", None)
    open_slide(url).close()


@pytest.mark.parametrize("name", ["nothing.svs", "empty.svs", "text.svs", "cut.tif", "loop.tif"])
def test_what_is_no_slide_is_the_same_error(name: str, put: Any, tmp_path: Path) -> None:
    path, data = tmp_path / name, io.BytesIO()
    tifffile.imwrite(data, noise((200, 300, 3)), tile=(64, 64), photometric="rgb")
    whole = bytearray(data.getvalue())
    loop, end = whole[:], 10 + 12 * int.from_bytes(whole[8:10], "little")
    loop[end : end + 4] = (8).to_bytes(4, "little")
    contents = {"empty.svs": b"", "text.svs": b"hello", "cut.tif": bytes(whole[:900])}
    if name != "nothing.svs":
        path.write_bytes(contents.get(name, bytes(loop)))
        put(path)
    found = []
    for where in (str(path), f"{URL}/{name}"):
        with pytest.raises(UnreadableSlideError) as caught:
            open_slide(where).read_level(0, Box((0, 0), (200, 300)))
        found.append((type(caught.value), str(caught.value).replace(where, "")[:40]))
    assert found[0] == found[1]
