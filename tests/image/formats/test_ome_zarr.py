"""OME-Zarr 0.4 and 0.5, checked by ome-zarr-models, and what can be wrong in one."""

from __future__ import annotations

import json

import numpy as np
import ome_zarr_models
import pytest
import zarr

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image import open_slide

H, W = 97, 113
UNITS = {"z": "micrometer", "y": "micrometer", "x": "micrometer"}


@pytest.fixture
def rgb():
    return np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)


def axis(name: str, unit: str) -> dict:
    kind = {"t": "time", "c": "channel"}.get(name, "space")
    return {"name": name, "type": kind, **({"unit": unit} if kind == "space" else {})}


def write(path, pixels, axes, *, version="0.5", levels=2, mpp=0.25, unit="micrometer", **options):
    """An image whose level k is every 2^k-th pixel of ``pixels``, with ``axes``."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for k in range(levels):
        step = tuple(slice(None, None, 2**k if a in "yx" else 1) for a in axes)
        stored = pixels[step]
        chunks = tuple(
            min(s, 32 if a in "yx" else 1) for a, s in zip(axes, stored.shape, strict=True)
        )
        if version == "0.5":
            options["dimension_names"] = list(axes)
        array = group.create_array(
            str(k), shape=stored.shape, dtype=stored.dtype, chunks=chunks, **options
        )
        array[...] = stored
        scale = [mpp * 2**k if a in "yx" else 1.0 for a in axes]
        datasets.append(
            {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    image = {"axes": [axis(a, unit) for a in axes], "datasets": datasets, "name": "test"}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{**image, "version": version}]
    return group


def whole(path, level=0, **options):
    with open_slide(path, **options) as slide:
        return slide.read_level(level, Box.of_shape(slide.levels[level].shape))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_read_back_and_are_valid(tmp_path, rgb, version):
    path = tmp_path / "a.zarr"
    group = write(path, np.moveaxis(rgb, -1, 0), "cyx", version=version)
    ome_zarr_models.open_ome_zarr(group)  # raises where the metadata are not as specified
    with open_slide(path) as slide:
        assert slide.format == f"ome-zarr (zarr v{3 if version == '0.5' else 2})"
        assert slide.mpp == pytest.approx((0.25, 0.25))
        assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
        assert slide.levels[0].tile == (32, 32)
    assert np.array_equal(whole(path), rgb)
    assert np.array_equal(whole(path, 1), rgb[::2, ::2])


@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx", "zyx", "yxc", "xyc"])
def test_axes_in_any_order(tmp_path, rgb, axes):
    path = tmp_path / "a.zarr"
    source = "yxc" if "c" in axes else "yx"
    pixels = rgb if "c" in axes else rgb[..., 0]
    extra = [a for a in axes if a not in source]
    ordered = pixels.transpose([source.index(a) for a in axes if a in source])
    for a in extra:
        ordered = np.expand_dims(ordered, axes.index(a))
    write(path, ordered, axes, levels=1)
    expected = rgb if "c" in axes else np.repeat(rgb[..., :1], 3, -1)
    assert np.array_equal(whole(path), expected)


def test_planes_and_scenes(tmp_path, rgb):
    path = tmp_path / "a.zarr"
    stack = np.stack([rgb[..., 0] // 2 + k for k in range(5)])
    write(path, stack, "zyx", levels=1)
    with open_slide(path) as slide:
        assert (slide.z, slide.z_count) == (2, 5)
    assert np.array_equal(whole(path)[..., 0], stack[2])
    assert np.array_equal(whole(path, z=0)[..., 0], stack[0])
    with pytest.raises(UnsupportedFormatError, match="z must be 0 to 4"):
        open_slide(path, z=5)
    collection = tmp_path / "b.zarr"
    root = zarr.open_group(collection, mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for name, value in (("0", 10), ("1", 20)):
        write(collection / name, np.full((40, 50), value, np.uint8), "yx", version="0.4", levels=1)
    assert (whole(collection) == 10).all()
    assert (whole(collection, scene=1) == 20).all()
    with pytest.raises(UnsupportedFormatError, match="scene must be 0 to 1"):
        open_slide(collection, scene=2)


@pytest.mark.parametrize(
    ("unit", "mpp", "expected"),
    [("micrometer", 0.5, 0.5), ("nanometer", 500, 0.5), ("millimeter", 0.0005, 0.5),
     ("pixel", 0.5, None), ("micrometer", 1000, None)],
)  # fmt: skip
def test_units(tmp_path, rgb, unit, mpp, expected):
    path = tmp_path / "a.zarr"
    write(path, rgb[..., 0], "yx", levels=1, mpp=mpp, unit=unit)
    with open_slide(path) as slide:
        assert slide.mpp == (None if expected is None else pytest.approx((expected, expected)))


def test_the_scale_of_the_whole_multiplies(tmp_path, rgb):
    path = tmp_path / "a.zarr"
    group = write(path, rgb[..., 0], "yx", levels=1, mpp=1)
    ome = dict(group.attrs["ome"])
    ome["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [0.5, 0.25]}]
    group.attrs["ome"] = ome
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.25))


def test_sixteen_bits_and_channel_colours(tmp_path):
    path = tmp_path / "a.zarr"
    values = np.random.default_rng(2).integers(0, 65536, (2, 40, 50), dtype=np.uint16)
    group = write(path, values, "cyx", levels=1)
    group.attrs["ome"] = {
        **group.attrs["ome"], "omero": {"channels": [{"color": "0000FF"}, {"color": "FF0000"}]},
    }  # fmt: skip
    found = whole(path)
    assert np.array_equal(found[..., 2], values[0] >> 8)
    assert np.array_equal(found[..., 0], values[1] >> 8)


def test_a_missing_chunk_is_its_fill_value_where_one_is_declared(tmp_path, rgb):
    path = tmp_path / "a.zarr"
    write(path, rgb[..., 0], "yx", levels=1, fill_value=200)
    (path / "0" / "c" / "1" / "1").unlink()
    found = whole(path)
    assert (found[32:64, 32:64] == 200).all()
    assert np.array_equal(found[:32, :, 0], rgb[:32, :, 0])


def test_a_missing_chunk_without_fill_value_is_an_error(tmp_path, rgb):
    path = tmp_path / "a.zarr"
    write(path, rgb[..., 0], "yx", version="0.4", levels=1)
    about = json.loads((path / "0" / ".zarray").read_text())
    about["fill_value"] = None
    (path / "0" / ".zarray").write_text(json.dumps(about))
    assert np.array_equal(whole(path)[..., 0], rgb[..., 0])
    next(p for p in (path / "0").iterdir() if p.name in ("1.1", "1")).unlink()
    with pytest.raises(UnreadableSlideError, match=r"chunk 1.1 is missing"):
        whole(path)


def test_a_damaged_chunk_names_its_place(tmp_path, rgb):
    path = tmp_path / "a.zarr"
    write(path, rgb[..., 0], "yx", levels=1)
    (path / "0" / "c" / "1" / "2").write_bytes(b"not zstd")
    with open_slide(path) as slide:
        assert slide.read_level(0, Box((0, 0), (32, 32))).shape == (32, 32, 3)
        with pytest.raises(UnreadableSlideError, match=r"level 0, .*tile at y 32, x 64"):
            slide.read_level(0, Box((40, 70), (50, 80)))
        slide.close()
        with pytest.raises(UnreadableSlideError, match="closed"):
            slide.read_level(0, Box((64, 0), (70, 8)))


def test_metadata_that_cannot_be_are_refused(tmp_path, rgb):
    path = tmp_path / "a.zarr"

    def broken(change) -> None:
        group = write(path, rgb[..., 0], "yx", levels=1)
        ome = json.loads(json.dumps(dict(group.attrs["ome"])))
        change(ome)
        group.attrs["ome"] = ome

    def multiscale(ome, **changes):
        ome["multiscales"][0].update(changes)

    cases = [
        (lambda o: o.pop("multiscales"), "no OME-Zarr multiscales"),
        (lambda o: multiscale(o, datasets=[]), "name no datasets"),
        (lambda o: multiscale(o, datasets=[{"path": "7"}]), "dataset '7' cannot be opened"),
        (lambda o: multiscale(o, axes=["y", "q"]), "axes"),
        (lambda o: multiscale(o, axes=["c", "y", "x"]), "2 axes"),
        (lambda o: o.update(plate={}), "plate"),
    ]
    for change, words in cases:
        broken(change)
        with pytest.raises(UnreadableSlideError, match=words):
            open_slide(path)
    (path / "zarr.json").write_text("{not json")
    with pytest.raises(UnreadableSlideError, match=r"a\.zarr"):
        open_slide(path)


def test_types_and_sizes_without_a_rule_are_refused_at_once(tmp_path):
    path = tmp_path / "a.zarr"
    write(path, np.zeros((40, 50), np.int16), "yx", levels=1)
    with pytest.raises(UnsupportedFormatError, match="int16"):
        open_slide(path)
    group = write(path, np.zeros((40, 50), np.uint8), "yx", levels=1)
    about = json.loads((path / "0" / "zarr.json").read_text())
    about["shape"] = [2**31, 2**31]
    (path / "0" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(UnsupportedFormatError, match="at most"):
        open_slide(path)
    about["shape"] = [2**17, 2**17]
    about["chunk_grid"]["configuration"]["chunk_shape"] = [2**16, 2**16]
    (path / "0" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(UnsupportedFormatError, match="at most"):
        open_slide(path)
    assert group.attrs["ome"]
