"""The network sees as far as it says, and the model's bits depend on its pixels alone."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from wsiseg.errors import ModelError
from wsiseg.model import distance, hv
from wsiseg.model.base import LocalModel, Maps
from wsiseg.model.distance import DistanceRule
from wsiseg.model.flood import Immersion
from wsiseg.model.unet import (
    HV_UNIT,
    UNet,
    UNetConfig,
    UNetModel,
    activated,
    default_spec,
    enlarged,
    field,
    fold,
    map_sizes,
    save_unet,
    split,
    weights_of,
)
from wsiseg.model.unet.fused import available, fused_on_grid
from wsiseg.model.weights import load_weights, with_facts

GREY = {"channels": 1, "mean": (120.0,), "std": (50.0,)}
CONFIGS = {
    "2-D": UNetConfig(2, 3, 2, (4, 5, 6), (1, 2, 1), (1, 2)),
    "2-D, stem 2": UNetConfig(2, 3, 0, (4, 5), (1, 1), (1,), stem=2),
    "2-D, stem 4": UNetConfig(2, 3, 1, (4,), (1,), (), stem=4),
    "2-D, distance": UNetConfig(2, 3, 2, (4, 5), (1, 1), (1,), 2, vectors=False, distance=True),
    "2-D, both": UNetConfig(2, 3, 0, (4, 5), (1, 1), (1,), distance=True),
    "3-D": UNetConfig(3, classes=2, widths=(3, 4), blocks=(1, 1), decoder_blocks=(1,), **GREY),
    "3-D, stem 2": UNetConfig(3, widths=(3,), blocks=(1,), decoder_blocks=(), stem=2, **GREY),
    "3-D, distance": UNetConfig(
        3, widths=(3,), blocks=(1,), decoder_blocks=(), vectors=False, distance=True, **GREY
    ),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def _net(config, seed=0, train=False):
    """A network whose normalisation has seen data."""
    torch.manual_seed(seed)
    net = UNet(config)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    return net.train(train)


def _model(config, seed=0, **options):
    """A model with patches of two by as many strides, not square."""
    stride = field(config)[1]
    patch = (4 * stride, *(6 * stride,) * (config.ndim - 1))
    spec = default_spec("tiny", config, patch=patch, margin=stride, batch=3)
    return UNetModel(weights_of(_net(config, seed), spec), **options)


def _patches(model, count, seed=1):
    shape = (count, *model.spec.patch, model.spec.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _stack(maps):
    return np.concatenate([maps.prob[:, None], maps.hv, maps.classes], axis=1)


def _positive(config):
    """A network through which every path carries a signal: no weight cancels another."""
    net = UNet(config).eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(value.abs() + 0.05 if name.endswith("weight") else torch.zeros_like(value))
    return net.double()


def _forward(net, x):
    """Raw maps in float64 (the heads' own cast to float32 left out)."""
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda self: self)
        return net(x)


@every_config
def test_the_field_is_exactly_what_a_change_of_a_pixel_reaches(config):
    net, (radius, stride) = _positive(config), field(config)
    side = -(-(2 * radius + 1 + stride) // stride) * stride
    reached = 0
    for place in range(radius, radius + stride):  # every place within a block
        x = torch.zeros((1, config.channels, *(side,) * config.ndim), dtype=torch.float64)
        x[(0, 0, *(place,) * config.ndim)] = 1
        changed = _forward(net, x)[0].abs().sum(dim=0).nonzero()
        reached = max(reached, int((changed - place).abs().max()))
        assert len(changed) > 1
    assert reached == radius


@every_config
def test_pixels_beyond_the_radius_change_no_bit(config):
    net, (radius, stride) = _net(config), field(config)
    side = -(-(radius + 8) // stride) * stride
    shape = (1, config.channels, *(side,) * config.ndim)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=shape).astype(np.float32))
    other = x.clone()
    other[..., radius + 4 :] += 5
    with torch.inference_mode():
        before, after = net(x), net(other)
    assert torch.equal(before[..., :4], after[..., :4])
    assert not torch.equal(before[..., -4:], after[..., -4:])


