"""Evaluation of many images: numbers of the single images, files, pages, and what is refused."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import shapely
from PIL import Image

from wsiseg.cells.layer import CellBatch, Cells, uuids_from
from wsiseg.errors import InputFileError, MissingSpacingError, OutputError, SettingsError
from wsiseg.export.write import write
from wsiseg.metrics import Rules, centroids, match_points, type_f1
from wsiseg.model.zoo import load_model
from wsiseg.run.evaluate import evaluate_set
from wsiseg.run.evaluate_cases import cases_of_manifest
from wsiseg.run.evaluate_images import FILES, EvaluationJob, evaluate_images
from wsiseg.run.evaluate_images_text import images_text
from wsiseg.run.evaluate_predictions import predict
from wsiseg.run.evaluate_totals import remarks
from wsiseg.run.segment import segment
from wsiseg.synth import he_slide

NAMES = ("epithelial", "inflammatory", "spindle")


def grid(shape=(97, 131), step=16, side=9):
    """Squares in rows and columns, numbered from 1."""
    labels = np.zeros(shape, np.uint16)
    corners = [
        (y, x) for y in range(4, shape[0] - side, step) for x in range(4, shape[1] - side, step)
    ]
    for i, (y, x) in enumerate(corners, 1):
        labels[y : y + side, x : x + side] = i
    return labels


TRUTH = grid()
N = int(TRUTH.max())


def class_of(i):
    return NAMES[i % 3]


def damaged(seed):
    """Some objects lost, some moved by up to 5 px, a false one."""
    rng = np.random.default_rng(seed)
    pred = np.zeros_like(TRUTH)
    for i in range(1, N + 1):
        if rng.random() < 0.8:
            y, x = np.nonzero(i == TRUTH)
            dy, dx = rng.integers(0, 6, 2)
            pred[np.minimum(y + dy, 96), np.minimum(x + dx, 130)] = i
    pred[0:3, 0:3] = N + 1
    return pred


def types(path, wrong=()):
    rows = [f"{i},{class_of(i + (i in wrong))}\n" for i in range(1, N + 1)]
    path.write_text("id,class\n" + "".join(rows))


@pytest.fixture
def world(tmp_path):
    """A manifest of five images in two sets, and predictions as label images in ``pred``."""
    (tmp_path / "pred").mkdir()
    rows = ["image,labels,set,split,mpp,case\n"]
    for k, (name, mpp) in enumerate([("one", 0.25)] * 3 + [("two", 0.5)] + [("two", "")]):
        stem = f"{name}{k}"
        rgb = np.where(TRUTH[..., None] > 0, (90, 40, 120), (240, 200, 220)).astype(np.uint8)
        Image.fromarray(rgb).save(tmp_path / f"{stem}.png")
        Image.fromarray(TRUTH).save(tmp_path / f"{stem}_labels.png")
        Image.fromarray(damaged(k)).save(tmp_path / "pred" / f"{stem}.png")
        if name == "one":
            types(tmp_path / f"{stem}_types.csv")
            types(tmp_path / "pred" / f"{stem}_types.csv", wrong=(1, 4, 5))
        rows.append(f"{stem}.png,{stem}_labels.png,{name},val,{mpp},case {k}\n")
    (tmp_path / "manifest.csv").write_text("".join(rows))
    return tmp_path


def job(world, **settings):
    common = {"manifest": world / "manifest.csv", "pred": world / "pred", "workers": 1}
    return EvaluationJob(**{**common, **settings})


def test_totals_are_those_of_the_single_files(world):
    found = evaluate_images(job(world))
    pairs = [(world / f"one{k}_labels.png", world / "pred" / f"one{k}.png") for k in range(3)]
    expected = evaluate_set(pairs, Rules(radius=3.0, mpp=0.25))["aggregate"]
    metrics = found["sets"]["one"]["metrics"]
    for name in ("dice", "aji", "aji_plus", "dq@0.5", "sq@0.5", "pq@0.5", "f1@detection"):
        for how in ("mean", "pooled"):
            assert metrics[name][how] == expected[name][how]
        assert (metrics[name]["n"], metrics[name]["n_excluded"]) == (3, 0)
        low, high = metrics[name]["mean_95"]
        assert low <= metrics[name]["mean"] <= high
    assert 0 < metrics["pq@0.5"]["mean"] < 1


def test_the_radius_follows_the_pixel_size(world):
    found = evaluate_images(job(world, radius_um=1.0))
    for name, k, mpp in (("one", 0, 0.25), ("two", 3, 0.5)):
        match = match_points(centroids(TRUTH)[1], centroids(damaged(k))[1], 1.0 / mpp)
        row = next(row for row in found["images"] if row["image"] == f"{name}{k}.png")
        assert row["recall@detection"] == pytest.approx(match.tp / N)


def test_unknown_pixel_sizes_are_left_out_and_counted_or_said(world):
    found = evaluate_images(job(world))
    assert [row["image"] for row in found["skipped"]] == ["two4.png"]
    assert found["total"]["images"] == 4
    assert "--unknown-mpp" in images_text(found, None)
    said = evaluate_images(job(world, unknown_mpp=0.5))
    assert said["skipped"] == []
    assert said["sets"]["two"]["images"] == 2
    rows = (world / "manifest.csv").read_text().splitlines()
    (world / "manifest.csv").write_text("\n".join([rows[0], rows[-1]]) + "\n")
    with pytest.raises(InputFileError, match="all 1 images are of unknown pixel size"):
        evaluate_images(job(world))


def test_classes_of_label_images_are_scored(world):
    part = evaluate_images(job(world))["sets"]["one"]
    names = np.array([class_of(i) for i in range(1, N + 1)], dtype=object)
    pred_names = np.array([class_of(i + (i in (1, 4, 5))) for i in range(1, N + 1)], dtype=object)
    total = 0
    for k in range(3):
        ids, points = centroids(damaged(k))
        match = match_points(centroids(TRUTH)[1], points, 12)
        called = np.array([pred_names[i - 1] if i <= N else None for i in ids.tolist()])
        ratio = type_f1(match, names, called, "spindle")
        total = ratio if k == 0 else total + ratio
    spindle = part["classes"]["spindle"]
    assert spindle["f1_type"]["pooled"] == pytest.approx(total.value())
    assert spindle["truth"] == 3 * (names == "spindle").sum()
    assert part["mpq"]["mean"] < part["metrics"]["pq@0.5"]["mean"]
    assert part["mpq"]["pooled_95"][0] <= part["mpq"]["pooled"] <= part["mpq"]["pooled_95"][1]
    weighted = part["weighted_f1"]
    assert weighted["with_detection"]["value"] < weighted["classification"]["value"] < 1
    assert "classes" not in evaluate_images(job(world))["sets"]["two"]


def test_right_classes_on_perfect_objects_score_1(world):
    for k in range(3):
        Image.fromarray(TRUTH).save(world / "pred" / f"one{k}.png")
        types(world / "pred" / f"one{k}_types.csv")
    part = evaluate_images(job(world))["sets"]["one"]
    assert part["mpq"]["mean"] == part["weighted_f1"]["with_detection"]["value"] == 1
    assert all(c["f1_type"]["mean"] == c["pq"]["mean"] == 1 for c in part["classes"].values())
    assert set(part["errors"].values()) == {0}


def test_predictions_on_nuclei_of_unknown_class_are_not_held_against_a_class(world):
    for k in range(3):
        Image.fromarray(TRUTH).save(world / "pred" / f"one{k}.png")
        types(world / "pred" / f"one{k}_types.csv")
        path = world / f"one{k}_types.csv"
        path.write_text("\n".join(path.read_text().splitlines()[: N // 2]) + "\n")
    part = evaluate_images(job(world))["sets"]["one"]
    assert all(c["f1_type"]["pooled"] == c["pq"]["pooled"] == 1 for c in part["classes"].values())


def test_polygons_with_classes_are_found_by_name(world):
    for k in range(3):
        (world / "pred" / f"one{k}.png").unlink()
        boxes = [(i == TRUTH).nonzero() for i in range(1, N + 1)]
        squares = [shapely.box(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in boxes]
        geometry = np.array(squares, dtype=object)
        index = np.array([i % 3 for i in range(1, N + 1)], np.int32)
        called = ("Epithelial", "inflammatory ", "Fibroblast")
        (world / "pred" / "one").mkdir(exist_ok=True)
        cells = CellBatch(uuids_from(geometry), geometry, index, called)
        write([cells], world / "pred" / "one" / f"one{k}.geojson.gz")
    part = evaluate_images(job(world))["sets"]["one"]
    assert part["metrics"]["pq@0.5"]["mean"] == part["mpq"]["mean"] == 1
    kept = evaluate_images(job(world, rename={"Epithelial": "X"}))["sets"]["one"]
    assert {"fibroblast", "x"} <= {*kept["classes"]}


def test_centres_are_evaluated_beside_outlines(world):
    folder = world / "dots"
    folder.mkdir()
    ids, points = centroids(TRUTH)
    lines = [
        f"{y - 0.5},{x - 0.5},{class_of(i) if i % 4 else ''},validation\n"
        for i, (y, x) in zip(ids.tolist(), points.tolist(), strict=True)
    ]
    (folder / "d.csv").write_text("y,x,class,split\n" + "".join(lines))
    Image.new("RGB", TRUTH.shape[::-1]).save(folder / "d.png")
    pred = np.where(TRUTH % 5 == 4, 0, TRUTH).astype(np.uint16)  # neighbours are out of reach
    pred[0:3, 100:103] = N + 1
    Image.fromarray(pred).save(world / "pred" / "d.png")
    types(world / "pred" / "d_types.csv")
    found = evaluate_images(job(world, points=folder, points_mpp=0.25, out=world / "out"))
    part = found["sets"]["dots"]
    match = match_points(points, centroids(pred)[1], 12)
    assert part["metrics"]["f1@detection"]["pooled"] == pytest.approx(
        2 * match.tp / (N + match.n_pred)
    )
    assert part["errors"] == {"missed": match.fn, "false": match.fp}
    assert found["centres_count_from"] == {"dots": 0}
    page = (world / "out" / "worst.html").read_text()
    assert "without the centre of a prediction within 3 µm" in page
    assert "nearest prediction" in page
    assert part["weighted_f1"]["classification"]["value"] == 1
    assert "mpq" not in part
    assert "pq@0.5" not in part["metrics"]
    # a metric that does not apply to an image neither counts nor excludes it
    total = found["total"]["metrics"]["pq@0.5"]
    assert (total["n"], total["n_excluded"]) == (4, 0)


def test_one_case_has_no_interval_and_the_report_says_so(world):
    found = evaluate_images(job(world))
    assert found["sets"]["two"]["metrics"]["pq@0.5"]["mean_95"] is None
    assert "No interval for two" in images_text(found, None)


def test_intervals_of_few_cases_are_not_to_be_trusted(world):
    found = evaluate_images(job(world, out=world / "out"))
    said = "one: interval of 3 cases: too narrow to trust."
    assert said in images_text(found, None)
    assert said in (world / "out" / "worst.html").read_text()
    assert remarks(found) == [said]  # two has a single case, and no interval
    found["sets"]["one"]["cases"] = 5
    assert remarks(found) == []


def test_centres_that_count_from_1_are_moved_and_the_results_say_so(world):
    folder = world / "dots"
    folder.mkdir()
    points = centroids(TRUTH)[1]
    rows = [f"{y + 0.5},{x + 0.5}\n" for y, x in points.tolist()]
    (folder / "d.csv").write_text("y,x\n" + "".join(rows) + "97,131\n")
    Image.new("RGB", TRUTH.shape[::-1]).save(folder / "d.png")
    Image.fromarray(TRUTH).save(world / "pred" / "d.png")
    settings = {"points": folder, "points_mpp": 1.0, "radius_um": 0.25, "out": world / "out"}
    found = evaluate_images(job(world, manifest=None, **settings))
    assert found["centres_count_from"] == {"dots": 1}
    assert found["images"][0]["precision@detection"] == 1  # to a quarter of a pixel
    assert found["sets"]["dots"]["errors"] == {"missed": 1, "false": 0}
    said = "dots: centres count from 1 (some lie beyond the last px): 1 px taken off."
    assert said in images_text(found, None)
    assert said in (world / "out" / "worst.html").read_text()


def test_files_are_written_and_say_what_was_done(world):
    out = world / "deep" / "out"
    found = evaluate_images(job(world, out=out))
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    assert json.loads((out / "results.json").read_text()) == found
    assert found["settings"]["bootstrap"] == {"resamples": 1000, "seed": 0, "level": 0.95}
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["one0.png", "one1.png", "one2.png", "two3.png"]
    assert float(rows[0]["pq@0.5"]) == found["images"][0]["pq@0.5"]
    assert rows[3]["f1_type: spindle"] == ""
    text = images_text(found, out)
    assert all(str(out / name) in text for name in FILES)


def test_the_page_shows_errors_and_needs_no_network(world):
    out = world / "out"
    found = evaluate_images(job(world, out=out))
    page = (out / "worst.html").read_text()
    assert not re.search(r"(?:src|href)=(?!\"(?:data:|#))", page)
    assert "http" not in page
    assert page.count("<figure") > 20
    for name in ("one", "two"):
        for kind, count in found["sets"][name]["errors"].items():
            assert f"{kind}: {count}" in page
    assert "<script" not in page
    worst = min(found["images"][:3], key=lambda row: row["pq@0.5"])["image"]
    first = page.index(f"<b>{worst}</b>")
    assert all(first <= page.index(f"<b>one{k}.png</b>") for k in range(3))


def test_results_do_not_depend_on_threads_or_on_when_they_are_made(world):
    once, again = (evaluate_images(job(world, out=world / f"o{n}", workers=n)) for n in (1, 3))
    assert once == again
    pages = [(world / f"o{n}" / "worst.html").read_bytes() for n in (1, 3)]
    assert pages[0] == pages[1]


def test_names_from_a_manifest_are_escaped_in_the_page(world):
    path = world / "manifest.csv"
    path.write_text(path.read_text().replace(",one,", ",<script>x,"))
    evaluate_images(job(world, out=world / "out"))
    assert "<script" not in (world / "out" / "worst.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: (w / "pred" / "one1.png").unlink(),
            r"no prediction for 1 image\(s\): one1\.png",
        ),
        (
            lambda w: Image.fromarray(TRUTH[:50]).save(w / "one1_labels.png"),
            r"one1_labels\.png is 50 x 131 px, but its image .*one1\.png is 97 x 131",
        ),
        (
            lambda w: Image.fromarray(TRUTH[:50]).save(w / "pred" / "one1.png"),
            r"one1_labels\.png is 97 x 131 px and .*one1\.png is 50 x 131",
        ),
        (lambda w: (w / "one1_labels.png").write_bytes(b"no png"), r"one1_labels\.png"),
    ],
)
def test_what_is_wrong_is_named(world, change, message):
    change(world)
    with pytest.raises(InputFileError, match=message):
        evaluate_images(job(world))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"manifest": None}, "--manifest or --points"),
        ({"model": "hematoxylin"}, "exclude each other"),
        ({"points": "dots"}, "--points needs --mpp"),
        ({"radius_um": -1.0}, "--radius"),
        ({"radius_um": 0.0}, "--radius"),
        ({"points_mpp": 0.5}, "--mpp is the pixel size of --points"),
        ({"manifest": None, "points": "d", "points_mpp": 1.0, "unknown_mpp": 1.0}, "--unknown-mpp"),
        ({"unknown_mpp": 250.0}, "--unknown-mpp"),
    ],
)
def test_settings_that_cannot_be_are_named(world, settings, message):
    with pytest.raises(SettingsError, match=message):
        job(world, **settings)


def test_an_output_folder_that_cannot_be_is_named_before_the_work(world):
    (world / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        evaluate_images(job(world, out=world / "file"), on_image=lambda *_: pytest.fail("worked"))


@pytest.fixture
def slide_world(tmp_path):
    made = he_slide((301, 347), np.random.default_rng(3))
    Image.fromarray(made.rgb).save(tmp_path / "s.png")
    Image.fromarray(made.labels.astype(np.uint16)).save(tmp_path / "s_labels.png")
    (tmp_path / "manifest.csv").write_text("image,labels,mpp\ns.png,s_labels.png,0.5\n")
    return tmp_path


def test_a_model_is_run_as_segment_runs_it_and_its_cells_can_be_evaluated_again(slide_world):
    world = slide_world
    first = job(world, pred=None, model="hematoxylin", out=world / "out")
    told = []
    found = evaluate_images(first, on_image=lambda *done: told.append(done))
    assert told == [(1, 1)]
    assert found["predictions"]["sha256"] == load_model("hematoxylin").spec.sha256
    assert found["total"]["metrics"]["f1@detection"]["mean"] > 0.6
    cells = segment(world / "s.png", world / "run", mpp=0.5, tissue="none", model="hematoxylin")
    here = Cells.open(world / "out" / "cells" / "s.parquet")
    assert len(here) == len(cells) > 20
    assert set(shapely.to_wkb(here.polygons)) == set(shapely.to_wkb(cells.polygons))
    assert evaluate_images(job(world, pred=world / "out" / "cells"))["sets"] == found["sets"]
    (world / "runs").mkdir()
    (world / "run").rename(world / "runs" / "s")  # run folders are predictions, too
    assert evaluate_images(job(world, pred=world / "runs"))["sets"] == found["sets"]
    assert evaluate_images(replace(first, out=None))["sets"] == found["sets"]


def test_predicting_without_a_pixel_size_is_an_error(world):
    case = cases_of_manifest(world / "manifest.csv")[4]
    with pytest.raises(MissingSpacingError, match="unknown-mpp"):
        predict(load_model("hematoxylin"), case)


@pytest.mark.data
def test_hematoxylin_on_real_nuclei_scores_as_recorded(data, tmp_path):
    lines = (data / "nuclei" / "manifest.csv").read_text().splitlines()
    chosen = [line for line in lines if line.startswith("gbm40/") and ",val," in line][:2]
    rows = [re.sub(r"gbm40/[^,]+", lambda m: str(data / "nuclei" / m[0]), row) for row in chosen]
    (tmp_path / "manifest.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    found = evaluate_images(
        EvaluationJob(manifest=tmp_path / "manifest.csv", model="hematoxylin", out=tmp_path / "out")
    )
    metrics = found["sets"]["gbm40"]["metrics"]
    assert 0.62 < metrics["pq@0.5"]["mean"] < 0.75
    assert 0.85 < metrics["dice"]["mean"] < 0.91
    assert (tmp_path / "out" / "worst.html").stat().st_size < 4e6
