"""Which fault an exception or a death is, and that its message tells nothing of a file."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from wsiseg.archive.faults import InputChangedError, death, fault_of, shown, told
from wsiseg.archive.records import CODES
from wsiseg.atomic import output_error
from wsiseg.errors import (
    ClusterError,
    ForeignFolderError,
    LockedError,
    MissingSpacingError,
    ModelError,
    OutOfMemoryError,
    RegionError,
    RunFolderError,
    SettingsError,
    UnreadableSlideError,
    UnsupportedFormatError,
)

TOKEN = "DOE^JANE"


def because(error: Exception, *causes: BaseException) -> Exception:
    at: BaseException = error
    for cause in causes:
        at.__cause__ = cause
        at = cause
    return error


def while_handling(error: Exception, context: BaseException) -> Exception:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "code", "again", "archive"),
    [
        (MissingSpacingError("m"), "missing-mpp", False, False),
        (UnreadableSlideError("m"), "unreadable", False, False),
        (UnsupportedFormatError("m"), "unsupported-format", False, False),
        (SettingsError("m"), "settings", False, False),
        (because(ClusterError("m"), TimeoutError("m")), "cluster", True, True),
        (ModelError("m"), "model", False, False),
        (ForeignFolderError("m"), "foreign-folder", False, False),
        (LockedError("m"), "locked", True, False),
        (InputChangedError("m"), "input-changed", True, False),
        (OutOfMemoryError("m"), "out-of-memory", True, False),
        (MemoryError(), "out-of-memory", True, False),
        (RunFolderError("fenced"), "quarantine", True, False),
        (ZeroDivisionError("m"), "quarantine", True, False),
        (
            because(UnreadableSlideError("m"), FileNotFoundError(errno.ENOENT, "m")),
            *("missing-file", False, False),
        ),
        (
            because(UnreadableSlideError("m"), UnreadableSlideError("m"), MemoryError()),
            *("out-of-memory", True, False),
        ),
        (because(UnreadableSlideError("m"), OSError(errno.EIO, "m")), "input-io", True, False),
        (because(UnreadableSlideError("m"), OSError(errno.EACCES, "m")), "input-io", True, False),
        (because(RegionError("m"), MemoryError()), "out-of-memory", True, False),
        (output_error(OSError(errno.ENOSPC, "m"), "x"), "disk-full", True, True),
        (output_error(OSError(errno.EDQUOT, "m"), "x"), "disk-full", True, True),
        (output_error(OSError(errno.EROFS, "m"), "x"), "read-only", True, True),
        (output_error(OSError(errno.EFBIG, "m"), "x"), "output", True, False),
        (output_error(OSError(errno.EIO, "m"), "x"), "output", True, True),
    ],
)
def test_every_error_has_its_code(error: Exception, code: str, again: bool, archive: bool) -> None:
    found = fault_of(error)
    assert (found.code, found.again, found.archive) == (code, again, archive)
    assert found.code in CODES
    assert found.message


@pytest.mark.parametrize(
    ("cause", "code", "again"),
    [
        ("SIGSEGV", "quarantine", False),
        ("timeout", "timeout", False),
        ("SIGKILL", "quarantine", True),
    ],
)
def test_a_convicted_region_is_final_unless_memory_may_have_run_out(
    cause: str, code: str, again: bool
) -> None:
    error = RegionError("region (0, 0) kills its process")
    error.cause = cause
    found = fault_of(error)
    assert (found.code, found.cause, found.again) == (code, cause, again)
    assert "region (0, 0)" in found.message


def test_deaths_are_named_by_their_signal() -> None:
    assert death(-signal.SIGSEGV).cause == "SIGSEGV"
    assert "memory" in death(-signal.SIGKILL).message
    assert death(3).cause == "exit status 3"
    assert death(-200).cause == "signal 200"


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"bad tag PatientName: {TOKEN}"),
        because(RegionError(f"region x failed: {TOKEN}"), ValueError(TOKEN)),
        because(UnreadableSlideError(f"x: ValueError: {TOKEN} (tiff)"), ValueError(TOKEN)),
        UnsupportedFormatError(f"x: it begins with {TOKEN.encode()!r}; ValueError"),
        because(UnreadableSlideError(f"x: ValueError: {TOKEN}"), OSError(TOKEN)),
        because(UnreadableSlideError(f"x: ValueError: {TOKEN}"), OSError(errno.EIO, TOKEN)),
        because(UnreadableSlideError(f"x: {ValueError(TOKEN)!r}"), ValueError(TOKEN)),
        because(RunFolderError(f"x: ValueError: {TOKEN}"), OSError(TOKEN)),
        while_handling(UnreadableSlideError(f"x: ValueError: {TOKEN}"), OSError(TOKEN)),
    ],
)
def test_messages_of_libraries_are_not_passed_on(error: Exception) -> None:
    found = fault_of(error)
    assert TOKEN not in f"{found.message} {found.cause}"
    assert "ValueError" in found.message


def test_the_place_of_an_unexpected_error_is_told() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError(TOKEN)
    assert "in test_faults.py, line" in fault_of(caught.value).message


def test_messages_are_one_printable_line_of_bounded_length() -> None:
    text = told(UnreadableSlideError("a\nb\x1b[31m" + "x" * 5000))
    assert text.startswith("a b?[31m")
    assert text.isprintable()
    assert len(text) <= 600


def test_what_the_system_says_of_a_number_is_passed_on() -> None:
    for path in ("x.tif", "with 'quotes' \n.tif"):
        cause = OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        assert "Permission denied" in told(because(UnreadableSlideError(f"x: {cause}"), cause))


def test_a_message_is_one_line_without_control_characters() -> None:
    assert shown("a\n b\x1b[31m\x07c") == "a b?[31m?c"
