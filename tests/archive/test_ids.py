"""Ids name folders: all different, all fit, on any system."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.archive.dataset import part_of
from wsiseg.archive.ids import check_id, folded, ids_of, stem_of
from wsiseg.errors import InputFileError

NAMES = st.text(min_size=1, max_size=40).filter(lambda t: "/" not in t and t not in (".", ".."))
PATHS = st.lists(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12, unique=True
)


@given(PATHS)
def test_ids_of_any_files_are_fit_and_all_different(paths: list[str]) -> None:
    ids = ids_of(paths)
    assert len({folded(i) for i in ids}) == len(paths)
    for slide_id in ids:
        assert check_id(slide_id, "here") == slide_id
        assert os.path.normpath(Path("root") / slide_id) == str(Path("root") / slide_id)


@given(st.lists(st.sampled_from(["a.svs", "A.svs", "a.tif", "a.SVS"]), unique=True, min_size=2))
def test_equal_stems_of_one_folder_keep_their_endings(names: list[str]) -> None:
    assert len({folded(i) for i in ids_of(names)}) == len(names)


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["x.svs", "y.ome.tif"], ["x", "y"]),
        (["a/x.svs", "b/x.svs", "b/y.svs"], ["a__x", "b__x", "y"]),
        (["x.svs", "x.tif"], ["x.svs", "x.tif"]),
        (["a/X.svs", "b/x.svs"], ["a__X", "b__x"]),
        (["=cmd|.svs", "<script>.svs"], ["_cmd_", "_script_"]),
        (["nul.svs", ".hidden"], ["_nul", "_hidden"]),
    ],
)
def test_ids_follow_the_stated_rule(paths: list[str], ids: list[str]) -> None:
    assert ids_of(paths) == ids


@pytest.mark.parametrize(
    "slide_id",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "/abs", "C:x", "nul", "COM1.txt", "a\0b", "a\nb"),
        *("=1+1", "-rf", "@x", "+1", ".hidden", "end.", "end ", " x", "x" * 201, "é" * 101, "a|b"),
        *("<b>", "\ud800", "a\x1b[31m", "a\u2028b"),
    ],
)
def test_ids_that_cannot_be_folders_are_refused(slide_id: str) -> None:
    with pytest.raises(InputFileError, match="slide_id"):
        check_id(slide_id, "line 3")


@pytest.mark.parametrize("slide_id", ["a", "Case 7 (b)", "é" * 100, "染色", "x" * 200, "a.b-c_d~1"])
def test_ids_of_any_script_are_welcome(slide_id: str) -> None:
    assert check_id(slide_id, "") == slide_id


def test_stems_know_double_endings() -> None:
    assert [stem_of(n) for n in ("a.ome.tiff", "a.b.svs", ".svs")] == ["a", "a.b", ".svs"]


@given(
    st.lists(st.text(alphabet="中文字é a.b-", min_size=60, max_size=150), min_size=1, unique=True)
)
def test_ids_of_long_names_fit_a_folder_also_as_urls_quote_them(names: list[str]) -> None:
    ids = ids_of([f"{name}.svs" for name in names])
    for slide_id in ids:
        assert check_id(slide_id, "here") == slide_id
        assert len(part_of(Path("x"), slide_id).parent.name.encode()) <= 255
    assert len({folded(slide_id) for slide_id in ids}) == len(names)
