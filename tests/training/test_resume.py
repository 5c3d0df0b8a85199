"""Stopped and gone on: the weights are those of an undisturbed training, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsiseg.errors import InterruptedRunError
from wsiseg.model.weights import load_weights
from wsiseg.training.outcome import TrainProgress
from wsiseg.training.train import train

Write = Callable[..., Path]


class Killed(BaseException):
    """Stands for a death between two steps: nothing is saved."""


@pytest.fixture
def last(edited: Write) -> Path:
    """The training whose result is that of the last step, so that every step is in it."""
    return edited(("every = 4", 'every = 4\nkeep = "last"'))


def steps_of(log: Path) -> list[str]:
    return [line.split(",")[0] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("at", [1, 4, 7, 9])
def test_a_death_at_any_step_leaves_no_trace(work: Path, last: Path, at: int) -> None:
    def die(progress: TrainProgress) -> None:
        if progress.step == at:
            raise Killed

    whole = train(last, work / "whole")
    with pytest.raises(Killed):
        train(last, work / "cut", progress=die)
    assert not (work / "cut" / "weights").exists()
    assert train(last, work / "cut").sha256 == whole.sha256
    assert steps_of(work / "cut" / "log.csv") == steps_of(work / "whole" / "log.csv")


def test_a_death_in_a_validation_leaves_no_trace(work: Path) -> None:
    def die(progress: TrainProgress) -> None:
        if "val" in progress.said and progress.step == 4:  # scored, told, and not yet gone on
            (work / "cut" / ".wsiseg" / "scores.json").unlink()
            raise Killed

    whole = train(work / "train.toml", work / "whole")
    with pytest.raises(Killed):
        train(work / "train.toml", work / "cut", progress=die)
    assert train(work / "train.toml", work / "cut").sha256 == whole.sha256


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_it_comes_in(
    work: Path, last: Path, number: signal.Signals
) -> None:
    def interrupt(progress: TrainProgress) -> None:
        if progress.step == 5:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    expected = KeyboardInterrupt if number == signal.SIGINT else InterruptedRunError
    with pytest.raises(expected):
        train(last, work / "cut", progress=interrupt)
    assert signal.getsignal(number) is before
    told: list[TrainProgress] = []
    done = train(last, work / "cut", progress=told.append)
    assert told[0].said == "going on from step 5"
    assert done.sha256 == train(last, work / "whole").sha256


def test_killed_processes_and_an_undisturbed_run_agree_to_the_bit(
    work: Path, edited: Write
) -> None:
    config = edited(("steps = 9", "steps = 30"), ("every = 4", 'every = 10\nkeep = "last"'))
    out = work / "cut"
    state = out / ".wsiseg" / "state.safetensors"
    command = [sys.executable, "-m", "wsiseg", "train", str(config), "--out", str(out)]
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        before = stamp(state)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while stamp(state) == before and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        said = process.communicate()[1]
        assert process.returncode == code, said
        assert not (out / "weights").exists()  # else it was too late for this to show anything
    assert "the same command goes on" in said
    assert train(config, out).sha256 == train(config, work / "whole").sha256
    stored, whole = (load_weights(folder / "weights") for folder in (out, work / "whole"))
    assert all(np.array_equal(stored.tensors[k], v) for k, v in whole.tensors.items())


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
