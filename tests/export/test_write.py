import errno
import resource
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsiseg.cells.layer import Cells
from wsiseg.errors import InputFileError, OutputError
from wsiseg.export import WRITERS, tables, write, write_all, write_geojson

NAMES = ("cells.geojson.gz", "cells.geojson", "cells.parquet", "cells.csv")


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_the_name_says_the_format(tmp_path, make_cells, suffix):
    written = write([make_cells(30)], tmp_path / f"x{suffix}")
    assert written.cells == 30
    assert (tmp_path / f"x{suffix}").stat().st_size > 100
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]


def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path, make_cells):
    with pytest.raises(InputFileError, match=r"\.geojson\.gz.*\.parquet.*\.csv"):
        write_all([make_cells(1)], [tmp_path / "x.csv", tmp_path / "x.shp"])
    assert list(tmp_path.iterdir()) == []


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, 700), max_size=8), nuclei=st.booleans())
def test_bytes_do_not_depend_on_how_rows_are_cut(tmp_path, make_cells, monkeypatch, cuts, nuclei):
    monkeypatch.setattr(tables, "ROW_GROUP", 256)  # so that batches straddle row groups
    cells = make_cells(700, nuclei=nuclei)
    edges = [0, *sorted(cuts), 700]
    cut = [cells.take(slice(a, b)) for a, b in pairwise(edges)]
    for folder, batches in (("whole", [cells]), ("cut", cut)):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_all(iter(batches), [tmp_path / folder / name for name in NAMES])
    for name in NAMES:
        whole, parts = ((tmp_path / f / name).read_bytes() for f in ("whole", "cut"))
        assert whole == parts, name


def test_all_files_hold_the_same_rows(tmp_path, make_cells):
    cells = make_cells(100)
    cells.geometry[3] = None
    written = write_all([cells], [tmp_path / name for name in NAMES])
    assert (written.cells, written.dropped) == (99, {"not_polygon": 1})
    assert len(Cells.open(tmp_path / "cells.parquet")) == 99
    assert len((tmp_path / "cells.csv").read_text().splitlines()) == 100
    assert (tmp_path / "cells.geojson").read_text().count('"Feature"') == 99


@pytest.mark.parametrize("name", NAMES)
def test_an_error_on_the_way_leaves_no_file_and_keeps_the_former_one(tmp_path, make_cells, name):
    def batches():
        yield make_cells(40)
        raise RuntimeError("the source failed")

    (tmp_path / name).write_bytes(b"former")
    with pytest.raises(RuntimeError, match="the source failed"):
        write(batches(), tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"former"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path, make_cells, name):
    (tmp_path / "file").touch()
    for folder in ("file", "absent"):
        with pytest.raises(OutputError, match=name):
            write([make_cells(3)], tmp_path / folder / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, make_cells, name):
    cells = make_cells(600)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(OutputError, match="file-size limit"):
            write([cells], tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [True, False])
def test_an_error_names_the_file_it_befell(tmp_path, make_cells, monkeypatch, first):
    @contextmanager
    def full(path):
        def add(_):
            raise OSError(errno.ENOSPC, "full")

        yield add

    monkeypatch.setitem(WRITERS, ".csv", full)
    names = ["x.csv", "x.parquet", "x.geojson.gz"]
    with pytest.raises(OutputError, match=r"x\.csv: No space left"):
        write_all([make_cells(30)], [tmp_path / n for n in (names if first else names[::-1])])
    assert list(tmp_path.iterdir()) == []


def test_columns_that_come_late_are_refused_with_the_remedy(tmp_path, make_cells):
    cells = make_cells(10)
    late = make_cells(10)
    late.measurements["more"] = np.zeros(10)
    with pytest.raises(InputFileError, match="first batch"):
        write([cells, late], tmp_path / "x.parquet")


def test_cells_are_written_as_well_as_batches(tmp_path, make_cells):
    cells = make_cells(50)
    write_geojson(Cells([cells]), tmp_path / "a.geojson")
    write_geojson([cells], tmp_path / "b.geojson")
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()


PEAK = """
import resource, sys
import numpy as np, shapely
from wsiseg.cells.layer import CellBatch
from wsiseg.export import write_all
from wsiseg.export.geojson_read import read_geojson

def batches(n, size=5000):
    for first in range(0, n, size):
        x = np.arange(first, first + size) * 20.0
        ids = np.array([f"{i:08x}-0000-4000-8000-000000000000" for i in range(first, first + size)])
        index = np.zeros(size, dtype=np.int32)
        yield CellBatch(ids, shapely.box(x, 0, x + 9.5, 9), index, ("a",), {"m": x + 0.25})

n, out = int(sys.argv[1]), sys.argv[2]
written = write_all(batches(n), [f"{out}/x.geojson.gz", f"{out}/x.parquet", f"{out}/x.csv"])
read = sum(len(b) for b in read_geojson(f"{out}/x.geojson.gz"))
assert written.cells == read == n
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_cells(tmp_path):
    def peak_mb(n):
        code = [sys.executable, "-c", textwrap.dedent(PEAK), str(n), str(tmp_path)]
        return int(subprocess.run(code, capture_output=True, check=True).stdout) / 1024

    few, many = peak_mb(30_000), peak_mb(120_000)
    # 90,000 cells more, of which outlines and ids alone would take 45 MB
    assert many - few < 15, (few, many)
