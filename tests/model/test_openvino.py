"""OpenVINO computes the same network, in each precision to the same bits whoever asks."""

from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from wsiseg.engine.executor import Serial, Threads
from wsiseg.engine.numerics import numerics_class
from wsiseg.engine.segment import find_objects
from wsiseg.errors import MissingExtraError, ModelError
from wsiseg.geometry import Space
from wsiseg.image.source import ArraySource
from wsiseg.jit import has_feature
from wsiseg.model.unet import UNet, UNetConfig, UNetModel, default_spec, field, fold, weights_of
from wsiseg.model.unet import openvino as module
from wsiseg.model.unet.network import normalised, space_to_depth
from wsiseg.model.unet.openvino import OnOpenVINO
from wsiseg.model.unet.ranges import observed
from wsiseg.model.weights import Weights, save_weights, with_facts
from wsiseg.model.zoo import load_model
from wsiseg.training.dataset import read_dataset
from wsiseg.training.validate import predict, score

GREY = {"channels": 1, "mean": (120.0,), "std": (50.0,)}
CONFIGS = {
    "2-D": UNetConfig(2, 3, 2, (4, 5, 6), (1, 2, 1), (1, 2)),
    "2-D, stem 2": UNetConfig(2, 3, 0, (4, 5), (0, 1), (0,), stem=2),
    "2-D, stem 4, one level": UNetConfig(2, 3, 1, (4,), (1,), (), stem=4),
    "3-D": UNetConfig(3, classes=2, widths=(3, 4), blocks=(1, 1), decoder_blocks=(1,), **GREY),
    "3-D, stem 2": UNetConfig(3, widths=(3,), blocks=(1,), decoder_blocks=(), stem=2, **GREY),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def _unless(features: tuple[str, ...]) -> pytest.MarkDecorator:
    there = find_spec("openvino") and (not features or any(map(has_feature, features)))
    return pytest.mark.skipif(not there, reason=f"needs openvino and a chip with {features}")


needs_openvino = _unless(())
needs_int8 = _unless(module._BYTES)
every_precision = pytest.mark.parametrize(
    "precision",
    [
        pytest.param("fp32", marks=needs_openvino),
        pytest.param("bf16", marks=_unless(module._HALVES)),
        pytest.param("int8", marks=needs_int8),
    ],
)


def _net(config: UNetConfig, seed: int = 0) -> UNet:
    """A network whose normalisation has seen data."""
    torch.manual_seed(seed)
    net = UNet(config)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            torch.nn.init.normal_(part.running_mean, std=0.3)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, std=0.2)
    return net.eval()


def _folded(config: UNetConfig) -> UNet:
    return fold(_net(config)).requires_grad_(False)


def _pixels(config: UNetConfig, count: int) -> np.ndarray:
    """Patches (count, *s, C) that are not square."""
    stride = field(config)[1]
    shape = (count, 4 * stride, *(6 * stride,) * (config.ndim - 1), config.channels)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def _weights(config: UNetConfig) -> Weights:
    """With ranges, for patches as ``_pixels`` makes them."""
    pixels = _pixels(config, 4)
    spec = default_spec("tiny", config, patch=pixels.shape[1:-1], margin=2, batch=3)
    weights = weights_of(_net(config), spec)
    return with_facts(weights, ranges=UNetModel(weights).ranges(pixels))


def _stack(maps) -> np.ndarray:
    return np.concatenate([maps.prob[:, None], maps.hv, maps.classes], axis=1)


