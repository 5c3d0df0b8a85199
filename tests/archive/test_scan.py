"""Folders, patterns and single files as sources."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.archive.ids import ids_of
from wsiseg.archive.rows import SlideRow, with_known_ids
from wsiseg.archive.scan import rows_of
from wsiseg.errors import InputFileError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_a_folder_gives_its_slides_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "sub/b.ome.tif", "sub/b.txt", "c.mrxs", "c/Data0001.dat", "p.png")
    touch(tmp_path, ".hidden/d.svs", "._a.svs", "z.zarr/.zattrs", "z.zarr/0/0.tif")
    rows = rows_of(tmp_path)
    assert [row.slide_id for row in rows] == ["a", "c", "b", "z"]
    assert rows[2].path == str(tmp_path / "sub" / "b.ome.tif")


def test_links_to_folders_are_not_followed_but_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "in/a.svs", "elsewhere/b.svs")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert [row.slide_id for row in rows_of(tmp_path / "in")] == ["a"]
    assert "2 links to folders are not followed" in caplog.text


def test_patterns_match_files_of_any_ending(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "y/a.png", "y/b.png", "y/c.svs")
    rows = rows_of(f"{tmp_path}/*/*.png")
    assert [row.slide_id for row in rows] == ["x__a", "y__a", "b"]
    assert [row.slide_id for row in rows_of(f"{tmp_path}/**/c.svs")] == ["c"]


def test_one_slide_is_a_source_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs")
    assert [row.slide_id for row in rows_of(tmp_path / "a.svs")] == ["a"]


@pytest.mark.parametrize("name", ["nothing", "*.svs", "empty", "none.csv"])
def test_sources_without_slides_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match=name.replace("*", r"\*")):
        rows_of(f"{tmp_path}/{name}")


def test_dicom_files_that_are_left_out_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.svs", "d/1.dcm", "d/2.dcm")
    with caplog.at_level(logging.WARNING):
        rows_of(tmp_path)
    assert "2 .dcm files are left out" in caplog.text


def test_names_of_any_bytes_get_ids(tmp_path: Path) -> None:
    for name in (b"caf\xe9.svs", "café 1.svs".encode(), b"new\nline.svs"):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(b"x")
    ids = sorted(row.slide_id for row in rows_of(tmp_path))
    assert ids == ["caf_", "café 1", "new_line"]


def test_folders_and_patterns_at_urls_give_what_those_of_a_disk_do(tmp_path: Path) -> None:
    names = ("a.svs", "sub/b.ome.tif", "sub/b.txt", "c.mrxs", "c/Data0001.dat", "p.png")
    names += (".hidden/d.svs", "._a.svs", "z.zarr/.zattrs", "z.zarr/0/0.tif", "x/a.svs")
    touch(tmp_path, *names)
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/test-scan/{name}": b"x" for name in names})
    for pattern in ("", "/**/*.svs", "/*/*", "/a.svs", "/z.zarr"):
        local, remote = rows_of(f"{tmp_path}{pattern}"), rows_of(f"memory:///test-scan{pattern}")
        assert [row.slide_id for row in remote] == [row.slide_id for row in local]
        assert [row.path.rpartition("test-scan")[2] for row in remote] == [
            row.path.removeprefix(str(tmp_path)) for row in local
        ]
    with pytest.raises(InputFileError, match="no such manifest"):
        rows_of("memory:///test-scan/nothing")
    with pytest.raises(InputFileError, match="no file matches"):
        rows_of("memory:///test-scan/*.ndpi")
    memory.pipe("/test-scan/[1].svs", b"x")
    assert [row.slide_id for row in rows_of("memory:///test-scan/[1].svs")] == ["[1]"]


PATHS = st.lists(
    st.builds(lambda *parts: "/".join(parts), *[st.sampled_from("ab")] * 2, st.sampled_from("xyz")),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(first=PATHS, second=PATHS)
def test_a_slide_keeps_its_id_whatever_is_added_or_removed(
    first: list[str], second: list[str]
) -> None:
    def rows(paths: list[str]) -> list[SlideRow]:
        made = zip(ids_of(paths), paths, strict=True)
        return [SlideRow(slide_id, path, named=False) for slide_id, path in made]

    known = {row.path: row.slide_id for row in rows(first)}
    found = with_known_ids(rows(second), known)
    assert len({row.slide_id for row in found}) == len(found)
    assert [row.path for row in found] == second
    assert all(row.slide_id == known.get(row.path, row.slide_id) for row in found)
