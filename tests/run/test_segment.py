"""The promise: the same bytes for any tiling, order and workers, and after a kill and resume."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import shapely

import wsiseg
from wsiseg.engine.executor import Dask, Executor, Serial, Threads
from wsiseg.errors import ForeignFolderError, KeyMismatchError, MissingSpacingError, SettingsError
from wsiseg.geometry import Box
from wsiseg.run.job import Job
from wsiseg.run.memory import Budget
from wsiseg.run.segment import run
from wsiseg.synth import he_slide, write_he_slide

T = TypeVar("T")
R = TypeVar("R")

FILES = ("cells.parquet", "cells.geojson.gz", "cells.csv")
FORMATS = ("geojson", "parquet", "csv")


class Shuffled:
    """Another executor, its regions in a random order."""

    def __init__(self, inner: Executor, seed: int) -> None:
        self._inner, self._seed = inner, seed

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        todo = list(items)
        order = np.random.default_rng(self._seed).permutation(len(todo))
        return self._inner.map(function, [todo[i] for i in order])


def digests(out: Path) -> dict[str, str]:
    return {name: sha256((out / name).read_bytes()).hexdigest() for name in FILES}


def bytes_of(
    slide: Path, out: Path, executor: Executor | None = None, **job: Any
) -> dict[str, str]:
    run(Job(slide=slide, out=out, formats=FORMATS, **job), executor=executor)
    return digests(out)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic H&E slide with sizes that nothing divides."""
    path = tmp_path_factory.mktemp("synthetic") / "slide.tiff"
    write_he_slide(path, he_slide((1501, 1789), np.random.default_rng(4)))
    return path


