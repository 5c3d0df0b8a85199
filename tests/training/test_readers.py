"""Each layout gives the same nuclei; what is wrong with a file ends in an error that names it."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from wsiseg.errors import InputFileError, SettingsError, UnreadableSlideError
from wsiseg.synth.scenes import scene
from wsiseg.training.dataset import read_annotations, read_dataset, read_noted
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.classes import ClassMap
from wsiseg.training.readers.drawn import MARGIN
from wsiseg.training.readers.paint import paint

SHAPE = (131, 97)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def truth(rng: np.random.Generator) -> NDArray[np.int32]:
    return scene(SHAPE, 9, rng, extent=(8, 24), kinds=["ellipsoid"])


def png(path: Path, array: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def text(path: Path, lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    return path


def manifest(root: Path, truth: NDArray[np.int32], rng: np.random.Generator) -> Path:
    for name in "ab":
        png(root / f"x/{name}.png", picture(rng))
        png(root / f"x/{name}_labels.png", truth.astype(np.uint16))
    rows = "x/a.png,x/a_labels.png,s,train,0.25,p1\nx/b.png,x/b_labels.png,t,val,,p2\n"
    return text(root / "manifest.csv", "image,labels,set,split,mpp,case\n" + rows)


def test_a_manifest_gives_labels_set_split_case_and_spacing(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    manifest(tmp_path, truth, rng)
    text(tmp_path / "x/a_types.csv", "id,class\n1,spindle\n2,Epithelial \n3,\n")
    a, b = read_dataset(tmp_path)
    assert np.array_equal(a.labels, truth)
    assert a.kinds[:4].tolist() == [0, 3, 1, 0]
    assert (a.set, a.split, a.mpp, a.case) == ("s", "train", 0.25, "p1")
    assert (b.set, b.split, b.mpp, b.case) == ("t", "val", None, "p2")
    assert not b.kinds.any()


def test_sets_and_splits_select_and_the_given_spacing_fills_gaps_only(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    manifest(tmp_path, truth, rng)
    assert [i.case for i in read_dataset(tmp_path, split="val")] == ["p2"]
    assert [i.case for i in read_dataset(tmp_path, sets=["s"])] == ["p1"]
    assert [i.mpp for i in read_dataset(tmp_path, mpp=0.5)] == [0.25, 0.5]
    with pytest.raises(InputFileError, match="of split val and of the sets s"):
        read_dataset(tmp_path, sets=["s"], split="val")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("", "no images"),
        ("x/a.png,x/no.png\nx/c.png,x/d.png\n", "3 files are missing: .*no.png.*c.png.*d.png"),
        ("../a.png,x/a_labels.png\n", "line 2: image must be a path below"),
        ("/etc/a.png,x/a_labels.png\n", "line 2: image must be a path below"),
        ("x/a.png,x/a_labels.png\nx/./a.png,x/b_labels.png\n", "line 3: x/a.png is in line 2"),
        ("x/a.png\n", "line 2: expected 2 cells, got 1"),
    ],
)
def test_a_bad_manifest_is_refused(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator, rows: str, says: str
) -> None:
    manifest(tmp_path, truth, rng)
    text(tmp_path / "manifest.csv", "image,labels\n" + rows)
    with pytest.raises(InputFileError, match=says) as raised:
        read_dataset(tmp_path)
    assert "manifest.csv" in str(raised.value)


def test_a_manifest_without_a_needed_column_says_what_it_has(tmp_path: Path) -> None:
    text(tmp_path / "manifest.csv", "image;mask\na;b\n")
    with pytest.raises(InputFileError, match="labels missing, the first line has image, mask"):
        read_dataset(tmp_path)


def test_rows_of_a_test_split_are_never_read(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    manifest(tmp_path, truth, rng)
    rows = "x/a.png,x/a_labels.png,train\nx/gone.png,x/b_labels.png,test\n"
    text(tmp_path / "manifest.csv", "image,labels,split\n" + rows)
    assert [Path(i.name).name for i in read_dataset(tmp_path)] == ["a.png"]


def test_unknown_classes_are_all_named_and_can_be_renamed(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    png(tmp_path / "a.png", picture(rng))
    png(tmp_path / "a_labels.png", truth.astype(np.uint16))
    text(tmp_path / "a_types.csv", "id,class\n1,Tumour\n2,blob\n3,other\n")
    says = "a_types.csv: unknown classes: 'Tumour', 'blob'; known are epithelial, inflammatory"
    with pytest.raises(InputFileError, match=says):
        read_dataset(tmp_path)
    (item,) = read_dataset(tmp_path, renames={"tumour": "epithelial", "blob": ""})
    assert item.kinds[:4].tolist() == [0, 1, 0, 4]
    with pytest.raises(SettingsError, match="which is no class"):
        read_dataset(tmp_path, renames={"tumour": "carcinoma"})


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("1,other\n1,spindle\n", "line 3: id 1 has a class already"),
        ("1.5,other\n", "line 2: id must be a whole number"),
        ("x,other\n", "line 2: id must be a number"),
    ],
)
def test_a_bad_table_of_classes_names_the_line(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator, lines: str, says: str
) -> None:
    png(tmp_path / "a.png", picture(rng))
    png(tmp_path / "a_labels.png", truth.astype(np.uint16))
    text(tmp_path / "a_types.csv", "id,class\n" + lines)
    with pytest.raises(InputFileError, match=says):
        read_dataset(tmp_path)


def test_ids_of_a_table_that_are_not_in_the_labels_are_counted(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    png(tmp_path / "a.png", picture(rng))
    png(tmp_path / "a_labels.png", truth.astype(np.uint16))
    text(tmp_path / "a_types.csv", f"id,class\n1,other\n{truth.max() + 4},other\n")
    (note,) = read_noted(tmp_path).notes
    assert (note.kind, note.count, note.of) == ("left out", 1, 2)


@pytest.mark.parametrize("names", ["x_labels.png", "x_label.tif", "x_mask.tiff", "x_masks.npy"])
def test_label_images_beside_their_image_are_found(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator, names: str
) -> None:
    import tifffile

    png(tmp_path / "x.png", picture(rng))
    if names.endswith("npy"):
        np.save(tmp_path / names, truth)
    elif "tif" in names:
        tifffile.imwrite(tmp_path / names, truth.astype(np.uint32), compression="zlib")
    else:
        png(tmp_path / names, truth.astype(np.uint16))
    (item,) = read_dataset(tmp_path, mpp=0.3, split="val")
    assert np.array_equal(item.labels, truth)
    assert (item.mpp, item.split, item.set) == (0.3, "val", tmp_path.name)


@pytest.mark.parametrize("folder", ["labels", "Masks"])
def test_label_images_in_a_folder_of_their_own_are_found(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator, folder: str
) -> None:
    for split in ("train", "Val", "test"):
        png(tmp_path / split / "images/x.png", picture(rng))
        png(tmp_path / split / folder / "x.png", truth.astype(np.uint8))
    items = read_dataset(tmp_path)
    assert [i.split for i in items] == ["train", "val"]
    assert all(np.array_equal(i.labels, truth) for i in items)
    assert [i.split for i in read_dataset(tmp_path, split="val")] == ["val"]


def test_images_and_labels_that_stand_alone_are_all_listed(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        png(tmp_path / name, picture(rng))
    for name in ("a_labels.png", "d_labels.png"):
        png(tmp_path / name, truth.astype(np.uint8))
    says = "2 images without labels: b.png, c.png; 1 labels without an image: d_labels.png"
    with pytest.raises(InputFileError, match=says):
        read_dataset(tmp_path)


def test_labels_of_another_size_name_the_image(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    png(tmp_path / "a.png", picture(rng))
    png(tmp_path / "a_labels.png", truth[1:].astype(np.uint8))
    with pytest.raises(InputFileError, match=r"a.png: labels of \(130, 97\) px beside"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda t: (255 * (t > 0)).astype(np.uint8), "binary mask: its one id 255 covers"),
        (lambda t: (t > 0).astype(np.uint8), "binary mask: its one id 1 covers"),
        (lambda t: np.stack([t.astype(np.uint8)] * 3, -1), "a colour image"),
    ],
)
def test_what_is_no_label_image_is_refused(
    tmp_path: Path,
    truth: NDArray[np.int32],
    rng: np.random.Generator,
    broken: Callable[[NDArray[np.int32]], NDArray[np.uint8]],
    says: str,
) -> None:
    png(tmp_path / "a.png", picture(rng))
    png(tmp_path / "a_labels.png", broken(truth))
    with pytest.raises(InputFileError, match=says) as raised:
        read_dataset(tmp_path)
    assert "a_labels.png" in str(raised.value)


def test_damaged_files_are_named(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    image = png(tmp_path / "a.png", picture(rng))
    labels = png(tmp_path / "a_labels.png", truth.astype(np.uint8))
    whole = labels.read_bytes()
    labels.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputFileError, match=r"a_labels.png: not a readable label image"):
        read_dataset(tmp_path)
    labels.write_bytes(whole)
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 9)
    with pytest.raises(UnreadableSlideError, match=r"a\.png"):
        read_dataset(tmp_path)


def test_very_large_ids_are_numbered_anew_with_their_classes(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    png(tmp_path / "a.png", picture(rng))
    np.save(tmp_path / "a_labels.npy", np.where(truth, truth.astype(np.int64) + 10**12, 0))
    text(tmp_path / "a_types.csv", f"id,class\n{10**12 + 2},spindle\n")
    (item,) = read_dataset(tmp_path)
    assert np.array_equal(item.labels, truth)
    assert item.kinds.tolist()[:4] == [0, 0, 3, 0]


def crchisto(root: Path, rng: np.random.Generator, first: str, second: str) -> None:
    png(root / "img1.png", picture(rng))
    png(root / "img2.png", picture(rng))
    text(root / "img1.csv", "y,x,class,split\n" + first)
    text(root / "img2.csv", "y,x,class,split\n" + second)


def test_centres_have_classes_splits_and_no_spacing_of_their_own(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    first = "3.5,2,fibroblast,train\n130,96,,train\n"
    crchisto(tmp_path, rng, first, "0,0,others,validation\n")
    one, two = read_dataset(tmp_path)
    assert one.labels is None
    assert one.centres is not None
    assert one.centres.points.tolist() == [[3.5, 2], [130, 96]]
    assert one.centres.kinds.tolist() == [3, 0]
    assert two.centres is not None
    assert two.centres.kinds.tolist() == [4]
    assert (one.split, two.split, one.mpp) == ("train", "val", None)
    assert [i.mpp for i in read_dataset(tmp_path, mpp=0.55, split="val")] == [0.55]


def test_centres_that_count_from_1_are_moved_in_every_image_and_split(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    crchisto(tmp_path, rng, "131,97,,train\n0.4,5,,train\n", "7,9,,validation\n")
    one, two = read_dataset(tmp_path)
    assert one.centres is not None
    assert two.centres is not None
    assert one.centres.points.tolist() == [[130, 96], [0, 4]]
    assert two.centres.points.tolist() == [[6, 8]]
    (alone,) = read_dataset(tmp_path, split="val")
    assert alone.centres is not None
    assert alone.centres.points.tolist() == [[6, 8]]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("3,99,,train\n", r"img1.csv, line 2: the centre \(y, x\) = \(3.0, 99.0\) is not on"),
        ("3,x,,train\n", "line 2: x must be a number"),
        ("3,nan,,train\n", "line 2: x must be a number"),
        ("3,4,,train\n3,4,,validation\n", "line 3: an image has one split"),
        ("3,4,,fold1\n", "split must be train, val or test, got 'fold1'"),
        ("3,4,mast cell,train\n", "unknown classes: 'mast cell'"),
    ],
)
def test_bad_centres_are_refused(
    tmp_path: Path, rng: np.random.Generator, rows: str, says: str
) -> None:
    crchisto(tmp_path, rng, rows, "7,9,,train\n")
    with pytest.raises(InputFileError, match=says):
        read_dataset(tmp_path)


def consep(root: Path, rng: np.random.Generator, **content: Any) -> None:
    png(root / "Images/c_1.png", picture(rng))
    png(root / "Overlay/c_1.png", picture(rng))
    (root / "Labels").mkdir(exist_ok=True)
    savemat(root / "Labels/c_1.mat", content)


def test_consep_has_the_majority_of_its_type_map(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    types = (truth % 8).astype(float)
    types[tuple(np.argwhere(truth == 1)[0])] = 7  # a stray pixel
    consep(tmp_path, rng, inst_map=truth.astype(float), type_map=types)
    (item,) = read_dataset(tmp_path)
    assert np.array_equal(item.labels, truth)
    expected = [0, 4, 2, 1, 1, 3, 3, 3]
    assert item.kinds.tolist() == [expected[i % 8] for i in range(truth.max() + 1)]


def test_inst_type_counts_the_ids_that_are_there(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[:9, :9], labels[20:30, 20:30] = 3, 8
    consep(tmp_path, rng, inst_map=labels, inst_type=np.array([[2.0], [5.0]]))
    (item,) = read_dataset(tmp_path)
    assert (item.kinds[3], item.kinds[8]) == (2, 3)
    consep(tmp_path, rng, inst_map=labels, inst_type=np.array([[2.0]]))
    with pytest.raises(InputFileError, match="1 rows for 2 ids"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"mask": np.ones((3, 3))}, "no inst_map"),
        ({"inst_map": np.full(SHAPE, 0.5)}, "got fractions"),
        ({"inst_map": np.eye(*SHAPE), "type_map": np.full(SHAPE, 9)}, "types must be 0"),
        ({"inst_map": np.eye(*SHAPE), "type_map": np.ones((3, 3))}, "type_map of"),
    ],
)
def test_a_mat_file_with_other_content_is_refused(
    tmp_path: Path, rng: np.random.Generator, content: dict[str, Any], says: str
) -> None:
    consep(tmp_path, rng, **content)
    with pytest.raises(InputFileError, match=says) as raised:
        read_dataset(tmp_path)
    assert "c_1.mat" in str(raised.value)


def test_a_damaged_and_a_new_mat_file_are_refused(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    consep(tmp_path, rng, inst_map=truth)
    path = tmp_path / "Labels/c_1.mat"
    whole = path.read_bytes()
    for part in (b"", b"rubbish" * 40, whole[:200], whole[:128] + b"\xff" * 64):
        path.write_bytes(part)
        with pytest.raises(InputFileError, match=r"c_1.mat: not a readable .mat file"):
            read_dataset(tmp_path)
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600))
    with pytest.raises(InputFileError, match=r"version 7.3 .* '-v7'"):
        read_dataset(tmp_path)


def pannuke(root: Path, masks: NDArray[Any], images: NDArray[Any]) -> None:
    for name, array in (("images", images), ("masks", masks)):
        folder = root / "Fold 1" / name / "fold1"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", array)


def test_pannuke_joins_its_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    masks = np.zeros((2, 64, 64, 6))
    masks[0, 2:20, 2:20, 0] = 7
    masks[0, 10:14, 18:24, 1] = 7  # overlaps the first by 8 px
    masks[0, 40:50, 40:50, 2] = 3
    masks[0, ..., 5] = masks[0, ..., :5].sum(-1) == 0
    pannuke(tmp_path, masks, rng.integers(0, 256, (2, 64, 64, 3)).astype(float))
    np.save(tmp_path / "Fold 1/images/fold1/types.npy", np.array(["Breast", "Colon"]))
    found = read_noted(tmp_path, mpp=0.25)
    one, two = found.items
    assert "images.npy[0] (Breast)" in one.name
    assert one.labels is not None
    assert two.labels is not None
    assert not two.labels.any()
    assert one.kinds.tolist() == [0, 1, 2, 3]
    assert np.bincount(one.labels.ravel()).tolist()[1:] == [18 * 18 - 8, 24, 100]
    (note,) = found.notes
    assert (note.kind, note.count) == ("overlap", 8)


def test_pannuke_never_unpickles(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    images = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    pannuke(tmp_path, np.zeros((1, 32, 32, 6)), images)
    np.save(tmp_path / "Fold 1/images/fold1/types.npy", np.array(["Colon"], object))
    (item,) = read_dataset(tmp_path)
    assert np.array_equal(item.image, images[0])
    assert "names of tissues are not used" in caplog.text
    pannuke(tmp_path, np.array([{}], dtype=object), images)
    with pytest.raises(InputFileError, match=r"masks.npy: .*pickled arrays are not opened"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("masks", "images", "says"),
    [
        (np.zeros((1, 32, 32, 5)), np.zeros((1, 32, 32, 3)), r"expected \(N, H, W, 3\)"),
        (np.zeros((1, 8, 8, 6)), np.full((1, 8, 8, 3), 0.5), "expected values from 0 to 255"),
        (np.full((1, 8, 8, 6), 0.5), np.zeros((1, 8, 8, 3)), "has fractions"),
    ],
)
def test_arrays_that_are_not_pannuke_are_refused(
    tmp_path: Path, masks: NDArray[Any], images: NDArray[Any], says: str
) -> None:
    pannuke(tmp_path, masks, images)
    with pytest.raises(InputFileError, match=says):
        read_dataset(tmp_path)


def test_pannuke_without_masks_names_the_missing_file(tmp_path: Path) -> None:
    pannuke(tmp_path, np.zeros((1, 8, 8, 6)), np.zeros((1, 8, 8, 3)))
    (tmp_path / "Fold 1/masks/fold1/masks.npy").unlink()
    with pytest.raises(InputFileError, match=r"1 files are missing: .*masks.npy"):
        read_dataset(tmp_path)


def region_xml(ring: list[tuple[float, float]], **attributes: str) -> str:
    extra = " ".join(f'{k}="{v}"' for k, v in attributes.items())
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ring)
    return f'<Region Id="1" {extra}><Vertices>{vertices}</Vertices></Region>'


def layer_xml(*regions: str, attribute: str = "Description", name: str = "") -> str:
    return (
        f'<Annotation Name="{name}"><Attributes><Attribute Name="{attribute}"/></Attributes>'
        f"<Regions>{''.join(regions)}</Regions></Annotation>"
    )


SQUARE = [(10.0, 20.0), (30.0, 20.0), (30.0, 28.0), (10.0, 28.0)]


def test_imagescope_outlines_are_filled_and_the_image_is_complete(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    png(tmp_path / "Tissue Images/m.png", picture(rng))
    layers = layer_xml(region_xml(SQUARE), region_xml(SQUARE[:2]))
    layers += layer_xml(region_xml([(50, 50), (60, 50), (60, 60)]), attribute="Epithelial")
    text(
        tmp_path / "Annotations/m.xml",
        f'<?xml version="1.0"?><Annotations MicronsPerPixel="0.252">{layers}</Annotations>',
    )
    found = read_noted(tmp_path)
    (item,) = found.items
    assert item.labels is not None
    assert np.argwhere(item.labels == 1).min(0).tolist() == [20, 10]
    assert (item.labels == 1).sum() == 20 * 8
    assert item.kinds.tolist() == [0, 0, 1]
    assert (item.known, item.mpp) == (None, 0.252)
    assert [(n.kind, n.count, n.of) for n in found.notes] == [("left out", 1, 3)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<Annotations>", "not a readable XML file"),
        ("<annotation/>", "expected annotations of ImageScope"),
        (
            f"<Annotations>{layer_xml(region_xml([(0, 0), (1, 'x'), (2, 2)]))}</Annotations>",  # type: ignore[list-item]
            "region 1: a vertex",
        ),
    ],
)
def test_bad_xml_is_refused(
    tmp_path: Path, rng: np.random.Generator, content: str, says: str
) -> None:
    png(tmp_path / "m.png", picture(rng))
    text(tmp_path / "m.xml", content)
    with pytest.raises(InputFileError, match=f"m.xml: {says}"):
        read_dataset(tmp_path)


def test_xml_without_an_image_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    png(tmp_path / "m.png", picture(rng))
    text(tmp_path / "n.xml", "<Annotations/>")
    with pytest.raises(InputFileError, match=r"images without labels: m.png; 1 labels without"):
        read_dataset(tmp_path)


def feature(
    outline: Any, name: str | None = None, kind: str = "annotation", **members: Any
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": kind}
    if name is not None:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    geometry = json.loads(shapely.to_geojson(outline))
    return {"type": "Feature", "geometry": geometry, "properties": properties, **members}


def qupath(path: Path, *features: dict[str, Any]) -> Path:
    return text(path, json.dumps({"type": "FeatureCollection", "features": list(features)}))


BIG = (301, 401)


def test_a_region_says_what_is_known_and_what_is_cropped(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    pixels = picture(rng, BIG)
    image = png(tmp_path / "s.png", pixels)
    drawing = qupath(
        tmp_path / "s.geojson",
        feature(shapely.box(100, 80, 200, 160), "Region*"),
        feature(shapely.box(110, 90, 130, 100), "epithelial"),
        feature(shapely.box(190, 120, 210, 130), "spindle", kind="detection"),  # reaches out
        feature(shapely.box(300, 200, 310, 210)),  # elsewhere
    )
    for items in (read_dataset(tmp_path), read_annotations(image, drawing)):
        (item,) = items
        m = MARGIN
        window = (slice(80 - m, 160 + m), slice(100 - m, 200 + m))
        assert np.array_equal(item.image, pixels[window])
        expected = np.zeros(BIG, np.int32)
        expected[90:100, 110:130], expected[120:130, 190:210] = 1, 2
        assert np.array_equal(item.labels, expected[window])
        known = expected > 0
        known[80:160, 100:200] = True
        assert np.array_equal(item.known, known[window])
        assert item.kinds.tolist() == [0, 1, 3]
    (note,) = read_noted(tmp_path).notes
    assert (note.kind, note.count, note.of) == ("left out", 1, 3)


def test_without_a_region_only_nuclei_and_a_band_are_known(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    image = png(tmp_path / "s.png", picture(rng, BIG))
    outline = shapely.box(50, 60, 70, 80)
    drawing = qupath(tmp_path / "s.geojson", feature(outline))
    (item,) = read_annotations(image, drawing, mpp=0.25)
    assert item.known is not None
    assert item.labels is not None
    assert "no Region annotation" in caplog.text
    y, x = np.indices(item.image.shape[:2]) + 0.5
    away = shapely.distance(outline, shapely.points(x + 50 - MARGIN, y + 60 - MARGIN))
    band = round(0.15 * np.sqrt(4 / np.pi * 400))
    assert item.known[away <= band - 1].all()
    assert not item.known[away > band + 1].any()
    assert item.mpp == 0.25


def test_far_apart_nuclei_lie_on_crops_of_their_own(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    image = png(tmp_path / "s.png", np.full((90, 3000, 3), 200, np.uint8))
    boxes = [shapely.box(x, 30, x + 20, 50) for x in (10, 60, 2900)]
    items = read_annotations(image, qupath(tmp_path / "s.geojson", *map(feature, boxes)))
    counts = [len(np.unique(i.labels)) - 1 for i in items]  # type: ignore[arg-type]
    assert counts == [2, 1]
    assert all(i.image.shape[1] < 200 for i in items)


def test_large_regions_are_cut_without_gap_or_overlap(tmp_path: Path) -> None:
    image = png(tmp_path / "s.png", np.full((60, 5001, 3), 200, np.uint8))
    nucleus = feature(shapely.box(20, 20, 30, 30))
    drawing = qupath(
        tmp_path / "s.geojson", nucleus, feature(shapely.box(0, 0, 5001, 60), "Region")
    )
    items = read_annotations(image, drawing)
    assert len(items) == 3
    assert max(i.image.shape[1] for i in items) <= 2048 + 2 * MARGIN
    assert sum(i.image.shape[1] for i in items) == 5001 + 4 * MARGIN


def no_pixel_on_both_sides(tmp_path: Path, drawn: list[Any], *regions: Any) -> int:
    """Reads ``drawn`` on an image of columns, and holds each crop against every other."""
    shape = (140, 3100)
    y, x = np.indices(shape)
    image = png(tmp_path / "s.png", np.stack([y, x % 256, x // 256], axis=-1).astype(np.uint8))
    features = [*map(feature, drawn), *(feature(r, "Region*") for r in regions)]
    items = read_annotations(image, qupath(tmp_path / "s.geojson", *features))
    owner = np.zeros(shape, np.int64)  # of the pixels of nuclei
    found = 0
    spans = []
    for number, item in enumerate(items, 1):
        assert item.labels is not None
        at = (
            item.image[..., 0].astype(int),
            item.image[..., 1] + 256 * item.image[..., 2].astype(int),
        )
        inside = item.labels > 0
        assert not owner[at][inside].any()
        owner[at[0][inside], at[1][inside]] = number
        found += len(np.unique(item.labels[inside]))
        spans.append((at, np.ones(inside.shape, bool) if item.known is None else item.known))
    for number, (at, known) in enumerate(spans, 1):
        assert np.isin(owner[at][known], (0, number)).all()
        assert known[owner[at] == number].all()
    overlaps = sum(at[0].size for at, _ in spans) > len(np.unique(np.concatenate(
        [(at[0] * shape[1] + at[1]).ravel() for at, _ in spans])))  # fmt: skip
    assert overlaps  # else there was nothing to tell
    return found


def test_a_nucleus_near_a_seam_is_labelled_in_one_crop_and_unknown_in_the_others(
    tmp_path: Path,
) -> None:
    row = [shapely.box(x, 40 + x % 7, x + 13, 60) for x in range(940, 1120, 15)]
    assert no_pixel_on_both_sides(tmp_path, row) == len(row)


def test_nuclei_around_the_seams_of_a_large_region_belong_to_one_crop(tmp_path: Path) -> None:
    row = [shapely.box(x, 40, x + 13, 60 + x % 9) for x in range(1480, 1620, 15)]
    edge = [shapely.box(500 + x, 125, 512 + x, 138) for x in range(0, 90, 15)]  # reach out
    region = shapely.box(0, 0, 3100, 130)
    assert no_pixel_on_both_sides(tmp_path, row + edge, region) == len(row) + len(edge)


def test_nuclei_between_two_regions_belong_to_one_crop(tmp_path: Path) -> None:
    corner = shapely.union(shapely.box(0, 0, 300, 30), shapely.box(0, 0, 30, 130))
    within = shapely.box(60, 60, 290, 130)  # in the bounds of the other
    drawn = [
        shapely.box(40, 100, 66, 112),
        shapely.box(24, 60, 40, 70),
        shapely.box(90, 90, 99, 99),
    ]
    assert no_pixel_on_both_sides(tmp_path, drawn, corner, within) == 3


def test_nuclei_in_an_ignored_area_are_no_nuclei(tmp_path: Path, rng: np.random.Generator) -> None:
    image = png(tmp_path / "s.png", picture(rng))
    drawing = qupath(
        tmp_path / "s.geojson",
        feature(shapely.box(0, 0, 97, 131), "Region*"),
        feature(shapely.box(0, 0, 30, 131), "Ignore*"),
        feature(shapely.box(5, 50, 15, 60)),
        feature(shapely.box(24, 20, 34, 30)),  # 6 of 10 columns
        feature(shapely.box(26, 80, 36, 90)),  # 4 of 10 columns
    )
    (item,) = read_annotations(image, drawing)
    assert item.labels is not None
    assert item.known is not None
    assert np.unique(item.labels).tolist() == [0, 3]
    assert not item.known[20:30, 24:34].any()
    assert item.known[80:90, 30:36].all()


def test_ignored_areas_are_not_known(tmp_path: Path, rng: np.random.Generator) -> None:
    image = png(tmp_path / "s.png", picture(rng))
    drawing = qupath(
        tmp_path / "s.geojson",
        feature(shapely.box(0, 0, 97, 131), "Region*"),
        feature(shapely.box(0, 0, 10, 10), "Ignore*"),
        feature(shapely.box(50, 50, 60, 60)),
    )
    (item,) = read_annotations(image, drawing)
    assert item.known is not None
    assert np.argwhere(~item.known).max(0).tolist() == [9, 9]
    assert (~item.known).sum() == 100


def test_cells_give_their_nuclei_and_annotations_around_them_are_areas(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    image = png(tmp_path / "s.png", picture(rng))
    nucleus = json.loads(shapely.to_geojson(shapely.box(20, 20, 30, 30)))
    cell = feature(shapely.box(15, 15, 35, 35), kind="cell", nucleusGeometry=nucleus)
    other = feature(shapely.box(60, 60, 70, 75), kind="detection")
    area = feature(shapely.box(5, 5, 90, 90), "Tumor")
    area["properties"]["childObjects"] = [cell, other]
    point = feature(shapely.Point(3, 3))
    path = tmp_path / "s.png.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps([area, point]).encode()))
    found = read_noted(tmp_path)
    (item,) = found.items
    assert item.labels is not None
    assert sorted(np.bincount(item.labels.ravel())[1:].tolist()) == [100, 150]
    assert sorted(n.kind for n in found.notes) == ["left out", "left out", "partly known"]
    assert image.is_file()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ('{"type": "Topology"}', "feature 1: expected a Feature"),
        ("3", "expected GeoJSON"),
        ('[{"type": "Feature", "geometry": null}]', "feature 1: expected a Polygon"),
        (
            '[{"type": "Feature", "geometry": {"type": "Polygon", '
            '"coordinates": [[[0,0],[1,0],[1,1]]]}}]',
            "feature 1: a broken outline",
        ),
        ('{"type": "FeatureCollection", "features": []}', "no nucleus and no Region"),
    ],
)
def test_bad_geojson_names_the_feature(
    tmp_path: Path, rng: np.random.Generator, content: str, says: str
) -> None:
    image = png(tmp_path / "s.png", picture(rng))
    drawing = text(tmp_path / "s.geojson", content)
    with pytest.raises(InputFileError, match=f"s.geojson: {says}"):
        read_annotations(image, drawing)


def test_unknown_classes_of_annotations_are_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    image = png(tmp_path / "s.png", picture(rng))
    drawing = qupath(tmp_path / "s.geojson", feature(shapely.box(1, 1, 9, 9), "Tumor"))
    with pytest.raises(InputFileError, match=r"s.geojson: unknown classes: 'Tumor'"):
        read_annotations(image, drawing)
    (item,) = read_annotations(image, drawing, classes=("tumor", "stroma"))
    assert item.kinds.tolist() == [0, 1]


def test_invalid_outlines_are_repaired_and_nuclei_off_the_image_counted(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    image = png(tmp_path / "s.png", picture(rng))
    bow = shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    qupath(tmp_path / "s.geojson", feature(bow), feature(shapely.box(500, 500, 510, 510)))
    found = read_noted(tmp_path)
    (item,) = found.items
    assert item.labels is not None
    assert (item.labels > 0).sum() == pytest.approx(200, abs=20)
    assert ("left out", 1) in {(n.kind, n.count) for n in found.notes}
    assert image.is_file()


def test_painting_agrees_with_points_in_polygons_and_counts_what_is_hidden() -> None:
    circle = shapely.Point(20.2, 17.7).buffer(9.3)
    outlines = np.array(
        [circle, shapely.box(25, 10, 28, 20), circle, shapely.box(99, 99, 101, 101)]
    )
    painted = paint(outlines, (41, 37))
    y, x = np.indices((41, 37)) + 0.5
    inside = shapely.contains_xy(circle, x, y)
    small = shapely.contains_xy(outlines[1], x, y)
    assert np.array_equal(painted.labels == 2, small)
    assert np.array_equal((painted.labels == 1) | (painted.labels == 3), inside & ~small)
    assert painted.size.tolist() == [inside.sum(), small.sum(), inside.sum(), 0]
    assert painted.hidden.sum() == painted.size.sum() - (inside | small).sum()
    assert painted.duplicates == 1


def test_a_folder_without_labels_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no labelled images found: expected one of manifest"):
        read_dataset(tmp_path)
    with pytest.raises(InputFileError, match="does not exist"):
        read_dataset(tmp_path / "no")
    with pytest.raises(SettingsError, match="split must be"):
        read_dataset(tmp_path, split="test")
    with pytest.raises(SettingsError, match="mpp must be"):
        read_dataset(tmp_path, mpp=0)


def test_two_layouts_in_one_folder_are_pointed_out(
    tmp_path: Path,
    truth: NDArray[np.int32],
    rng: np.random.Generator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    consep(tmp_path, rng, inst_map=truth)
    qupath(tmp_path / "c_1.geojson", feature(shapely.box(1, 1, 9, 9)))
    with caplog.at_level(logging.WARNING):
        (item,) = read_dataset(tmp_path)
    assert np.array_equal(item.labels, truth)
    assert "labels of another layout are not: QuPath GeoJSON" in caplog.text


def test_class_names_must_differ() -> None:
    with pytest.raises(SettingsError, match="different names"):
        ClassMap(("a", "A"))


def test_items_are_labelled(
    tmp_path: Path, truth: NDArray[np.int32], rng: np.random.Generator
) -> None:
    manifest(tmp_path, truth, rng)
    assert all(isinstance(item, Labelled) for item in read_dataset(tmp_path / "manifest.csv"))
