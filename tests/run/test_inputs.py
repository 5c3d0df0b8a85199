"""Inputs of an evaluation: what is read is what was written, and what is none is said to be."""

import gzip
import json

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from wsiseg.cells.layer import CellBatch, uuids_from
from wsiseg.errors import InputFileError
from wsiseg.export.write import write
from wsiseg.image.labels import read_labels
from wsiseg.run.inputs import Polygons, read_objects

LABELS = np.random.default_rng(0).integers(0, 40, (97, 101))


def save(path, labels):
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".png":
        Image.fromarray(labels).save(path)
    else:
        tifffile.imwrite(path, labels)
    return path


def features(*items):
    return {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": shapely.geometry.mapping(geometry), "properties": p}
            for geometry, p in items
        ],
    }


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", np.uint8),
        ("a.png", np.uint16),
        ("A.PNG", np.uint8),
        ("a.npy", np.int64),
        ("a.npy", np.uint64),
        ("a.tif", np.uint16),
        ("a.tiff", np.uint32),
        ("a.tif", np.int32),
    ],
)
def test_label_files_are_read_as_written(tmp_path, name, dtype):
    labels = LABELS.astype(dtype)
    found = read_objects(
        save((tmp_path / name).with_suffix((tmp_path / name).suffix.lower()), labels)
    )
    assert found.dtype == dtype
    assert np.array_equal(found, labels)


def test_large_ids_survive_16_bits(tmp_path):
    labels = np.array([[0, 65535], [256, 1]], np.uint16)
    assert read_labels(save(tmp_path / "a.png", labels)).tolist() == labels.tolist()


def test_palette_images_give_their_indices(tmp_path):
    image = Image.fromarray(LABELS.astype(np.uint8), "L").convert("P")
    image.putdata(LABELS.ravel().tolist())
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), LABELS)


