"""What is a URL and what a path, and that no key in a URL is ever repeated."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import SettingsError
from wsiseg.storage.url import absolute, is_url, name_of, parent_of

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    "text", ["s3://b/k", "memory://a", "file:///a", "HTTPS://h/a", "abfs://c@h/a"]
)
def test_urls_are_told_from_paths(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize(
    "text", ["a.svs", "/a", "C:/a", "c://a", "a:b", "://a", "s3:/b/k", Path("/a")]
)
def test_paths_are_no_urls(text: str | Path) -> None:
    assert not is_url(text)
    assert absolute(text) == os.path.abspath(text)


@pytest.mark.parametrize("text", ["s3://b/k", "gs://b/k", "https://h/a.svs", "file:///a"])
def test_a_url_that_became_a_path_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give it as text"):
        absolute(Path(text))


@given(NAMES.filter(lambda name: name not in (".", "..")))
def test_a_file_url_is_the_path_that_it_quotes(name: str) -> None:
    assert absolute(f"file:///folder/{quote(name)}") == f"/folder/{name}"


@given(NAMES.filter(lambda name: not name.startswith("/") and "://" not in name and name != "."))
def test_a_name_in_a_remote_folder_has_that_folder(name: str) -> None:
    url = absolute(name, "s3://bucket/folder")
    if name.startswith("./"):
        return
    assert (parent_of(url), name_of(url)) == ("s3://bucket/folder", name)
    assert absolute(url, "/anywhere") == absolute(url, "s3://else/where") == url


def test_absolute_paths_of_a_remote_manifest_are_of_this_machine() -> None:
    assert absolute("/x/a.svs", "s3://bucket/folder") == "/x/a.svs"


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:TOKEN@bucket/a.svs",
        "s3://KEY:ab/TOKEN@bucket/a.svs",
        "abfs://c@host/a.svs?sv=1&sig=TOKEN",
        "https://host/a.svs?sig=a@TOKEN",
        "http://user:TOKEN@host:80/a.svs",
        "https://host/a.svs?X-Amz-Signature=TOKEN",
        "https://host?sig=TOKEN",
    ],
)
def test_a_url_with_keys_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(SettingsError, match="environment") as caught:
        absolute(url)
    assert "TOKEN" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sftp://user@host:22/a@b.svs",
        "s3://arn:aws:s3:eu-west-1:1:accesspoint/name/a@b.svs",
        "s3://bucket/a:b@c.svs",
        "s3://bucket/case?=*.svs",
    ],
)
def test_names_with_odd_signs_are_no_keys(url: str) -> None:
    assert absolute(url) == url


@pytest.mark.parametrize("url", ["file://host/a.svs", "file://a.svs", "file://"])
def test_files_of_other_machines_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="file:///"):
        absolute(url)
