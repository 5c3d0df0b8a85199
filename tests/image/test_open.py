"""Opening: every real file by a table, and everything that is not a slide by a typed error."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsiseg.errors import (
    MissingSpacingError,
    UnreadableSlideError,
    UnsupportedFormatError,
    WsisegError,
)
from wsiseg.geometry import Box
from wsiseg.image import open_slide
from wsiseg.image.level import Contents, Level

# file, format, shape, levels, mpp (y, x) or None
SLIDES = [
    ("cmu-1-small-region.svs", "aperio", (2967, 2220), 1, (0.499, 0.499)),
    ("tcga-cr-7395-01a-01-ts1.svs", "aperio", (3567, 4443), 2, None),
    (
        "TCGA-V5-A7RE-11A_stitched_40x.ome.tif", "ome-tiff", (10624, 14464), 5,
        (0.2485, 0.2485),
    ),
    ("test3-DAPI-2-387.ndpi", "hamamatsu", (4864, 3968), 7, (0.228175, 0.228175)),
    ("small_dicom.dcm", "dicom (pydicom)", (2638, 3236), 1, (15e3 / 2638, 15e3 / 3236)),
    ("OS-2-ndpi.ome.tif", "ome-tiff", (2202, 2202), 1, (0.2271, 0.2271)),
    ("yb10kx5k.zstd.tiff", "tiff (generic)", (5000, 10000), 5, None),
    ("grey10kx5k.tif", "tiff (uniform)", (5000, 10000), 1, None),
    ("kidney-48-5.tif", "tiff (uniform)", (901, 1493), 1, None),
    ("odd/boxes.tiff", "tiff (generic)", (250, 300), 4, None),
    ("odd/boxes_0.dcm", "dicom", (16, 16), 1, (0.499, 0.499)),
    ("odd/boxes_1.dcm", "dicom", (16, 16), 1, (0.499, 0.499)),
    ("odd/small.svs", "aperio", (16, 16), 1, (0.499, 0.499)),
    ("odd/😐.svs", "aperio", (16, 16), 1, (0.499, 0.499)),
    *(
        (f"odd/test_orient{k}.tif", "tiff (generic)", (180, 120) if k < 5 else (120, 180), 3, None)
        for k in range(9)
    ),
    ("tiles/almost-white-1.png", "png", (512, 512), 1, None),
    ("tiles/almost-white-2.png", "png", (512, 512), 1, None),
    ("tiles/almost-white-ihc.png", "png", (50, 30), 1, None),
    ("tiles/high-nuclei-score-red-pen-level1.png", "png", (512, 512), 1, None),
    ("tiles/medium-nuclei-score-green-pen-level1.png", "png", (512, 512), 1, None),
    ("tiles/no-tissue-green-pen.png", "png", (512, 512), 1, None),
    ("tiles/no-tissue-line.png", "png", (512, 512), 1, None),
    ("tiles/no-tissue-red-pen.png", "png", (512, 512), 1, None),
    ("tiles/no-tissue.png", "png", (512, 512), 1, None),
    ("tiles/no-tissue2.png", "png", (512, 512), 1, None),
    ("tiles/tcga-green-pen.png", "png", (631, 754), 1, None),
    ("tiles/tcga-red-pen.png", "png", (448, 471), 1, None),
    ("tiles/very-low-nuclei-score-red-pen-level1.png", "png", (512, 512), 1, None),
    ("tiles/wsi-blue-pen.png", "png", (133, 174), 1, None),
]  # fmt: skip
BROKEN = {
    "broken.svs": (UnsupportedFormatError, "no reader knows"),
    "notanimage.txt": (UnsupportedFormatError, "no reader knows"),
    "unopenable.tiff": (UnsupportedFormatError, "compression 52479"),
    "zero_gi.tif": (UnreadableSlideError, "no pixels"),
}


@pytest.mark.data
@pytest.mark.parametrize(("name", "kind", "shape", "levels", "mpp"), SLIDES)
def test_every_real_file_opens_and_reads(slides, name, kind, shape, levels, mpp):
    with open_slide(slides / name) as slide:
        assert slide.format == kind
        assert slide.levels[0].shape == shape
        assert len(slide.levels) == levels
        assert slide.levels[0].downsample == (1.0, 1.0)
        if mpp is None:
            assert slide.mpp is None
            assert slide.mpp_problem
            with pytest.raises(MissingSpacingError, match="--mpp"):
                slide.at(0.5)
        else:
            assert slide.mpp == pytest.approx(mpp, rel=1e-4)
        centre = Box.of_shape(shape).intersect(Box((0, 0), (40, 30))).shift([shape[0] // 2, 0])
        for level in range(levels):
            pixels = slide.read_level(level, centre)
            assert pixels.shape == (*centre.shape, 3)
            assert pixels.dtype == np.uint8
        assert max(slide.thumbnail(64).shape) <= 64
        for image in slide.associated.values():
            assert image.ndim == 3


@pytest.mark.data
def test_the_table_names_every_real_file(slides):
    on_disk = {
        str(p.relative_to(slides))
        for folder in (".", "odd", "tiles")
        for p in (slides / folder).iterdir()
        if p.is_file()
    }
    assert on_disk == {row[0] for row in SLIDES}
    broken = {p.name for p in (slides / "broken").iterdir()}
    assert broken == {*BROKEN, "unreadable.svs"}


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_files_give_a_typed_error_at_once(slides, name):
    kind, words = BROKEN[name]
    found = _in_a_process(slides / "broken" / name)
    assert found.startswith(f"{kind.__name__}|open|")
    assert words in found
    assert name in found


@pytest.mark.data
def test_an_unreadable_tile_gives_a_typed_error_on_the_first_read(slides):
    found = _in_a_process(slides / "broken" / "unreadable.svs")
    assert found.startswith("UnreadableSlideError|read|")
    assert "unreadable.svs: level 0, y 0:16, x 0:16: the tile at y 0, x 0" in found


def _in_a_process(path: Path, seconds: float = 60) -> str:
    """``error class|open or read|message`` from a process that is killed if it hangs."""
    code = (
        "import sys\n"
        "from wsiseg.errors import WsisegError\n"
        "from wsiseg.geometry import Box\n"
        "from wsiseg.image import open_slide\n"
        "step = 'open'\n"
        "try:\n"
        "    slide = open_slide(sys.argv[1])\n"
        "    step = 'read'\n"
        "    slide.read_level(0, Box.of_shape([min(s, 512) for s in slide.levels[0].shape]))\n"
        "    print('no error|', step)\n"
        "except WsisegError as error:\n"
        "    print(type(error).__name__, step, error, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True, text=True, timeout=seconds, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_what_is_not_a_file_is_refused_by_name(tmp_path):
    pipe, folder, empty, text = (tmp_path / n for n in ("pipe", "folder.svs", "empty.svs", "a.svs"))
    os.mkfifo(pipe)
    folder.mkdir()
    empty.touch()
    text.write_text("patient,slide\n")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    cases = {
        pipe: (UnsupportedFormatError, "pipe"),
        Path("/dev/null"): (UnsupportedFormatError, "device"),
        tmp_path / "socket": (UnsupportedFormatError, "socket"),
        folder: (UnsupportedFormatError, "folder that is not a zarr"),
        empty: (UnreadableSlideError, "0 bytes"),
        text: (UnsupportedFormatError, "no reader knows"),
        tmp_path / "absent.svs": (UnreadableSlideError, "no such file"),
        tmp_path / "nul\0.svs": (UnreadableSlideError, "cannot be opened"),
    }
    for path, (kind, words) in cases.items():
        with pytest.raises(kind, match=words):
            open_slide(path)
    server.close()


def test_names_of_any_kind_open(tmp_path):
    pixels = np.full((20, 30, 3), 77, dtype=np.uint8)
    for name in ("ü ñ 漢字 😐.tif", "new\nline.tif", "x" * 250 + ".tif", "no suffix"):
        tifffile.imwrite(tmp_path / name, pixels, tile=(16, 16))
        with open_slide(tmp_path / name) as slide:
            assert np.array_equal(slide.read_level(0, Box.of_shape((20, 30))), pixels)
    (tmp_path / "link.svs").symlink_to(tmp_path / "no suffix")
    with open_slide(str(tmp_path / "link.svs")) as slide:
        assert slide.levels[0].shape == (20, 30)


def test_content_decides_and_not_the_suffix(tmp_path):
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    tifffile.imwrite(tmp_path / "image.png", pixels)
    with open_slide(tmp_path / "image.png") as slide:
        assert slide.format.startswith("tiff")


@pytest.mark.parametrize(
    "bad", [0, -1, 0.049, 20.1, 1e9, float("nan"), float("inf"), "x", (1, 2, 3)]
)
def test_a_given_mpp_is_checked(bad):
    with pytest.raises(MissingSpacingError, match="mpp"):
        open_slide(np.zeros((4, 4), np.uint8), mpp=bad)


@pytest.mark.data
def test_a_given_mpp_goes_first_and_is_recorded(slides):
    with open_slide(slides / "cmu-1-small-region.svs", mpp=(0.25, 0.26)) as slide:
        assert slide.mpp == (0.25, 0.26)
        assert slide.mpp_source == "given"
        assert slide.mpp_reported == pytest.approx((0.499, 0.499))
        assert slide.space.spacing == (0.25, 0.26)


@pytest.mark.data
def test_a_slide_travels_by_reference(slides):
    with open_slide(slides / "cmu-1-small-region.svs", mpp=0.25) as slide:
        data = pickle.dumps(slide)
        assert len(data) < 500
        first, second = pickle.loads(data), pickle.loads(data)
        assert first is second, "a worker opens a slide once"
        assert first.mpp == (0.25, 0.25)
        box = Box((1000, 1000), (1050, 1050))
        assert np.array_equal(first.read_level(0, box), slide.read_level(0, box))


def test_a_slide_that_was_replaced_is_opened_anew(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8))
    data = pickle.dumps(open_slide(path))
    assert pickle.loads(data).levels[0].shape == (8, 8)
    tifffile.imwrite(path, np.zeros((9, 8, 3), np.uint8))
    assert pickle.loads(data).levels[0].shape == (9, 8)


def test_a_circle_of_directories_is_refused(tmp_path):
    path = tmp_path / "loop.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path.write_bytes(data)
    found = _in_a_process(path)
    assert found.startswith("UnreadableSlideError|open|")
    assert "circle" in found


@pytest.mark.parametrize("compression", ["deflate", None])
def test_a_claim_of_huge_size_is_refused_before_allocation(tmp_path, compression):
    path = tmp_path / "bomb.tif"
    tile = (16, 16) if compression else None
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), tile=tile, compression=compression)
    data = bytearray(path.read_bytes())
    for tag, value in ((256, 2**31 - 1), (257, 2**31 - 1)):
        _set_tag(data, tag, value)
    path.write_bytes(data)
    assert path.stat().st_size < 10_000
    found = _in_a_process(path)
    assert found.startswith(("UnsupportedFormatError|open|", "UnreadableSlideError|open|"))


def test_a_png_bomb_is_refused_before_it_is_decoded(tmp_path):
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + tail

    side = 100_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20))
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    with pytest.raises(UnsupportedFormatError, match="tiled TIFF"):
        open_slide(path)


@pytest.mark.data
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "OS-2-ndpi.ome.tif", "small_dicom.dcm"])
def test_a_file_cut_short_fails_by_name(slides, tmp_path, name, keep):
    data = (slides / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UnreadableSlideError, match=name), open_slide(path) as slide:
        slide.read_level(0, Box.of_shape(slide.levels[0].shape))


@pytest.mark.data
@pytest.mark.parametrize("name", ["odd/boxes.tiff", "odd/small.svs", "odd/boxes_0.dcm"])
def test_flipped_bits_give_pixels_or_a_typed_error(slides, tmp_path, name):
    raw = (slides / name).read_bytes()
    path = tmp_path / Path(name).name
    outcomes = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(raw, np.uint8).copy()
        where = rng.integers(0, min(len(data), 3000), rng.choice([1, 10, 100]))
        data[where] ^= np.uint8(1) << rng.integers(0, 8, len(where)).astype(np.uint8)
        path.write_bytes(data.tobytes())
        try:
            with open_slide(path) as slide:
                for k, level in enumerate(slide.levels):
                    slide.read_level(k, Box.of_shape([min(300, s) for s in level.shape]))
            outcomes.append("pixels")
        except WsisegError:
            outcomes.append("error")
    assert len(outcomes) == 40
    assert outcomes.count("error") > 5, "the flips reach what is read"


def _set_tag(data: bytearray, tag: int, value: int) -> None:
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    for k in range(count):
        at = first + 2 + 12 * k
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<HII", data, at + 2, 4, 1, value)
            return
    raise AssertionError(f"no tag {tag}")


def test_an_mrxs_file_without_its_folder_says_so(tmp_path):
    path = tmp_path / "slide.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    with pytest.raises(UnsupportedFormatError, match="folder of the same name"):
        open_slide(path)


def test_a_reader_can_be_added_by_an_entry_point(tmp_path, monkeypatch):
    module = import_module("wsiseg.image.open")

    class Point:
        def load(self):
            return module.Format("mine", lambda path, head: head[:4] == b"MINE", mine)

    def mine(path, scene, z):
        level = Level((5, 7), (1.0, 1.0), lambda box: np.zeros((*box.shape, 3), np.uint8))
        return Contents("mine", (level,), mpp=(0.3, 0.3))

    monkeypatch.setattr(module, "entry_points", lambda group: [Point()])
    path = tmp_path / "a.mine"
    path.write_bytes(b"MINE")
    with open_slide(path) as slide:
        assert (slide.format, slide.mpp) == ("mine", (0.3, 0.3))
    path.write_bytes(b"ELSE")
    with pytest.raises(UnsupportedFormatError):
        open_slide(path)


def test_a_relative_path_travels_to_another_folder(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(open_slide("a.tif"))
    monkeypatch.chdir("/")
    assert pickle.loads(data).levels[0].shape == (8, 8)
