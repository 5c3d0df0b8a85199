"""The log of a training: one row per step that counts, whatever came between."""

import csv
import logging
import sys
from pathlib import Path

import pytest

from wsiseg.training.log import TrainLog
from wsiseg.training.loop import Report

COLUMNS = ("loss.np", "val.a.pq")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def filled(path: Path, first: int, last: int, start: int = 0) -> TrainLog:
    log = TrainLog(path, COLUMNS, step=start, every=2)
    for step in range(first, last):
        log.step(Report(step, {"np": float(step)}, 0.5, 0.1))
    return log


def test_a_row_is_the_mean_of_its_steps(tmp_path: Path) -> None:
    filled(tmp_path / "log.csv", 0, 5).close()
    found = rows(tmp_path / "log.csv")
    assert [(r["step"], r["loss.np"]) for r in found] == [("2", "0.5"), ("4", "2.5")]
    assert found[0]["val.a.pq"] == ""


def test_what_is_left_is_written_before_a_stop(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.csv", 0, 3)
    log.flush(Report(2, {"np": 2.0}, 0.5, 0.1))
    log.flush(Report(2, {"np": 2.0}, 0.5, 0.1))
    assert [r["step"] for r in rows(tmp_path / "log.csv")] == ["2", "3"]


def test_rows_after_the_step_of_a_resume_and_torn_rows_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    filled(path, 0, 8)
    with path.open("a") as file:
        file.write("4,0.")
    filled(path, 4, 6, start=4)
    assert [r["step"] for r in rows(path)] == ["2", "4", "6"]


def test_scores_have_columns_of_their_own_and_what_is_undefined_is_empty(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.csv", COLUMNS, step=0, every=2)
    log.scores(3, {"a": {"pq": 0.25}})
    log.scores(4, {"a": {"pq": None}})
    assert [r["val.a.pq"] for r in rows(tmp_path / "log.csv")] == ["0.25", ""]


def test_tensorboard_is_used_where_it_is_and_missed_once_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO):
        filled(tmp_path / "log.csv", 0, 8).close()
    assert caplog.text.count("tensorboard is not installed") == 1

    class Writer:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            self.told: list[tuple[str, float, int]] = []
            self.at = (folder, purge_step)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.told.append((name, value, step))

        def close(self) -> None:
            pass

    class Module:
        SummaryWriter = Writer

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Module)
    log = filled(tmp_path / "log.csv", 4, 6, start=4)
    assert log._board.at == (str(tmp_path / "tensorboard"), 4)
    assert ("loss/np", 4.5, 6) in log._board.told
