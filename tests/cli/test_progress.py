"""What is told of work that takes a while, with a terminal and without one."""

import os
import pty
import sys
from collections.abc import Callable

import pytest

from wsiseg.cli.progress import image_progress, run_progress, training_progress
from wsiseg.run.report import Progress
from wsiseg.training.outcome import TrainProgress

pytestmark = pytest.mark.timeout(60)


def in_a_terminal(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal is shown on standard error."""
    inner, outer = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(outer, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        work()
        stream.write("end")
        stream.flush()
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(inner, 1 << 16)
    os.close(inner)
    return shown.decode().removesuffix("end")


def segment(total: int, quiet: bool = False) -> None:
    with run_progress(quiet) as show:
        assert (show is None) == quiet
        for done in range(total + 1):
            if show is not None:
                show(Progress(done, total, 1000 * done, None if done < 2 else 7.4))


def train() -> None:
    with training_progress(quiet=False) as show:
        assert show is not None
        show(TrainProgress(0, 40, float("nan"), None, "resumes [at] step 0"))
        for step in range(41):
            show(TrainProgress(step, 40, 0.25, 3.0))


@pytest.mark.parametrize(("total", "lines"), [(7, 8), (10, 11), (1234, 11), (0, 1)])
def test_without_a_terminal_there_is_a_line_for_each_tenth(
    total: int, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(total)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert said[0] == f"region 0 of {total}, 0 objects so far"
    if total:
        told = f"{1000 * total:,} objects so far"
        assert said[-1] == f"region {total} of {total}, {told}" + (
            ", about 7 s to go" if total > 1 else ""
        )


def test_a_training_says_what_happened_and_each_twentieth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train()
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["resumes [at] step 0", "step 0 of 40, loss 0.250, about 3 s to go"]
    assert len(said) == 1 + 21


def test_images_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with image_progress(quiet=False) as show:
        assert show is not None
        show(1, 2)
        show(2, 2)
    assert capsys.readouterr().err == "image 1 of 2\nimage 2 of 2\n"


def test_quiet_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(3, quiet=True)
    assert capsys.readouterr().err == ""
    assert in_a_terminal(lambda: segment(3, quiet=True), monkeypatch) == ""


def test_a_terminal_shows_a_bar_and_what_happened_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = in_a_terminal(lambda: segment(3), monkeypatch)
    assert "\x1b[" in shown
    assert "segmenting" in shown
    assert "regions" in shown
    assert "resumes [at] step 0" in in_a_terminal(train, monkeypatch)
