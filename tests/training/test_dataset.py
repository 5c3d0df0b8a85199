"""The real sets, read whole: counts as their README has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsiseg.errors import InputFileError
from wsiseg.training.dataset import read_annotations, read_dataset
from wsiseg.training.labelled import Labelled

pytestmark = pytest.mark.data


def nuclei(items: list[Labelled]) -> int:
    return sum(len(np.unique(item.labels)) - 1 for item in items)  # type: ignore[arg-type]


def test_consep_has_the_nuclei_and_classes_of_its_readme(data: Path) -> None:
    items = read_dataset(data / "nuclei", sets=["consep"])
    assert [sum(i.split == s for i in items) for s in ("train", "val")] == [23, 4]
    assert nuclei(items) == 15555
    counts = sum(np.bincount(i.kinds[1:], minlength=5) for i in items)
    assert np.asarray(counts).tolist() == [0, 5537, 3941, 5706, 371]
    assert {i.mpp for i in items} == {0.25}


def test_dsb_has_no_pixel_size_and_keeps_none_unless_told(data: Path) -> None:
    items = read_dataset(data / "nuclei", sets=["dsb_colour"], split="val")
    assert len(items) == 9
    assert {i.mpp for i in items} == {None}
    assert {i.licence for i in items} == {"CC0"}


def test_crchisto_has_its_centres_in_a_frame_that_fits_the_stain(data: Path) -> None:
    items = read_dataset(data / "points/crchisto", mpp=0.55)
    assert [sum(i.split == s for i in items) for s in ("train", "val")] == [70, 10]
    kinds = np.concatenate([i.centres.kinds for i in items])  # type: ignore[union-attr]
    assert np.bincount(kinds).tolist() == [5206, 5859, 5180, 4765, 1684]
    points = np.concatenate([i.centres.points for i in items])  # type: ignore[union-attr]
    assert points.min() == 0
    assert points.max() == 499  # the file has 500: it counts from 1
    assert {i.mpp for i in items} == {0.55}


def test_other_classes_need_their_names(data: Path) -> None:
    with pytest.raises(InputFileError, match=r"unknown classes: 'negative', 'positive'"):
        read_dataset(data / "ihc/ki67_tiles")
    items = read_dataset(data / "ihc/ki67_tiles", classes=("positive", "negative"))
    counts = sum(np.bincount(i.kinds[1:], minlength=3) for i in items)
    assert np.asarray(counts).tolist() == [0, 48, 242]


def test_a_manifest_of_patients_has_them_as_cases(data: Path) -> None:
    items = read_dataset(data / "glands", split="val")
    lines = (data / "glands/manifest.csv").read_text().splitlines()[1:]
    val = [line.split(",") for line in lines if line.split(",")[2] == "val"]
    assert [i.case for i in items] == [cells[4] for cells in val]
    assert nuclei(items) == sum(int(cells[6]) for cells in val)


def test_annotations_on_a_slide_give_its_pixels_and_spacing(data: Path, tmp_path: Path) -> None:
    from wsiseg.geometry import Box
    from wsiseg.image.open import open_slide

    path = data / "slides/cmu-1-small-region.svs"
    ring = [[500, 700], [520, 700], [520, 720], [500, 720], [500, 700]]
    region = [[450, 650], [600, 650], [600, 800], [450, 800], [450, 650]]
    features = [
        f'{{"type":"Feature","geometry":{{"type":"Polygon","coordinates":[{r}]}},'
        f'"properties":{{"classification":{{"name":"{n}"}}}}}}'
        for r, n in ((ring, "epithelial"), (region, "Region*"))
    ]
    drawing = tmp_path / "a.geojson"
    drawing.write_text(f"[{','.join(features)}]")
    (item,) = read_annotations(path, drawing)
    with open_slide(path) as slide:
        pixels = slide.read_level(0, Box((618, 418), (832, 632)))
    assert np.array_equal(item.image, pixels)
    assert item.mpp == pytest.approx(0.499)
    assert item.labels is not None
    assert item.known is not None
    assert np.argwhere(item.labels).min(0).tolist() == [82, 82]
    assert item.known.sum() == 150**2
