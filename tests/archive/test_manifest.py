"""Manifests: what is written is read back, and every mistake is named with its line."""

from __future__ import annotations

import json
import os
import time
from csv import reader
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsiseg.archive.ids import folded
from wsiseg.archive.manifest import read_manifest, write_manifest
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.scan import rows_of
from wsiseg.errors import InputFileError

IDS = st.text("abcXYZ019é染_- .'", min_size=1, max_size=12).map(lambda t: f"a{t}z")
PATHS = st.text("abc é染,;'\"=+-@\t", min_size=1, max_size=20).map(lambda t: f"/x{t}y.svs")
ROWS = st.lists(
    st.builds(
        SlideRow,
        IDS,
        PATHS,
        st.none() | st.floats(0.05, 20),
        st.sampled_from([None, "default", "macenko"]),
        st.sampled_from([None, "nuclei-he"]),
        st.sampled_from(["", "arm A", "=1+1", "@x", "-", "'"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: folded(row.slide_id),
)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=ROWS)
def test_what_is_written_is_read_back(rows: list[SlideRow], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    assert write_manifest(rows, path, overwrite=True) == len(rows)
    assert read_manifest(path) == rows


def test_names_that_a_spreadsheet_would_compute_are_harmless(tmp_path: Path) -> None:
    for name in ("=cmd()|x.svs", "@sum.svs", "-1.svs", "<script>alert(1)<script>.svs"):
        (tmp_path / name).write_bytes(b"x")
    rows = rows_of(tmp_path)
    path = tmp_path / "m.csv"
    write_manifest([replace(row, group="=1+1") for row in rows], path)
    with path.open(newline="") as file:
        cells = [cell for line in reader(file) for cell in line]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))] == []
    assert not any("<" in row.slide_id for row in rows)
    assert {row.group for row in read_manifest(path)} == {"=1+1"}


def csv(tmp_path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    rows = read_manifest(csv(tmp_path, "slide_id,path", "a,sub/x.svs", "b,/abs/y.svs"))
    assert [row.path for row in rows] == [str(tmp_path / "sub" / "x.svs"), "/abs/y.svs"]


def test_urls_are_paths_too(tmp_path: Path) -> None:
    lines = ["path", "S3://bucket/a/x.svs", "file:///a%20b/%25y.svs", "s3://bucket/b/x.svs"]
    rows = read_manifest(csv(tmp_path, *lines))
    assert [row.path for row in rows] == [
        "s3://bucket/a/x.svs",
        "/a b/%y.svs",
        "s3://bucket/b/x.svs",
    ]
    assert [row.slide_id for row in rows] == ["bucket__a__x", "%y", "bucket__b__x"]


def test_secrets_of_urls_are_not_repeated(tmp_path: Path) -> None:
    for url in ("s3://key:SECRET@bucket/x.svs", "https://h/x.svs?Signature=SECRET"):
        with pytest.raises(InputFileError) as caught:
            read_manifest(csv(tmp_path, "path", url))
        assert "SECRET" not in str(caught.value)


def test_a_manifest_at_a_url_names_slides_beside_it(tmp_path: Path) -> None:
    text = "path,group\nsub/a.svs,x\n/local/b.svs,y\ns3://other/c.svs,z\n"
    fsspec.filesystem("memory").pipe("/test-manifest/m.csv", text.encode())
    rows = read_manifest("memory://test-manifest/m.csv")
    assert [row.path for row in rows] == [
        *("memory://test-manifest/sub/a.svs", "/local/b.svs", "s3://other/c.svs")
    ]
    fsspec.filesystem("memory").pipe("/test-manifest/m.csv", b"path,mpp\na.svs,-1\n")
    with pytest.raises(InputFileError, match=r"^memory://test-manifest/m\.csv, line 2"):
        read_manifest("memory://test-manifest/m.csv")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_that_are_not_utf8_need_another_format(suffix: str, tmp_path: Path) -> None:
    rows = [SlideRow("a", os.fsdecode(b"/x/caf\xe9.svs")), SlideRow("b", "/x/b.svs")]
    with pytest.raises(InputFileError, match=r"1 of 2 names.*\.jsonl"):
        write_manifest(rows, tmp_path / f"m{suffix}")
    assert write_manifest(rows, tmp_path / "m.jsonl") == 2
    assert read_manifest(tmp_path / "m.jsonl") == rows


def test_a_manifest_is_not_replaced_unasked_and_then_keeps_ids(tmp_path: Path) -> None:
    made = [SlideRow("x", "/1/x.svs", named=False)]
    write_manifest(made, tmp_path / "m.csv")
    more = [SlideRow("1__x", "/1/x.svs", named=False), SlideRow("2__x", "/2/x.svs", named=False)]
    with pytest.raises(InputFileError, match="--overwrite"):
        write_manifest(more, tmp_path / "m.csv")
    write_manifest(more, tmp_path / "m.csv", overwrite=True)
    assert [row.slide_id for row in read_manifest(tmp_path / "m.csv")] == ["x", "2__x"]


def test_tables_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    rows = read_manifest(csv(tmp_path, "Slide_ID;Path;MPP", "a;x.svs;0.5", encoding="utf-8-sig"))
    assert (rows[0].slide_id, rows[0].mpp) == ("a", 0.5)


def test_ids_default_to_stems(tmp_path: Path) -> None:
    rows = read_manifest(csv(tmp_path, "path", "p/a.svs", "q/a.svs", "b.ome.tif"))
    assert [row.slide_id for row in rows] == ["p__a", "q__a", "b"]


def test_a_row_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    rows = read_manifest(csv(tmp_path, "slide_id,path", "a,x.svs", "b,x.svs", "a,x.svs"))
    assert [row.slide_id for row in rows] == ["a", "b"]


def test_columns_of_others_are_not_passed_on(tmp_path: Path) -> None:
    rows = read_manifest(csv(tmp_path, "slide_id,path,diagnosis", "a,x.svs,SECRET"))
    assert "SECRET" not in repr(rows)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["slide_id,mpp", "a,1"], "path"),
        (["slide_id,path,mmp", "a,x.svs,1"], "did you mean mpp"),
        (["slide_id,path", "a,x.svs", "a,y.svs"], "more than one slide"),
        (["slide_id,path", "a,x.svs", "A,y.svs"], "upper and lower case"),
        (["slide_id,path", "../../x,x.svs"], "line 2.*slide_id"),
        (["slide_id,path", "/etc/x,x.svs"], "slide_id"),
        (["slide_id,path", "nul,x.svs"], "Windows"),
        (["slide_id,path", "a,file:///x%00.svs"], "line 2.*path"),
        (["slide_id,path,mpp", "a,x.svs,0.5", 'b,y.svs,"0,25"'], "line 3.*mpp"),
        (["slide_id,path,mpp", "a,x.svs,1e9"], "mpp"),
        (["slide_id,path,mpp", "a,x.svs,nan"], "mpp"),
        (["slide_id,path,mpp", "a,x.svs,0"], "mpp"),
        (["slide_id,path,stain", "a,x.svs,pink"], "macenko"),
        (["slide_id,path", "a,"], "path"),
        (["slide_id,path", "a,s3://key:secret@bucket/x.svs"], r"s3://bucket/\.\.\..*password"),
        (["slide_id,path", "a,https://host/x.svs?Signature=SECRET"], r"host/\.\.\..*signature"),
        (["slide_id,path", "a,file://host/x.svs"], "file:///"),
        (["slide_id,path,group", 'a,x.svs,"one', "b,y.svs,two", "c,z.svs,three"], "line 2.*quote"),
        (["slide_id,path,group", 'a,x.svs,"one', 'b,y.svs,"two"'], "line 2.*quote"),
        (["slide_id,path"], "no slides"),
        (["slide_id,path", "a,x.svs,more"], "line 2"),
    ],
)
def test_mistakes_are_named(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=message):
        read_manifest(csv(tmp_path, *lines))