def _on_grid(net: UNet, pixels: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return net.on_grid(normalised(torch.from_numpy(pixels), net.config))


def _by_openvino(net: UNet, pixels: np.ndarray, precision: str) -> torch.Tensor:
    run = OnOpenVINO(net, precision, pixels.shape[:-1], observed(net, pixels))
    return run(normalised(torch.from_numpy(pixels), net.config))


def _in_int8(net: UNet, ranges: dict[str, float], pixels: np.ndarray) -> torch.Tensor:
    """Raw maps by float32 arithmetic on values rounded to the grids of int8."""

    def stored(name: str, x: torch.Tensor) -> torch.Tensor:
        least, most = (-128, 127) if name == "stem" else (0, 255)
        return torch.fake_quantize_per_tensor_affine(x, ranges[name] / most, 0, least, most)

    def bank(name: str, x: torch.Tensor) -> torch.Tensor:
        conv = copy.deepcopy(net.head if name == "head" else net.get_submodule(name).conv)
        steps, zeros = conv.weight.abs().flatten(1).amax(1) / 127, torch.zeros(conv.out_channels)
        conv.weight.data = torch.fake_quantize_per_channel_affine(
            conv.weight, steps, zeros.int(), 0, -127, 127
        )
        return conv(x)

    def blocks(room: str, count: int, x: torch.Tensor) -> torch.Tensor:
        for name in (f"{room}.{k}" for k in range(count)):
            x = stored(f"{name}.first", x)
            y = stored(f"{name}.second", bank(f"{name}.first", x).relu())
            x = (bank(f"{name}.second", y) + x).relu()
        return x

    config, skips = net.config, []
    x = normalised(torch.from_numpy(pixels), config)
    x = bank("stem", stored("stem", space_to_depth(x, config.stem))).relu()
    x = blocks("encoder.0", config.blocks[0], x)
    for level, count in enumerate(config.blocks[1:]):
        skips.append(stored(f"down.{level}", x))
        x = blocks(f"encoder.{level + 1}", count, bank(f"down.{level}", skips[-1]).relu())
    for level, skip in reversed(list(enumerate(skips))):
        y = bank(f"up.{level}", stored(f"up.{level}", x))
        x = (interpolate(y, scale_factor=2.0, mode="nearest") + skip).relu()
        x = blocks(f"decoder.{level}", config.decoder_blocks[level], x)
    return bank("head", stored("head", x))


@needs_openvino
@every_config
def test_in_fp32_it_is_the_network_of_torch(config):
    net, pixels = _folded(config), _pixels(config, 2)
    expected = _on_grid(net, pixels)
    got = _by_openvino(net, pixels, "fp32")
    assert (got.shape, got.dtype) == (expected.shape, torch.float32)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-5)


@_unless(module._HALVES)
@every_config
def test_bf16_stays_near_fp32_and_is_not_the_same(config):
    net, pixels = _folded(config), _pixels(config, 2)
    full, half = _on_grid(net, pixels), _by_openvino(net, pixels, "bf16")
    assert 0 < (half - full).abs().mean() < 0.02 * full.std()


@needs_int8
@every_config
def test_int8_rounds_where_it_says_and_nowhere_else(config):
    net, pixels = _folded(config), _pixels(config, 2)
    expected = _in_int8(net, observed(net, pixels), pixels)
    got, full = _by_openvino(net, pixels, "int8"), _on_grid(net, pixels)
    lost = (got - full).abs().mean()
    assert 0 < lost < 0.05 * full.std()
    # a value in the middle of two steps may fall to either side: few do
    assert (got - expected).abs().mean() < 0.1 * lost


@every_precision
@pytest.mark.parametrize("config", [CONFIGS["2-D"], CONFIGS["3-D"]], ids=["2-D", "3-D"])
def test_the_maps_of_a_patch_do_not_depend_on_its_company(config, precision):
    model = UNetModel(_weights(config), device="openvino", precision=precision)
    patches = _pixels(config, 7)
    whole = _stack(model(patches))
    for k in (0, 3, 6):
        assert np.array_equal(_stack(model(patches[k : k + 1]))[0], whole[k])
    assert np.array_equal(_stack(model(patches[[5, 1]])), whole[[5, 1]])


@every_precision
def test_forwards_at_once_give_the_bits_of_one_alone(precision):
    model = UNetModel(_weights(CONFIGS["2-D"]), device="openvino", precision=precision)
    patches = _pixels(CONFIGS["2-D"], 3)
    alone = _stack(model(patches))
    with ThreadPoolExecutor(3) as pool:
        for maps in pool.map(model, [patches] * 24):
            assert np.array_equal(_stack(maps), alone)


@every_precision
def test_another_process_gives_the_same_bits(precision):
    model = UNetModel(_weights(CONFIGS["2-D"]), device="openvino", precision=precision)
    again = pickle.loads(pickle.dumps(model))
    patches = _pixels(CONFIGS["2-D"], 2)
    assert again.spec == model.spec
    assert np.array_equal(_stack(again(patches)), _stack(model(patches)))


