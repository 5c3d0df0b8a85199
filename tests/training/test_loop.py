"""Steps: as many as asked for, at the rate of the schedule, and never past a broken loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsiseg.errors import ModelError
from wsiseg.model.unet import UNet, UNetConfig, normalised
from wsiseg.training import loop
from wsiseg.training.colour import Colour
from wsiseg.training.config import TrainConfig
from wsiseg.training.labelled import Labelled
from wsiseg.training.loop import Machine, run_steps, settled
from wsiseg.training.losses import LossWeights, losses
from wsiseg.training.sample import Crops, Sampling
from wsiseg.training.state import Schedule, new_state

CONFIG = UNetConfig(2, 3, 2, (4, 6), (1, 1), (1,), stem=2, distance=True)
SCHEDULE = Schedule(steps=50, warmup=3, rate=0.01)
ONE = Machine(precision="fp32", threads=1)


@pytest.fixture(scope="module")
def crops():
    """Dark squares on white, each of a class that its shade tells."""
    labels = np.zeros((100, 100), dtype=np.int32)
    for k in range(16):
        y, x = 25 * (k // 4) + 5, 25 * (k % 4) + 5
        labels[y : y + 14, x : x + 14] = k + 1
    kinds = np.arange(17) % 2 + 1
    shade = np.where(labels > 0, 40 + 60 * (kinds[labels] - 1), 235).astype(np.uint8)
    item = Labelled("s", shade[..., None].repeat(3, -1), labels=labels,
                    kinds=(kinds * (np.arange(17) > 0)).astype(np.uint8), mpp=0.25)  # fmt: skip
    how = Sampling(side=32, batch=2, bend=0, colour=Colour(coarse=0, blur=0, noise=0, jpeg=0))
    return Crops([item], how, stem=2, classes=2, seed=1)


def _state(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return new_state(UNet(config), SCHEDULE)


def _weights(state):
    return {name: p.detach().clone() for name, p in state.net.named_parameters()}


def _steps(state, crops, stop, machine=ONE):
    return list(run_steps(state, crops, SCHEDULE, LossWeights(), machine, stop))


def test_auto_precision_is_that_of_the_device(monkeypatch):
    monkeypatch.setattr(loop, "best_precision", {"cpu": "fp32", "cuda:1": "bf16"}.get)
    machine = TrainConfig().machine
    assert machine.precision == "auto"
    assert settled(replace(machine, device="cuda:1")).precision == "bf16"
    assert settled(machine).precision == "fp32"
    assert settled(replace(machine, precision="bf16")).precision == "bf16"


def test_no_number_of_threads_means_those_cores_that_may_be_used(crops, monkeypatch):
    asked, set_threads = [], torch.set_num_threads
    monkeypatch.setattr(loop, "cores", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    _steps(_state(), crops, 1, replace(ONE, threads=0))
    set_threads(1)
    assert asked == [3]


def test_steps_are_taken_up_to_the_stop_and_reported_each(crops):
    state = _state()
    first, second = _steps(state, crops, 3), _steps(state, crops, 5)
    assert [r.step for r in first + second] == [0, 1, 2, 3, 4]
    assert state.step == 5
    for report in first + second:
        assert report.losses.keys() == {"np", "dice", "dt", "hv", "tp"}
        assert all(np.isfinite(value) for value in report.losses.values())
        assert report.rate == SCHEDULE.rate_at(report.step)
        assert report.seconds > 0
    assert _steps(state, crops, 5) == []
    assert {g["lr"] for g in state.optimizer.param_groups} == {SCHEDULE.rate_at(4)}


def test_a_step_lowers_what_it_learns_from(crops):
    reports = _steps(_state(), crops, 50)
    total = np.array([sum(r.losses.values()) for r in reports])
    assert total[-10:].mean() < 0.7 * total[:5].mean()


def test_the_reported_losses_are_those_of_the_batch(crops):
    state = _state()
    batch = {name: torch.from_numpy(np.asarray(v)) for name, v in crops[0].items()}
    with torch.no_grad():
        raw = state.net.train().on_grid(normalised(batch.pop("image"), CONFIG))
        expected = losses(raw, batch, CONFIG, LossWeights())
    (report,) = _steps(_state(), crops, 1)
    assert report.losses == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-5)


@pytest.mark.parametrize("name", ["np", "hv"])
def test_a_loss_that_is_not_finite_stops_before_it_does_harm(crops, monkeypatch, name):
    state, original, begun = _state(), loop.losses, []

    def broken(*args):
        found = original(*args)
        begun.append((_weights(state), {k: v.clone() for k, v in state.mean.state_dict().items()}))
        if len(begun) == 3:
            found[name] = found[name] * float("nan")
        return found

    monkeypatch.setattr(loop, "losses", broken)
    with pytest.raises(ModelError, match=rf"step 2 .* {name} .*learning rate"):
        _steps(state, crops, 9)
    assert len(begun) == 3
    assert state.step == 2
    weights, mean = begun[-1]
    assert not torch.equal(weights["head.weight"], begun[0][0]["head.weight"])
    assert all(torch.equal(v, weights[k]) for k, v in _weights(state).items())
    assert all(torch.equal(v, mean[k]) for k, v in state.mean.state_dict().items())


def test_weights_that_are_not_finite_are_noticed_at_once(crops):
    state = _state()
    with torch.no_grad():
        state.net.head.bias[0] = float("inf")
    with pytest.raises(ModelError, match="step 0"):
        _steps(state, crops, 1)
    assert state.step == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_that_cut_crops_change_nothing(crops, workers):
    alone, helped = _state(), _state()
    _steps(alone, crops, 4)
    _steps(helped, crops, 4, Machine(precision="fp32", threads=1, workers=workers))
    assert all(torch.equal(v, _weights(helped)[k]) for k, v in _weights(alone).items())


def test_bf16_stays_near_fp32_and_keeps_its_weights_in_fp32(crops):
    full, half = _state(), _state()
    a, b = _steps(full, crops, 1)[0], _steps(half, crops, 1, Machine("cpu", "bf16", 1))[0]
    assert a.losses == pytest.approx(b.losses, rel=0.05)
    assert a.losses != b.losses
    assert {p.dtype for p in half.net.parameters()} == {torch.float32}


def test_pixels_are_normalised_channel_by_channel():
    config = UNetConfig(2, 3, 0, (4,), (1,), (), mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    image = torch.from_numpy(np.full((1, 2, 3, 3), (20, 20, 20), dtype=np.uint8))
    found = normalised(image, config)
    assert found.shape == (1, 3, 2, 3)
    assert found[0, :, 1, 2].tolist() == [5.0, 0.0, -2.0]


def test_the_network_is_trained_also_after_it_was_validated(crops):
    state = _state()
    _steps(state, crops, 1)
    state.net.eval()
    before = state.net.stem.norm.running_mean.clone()
    _steps(state, crops, 2)
    assert state.net.training
    assert not torch.equal(before, state.net.stem.norm.running_mean)