def test_volumes_are_read(tmp_path):
    labels = np.random.default_rng(1).integers(0, 9, (5, 17, 13)).astype(np.uint16)
    for name in ("a.tif", "a.npy"):
        assert np.array_equal(read_labels(save(tmp_path / name, labels)), labels)


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_whole_numbers_may_be_stored_as_floats(tmp_path, name):
    found = read_labels(save(tmp_path / name, LABELS.astype("f4")))
    assert found.dtype == np.int64
    assert np.array_equal(found, LABELS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_refused(tmp_path, value):
    with pytest.raises(InputFileError, match="fractions"):
        read_labels(save(tmp_path / "a.npy", np.full((4, 4), value)))


def rgb(tmp_path, name):
    return save(tmp_path / name, np.zeros((8, 9, 3), np.uint8))


def broken(tmp_path, name):
    path = save(tmp_path / name, LABELS.astype(np.uint16))
    path.write_bytes(path.read_bytes()[:300])
    return path


def nonsense(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is not an image")
    return tmp_path / name


def looping(tmp_path, name):
    path = save(tmp_path / name, LABELS.astype(np.uint16))
    raw = bytearray(path.read_bytes())
    first = int.from_bytes(raw[4:8], "little")
    count = int.from_bytes(raw[first : first + 2], "little")
    at = first + 2 + 12 * count
    raw[at : at + 4] = raw[4:8]  # the next directory is the first
    path.write_bytes(raw)
    return path


def pickled(tmp_path, name):
    np.save(tmp_path / name, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return tmp_path / name


REFUSED = {
    "missing": (lambda p, n: p / n, "x.png", "does not exist"),
    "folder": (lambda p, n: p, "", "is a folder"),
    "unknown kind": (nonsense, "x.jpg", "another kind of file"),
    "rgb png": (rgb, "x.png", "colour image"),
    "rgb npy": (rgb, "x.npy", "RGB"),
    "rgb tif": (rgb, "x.tif", "colour image"),
    "cut png": (broken, "x.png", "not a readable label image"),
    "cut npy": (broken, "x.npy", "not a readable label image"),
    "cut tif": (broken, "x.tif", "not a readable label image"),
    "no png": (nonsense, "x.png", "not a readable label image"),
    "no npy": (nonsense, "x.npy", "not a readable label image"),
    "no tif": (nonsense, "x.tif", "not a readable label image"),
    "no geojson": (nonsense, "x.geojson", "x.geojson"),
    "no gzip": (nonsense, "x.geojson.gz", "x.geojson.gz"),
    "no parquet": (nonsense, "x.parquet", "Parquet"),
    "empty png": (lambda p, n: (p / n, (p / n).touch())[0], "x.png", "not a readable label image"),
    "circular tif": (looping, "x.tif", "circle"),
    "pickle": (pickled, "x.npy", "Python objects"),
    "float npy": (lambda p, n: save(p / n, np.full((4, 4), 0.5)), "x.npy", "float64"),
    "float tif": (lambda p, n: save(p / n, np.full((4, 4), 0.5, "f4")), "x.tif", "float32"),
    "bool npy": (lambda p, n: save(p / n, np.zeros((4, 4), bool)), "x.npy", "bool"),
    "bit png": (lambda p, n: save(p / n, np.zeros((4, 4), bool)), "x.png", "mask of one bit"),
    "negative": (lambda p, n: save(p / n, np.array([[0, -7]])), "x.npy", "the id -7"),
    "one axis": (lambda p, n: save(p / n, np.zeros(4, int)), "x.npy", r"shape \(4,\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_layer_of_objects_is_refused(tmp_path, case):
    make, name, message = REFUSED[case]
    with pytest.raises(InputFileError, match=message):
        read_objects(make(tmp_path, name))


def test_two_images_in_a_tiff_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.zeros((5, 5), np.uint8), metadata=None)
        file.write(np.zeros((7, 5), np.uint8), metadata=None)
    with pytest.raises(InputFileError, match="2 images"):
        read_labels(tmp_path / "x.tif")


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a.geojson.gz"])
def test_geojson_gives_polygons_and_classes(tmp_path, name):
    detection = {"objectType": "detection"}
    text = json.dumps(
        features(
            (shapely.box(0, 0, 4, 3), detection | {"classification": {"name": "Tumor"}}),
            (shapely.box(5, 5, 6, 6), detection),
        )
    ).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found = read_objects(path)
    assert isinstance(found, Polygons)
    assert shapely.area(found.geometry).tolist() == [12, 1]
    assert found.class_name.tolist() == ["tumor", None]  # as names are compared


def batch(geometry, classes=(), index=None):
    geometry = np.array(geometry, dtype=object)
    index = np.full(len(geometry), -1) if index is None else np.array(index)
    return CellBatch(uuids_from(geometry, 0), geometry, index.astype(np.int32), tuple(classes))


def test_parquet_gives_polygons_and_classes(tmp_path):
    cells = batch([shapely.box(0, 0, 2, 2), shapely.box(3, 0, 5, 4)], ("a", "b"), [1, 0])
    write([cells], tmp_path / "cells.parquet")
    found = read_objects(tmp_path / "cells.parquet")
    assert shapely.area(found.geometry).tolist() == [4, 8]
    assert found.class_name.tolist() == ["b", "a"]


def test_no_cells_are_no_polygons(tmp_path):
    for name in ("none.parquet", "none.geojson.gz"):
        write([], tmp_path / name)
        found = read_objects(tmp_path / name)
        assert (len(found.geometry), len(found.class_name), found.left_out) == (0, 0, 0)


def test_outlines_in_parquet_are_repaired_or_counted_out(tmp_path):
    import geopandas

    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    geometry = [bow, shapely.Point(1, 1), None, shapely.Polygon(), shapely.box(0, 0, 1, 1)]
    ids = [str(i) for i in range(5)]
    geopandas.GeoDataFrame({"id": ids}, geometry=geometry).to_parquet(tmp_path / "a.parquet")
    found = read_objects(tmp_path / "a.parquet")
    assert shapely.area(found.geometry).tolist() == [2, 1]
    assert found.left_out == 3
