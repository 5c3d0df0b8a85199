"""Open is what is known to be open, and the variable says 1, 0 or nothing."""

from __future__ import annotations

import pytest

from wsiseg.errors import SettingsError
from wsiseg.model.licence import OPEN, is_open, open_only


@pytest.mark.parametrize(
    "expression", [*sorted(OPEN), "cc0-1.0", "CC0-1.0 AND BSD-3-Clause", "(MIT OR Apache-2.0)"]
)
def test_open_licences_and_their_combinations_are_open(expression):
    assert is_open(expression)


@pytest.mark.parametrize(
    "expression",
    [
        *("CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "GPL-3.0-only WITH x", "", " ", "AND"),
        *("BSD-3-Clause AND CC-BY-NC-SA-4.0", "MIT OR CC-BY-NC-4.0", "LicenseRef-research", "CC0"),
    ],
)
def test_what_is_not_known_to_be_open_is_not(expression):
    assert not is_open(expression)


@pytest.mark.parametrize(
    ("value", "wanted"), [("1", True), ("0", False), ("", False), (" ", False)]
)
def test_the_variable_is_1_0_or_empty(monkeypatch, value, wanted):
    monkeypatch.setenv("WSISEG_OPEN_ONLY", value)
    assert open_only() is wanted
    monkeypatch.delenv("WSISEG_OPEN_ONLY")
    assert not open_only()


@pytest.mark.parametrize("value", ["yes", "true", "2", "-1", "01"])
def test_other_values_are_an_error_that_names_the_variable(monkeypatch, value):
    monkeypatch.setenv("WSISEG_OPEN_ONLY", value)
    with pytest.raises(SettingsError, match=f"WSISEG_OPEN_ONLY must be 1 .*, got '{value}'"):
        open_only()
