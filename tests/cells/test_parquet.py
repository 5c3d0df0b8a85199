import logging

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from wsiseg.cells.layer import Cells
from wsiseg.cells.parquet import count_rows, read_batches
from wsiseg.errors import InputFileError


def frame(**columns):
    shapes = [shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)]
    return geopandas.GeoDataFrame(columns, geometry=shapes)


def test_a_file_of_geopandas_is_read_with_what_it_has(tmp_path, caplog):
    columns = {"class": ["b", None], "area": [1, 2], "note": ["x", "y"], "flag": [True, False]}
    frame(**columns).rename_geometry("shape").to_parquet(tmp_path / "x.parquet")
    with caplog.at_level(logging.WARNING):
        (cells,) = read_batches(tmp_path / "x.parquet")
    assert "note" in caplog.text
    assert cells.class_names.tolist() == ["b", None]
    assert {k: v.tolist() for k, v in cells.measurements.items()} == {
        "area": [1.0, 2.0],
        "flag": [1.0, 0.0],
    }
    assert len(set(cells.id)) == 2
    assert shapely.area(cells.geometry).tolist() == [1, 1]


def test_ids_made_for_rows_do_not_depend_on_the_batches(tmp_path):
    frame().to_parquet(tmp_path / "x.parquet")
    whole = next(read_batches(tmp_path / "x.parquet")).id.tolist()
    assert [str(b.id[0]) for b in read_batches(tmp_path / "x.parquet", 1)] == whole


def test_ids_made_for_rows_do_not_depend_on_the_window(tmp_path):
    cells = pd.concat([frame(), frame().translate(90).to_frame("geometry")])
    cells.to_parquet(tmp_path / "x.parquet", write_covering_bbox=True, row_group_size=2)
    (whole,) = read_batches(tmp_path / "x.parquet")
    found = Cells.open(tmp_path / "x.parquet").meeting((80, 0, 100, 1))
    assert found.id.tolist() == whole.id[2:].tolist()


def test_cells_without_ids_have_a_table(tmp_path):
    frame(area=[1.5, np.nan]).to_parquet(tmp_path / "x.parquet")
    cells = Cells.open(tmp_path / "x.parquet")
    assert cells.table.index.name == cells.to_geopandas().index.name == "id"


@pytest.mark.parametrize("text", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"id,class\n"])
def test_a_file_that_is_no_parquet_is_an_error(tmp_path, text):
    (tmp_path / "x.parquet").write_bytes(text)
    with pytest.raises(InputFileError, match=r"x\.parquet: not a readable Parquet file"):
        count_rows(tmp_path / "x.parquet")


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(InputFileError, match="not a readable"):
        Cells.open(tmp_path / "absent.parquet")


def test_a_table_without_geometry_is_an_error(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputFileError, match="GeoParquet"):
        Cells.open(tmp_path / "x.parquet")


def test_an_encoding_other_than_wkb_is_an_error(tmp_path):
    frame().to_parquet(tmp_path / "x.parquet", geometry_encoding="geoarrow")
    with pytest.raises(InputFileError, match="WKB"):
        Cells.open(tmp_path / "x.parquet")


def test_damage_in_the_data_is_an_error(tmp_path):
    frame(area=[1.0, 2.0]).to_parquet(tmp_path / "x.parquet")
    whole = bytearray((tmp_path / "x.parquet").read_bytes())
    whole[4:60] = bytes(56)
    (tmp_path / "x.parquet").write_bytes(whole)
    with pytest.raises(InputFileError, match="not a readable"):
        list(read_batches(tmp_path / "x.parquet"))
