"""Evaluate: files in, numbers out; labels and polygons of the same objects agree."""

import json

import numpy as np
import pytest
import shapely
from PIL import Image
from scipy import ndimage

from wsiseg.cells.layer import CellBatch, uuids_from
from wsiseg.errors import InputFileError
from wsiseg.export.write import write
from wsiseg.metrics import Rules, count_overlaps, scores
from wsiseg.run.evaluate import evaluate, evaluate_set, report_text


def blocks(seed, shape=(97, 101), n=9):
    """Labels of rectangles, some of them cut by later ones."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    for i in range(1, n + 1):
        (r, c), (h, w) = rng.integers(0, 80, 2), rng.integers(5, 25, 2)
        labels[r : r + h, c : c + w] = 7000 * i
    return labels


def outlines(labels):
    ids = np.unique(labels[labels > 0])
    pixels = [[shapely.box(c, r, c + 1, r + 1) for r, c in np.argwhere(labels == i)] for i in ids]
    return np.array([shapely.union_all(p) for p in pixels], dtype=object)


def batch(geometry, classes=(), index=None):
    geometry = np.array(geometry, dtype=object)
    index = np.full(len(geometry), -1) if index is None else np.array(index)
    return CellBatch(uuids_from(geometry, 0), geometry, index.astype(np.int32), tuple(classes))


def save(folder, name, labels):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, labels)
    elif name.endswith(".png"):
        Image.fromarray(labels).save(path)
    elif name.endswith(".tif"):
        import tifffile

        tifffile.imwrite(path, labels)
    else:
        write([batch(outlines(labels))], path)
    return path


def numbers(found):
    """All values of a document that are measured, flat."""
    flat = {**found["metrics"], **{f"d_{k}": v for k, v in found["detection"].items()}}
    return flat | {f"{t} {k}": v for t, m in found["matches"].items() for k, v in m.items()}


TRUTH, PRED = blocks(1), blocks(1, n=7) * (blocks(2) < 40000)


def test_document_holds_the_metrics_of_the_arrays(tmp_path):
    found = evaluate(save(tmp_path, "t.png", TRUTH), save(tmp_path, "p.npy", PRED))
    expected = scores(count_overlaps(TRUTH, PRED))
    assert found["metrics"]["aji"] == expected["aji"].value()
    match = found["matches"]["0.5"]
    assert match["pq"] == expected["pq@0.5"].value()
    assert match["tp"] + match["fn"] == found["truth"]["objects"] == len(np.unique(TRUTH)) - 1
    assert match["tp"] + match["fp"] == found["prediction"]["objects"] == len(np.unique(PRED)) - 1
    assert 0 < match["pq"] < 1
    assert "classes" not in found


@pytest.mark.parametrize("truth", ["t.png", "t.tif", "t.geojson.gz"])
@pytest.mark.parametrize("pred", ["p.npy", "p.geojson", "p.parquet"])
def test_labels_and_their_outlines_score_alike(tmp_path, truth, pred):
    rules = Rules(iou=(0.3, 0.5, 0.9))
    found = evaluate(save(tmp_path, truth, TRUTH), save(tmp_path, pred, PRED), rules)
    labels = save(tmp_path, "a.npy", TRUTH), save(tmp_path, "b.npy", PRED)
    expected = numbers(evaluate(*labels, rules))
    # ties of AJI and pairs of equal weight may fall otherwise where ids are others: none do here
    assert numbers(found) == pytest.approx(expected, rel=1e-6)
    assert found["truth"]["kind"] == ("polygons" if "geojson" in truth else "labels")


def test_document_is_json_without_nan(tmp_path):
    empty = save(tmp_path, "e.png", TRUTH * 0)
    found = evaluate(save(tmp_path, "t.png", TRUTH), empty)
    assert found["matches"]["0.5"]["precision"] is None
    assert found["matches"]["0.5"]["pq"] == 0.0
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert evaluate(empty, empty)["metrics"]["dice"] is None
    assert evaluate(empty, empty, Rules(empty=1))["metrics"]["dice"] == 1.0


def test_volumes_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    truth, pred = (np.kron(rng.integers(0, 9, (3, 5, 4)), np.ones((3, 3, 3), int)) for _ in "ab")
    found = evaluate(save(tmp_path, "t.npy", truth), save(tmp_path, "p.tif", pred.astype("u2")))
    assert found["truth"]["shape"] == [9, 15, 12]
    assert found["metrics"]["aji"] == float(scores(count_overlaps(truth, pred))["aji"])


def test_radius_may_be_in_micrometres(tmp_path):
    truth = np.zeros((20, 40), np.uint8)
    pred = truth.copy()
    truth[5:10, 5:10], pred[5:10, 15:20] = 1, 1  # 10 px apart
    paths = save(tmp_path, "t.png", truth), save(tmp_path, "p.png", pred)
    assert evaluate(*paths, Rules(radius=3))["detection"]["tp"] == 0
    found = evaluate(*paths, Rules(radius=3, mpp=0.25))
    assert found["detection"]["tp"] == 1
    assert found["rules"]["radius_unit"] == "um"


def test_polygons_beyond_the_image_are_counted_and_not_judged(tmp_path):
    labels = save(tmp_path, "t.png", TRUTH)
    inside = outlines(TRUTH)
    write([batch([*inside, shapely.box(500, 0, 510, 9)])], tmp_path / "p.geojson")
    for found, side in (
        (evaluate(labels, tmp_path / "p.geojson"), "prediction"),
        (evaluate(tmp_path / "p.geojson", labels), "truth"),
    ):
        assert found[side]["outside"] == 1
        assert found["matches"]["0.5"]["pq"] == 1


def test_a_layer_in_another_frame_is_refused(tmp_path):
    write([batch([shapely.box(9000, 800, 9010, 820)])], tmp_path / "p.geojson")
    with pytest.raises(InputFileError, match=r"x 9000 to 9010, y 800 to 820"):
        evaluate(save(tmp_path, "t.png", TRUTH), tmp_path / "p.geojson")


def test_sizes_must_agree(tmp_path):
    with pytest.raises(InputFileError, match=r"t.png is 97 x 101 px and .*p.npy is 101 x 97 px"):
        evaluate(save(tmp_path, "t.png", TRUTH), save(tmp_path, "p.npy", PRED.T))


def test_polygons_and_a_volume_do_not_compare(tmp_path):
    paths = save(tmp_path, "t.npy", TRUTH[None]), save(tmp_path, "p.geojson", PRED)
    with pytest.raises(InputFileError, match="plane"):
        evaluate(*paths)
    with pytest.raises(InputFileError, match="plane"):
        evaluate(*paths[::-1])


SQUARES = [shapely.box(20 * i, 0, 20 * i + 10, 10) for i in range(4)]


@pytest.fixture
def classed(tmp_path):
    # truth a a b b; prediction a b b, and one beside everything, of class a, all written otherwise
    write([batch(SQUARES, ("a", "b"), [0, 0, 1, 1])], tmp_path / "t.geojson")
    pred = [*SQUARES[:3], shapely.box(0, 50, 10, 60)]
    write([batch(pred, ("B ", "A"), [1, 0, 0, 1])], tmp_path / "p.parquet")
    return tmp_path / "t.geojson", tmp_path / "p.parquet"


def test_classes_are_scored_where_both_sides_have_them(classed):
    found = evaluate(*classed)
    a, b = found["classes"]["a"], found["classes"]["b"]
    assert a["objects"] == {"truth": 2, "prediction": 2}
    assert (a["matches"]["0.5"]["tp"], a["matches"]["0.5"]["pq"]) == (1, 0.5)
    assert (b["matches"]["0.5"]["tp"], b["matches"]["0.5"]["pq"]) == (1, 0.5)
    assert found["mpq"] == {"0.5": 0.5}
    # three of four are found, whatever the class
    assert found["matches"]["0.5"]["pq"] == pytest.approx(3 / 4)
    # a: one pair right, one true a called b, one a predicted alone
    assert a["detection"]["f1"] == pytest.approx(2 / (2 + 2 + 1))
    assert b["detection"]["f1"] == pytest.approx(2 / (2 + 2 + 1))


def test_one_side_without_classes_gives_none(classed, tmp_path):
    write([batch(SQUARES)], tmp_path / "plain.geojson")
    assert "classes" not in evaluate(classed[0], tmp_path / "plain.geojson")


def test_a_set_is_pooled_and_averaged(tmp_path, classed):
    labels = save(tmp_path, "t.png", TRUTH)
    empty = save(tmp_path, "e.png", TRUTH * 0)
    found = evaluate_set([(labels, labels), (labels, empty), (empty, empty), classed])
    pq = found["aggregate"]["pq@0.5"]
    n = len(np.unique(TRUTH)) - 1
    assert pq["pooled"] == pytest.approx((n + 3) / (n + n / 2 + 4))
    assert pq["mean"] == pytest.approx((1 + 0 + 3 / 4) / 3)
    assert (pq["n"], pq["n_excluded"]) == (3, 1)
    assert found["aggregate"]["bpq"] == pq
    assert found["classes"]["a"]["pq@0.5"]["n"] == 1
    assert found["mpq"]["0.5"]["mean"] == 0.5
    assert len(found["images"]) == 4
    json.dumps(found, allow_nan=False)


def test_text_shows_the_numbers(classed, tmp_path):
    text = report_text(evaluate(*classed, Rules(iou=(0.5, 0.75))))
    lines = [line.split() for line in text.splitlines()]
    assert ["Dice", "Dice2", "AJI", "AJI+"] in lines
    assert [
        ">",
        "0.75",
        "3",
        "1",
        "1",
        *["0.7500"] * 3,
        "0.6000",
        "0.7500",
        "1.0000",
        "0.7500",
    ] in lines
    assert ["a", "2", "2", "0.5000", "0.5000", "0.3333", "0.4000"] in lines
    empty = save(tmp_path, "e.png", TRUTH * 0)
    assert " - " in report_text(evaluate(empty, empty))
    text = report_text(evaluate_set([classed, classed]))
    assert text.startswith("2 images")
    assert "mPQ @ 0.5" in text


def test_damage_to_real_nuclei_lowers_what_it_should(data, tmp_path):
    path = data / "nuclei" / "kumar" / "kumar_training_04_labels.png"
    truth = np.asarray(Image.open(path)).astype(np.int32)
    ids = np.unique(truth)[1:]
    few = np.random.default_rng(0).choice(ids, len(ids) // 4, replace=False)
    wide = np.where(truth > 0, truth, ndimage.grey_dilation(truth, 3))
    fewer = np.where(np.isin(truth, few), 0, truth)
    moved = np.roll(truth, 4, axis=1)
    results = {}
    for name, pred in {"same": truth, "wide": wide, "fewer": fewer, "moved": moved}.items():
        found = evaluate(path, save(tmp_path, f"{name}.npy", pred))
        results[name] = found["metrics"] | found["matches"]["0.5"]
    assert results["same"]["pq"] == results["same"]["aji"] == results["same"]["dice"] == 1
    assert results["wide"]["dq"] > 0.99
    assert 0.6 < results["wide"]["sq"] < 0.95
    assert results["wide"]["aji"] < results["wide"]["dice"] < 1
    assert results["fewer"]["sq"] == results["fewer"]["precision"] == 1
    assert results["fewer"]["recall"] == 1 - len(few) / len(ids)
    assert results["fewer"]["aji"] == results["fewer"]["aji_plus"] < 0.9
    assert results["moved"]["aji"] < results["moved"]["dice"] < 0.9