@every_config
def test_a_shift_by_the_stride_shifts_the_maps(config):
    net, (radius, stride) = _positive(config), field(config)
    side = -(-(2 * radius + 5) // stride) * stride + 2 * stride
    shape = (1, config.channels, side, *(2 * stride,) * (config.ndim - 1))
    x = torch.from_numpy(np.random.default_rng(3).normal(size=shape))

    def moved(by):
        out, inner = _forward(net, x.roll(by, dims=2)), slice(radius + stride, side - radius)
        return (out.roll(-by, dims=2) - _forward(net, x))[:, :, inner].abs().max().item()

    scale = _forward(net, x).abs().max().item()
    assert moved(-stride) < 1e-12 * scale
    if stride > 1:
        assert moved(-1) > 1e-6 * scale


@every_config
def test_folding_the_normalisation_changes_nothing(config):
    x = torch.randn((2, config.channels, *(2 * field(config)[1],) * config.ndim))
    with torch.inference_mode():
        before = _net(config)(x)
        folded = fold(_net(config))
        assert torch.allclose(folded(x), before, atol=1e-4)
    assert not any("norm" in name for name in folded.state_dict())


@every_config
def test_maps_have_the_shapes_and_ranges_of_the_contract(config):
    model = _model(config)
    maps = model(_patches(model, 3))
    assert isinstance(model, LocalModel)
    shape = model.spec.patch
    assert maps.prob.shape == (3, *shape)
    channels = config.ndim * config.vectors + config.distance
    assert maps.hv.shape == (3, channels, *shape)
    assert model.spec.hv_channels == channels
    assert maps.classes.shape == (3, config.classes, *shape)
    assert {m.dtype for m in (maps.prob, maps.hv, maps.classes)} == {np.dtype(np.float16)}
    assert (maps.prob >= 0).all()
    assert (maps.prob <= 1).all()
    assert np.ptp(maps.prob.astype(float)) > 1e-3
    assert (np.abs(maps.hv) <= 1).all()
    if config.distance:
        assert (maps.hv[:, -1] >= 0).all()
        assert np.ptp(maps.hv[:, -1].astype(float)) > 1e-3
    if config.classes:
        assert np.allclose(maps.classes.astype(np.float32).sum(axis=1), 1, atol=2e-3)


def _column(*values):
    """Raw maps (1, M, 1, 1)."""
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_activations_follow_their_definition():
    both = UNetConfig(2, 3, 2, (4,), (1,), (), distance=True)
    raw = _column(0.0, 2.0, -99.0, np.log(4), 1.0, 1.0 + np.log(3))
    maps = activated(raw, both)
    assert maps.shape == raw.shape
    assert maps.flatten().tolist() == pytest.approx([0.5, 2 * HV_UNIT, -1.0, 0.8, 0.25, 0.75])


def test_the_temperature_flattens_the_classes_and_nothing_else():
    config = UNetConfig(2, 3, 2, (4,), (1,), (), distance=True)
    raw = _column(0.3, 1.0, 2.0, 0.7, 0.0, np.log(9))
    sharp, flat = (activated(raw, replace(config, temperature=t)) for t in (1.0, 2.0))
    assert sharp[:, 4:].flatten().tolist() == pytest.approx([0.1, 0.9])
    assert flat[:, 4:].flatten().tolist() == pytest.approx([0.25, 0.75])  # 1 : 9 ** 0.5
    assert torch.equal(sharp[:, :4], flat[:, :4])


@every_config
def test_one_head_gives_all_maps_and_split_takes_them_apart(config):
    sizes, net = map_sizes(config), _net(config)
    assert list(sizes) == ["np", "hv", "dt", "tp"]
    channels = (1, config.ndim * config.vectors, int(config.distance), config.classes)
    assert tuple(sizes.values()) == channels
    assert net.head.out_channels == sum(channels)
    x = torch.randn((2, config.channels, *(field(config)[1],) * config.ndim))
    with torch.inference_mode():
        raw = net(x)
        assert net.on_grid(x).shape[2:] == tuple(n // config.stem for n in x.shape[2:])
    parts = split(raw, config)
    assert raw.shape == (2, sum(channels), *x.shape[2:])
    assert {name: part.shape[1] for name, part in parts.items()} == sizes
    assert torch.equal(torch.cat(list(parts.values()), dim=1), raw)


@every_config
def test_the_fused_network_is_the_network(config):
    net = fold(_net(config, train=True)).requires_grad_(False)
    side = 3 * field(config)[1]
    x = torch.randn((2, config.channels, *(side,) * config.ndim))
    if config.ndim == 2:
        net, x = (v.to(memory_format=torch.channels_last) for v in (net, x))
    with torch.inference_mode():
        assert available()
        torch.testing.assert_close(fused_on_grid(net, x), net.on_grid(x), rtol=1e-4, atol=1e-4)


def test_a_model_without_fused_filters_gives_nearly_the_same_maps_and_is_told_apart(monkeypatch):
    fused = _model(CONFIGS["2-D, distance"])
    monkeypatch.setattr("wsiseg.model.unet.local.available", lambda: False)
    plain = _model(CONFIGS["2-D, distance"])
    a, b = (_stack(model(_patches(model, 2))) for model in (fused, plain))
    np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), atol=2e-3)
    assert fused.spec.sha256 != plain.spec.sha256


