"""What is read of a whole archive: the cohort table and the data set of all cells."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import geopandas
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import wsiseg
from wsiseg.archive.cohort import write_cohort
from wsiseg.archive.dataset import add_part, drop_part, part_of
from wsiseg.archive.records import Record
from wsiseg.archive.rows import SlideRow

IDS = ["007", "a b%é", "case-2"]


@pytest.fixture(scope="module")
def archive(small_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with ids that are not easy to quote."""
    out = tmp_path_factory.mktemp("cohort") / "out"
    rows = [
        SlideRow(slide_id, str(small_slides / f"case-{i}.tiff"), group="arm A" if i else "")
        for i, slide_id in enumerate(IDS)
    ]
    assert wsiseg.batch(rows, out, model="hematoxylin", workers=2).ok
    return out


def test_geopandas_reads_all_cells_with_their_slides(archive: Path) -> None:
    frame = geopandas.read_parquet(archive / "cells")
    cohort = pq.read_table(archive / "cohort.parquet").to_pandas().set_index("slide_id")
    counts = frame.groupby(frame["slide_id"].astype(str)).size()
    assert dict(counts) == dict(cohort["cells"])
    assert sorted(counts.index) == sorted(IDS)
    assert frame.geometry.is_valid.all()
    assert not frame["id"].duplicated().any()


def test_arrow_reads_one_slide_alone(archive: Path) -> None:
    kind = ds.partitioning(pa.schema([("slide_id", pa.string())]), flavor="hive")
    cells = ds.dataset(archive / "cells", partitioning=kind)
    some = cells.to_table(filter=ds.field("slide_id") == "007")
    one = pq.read_table(archive / "slides" / "007" / "cells.parquet")
    assert some.num_rows == one.num_rows > 0


def test_duckdb_reads_all_cells_with_their_slides(archive: Path) -> None:
    import duckdb

    found = duckdb.sql(
        f"SELECT slide_id, count(*) FROM read_parquet('{archive}/cells/*/*.parquet', "
        "hive_partitioning = true, hive_types = {'slide_id': VARCHAR}) GROUP BY ALL"
    ).fetchall()
    cohort = pq.read_table(archive / "cohort.parquet").to_pylist()
    assert dict(found) == {row["slide_id"]: row["cells"] for row in cohort}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, with the newest pandas
def test_dask_geopandas_reads_all_cells(archive: Path) -> None:
    import dask_geopandas

    frame = dask_geopandas.read_parquet(archive / "cells")
    assert len(frame) == sum(pq.read_table(archive / "cohort.parquet")["cells"].to_pylist())


def test_the_data_set_takes_no_space_of_its_own(archive: Path) -> None:
    for slide_id in IDS:
        own = archive / "slides" / slide_id / "cells.parquet"
        assert own.samefile(part_of(archive, slide_id))


def test_the_cohort_has_a_row_per_slide_with_densities(archive: Path) -> None:
    rows = pq.read_table(archive / "cohort.parquet").to_pylist()
    assert [row["slide_id"] for row in rows] == sorted(IDS)
    assert [row["group"] for row in rows] == [None, "arm A", "arm A"]
    for row in rows:
        assert row["cells_per_mm2"] == pytest.approx(row["cells"] / row["tissue_mm2"])
        assert row["dropped"] >= 0
        assert isinstance(row["warnings"], list)


def test_classes_that_a_model_has_not_are_null(tmp_path: Path) -> None:
    records = [
        Record("a", "done", cells=5, tissue_mm2=2.0, classes={"x": 4, "y": 1}),
        Record("b", "done", cells=0, tissue_mm2=0.0, classes={"x": 0, "y": 0}),
        Record("c", "done", cells=7, tissue_mm2=1.0),
        Record("d", "failed", cells=9),
    ]
    write_cohort(tmp_path, records)
    rows = pq.read_table(tmp_path / "cohort.parquet").to_pylist()
    assert [row["cells_x"] for row in rows] == [4, 0, None]
    assert [row["x_per_mm2"] for row in rows] == [2.0, None, None]
    assert [row["cells_per_mm2"] for row in rows] == [2.5, None, 7.0]


def test_an_archive_without_a_finished_slide_has_an_empty_cohort(tmp_path: Path) -> None:
    write_cohort(tmp_path, [])
    assert pq.read_table(tmp_path / "cohort.parquet").num_rows == 0


def test_parts_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"1")
    add_part(tmp_path, "a", tmp_path / "x.parquet")
    add_part(tmp_path, "a", tmp_path / "x.parquet")
    assert [p.name for p in (tmp_path / "cells" / "slide_id=a").iterdir()] == ["cells.parquet"]
    drop_part(tmp_path, "a")
    drop_part(tmp_path, "a")
    assert list((tmp_path / "cells").iterdir()) == []


def test_a_file_system_without_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("wsiseg.archive.dataset.os.link", refuse)
    (tmp_path / "x.parquet").write_bytes(b"1")
    add_part(tmp_path, "a", tmp_path / "x.parquet")
    assert part_of(tmp_path, "a").read_bytes() == b"1"


def test_checksums_are_those_of_sha256sum(archive: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=archive, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ", 1)[1] for line in (archive / "SHA256SUMS").read_text().splitlines()}
    results = {
        path.relative_to(archive).as_posix()
        for path in archive.rglob("*")
        if path.is_file() and ".wsiseg" not in path.parts
    }
    assert results - listed == {"SHA256SUMS", "status.json", "status.parquet", "status.md"}
