"""A training that was stopped goes on as if nothing had happened; what is damaged says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsiseg.errors import ModelError
from wsiseg.model.unet import UNet, UNetConfig, default_spec, save_unet
from wsiseg.synth import scene
from wsiseg.training.labelled import Labelled
from wsiseg.training.loop import Machine, run_steps
from wsiseg.training.losses import LossWeights
from wsiseg.training.sample import Crops, Sampling
from wsiseg.training.state import Schedule, load_state, new_state, save_state

CONFIG = UNetConfig(2, 3, 2, (4, 6), (1, 1), (1,), distance=True)
SCHEDULE = Schedule(steps=20, warmup=3, ema=0.9)
FACTS = {"seed": 3, "sets": ["a", "b"], "rate": 0.001}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    labels = scene((90, 80), 25, rng, extent=(6, 20))
    kinds = rng.integers(0, 3, labels.max() + 1).astype(np.uint8)
    image = rng.integers(0, 255, (90, 80, 3), dtype=np.uint8)
    item = Labelled("a", image, labels=labels, kinds=kinds, mpp=0.25)
    return Crops([item], Sampling(side=16, batch=2), stem=1, classes=2, seed=1)


def _fresh(layout=torch.contiguous_format, seed=0):
    torch.manual_seed(seed)
    return new_state(UNet(CONFIG).to(memory_format=layout), SCHEDULE)


def _run(state, crops, stop, precision="fp32"):
    machine = Machine(precision=precision, threads=1)
    return list(run_steps(state, crops, SCHEDULE, LossWeights(), machine, stop))


def _tensors(state):
    """All that a state holds, by name."""
    found = {f"net.{k}": v for k, v in state.net.state_dict().items()}
    found |= {f"mean.{k}": v for k, v in state.mean.state_dict().items()}
    for number, values in state.optimizer.state_dict()["state"].items():
        found |= {f"adam.{number}.{k}": v for k, v in values.items()}
    return {name: value.clone() for name, value in found.items()}


def _differ(a, b):
    a, b = _tensors(a), _tensors(b)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels last"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_stopped_and_resumed_equals_undisturbed(crops, tmp_path, layout, precision):
    straight = _fresh(layout)
    reports = _run(straight, crops, 6, precision)
    stopped = _fresh(layout)
    before = _run(stopped, crops, 2, precision)
    save_state(tmp_path / "state.safetensors", stopped, FACTS)
    resumed = _fresh(layout, seed=5)
    load_state(tmp_path / "state.safetensors", resumed, FACTS)
    assert (resumed.step, resumed.scaling) == (2, stopped.scaling)
    assert bool(resumed.scaling) == (precision == "fp16")
    assert _differ(resumed, stopped) == []
    after = _run(resumed, crops, 6, precision)
    assert _differ(resumed, straight) == []
    assert [r.losses for r in before + after] == [r.losses for r in reports]
    assert _differ(resumed, stopped) != []


def test_a_state_that_has_not_begun_comes_back(tmp_path):
    state, again = _fresh(), _fresh(seed=9)
    save_state(tmp_path / "s.safetensors", state, FACTS)
    load_state(tmp_path / "s.safetensors", again, FACTS)
    assert _differ(state, again) == []
    assert again.step == 0
    assert again.scaling == {}


def test_saving_changes_nothing_and_replaces_what_was_there(crops, tmp_path):
    state = _fresh()
    _run(state, crops, 1)
    before = _tensors(state)
    path = tmp_path / "s.safetensors"
    save_state(path, state, FACTS)
    assert all(torch.equal(value, before[name]) for name, value in _tensors(state).items())
    _run(state, crops, 2)
    save_state(path, state, FACTS)
    again = _fresh(seed=9)
    load_state(path, again, FACTS)
    assert again.step == 2
    assert _differ(state, again) == []
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_stored_and_what_was_stays(saved, value):
    before, state = saved.read_bytes(), _fresh()
    with torch.no_grad():
        state.net.head.bias[1] = value
    with pytest.raises(ModelError, match=r"1 of .* such as net\.head\.bias.*not finite"):
        save_state(saved, state, FACTS)
    assert saved.read_bytes() == before


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, _fresh(), FACTS)
    return path


@pytest.mark.parametrize("kept", [0, 7, 200, 0.5, -1])
def test_a_state_cut_short_is_refused(saved, kept):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(ModelError, match=r"state\.safetensors"):
        load_state(saved, _fresh(), FACTS)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_a_state_with_a_flipped_bit_is_refused(saved, place):
    data = bytearray(saved.read_bytes())
    data[int(len(data) * place)] ^= 4
    saved.write_bytes(data)
    with pytest.raises(ModelError, match=r"state\.safetensors"):
        load_state(saved, _fresh(), FACTS)


def test_a_state_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none\.safetensors"):
        load_state(tmp_path / "none.safetensors", _fresh(), FACTS)


def test_the_state_of_another_training_is_refused_with_what_differs(saved):
    other = {**FACTS, "rate": 0.1, "bend": 2}
    with pytest.raises(ModelError, match=r"another training \(bend, rate differ\).*--fresh"):
        load_state(saved, _fresh(), other)


def test_weights_of_a_model_are_no_state(tmp_path):
    net = UNet(CONFIG)
    spec = default_spec("tiny", CONFIG, patch=(16, 16), margin=2)
    file = save_unet(tmp_path / "w", net, spec, card="# c", licence="CC0")
    with pytest.raises(ModelError, match="no state of a training"):
        load_state(file, _fresh(), FACTS)


def test_a_refused_state_leaves_the_training_as_it_was(saved):
    state = _fresh(seed=4)
    before = _tensors(state)
    saved.write_bytes(saved.read_bytes()[:-9])
    with pytest.raises(ModelError):
        load_state(saved, state, FACTS)
    assert all(torch.equal(value, before[name]) for name, value in _tensors(state).items())


@pytest.mark.parametrize(
    ("step", "decay", "share"),
    [(0, 0.999, 0.9), (90, 0.999, 0.09), (10**6, 0.999, 0.001), (90, 0.5, 0.5)],
)
def test_the_mean_moves_by_its_share(step, decay, share):
    state = _fresh()
    with torch.no_grad():
        for value in (*state.net.parameters(), *state.net.buffers()):
            value.add_(1)
    state.step = step
    old = {k: v.clone() for k, v in state.mean.state_dict().items()}
    state.update_mean(decay)
    for name, value in state.mean.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, old[name] + share, atol=1e-6), name
    assert not state.mean.training
    assert not any(p.requires_grad for p in state.mean.parameters())


def test_the_mean_follows_a_recurrence_over_a_training(crops):
    state = _fresh()
    name = "head.weight"
    mean = state.mean.state_dict()[name].double()
    for step in range(5):
        _run(state, crops, step + 1)
        share = 1 - min(SCHEDULE.ema, (step + 1) / (step + 10))
        mean = mean + share * (state.net.state_dict()[name].double() - mean)
    assert torch.allclose(state.mean.state_dict()[name].double(), mean, atol=1e-6)


def test_the_rate_rises_linearly_and_falls_by_half_a_cosine():
    schedule = Schedule(steps=1000, rate=2.0, last=0.1, warmup=100)
    rates = np.array([schedule.rate_at(k) for k in range(1001)])
    whole = 2.0 * (0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(1001) / 1000)) / 2)
    rise = np.minimum(1, (np.arange(1001) + 1) / 100)
    np.testing.assert_allclose(rates, whole * rise)
    assert rates[0] == pytest.approx(0.02)
    assert rates[500] == pytest.approx(2 * 0.55)
    assert rates[1000] == pytest.approx(0.2)
    assert (np.diff(rates[:80]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()
    assert schedule.rate_at(5000) == pytest.approx(0.2)


def test_schedules_without_warmup_or_steps_are_no_special_case():
    assert Schedule(warmup=0, rate=1, steps=10).rate_at(0) == 1
    assert Schedule(warmup=0, rate=1, steps=0).rate_at(3) == pytest.approx(0.01)


def test_filters_decay_and_norms_and_biases_do_not():
    state = _fresh()
    decays = {id(p): g["weight_decay"] for g in state.optimizer.param_groups for p in g["params"]}
    for name, value in state.net.named_parameters():
        filters = name.endswith("conv.weight") or name == "head.weight"
        assert decays[id(value)] == (SCHEDULE.decay if filters else 0), name
    assert len(decays) == len(list(state.net.parameters()))
