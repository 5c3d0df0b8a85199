"""Fine-tuning: a few drawn nuclei, weights that fit them better, and an honest word on it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import wsiseg
from wsiseg.cli import app
from wsiseg.errors import InputFileError, ModelError, SettingsError
from wsiseg.model.distance import DistanceRule
from wsiseg.model.unet import UNet, UNetConfig, default_spec, save_unet
from wsiseg.model.weights import load_weights
from wsiseg.synth import SyntheticSlide
from wsiseg.training.finetune import FineTune, fine_tune, judgement_of
from wsiseg.training.outcome import Trained, TrainProgress
from wsiseg.training.report import tuned_text

Draw = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("shipped_weights")


def polygon(labels: np.ndarray, k: int) -> list[list[float]]:
    """Outline of a nucleus in px of the image, corners at whole numbers."""
    mask = np.kron(labels == k, np.ones((2, 2), np.uint8)).astype(np.uint8)
    outline = max(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    ring = ((outline[:, 0] + 0.5) / 2).tolist()
    return [*ring, ring[0]]


@pytest.fixture
def slide(tmp_path: Path, tissue: SyntheticSlide) -> Path:
    path = tmp_path / "s1.png"
    cv2.imwrite(str(path), tissue.rgb[..., ::-1])
    return path


@pytest.fixture
def draw(tmp_path: Path, tissue: SyntheticSlide) -> Draw:
    """``draw(names, region)``: the GeoJSON of the nuclei of the image, classes in turn."""

    def write(names: tuple[str, ...] = ("a", "b"), region: bool = True, most: int = 999) -> Path:
        h, w = tissue.shape
        ids = np.unique(tissue.labels)[1:].tolist()[:most]
        drawn = [(polygon(tissue.labels, k), names[i % len(names)]) for i, k in enumerate(ids)]
        if region:
            drawn.append(([[0, 0], [w, 0], [w, h], [0, h], [0, 0]], "Region*"))
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "annotation"}
                | ({"classification": {"name": name}} if name else {}),
            }
            for ring, name in drawn
        ]
        path = tmp_path / "export.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return write


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    network = UNetConfig(
        classes=2, widths=(4, 8), blocks=(1, 1), decoder_blocks=(1,), stem=2, distance=True
    )
    spec = default_spec(
        "parent", network, spacing=(0.25, 0.25), classes=("a", "b"), patch=(64, 64), margin=8,
        min_object=5, licence="CC-BY-NC-SA-4.0",
    )  # fmt: skip
    rule, said = DistanceRule(threshold=0.45), "terms of the parent"
    save_unet(tmp_path / "parent", UNet(network), spec, rule=rule, card="# c", licence=said)
    return tmp_path / "parent"


def short(steps: int = 3, **changes: object) -> FineTune:
    how = FineTune()
    return replace(
        how,
        schedule=replace(how.schedule, steps=steps, warmup=1),
        sampling=replace(how.sampling, side=64, batch=2),
        machine=replace(how.machine, precision="fp32", threads=1),
        **changes,  # type: ignore[arg-type]
    )


def test_the_result_is_the_parent_adapted_under_its_licence(
    slide: Path, draw: Draw, parent: Path, tmp_path: Path
) -> None:
    done = fine_tune(parent, [(slide, draw())], tmp_path / "out", short(), mpp=0.25)
    spec, old = wsiseg.load_model(done.weights).spec, wsiseg.load_model(parent).spec
    assert (spec.name, spec.licence) == ("parent-tuned", "CC-BY-NC-SA-4.0")
    assert "terms of the parent" in (done.weights / "LICENSE").read_text()
    same = ("classes", "patch", "margin", "min_object", "reach", "spacing", "batch")
    assert all(getattr(spec, name) == getattr(old, name) for name in same)
    assert load_weights(done.weights).facts["rule"] == load_weights(parent).facts["rule"]
    assert str(tmp_path) not in json.dumps(load_weights(done.weights).facts)
    assert set(done.before) == set(done.scores) == {"s1"}
    assert 0 < done.nuclei < 20
    new, start = load_weights(done.weights), load_weights(parent)
    assert not np.array_equal(new.tensors["head.bias"], start.tensors["head.bias"])
    norm = "stem.norm.running_var"  # frozen
    np.testing.assert_array_equal(new.tensors[norm], start.tensors[norm])


def test_it_learns_what_was_drawn(slide: Path, draw: Draw, parent: Path, tmp_path: Path) -> None:
    """From noise, at a high rate: the loss on what was drawn falls by a third at least."""
    told: list[TrainProgress] = []
    how = short(60, norms=0.1)
    how = replace(how, schedule=replace(how.schedule, rate=0.02))
    fine_tune(parent, [(slide, draw())], tmp_path / "out", how, mpp=0.25, progress=told.append)
    losses = [p.loss for p in told if not p.said]
    assert losses[-1] < 0.7 * losses[0]


def test_interrupted_it_goes_on(slide: Path, draw: Draw, parent: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def die(progress: TrainProgress) -> None:
        if progress.step == 2:
            raise Killed

    pairs = [(slide, draw())]
    with pytest.raises(Killed):
        fine_tune(parent, pairs, tmp_path / "cut", short(), mpp=0.25, progress=die)
    cut = fine_tune(parent, pairs, tmp_path / "cut", short(), mpp=0.25)
    whole = fine_tune(parent, pairs, tmp_path / "whole", short(), mpp=0.25)
    assert cut.sha256 == whole.sha256


@pytest.mark.parametrize("names", [("a",), ("",)])
def test_nuclei_of_one_class_do_not_train_what_tells_classes_apart(
    slide: Path, draw: Draw, parent: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    done = fine_tune(parent, [(slide, draw(names))], tmp_path / "out", short(), mpp=0.25)
    config = json.loads((done.folder / "config.json").read_text())["config"]
    assert config["loss"]["tp"] == 0
    assert config["loss"]["np"] > 0


def test_several_slides_are_scored_each(
    slide: Path, draw: Draw, parent: Path, tmp_path: Path
) -> None:
    other = tmp_path / "s2.png"
    cv2.imwrite(str(other), cv2.imread(str(slide))[::-1])
    pairs = [(slide, draw()), (other, draw())]
    done = fine_tune(parent, pairs, tmp_path / "out", short(1), mpp=0.25)
    assert set(done.scores) == {"s1", "s2"}


def test_without_a_region_only_what_was_drawn_counts(
    slide: Path, draw: Draw, parent: Path, tmp_path: Path
) -> None:
    done = fine_tune(parent, [(slide, draw(region=False))], tmp_path / "out", short(1), mpp=0.25)
    assert done.scores["s1"]["pq"] is not None


def test_what_cannot_be_is_named(slide: Path, draw: Draw, parent: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="too few"):
        fine_tune(parent, [(slide, draw(most=5))], tmp_path / "o", short(), mpp=0.25)
    with pytest.raises(InputFileError, match=r"export\.geojson.*unknown classes: 'tumour'"):
        fine_tune(parent, [(slide, draw(("tumour",)))], tmp_path / "o", short(), mpp=0.25)
    with pytest.raises(ModelError, match="has no weights"):
        fine_tune("hematoxylin", [(slide, draw())], tmp_path / "o", short(), mpp=0.25)
    with pytest.raises(SettingsError, match="give annotations"):
        fine_tune(parent, [], tmp_path / "o", short())
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("before", "after", "nuclei", "said"),
    [
        (0.50, 0.60, 80, "0.500 before, 0.600 after: it got better"),
        (0.50, 0.505, 80, "about the same"),
        (0.60, 0.50, 80, "it got worse: keep the weights that you had"),
        (0.50, 0.60, 9, "so few nuclei tell little"),
    ],
)
def test_the_summary_says_whether_it_got_better(
    tmp_path: Path, before: float, after: float, nuclei: int, said: str
) -> None:
    trained = Trained(
        folder=tmp_path, weights=tmp_path / "weights", step=3, best_step=3,
        scores={"s": {"pq": after}, "t": {"pq": None}}, before={"s": {"pq": before}, "t": {}},
        nuclei=nuclei, calibration=None, licence="CC0-1.0", sha256="0", seconds=3.0,
    )  # fmt: skip
    text = tuned_text(trained)
    assert said in text
    assert ("so few" in text) == (nuclei < 50)
    assert ("wsiseg segment" in text) == (after > before + 0.01)
    found = judgement_of(trained)
    assert found is not None
    assert (found.better, found.worse) == (after > before + 0.01, after < before - 0.01)


def test_the_command_line_fine_tunes_and_says_what_to_do_next(
    slide: Path, draw: Draw, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--from", parent, "--annotations", draw(), "--slide", slide]
    words += ["--out", tmp_path / "out", "--steps", 1, "--mpp", 0.25]
    app([str(word) for word in words], standalone_mode=False)
    said = capsys.readouterr()
    assert "non-commercial" in said.err
    assert "step 1 of 1" in said.err
    assert "nuclei held back" in said.out
    assert str(tmp_path / "out" / "weights") in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a TOML file, or --from"),
        (["--annotations", "a.geojson"], "each --annotations needs its --slide"),
        (["t.toml", "--annotations", "a.geojson"], "give a TOML file, or --from"),
        (["t.toml", "--mpp", "0.25"], "go with --annotations"),
        (["--annotations", "a", "--slide", "s", "--rename", "=x"], "--rename must be OLD=NEW"),
    ],
)
def test_a_command_that_cannot_be_is_named(words: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        app(["train", *words, "--quiet"], standalone_mode=False)


def test_dataset_check_shows_what_is_there(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = work / "sheet.png"
    renames = ["--rename", "a=epithelial", "--rename", "b=spindle"]
    words = ["dataset", "check", str(work / "data"), "--out", str(sheet), *renames]
    app(words, standalone_mode=False)
    assert "6 images" in capsys.readouterr().out
    assert sheet.stat().st_size > 0