@pytest.fixture(scope="session")
def whole(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Its files when it is done in one region."""
    return bytes_of(synthetic, tmp_path_factory.mktemp("whole") / "run", Serial(), region=4096)


@pytest.mark.parametrize(("region", "workers"), [(512, 1), (1000, 2), (300, 2)])
def test_threads_and_shuffled_regions_give_the_same_bytes(
    synthetic: Path, whole: dict[str, str], tmp_path: Path, region: int, workers: int
) -> None:
    executor = Shuffled(Threads(workers), seed=region)
    assert bytes_of(synthetic, tmp_path / "run", executor, region=region) == whole


def test_dask_workers_give_the_same_bytes(
    synthetic: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    with Dask(2) as executor:
        assert bytes_of(synthetic, tmp_path / "run", Shuffled(executor, 1), region=400) == whole


@pytest.mark.data
@pytest.mark.parametrize(("region", "workers"), [(512, 0), (1000, None), (2048, 2)])
def test_a_real_slide_gives_the_same_bytes(
    slides: Path, tmp_path: Path, region: int, workers: int | None
) -> None:
    slide = slides / "cmu-1-small-region.svs"
    one = bytes_of(slide, tmp_path / "one", Serial(), region=4096)
    assert bytes_of(slide, tmp_path / "other", region=region, workers=workers) == one


def window(tmp_path: Path, box: tuple[int, int, int, int]) -> Path:
    """A GeoJSON file with one rectangle, level-0 px."""
    path = tmp_path / "window.geojson"
    path.write_text(shapely.to_geojson(shapely.box(*box)))
    return path


@pytest.mark.data
def test_a_window_of_the_biopsy_gives_the_same_bytes(slides: Path, tmp_path: Path) -> None:
    slide = slides / "TCGA-V5-A7RE-11A_stitched_40x.ome.tif"
    tissue = str(window(tmp_path, (4000, 3000, 7000, 5500)))
    one = bytes_of(slide, tmp_path / "one", Serial(), region=4096, tissue=tissue)
    other = Shuffled(Threads(2), 5)
    assert bytes_of(slide, tmp_path / "two", other, region=700, tissue=tissue) == one
    cells = wsiseg.Cells.open(tmp_path / "one")
    assert len(cells) > 300
    at = shapely.centroid(cells.polygons)
    assert shapely.contains(shapely.box(4000, 3000, 7000, 5500), at).all()


def test_cells_of_a_user_region_are_those_of_the_whole_slide(
    synthetic: Path, tmp_path: Path
) -> None:
    region = shapely.box(300, 250, 815, 900)
    every = wsiseg.segment(synthetic, tmp_path / "all", tissue="none").to_geopandas()
    tissue = window(tmp_path, (300, 250, 815, 900))
    cells = wsiseg.segment(synthetic, tmp_path / "some", tissue=tissue)
    inside = every[shapely.contains(region, every.centroid)]
    assert set(cells.table.index) == set(inside.index)
    assert cells.made["tissue_mm2"] == pytest.approx(515 * 650 * 0.25e-6, abs=1e-6)
    assert cells.made["dropped"]["outside_region"] > 0


SOAK_REGIONS = (512, 1000, 2048, 4096)
SOAK_WORKERS = ("serial", "threads", "dask1", "dask2")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("region", "workers"), list(product(SOAK_REGIONS, SOAK_WORKERS)))
@pytest.mark.parametrize(
    "name", ["cmu-1-small-region.svs", "TCGA-V5-A7RE-11A_stitched_40x.ome.tif", "synthetic"]
)
@pytest.mark.parametrize("model", ["hematoxylin", "nuclei-he"])
@pytest.mark.usefixtures("shipped_weights")
def test_the_full_matrix_gives_the_same_bytes(
    model: str,
    name: str,
    region: int,
    workers: str,
    slides: Path,
    synthetic: Path,
    soak_truth: Callable[[Path, str], dict[str, str]],
    tmp_path: Path,
) -> None:
    slide = synthetic if name == "synthetic" else slides / name
    expected = soak_truth(slide, model)
    job: dict[str, Any] = {"region": region, "model": model}
    if workers.startswith("dask"):
        with Dask(int(workers[-1])) as executor:
            found = bytes_of(slide, tmp_path / "run", Shuffled(executor, region), **job)
    else:
        inner = Serial() if workers == "serial" else Threads(2)
        found = bytes_of(slide, tmp_path / "run", Shuffled(inner, region), **job)
    assert found == expected


@pytest.fixture(scope="session")
def soak_truth(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], dict[str, str]]:
    known: dict[tuple[Path, str], dict[str, str]] = {}

    def truth(slide: Path, model: str) -> dict[str, str]:
        if (slide, model) not in known:
            out = tmp_path_factory.mktemp("truth") / "run"
            known[slide, model] = bytes_of(slide, out, Serial(), region=16384, model=model)
        return known[slide, model]

    return truth


def command(slide: Path, out: Path, *more: str) -> list[str]:
    formats = ["--format", ",".join(FORMATS)]
    return [
        sys.executable,
        "-m",
        "wsiseg",
        "segment",
        str(slide),
        "--out",
        str(out),
        *formats,
        *more,
    ]


def killed_then_resumed(slide: Path, out: Path, seed: int, kills: int, *more: str) -> int:
    """Kill the run ``kills`` times at random moments; the regions that the last run found done."""
    rng = random.Random(seed)
    done = 0
    while done < kills:
        process = subprocess.Popen(command(slide, out, *more), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        regions = rng.randint(1, 3)
        for line in process.stderr:  # wait for work, then for a random while
            regions -= line.startswith("region ")
            if regions == 0:
                break
        time.sleep(rng.random() * 0.4)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        done += 1
    subprocess.run(command(slide, out, *more), check=True, capture_output=True)
    return int(json.loads((out / "run.json").read_text())["regions"]["resumed"])


@pytest.mark.timeout(600)
def test_kill_and_resume_give_the_same_bytes(
    synthetic: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    resumed = killed_then_resumed(synthetic, tmp_path / "run", 7, 3, "--region", "300")
    assert resumed > 0
    assert digests(tmp_path / "run") == whole


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["threads", "dask2"])
def test_kill_and_resume_on_the_biopsy_give_the_same_bytes(
    slides: Path,
    soak_truth: Callable[[Path, str], dict[str, str]],
    tmp_path: Path,
    seed: int,
    more: tuple[str, ...],
) -> None:
    slide = slides / "TCGA-V5-A7RE-11A_stitched_40x.ome.tif"
    resumed = killed_then_resumed(slide, tmp_path / "run", seed, 5, "--region", "600", *more)
    assert resumed > 0
    assert digests(tmp_path / "run") == soak_truth(slide, "hematoxylin")


def test_a_finished_run_is_not_computed_again(
    synthetic: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    first = run(Job(slide=synthetic, out=tmp_path / "run", formats=FORMATS, region=600))
    again = run(Job(slide=synthetic, out=tmp_path / "run", formats=FORMATS, region=600))
    assert again.facts["regions"]["resumed"] == first.facts["regions"]["total"]
    assert digests(tmp_path / "run") == whole


def test_another_region_size_keeps_the_stored_grid_and_says_so(
    synthetic: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    said: list[str] = []
    run(Job(slide=synthetic, out=tmp_path / "run", formats=FORMATS, region=600))
    report = run(
        Job(slide=synthetic, out=tmp_path / "run", formats=FORMATS, region=900), notice=said.append
    )
    assert report.facts["grid"]["region"] == 600
    assert any("600 px" in line for line in said)
    fresh = Job(slide=synthetic, out=tmp_path / "run", formats=FORMATS, region=900, fresh=True)
    assert run(fresh).facts["grid"]["region"] == 900
    assert digests(tmp_path / "run") == whole


def test_other_parameters_in_the_same_folder_are_refused_by_name(
    synthetic: Path, tmp_path: Path
) -> None:
    run(Job(slide=synthetic, out=tmp_path / "run"))
    with pytest.raises(KeyMismatchError, match=r"simplify.*--fresh"):
        run(Job(slide=synthetic, out=tmp_path / "run", simplify=1.0))
    with pytest.raises(KeyMismatchError, match="mpp"):
        run(Job(slide=synthetic, out=tmp_path / "run", mpp=0.51))


def test_a_damaged_region_is_computed_again_and_counted(
    synthetic: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    job = Job(slide=synthetic, out=tmp_path / "run", formats=FORMATS, region=600)
    run(job)
    stored = sorted((tmp_path / "run" / ".wsiseg" / "regions").iterdir())[1]
    blob = bytearray(stored.read_bytes())
    blob[len(blob) // 2] ^= 1
    stored.write_bytes(blob)
    again = run(job)
    assert again.facts["regions"]["total"] - again.facts["regions"]["resumed"] == 1
    assert again.facts["regions"]["damaged"] == 1
    assert digests(tmp_path / "run") == whole


def test_a_folder_with_files_of_others_is_never_written_into(
    synthetic: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ForeignFolderError, match=r"thesis\.txt"):
        run(Job(slide=synthetic, out=tmp_path))
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.data
def test_a_slide_without_a_pixel_size_needs_mpp(slides: Path, tmp_path: Path) -> None:
    slide = slides / "tcga-cr-7395-01a-01-ts1.svs"
    with pytest.raises(MissingSpacingError, match="--mpp"):
        wsiseg.segment(slide, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_glass_without_tissue_gives_valid_empty_files(tmp_path: Path) -> None:
    glass = np.full((601, 703, 3), 243, np.uint8)
    cells = wsiseg.segment(wsiseg.open_slide(glass, mpp=0.5), tmp_path / "run", formats=FORMATS)
    assert len(cells) == 0
    assert cells.to_geopandas().empty
    assert cells.made["tissue_mm2"] == 0
    assert cells.made["warnings"]
    assert (tmp_path / "run" / "preview.png").exists()
    assert len((tmp_path / "run" / "cells.csv").read_text().splitlines()) == 1


def test_the_record_holds_what_it_promises(synthetic: Path, tmp_path: Path) -> None:
    cells = wsiseg.segment(synthetic, tmp_path / "run", region=800)
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made == cells.made
    assert made["cells"] == len(cells) > 100
    assert 0 < made["tissue_mm2"] <= made["analysed_mm2"] * 1.5
    assert {"startup", "total", "read", "network", "decode"} <= made["seconds"].keys()
    assert made["peak_rss_bytes"] > 50e6
    assert made["model"]["name"] == "hematoxylin"
    assert made["key"]
    assert "too_small" in made["dropped"]
    frame = cells.to_geopandas()
    assert {"id", "class", "geometry"} <= {*frame.columns, frame.index.name}
    assert frame.geometry.is_valid.all()


def test_the_whole_slide_is_run_when_tissue_is_none(synthetic: Path, tmp_path: Path) -> None:
    made = wsiseg.segment(synthetic, tmp_path / "run", tissue="none").made
    assert made["analysed_mm2"] == pytest.approx(1501 * 1789 * 0.25e-6, rel=1e-6)


def test_memory_bounds_shrink_regions_but_not_the_result(
    synthetic: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    base = Budget.of(Job(slide=synthetic, out=tmp_path)).base
    bound = base + (310 << 20)
    report = run(Job(slide=synthetic, out=tmp_path / "run", formats=FORMATS, max_memory=bound))
    assert report.facts["grid"]["region"] < 2048
    assert digests(tmp_path / "run") == whole


def test_an_array_is_known_by_its_pixels_not_by_a_file_of_that_name(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory").write_text("an unrelated file")
    with wsiseg.open_slide(synthetic) as slide:
        one, two = (slide.read_level(0, Box((0, x), (400, x + 500))) for x in (300, 900))
    wsiseg.segment(wsiseg.open_slide(one, mpp=0.5), tmp_path / "run")
    with pytest.raises(KeyMismatchError, match="slide"):
        wsiseg.segment(wsiseg.open_slide(two, mpp=0.5), tmp_path / "run")


def test_data_that_fill_a_sixteenth_of_their_range_are_warned_of(tmp_path: Path) -> None:
    twelve_bit = np.full((301, 303, 3), 3900, np.uint16)
    made = wsiseg.segment(wsiseg.open_slide(twelve_bit, mpp=0.5), tmp_path / "run").made
    assert any("significant bits" in warning for warning in made["warnings"])


def test_macenko_without_tissue_is_no_error(tmp_path: Path) -> None:
    glass = wsiseg.open_slide(np.full((301, 303, 3), 243, np.uint8), mpp=0.5)
    assert len(wsiseg.segment(glass, tmp_path / "run", stain="macenko")) == 0


def test_what_people_write_is_taken(synthetic: Path, tmp_path: Path) -> None:
    model = wsiseg.load_model()
    cells = wsiseg.segment(
        str(synthetic), str(tmp_path / "run"), model=model, formats="csv", max_memory="2GB"
    )
    assert len(cells) > 100
    assert (tmp_path / "run" / "cells.csv").exists()


def test_settings_of_a_path_are_refused_for_an_open_slide(synthetic: Path, tmp_path: Path) -> None:
    with wsiseg.open_slide(synthetic) as slide, pytest.raises(SettingsError, match="open_slide"):
        wsiseg.segment(slide, tmp_path / "run", mpp=0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"region": 5}, "region"),
        ({"workers": -1}, "workers"),
        ({"formats": ("xml",)}, "xml"),
        ({"scheduler": "localhost"}, "tcp://"),
        ({"stain": "pink"}, "stain"),
        ({"max_memory": 0}, "max-memory"),
        ({"max_memory": "lots"}, "max-memory"),
        ({"simplify": float("inf")}, "simplify"),
        ({"mpp": 0.0}, "mpp"),
        ({"device": "toaster"}, "device"),
        ({"region": 100.5}, "region"),
        ({"tissue": 3}, "tissue"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Job(slide="x", out=Path("y"), **settings)