@needs_int8
def test_any_tiling_gives_the_same_objects_in_int8():
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    model = UNetModel(_weights(CONFIGS["2-D"]), device="openvino", precision="int8")
    source = ArraySource(image, Space.regular(image.shape[:2], model.spec.spacing), fill=255)
    whole = find_objects(source, model, region=512)
    assert len(whole)
    for region, executor in ((64, Threads(2)), (53, Serial())):
        found = find_objects(source, model, region=region, executor=executor)
        assert np.array_equal(found.runs, whole.runs)
        assert np.array_equal(found.sums, whole.sums)


@needs_openvino
def test_mirrored_views_are_those_of_torch():
    weights, patches = _weights(CONFIGS["2-D"]), _pixels(CONFIGS["2-D"], 2)
    torchs, ours = (
        UNetModel(weights, device=device, mirrored=True)(patches) for device in ("cpu", "openvino")
    )
    np.testing.assert_allclose(_stack(ours), _stack(torchs), atol=2e-3)


@needs_int8
def test_runs_of_other_runners_precisions_and_ranges_are_told_apart():
    weights = _weights(CONFIGS["2-D"])
    wider = with_facts(weights, ranges={n: 2 * v for n, v in weights.facts["ranges"].items()})
    hows = [("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "int8")]
    models = [UNetModel(weights, device=d, precision=p) for d, p in hows]
    models.append(UNetModel(wider, device="openvino", precision="int8"))
    assert len({model.spec.sha256 for model in models}) == 4
    assert "openvino" not in numerics_class(models[0])
    assert "cpu-int8 " in numerics_class(models[2])
    assert f"openvino-{sys.modules['openvino'].__version__.split('-')[0]}" in models[2].numerics


@needs_int8
def test_what_is_beyond_a_range_is_clipped():
    weights = _weights(CONFIGS["2-D"])
    narrow = with_facts(weights, ranges=dict.fromkeys(weights.facts["ranges"], 0.0))
    model = UNetModel(narrow, device="openvino", precision="int8")
    maps = _stack(model(_pixels(CONFIGS["2-D"], 1)))
    assert np.isfinite(maps).all()
    assert np.ptp(maps[0, 0].astype(float)) < 1e-3


@needs_int8
def test_int8_on_the_cpu_is_that_of_openvino(shipped_weights, tmp_path):
    save_weights(tmp_path, _weights(CONFIGS["2-D"]), card="# c", licence="text")
    asked = load_model(tmp_path, precision="int8")
    named = load_model(tmp_path, device="openvino", precision="int8")
    assert asked.spec.sha256 == named.spec.sha256
    assert load_model(tmp_path, device="openvino").spec.sha256 != named.spec.sha256


def test_without_openvino_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsiseg\[openvino\]'"):
        UNetModel(_weights(CONFIGS["2-D"]), device="openvino")


@needs_openvino
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_chip_that_lacks_the_instructions_is_refused(precision, monkeypatch):
    monkeypatch.setattr(module, "has_feature", lambda name: False)
    with pytest.raises(ModelError, match=rf"{precision} on openvino needs a chip with .*use fp32"):
        UNetModel(_weights(CONFIGS["2-D"]), device="openvino", precision=precision)


def test_other_devices_do_not_take_int8():
    with pytest.raises(ModelError, match="precision on mps must be fp32 or bf16, got 'int8'"):
        UNetModel(_weights(CONFIGS["2-D"]), device="mps", precision="int8")
    with pytest.raises(ModelError, match="on openvino must be fp32 or bf16 or int8, got 'fp16'"):
        UNetModel(_weights(CONFIGS["2-D"]), device="openvino", precision="fp16")


@needs_int8
@pytest.mark.data
def test_int8_finds_the_nuclei_that_fp32_does(data, shipped_weights):
    items = read_dataset(data / "nuclei", split="val", sets=("gbm40", "lgg"))
    full, coarse = (load_model("nuclei-he", precision=p) for p in ("fp32", "int8"))
    for item in (items[0], items[-1]):
        pq = [score(predict(model, item)[0], item)["pq"] for model in (full, coarse)]
        assert abs(pq[0] - pq[1]) < 0.02