def test_maps_are_activated_on_the_grid_and_then_enlarged():
    config = UNetConfig(2, 3, 2, (4,), (1,), (), stem=2, distance=True)
    maps = torch.rand((1, 6, 3, 2))
    large = enlarged(maps, config)
    assert large.shape == (1, 6, 6, 4)
    assert torch.allclose(large[..., 0, 0], maps[..., 0, 0])  # the edge goes on
    near, far = maps[..., 0, 0], maps[..., 1, 0]
    assert torch.allclose(large[..., 1, 0], 0.75 * near + 0.25 * far)
    assert torch.allclose(large[:, 4:].sum(1), enlarged(maps[:, 4:].sum(1, keepdim=True), config))


@pytest.mark.parametrize("name", ["2-D", "2-D, both", "3-D", "3-D, distance"])
def test_mirrored_maps_of_a_mirrored_patch_are_the_mirrored_maps(name):
    config = CONFIGS[name]
    model, plain = _model(config, mirrored=True), _model(config)
    patches = _patches(model, 2)
    maps = model(patches)
    assert not np.array_equal(maps.prob, plain(patches).prob)
    assert model.spec.sha256 != plain.spec.sha256
    for axis in range(config.ndim):
        again = model(np.ascontiguousarray(np.flip(patches, 1 + axis)))
        sign = np.ones(maps.hv.shape[1])
        if config.vectors:
            sign[axis] = -1  # offsets point the other way
        shape = np.flip(again.hv, 2 + axis) * sign.reshape(-1, *[1] * config.ndim)
        np.testing.assert_allclose(np.flip(again.prob, 1 + axis), maps.prob, atol=2e-3)
        np.testing.assert_allclose(shape, maps.hv, atol=2e-3)
        np.testing.assert_allclose(np.flip(again.classes, 2 + axis), maps.classes, atol=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", [CONFIGS["2-D"], CONFIGS["3-D"]], ids=["2-D", "3-D"])
def test_the_maps_of_a_patch_do_not_depend_on_its_company(config, precision):
    model = _model(config, precision=precision)
    patches = _patches(model, 7)
    whole = _stack(model(patches))
    assert whole.shape[0] == 7
    for k in (0, 3, 6):
        assert np.array_equal(_stack(model(patches[k : k + 1]))[0], whole[k])
    mixed = _stack(model(patches[[5, 1]]))
    assert np.array_equal(mixed, whole[[5, 1]])
    assert model(patches[:0]).prob.shape == (0, *model.spec.patch)


def test_a_forward_on_the_cpu_uses_one_thread():
    model = _model(CONFIGS["2-D"])
    torch.set_num_threads(2)
    once = _stack(model(_patches(model, 2)))
    assert torch.get_num_threads() == 1
    assert np.array_equal(_stack(model(_patches(model, 2))), once)


def test_the_input_is_normalised_by_mean_and_std():
    config = CONFIGS["2-D"]
    model = _model(config)
    patches = _patches(model, 1)
    shifted = replace(config, mean=tuple(m + 10 for m in config.mean))
    same = _model(shifted)
    assert np.array_equal(
        _stack(same(patches.astype(np.float32) + 10)), _stack(model(patches.astype(np.float32)))
    )
    assert not np.array_equal(_stack(same(patches)), _stack(model(patches)))


def test_bf16_stays_near_fp32_and_is_told_apart():
    full, half = (_model(CONFIGS["2-D"], precision=p) for p in ("fp32", "bf16"))
    a, b = (m(_patches(m, 3)) for m in (full, half))
    assert np.abs(a.prob.astype(float) - b.prob).max() < 0.03
    assert not np.array_equal(a.prob, b.prob)
    assert full.spec.sha256 != half.spec.sha256


def test_links_are_those_of_its_rule():
    config, rule = CONFIGS["2-D"], hv.VoteRule(scale=64.0, jump=1.5)
    labels = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((9, 11), dtype=int))
    spec = default_spec("tiny", config, patch=(16, 16), margin=2)
    model = UNetModel(weights_of(_net(config), spec, rule))
    maps = hv.encode(labels, rule)
    assert model.spec.reach == rule.reach
    assert np.array_equal(model.links(maps), hv.links(maps, rule))
    assert model.decode(Maps(maps.prob, maps.hv, maps.classes)).max() == 6