def test_many_mistakes_are_counted(tmp_path: Path) -> None:
    lines = [f"s{i},x.svs,-1" for i in range(30)]
    with pytest.raises(InputFileError, match=r"line 2.*and 25 more"):
        read_manifest(csv(tmp_path, "slide_id,path,mpp", *lines))


@pytest.mark.parametrize("line", ["[1]", "{", '{"path": 3}', '{"slide_id": "a"}', "7"])
def test_damaged_json_lines_are_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"path": "x.svs"}) + "\n" + line + "\n")
    with pytest.raises(InputFileError, match="line 2"):
        read_manifest(path)


def test_parquet_of_others_is_read_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    table = {"Path": ["x.svs", "y.svs"], "mpp": [0.5, None], "age": [60, 70]}
    pq.write_table(pa.table(table), path)
    assert [(row.slide_id, row.mpp) for row in read_manifest(path)] == [("x", 0.5), ("y", None)]


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl", "m.txt"])
def test_files_that_are_no_manifests_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(InputFileError, match=name):
        read_manifest(path)
    path.write_bytes(b"\xff\xfe\x00PAR1")
    with pytest.raises(InputFileError, match=name):
        read_manifest(path)


def test_a_path_with_a_line_break_needs_another_format(tmp_path: Path) -> None:
    rows = [SlideRow("a", "/x\ny.svs")]
    with pytest.raises(InputFileError, match="jsonl"):
        write_manifest(rows, tmp_path / "m.csv")
    write_manifest(rows, tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl") == rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_hundred_thousand_rows_are_read_in_seconds(suffix: str, tmp_path: Path) -> None:
    rows = [SlideRow(f"slide-{i}", f"/archive/{i // 1000}/{i}.svs", 0.25) for i in range(100_000)]
    write_manifest(rows, tmp_path / f"m{suffix}")
    began = time.process_time()
    assert read_manifest(tmp_path / f"m{suffix}") == rows
    assert time.process_time() - began < 30  # CPU; about 2 s on a quiet machine


def test_group_0_is_a_group(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"path":"a.svs","group":0}\n{"path":"b.svs"}\n{"path":"c.svs","group":null}\n')
    assert [row.group for row in read_manifest(path)] == ["0", "", ""]
