"""Ids of a folder's slides in an archive that has some of them already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.records import Record
from wsiseg.archive.request import Request
from wsiseg.archive.rows import SlideRow, with_known_ids
from wsiseg.errors import SettingsError


def request(folder: Path, *only: str) -> Request:
    return Request.of(folder, only=only, model="hematoxylin")


def known(*slides: tuple[str, Path]) -> dict[str, Record]:
    return {slide_id: Record(slide_id, "done", path=str(path)) for slide_id, path in slides}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_what_the_archive_knows_keeps_its_id(tmp_path: Path) -> None:
    first, second = tmp_path / "1" / "x.svs", tmp_path / "2" / "x.svs"
    touch(first, second)
    found = request(tmp_path).keeping(known(("x", first)))
    assert {row.path: row.slide_id for row in found.rows} == {str(first): "x", str(second): "2__x"}


def test_another_file_of_the_same_name_does_not_replace_a_slide(tmp_path: Path) -> None:
    first, second = tmp_path / "1" / "x.svs", tmp_path / "2" / "x.svs"
    touch(first, second)
    (row,) = request(second.parent).keeping(known(("x", first))).rows
    assert row.slide_id.startswith("x~")
    first.unlink()  # it was moved: the same slide
    assert [r.slide_id for r in request(second.parent).keeping(known(("x", first))).rows] == ["x"]


def test_another_object_of_the_same_name_does_not_replace_a_slide(bucket: Any) -> None:
    for name in ("1/x.svs", "2/X.svs"):
        bucket.put(name, b"x")
    url = "s3://archives/night/one"
    before = {"x": Record("x", "done", path=f"{url}/1/x.svs")}
    (row,) = Request.of(f"{url}/2", model="hematoxylin").keeping(before).rows
    assert row.slide_id.startswith("X~")
    bucket.client.delete_object(Bucket="archives", Key="night/one/1/x.svs")
    (row,) = Request.of(f"{url}/2", model="hematoxylin").keeping(before).rows
    assert row.slide_id == "X"


def test_a_name_that_somebody_chose_goes_before_an_id_that_the_archive_knows() -> None:
    rows = [SlideRow("x", "/1/x.svs", named=False), SlideRow("1__x", "/y.svs")]
    found = with_known_ids(rows, {"/1/x.svs": "1__x"})
    assert [row.slide_id for row in found] == ["x", "1__x"]


def test_slides_are_chosen_by_the_ids_of_the_archive_or_of_the_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "1" / "x.svs", tmp_path / "2" / "x.svs"
    touch(first, second)
    for name in ("x", "1__x"):
        assert request(tmp_path, name).keeping(known(("x", first))).only == {"x"}
    with pytest.raises(SettingsError, match="no slide has that id"):
        request(tmp_path, "x").keeping({})
    with pytest.raises(SettingsError, match="no slide has that id"):
        request(tmp_path, "y")