RULES = {
    "votes": (CONFIGS["2-D, both"], hv.VoteRule(scale=64.0, jump=1.5, patience=2)),
    "distance": (
        CONFIGS["2-D, both"],
        DistanceRule(threshold=0.4, immersion=Immersion((200, 90, 0), (2, 3, 5), 7, 3)),
    ),
    "distance alone": (
        CONFIGS["2-D, distance"],
        DistanceRule(immersion=Immersion((99,), (4,), 5, 2)),
    ),
}
every_rule = pytest.mark.parametrize(("config", "rule"), RULES.values(), ids=RULES)


@every_rule
def test_rules_of_both_kinds_are_kept_with_the_weights(config, rule, tmp_path):
    spec = default_spec("tiny", config, patch=(16, 24), margin=2, batch=2)
    file = save_unet(tmp_path / "w", _net(config), spec, rule=rule, card="# c", licence="CC0")
    model = UNetModel(load_weights(file))
    assert model.spec.reach == rule.reach
    rng = np.random.default_rng(0)
    labels = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((9, 11), dtype=int))
    known = hv if isinstance(rule, hv.VoteRule) else distance
    arguments = (labels, rule) if known is hv else (labels,)
    maps = known.encode(*arguments)
    assert np.array_equal(model.links(maps), known.links(maps, rule))
    noisy = replace(maps, hv=rng.uniform(0, 1, maps.hv.shape).astype(np.float16))
    assert np.array_equal(model.links(noisy), known.links(noisy, rule))
    assert np.array_equal(model.decode(noisy), known.decode(noisy, rule))


def test_the_rule_is_by_default_that_of_the_map_that_there_is():
    reach = {"2-D": hv.RULE.reach, "2-D, both": DistanceRule().reach,
             "2-D, distance": DistanceRule().reach}  # fmt: skip
    for name, expected in reach.items():
        assert default_spec("tiny", CONFIGS[name]).reach == expected
        assert _model(CONFIGS[name]).spec.reach == expected


@pytest.mark.parametrize(
    ("config", "rule"),
    [("2-D", DistanceRule()), ("2-D, distance", hv.RULE)],
    ids=["no distance", "no vectors"],
)
def test_a_rule_for_a_map_that_the_network_lacks_is_refused(config, rule):
    config = CONFIGS[config]
    spec = default_spec("tiny", config, patch=(16, 16), margin=2)
    with pytest.raises(ModelError, match="lacks the map that its rule decodes"):
        UNetModel(weights_of(_net(config), spec, rule))


@pytest.mark.parametrize(
    "stated",
    [
        {"kind": "watershed"},
        {},
        {"kind": "distance", "threshold": 0.5},
        {"kind": "distance", "immersion": {"levels": [9]}},
        {"kind": "distance", "immersion": 3},
        {"kind": "votes", "immersion": {}},
        "distance",
    ],
)
def test_rules_that_make_no_sense_are_refused(stated):
    config = CONFIGS["2-D, distance"]
    spec = default_spec("tiny", config, patch=(16, 16), margin=2)
    broken = with_facts(weights_of(_net(config), spec), rule=stated)
    with pytest.raises(ModelError, match="weights in memory"):
        UNetModel(broken)


def test_a_model_pickles_by_the_path_and_hash_of_its_weights(tmp_path):
    config = CONFIGS["2-D"]
    spec = default_spec("tiny", config, patch=(16, 24), margin=2, batch=2)
    file = save_unet(tmp_path / "tiny", _net(config), spec, card="# tiny", licence="CC0")
    from wsiseg.model.zoo import load_model

    model = load_model(file, precision="fp32")
    packed = pickle.dumps(model)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    patches = _patches(model, 2)
    assert again.spec == model.spec
    assert np.array_equal(_stack(again(patches)), _stack(model(patches)))
    save_unet(tmp_path / "tiny", _net(config, seed=1), spec, card="# tiny", licence="CC0")
    with pytest.raises(ModelError, match="changed while it was in use"):
        pickle.loads(packed)


def test_a_model_made_in_memory_pickles_whole():
    model = _model(CONFIGS["3-D"])
    again = pickle.loads(pickle.dumps(model))
    assert again.spec == model.spec
    assert np.array_equal(_stack(again(_patches(model, 1))), _stack(model(_patches(model, 1))))


def test_the_hash_covers_tensors_config_spec_and_rule():
    config = CONFIGS["2-D"]
    spec = default_spec("tiny", config, patch=(16, 16), margin=2)
    kinds = [
        weights_of(_net(config), spec),
        weights_of(_net(config, seed=1), spec),
        weights_of(_net(replace(config, std=(9.0,) * 3)), spec),
        weights_of(_net(config), replace(spec, min_object=7)),
        weights_of(_net(config), spec, hv.VoteRule(near=1)),
        weights_of(_net(replace(config, temperature=2.0)), spec),
    ]
    config = CONFIGS["2-D, distance"]
    spec = default_spec("tiny", config, patch=(16, 16), margin=2)
    for rule in (DistanceRule(), DistanceRule(immersion=Immersion((9,), (1,), 5, 2))):
        kinds.append(weights_of(_net(config), spec, rule))
    assert len({UNetModel(w).spec.sha256 for w in kinds}) == len(kinds)
    assert weights_of(_net(config), spec, DistanceRule()).sha256 == kinds[-2].sha256


@pytest.mark.parametrize(
    "fields",
    [
        {"patch": (16, 17)},
        {"patch": (16, 16), "margin": 8},
        {"patch": (16,)},
        {"patch": (16, 16), "classes": ("a",)},
        {"patch": (16, 16), "ndim": 3},
        {"patch": (16, 16), "spacing": (0.5, -1)},
        {"patch": (16, 16), "batch": 0},
    ],
)
def test_a_spec_that_does_not_fit_the_network_is_refused(fields):
    config = CONFIGS["2-D"]
    spec = default_spec("tiny", config, **{"margin": 2, **fields})
    with pytest.raises(ModelError, match="weights in memory"):
        UNetModel(weights_of(_net(config), spec))


@pytest.mark.parametrize(
    "fields",
    [
        {"ndim": 4},
        {"stem": 3},
        {"widths": ()},
        {"widths": (4, 5, 10**9)},
        {"blocks": (1, 1)},
        {"blocks": (1, 1, 10**6)},
        {"mean": (0.0,)},
        {"std": (1.0, 0.0, 1.0)},
        {"classes": -1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
    ],
)
def test_a_config_that_makes_no_network_is_refused(fields):
    with pytest.raises(ModelError, match="U-Net needs"):
        replace(CONFIGS["2-D"], **fields)


def test_wrong_pixels_devices_and_precisions_are_refused():
    model = _model(CONFIGS["2-D"])
    with pytest.raises(ModelError, match="takes patches"):
        model(np.zeros((1, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(ModelError, match="try cpu"):
        _model(CONFIGS["2-D"], device="cuda:99")
    with pytest.raises(ModelError, match="fp32 or bf16"):
        _model(CONFIGS["2-D"], precision="fp8")
