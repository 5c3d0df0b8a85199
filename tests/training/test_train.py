"""Training from a TOML file: what comes out, and how bad input ends."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import wsiseg
from wsiseg.engine.lock import RunLock
from wsiseg.errors import (
    ForeignFolderError,
    InputFileError,
    KeyMismatchError,
    LockedError,
    ModelError,
    SettingsError,
    WsisegError,
)
from wsiseg.model.unet import UNet, UNetConfig, default_spec, save_unet
from wsiseg.model.weights import load_weights, read_facts, save_weights, with_facts
from wsiseg.training import key
from wsiseg.training.config import read_config
from wsiseg.training.examples import read_examples
from wsiseg.training.outcome import TrainProgress
from wsiseg.training.provenance import OWN, RESEARCH_ONLY
from wsiseg.training.train import train

Write = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("shipped_weights")


def test_a_training_leaves_weights_that_can_be_used_and_says_how_they_were_made(
    work: Path,
) -> None:
    told: list[TrainProgress] = []
    done = wsiseg.train(work / "train.toml", work / "out", progress=told.append)
    model = wsiseg.load_model(done.weights)
    assert (model.spec.name, model.spec.classes, model.spec.patch) == ("tiny", ("a", "b"), (64, 64))
    assert model.spec.licence == done.licence == "CC0-1.0"
    facts = read_facts(done.weights)
    assert facts["scores"]["val"] == done.scores
    assert done.scores["syn"]["images"] == 2
    assert facts["training"]["config"]["schedule"]["steps"] == done.step == 9
    assert [row["images"] for row in facts["training"]["data"]] == [4, 2]
    assert str(work) not in json.dumps(facts)
    assert "syn" in (done.weights / "card.md").read_text()
    assert json.loads((done.folder / "summary.json").read_text())["sha256"] == done.sha256
    assert {p.name for p in (done.folder / "pictures").iterdir()} == {
        f"step-000000{k}.png" for k in (4, 8, 9)
    }
    assert [p.step for p in told if not p.said] == list(range(1, 10))
    assert told[-2].remaining is not None
    assert (done.folder / "log.csv").read_text().count("\n") == 1 + 4 + 3


def test_stored_tensors_are_those_of_the_best_validation_rounded(work: Path) -> None:
    done = train(work / "train.toml", work / "out")
    history = json.loads((done.folder / ".wsiseg" / "scores.json").read_text())
    best = max(history, key=lambda entry: entry["mean"])
    assert done.best_step == best["step"]
    kept = load_weights(done.folder / ".wsiseg" / "best.safetensors")
    stored = load_weights(done.weights)
    for name, values in kept.tensors.items():
        same = values.astype(np.float16).astype(np.float32) if values.ndim > 1 else values
        np.testing.assert_array_equal(stored.tensors[name], same)


def test_patience_ends_a_training_that_gets_no_better(edited: Write, tmp_path: Path) -> None:
    path = edited(("every = 4", "every = 1\npatience = 2"), ("rate = 0.01", "rate = 1e-9"))
    done = train(path, tmp_path / "out")
    assert (done.best_step, done.step) == (1, 3)


def test_a_set_of_wrong_name_or_without_validation_images_is_told(
    edited: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputFileError, match="nothere"):
        train(edited(('path = "data"', 'path = "data"\nsets = ["nothere"]')), tmp_path / "o1")
    path = edited(('path = "data"', 'path = "data"\nsplit = "train"'), ("steps = 9", "steps = 1"))
    done = train(path, tmp_path / "o2")
    assert (done.scores, done.best_step) == ({}, 1)
    assert "no image is for validation" in caplog.text


def test_cases_can_be_held_out_where_there_is_no_split(work: Path, edited: Write) -> None:
    manifest = work / "data" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",val,", ",train,"))
    path = edited(('path = "data"', 'path = "data"\nheld_out = 0.3'), ("steps = 9", "steps = 1"))
    done = train(path, work / "out")
    assert done.scores["syn"]["images"] == 2


def test_data_with_a_split_of_their_own_are_not_held_out(work: Path, edited: Write) -> None:
    path = edited(('path = "data"', 'path = "data"\nheld_out = 0.3'), ("steps = 9", "steps = 1"))
    with pytest.raises(SettingsError, match=r"held_out cannot be 0.3 for data.*its own split"):
        train(path, work / "out")
    both = 'path = "data"\nheld_out = 0.3\nsplit = "train"'
    done = train(edited(('path = "data"', both), ("steps = 9", "steps = 1")), work / "out")
    assert done.scores["syn"]["images"] == 1


def test_cases_and_copies_on_both_sides_of_the_split_are_told(
    work: Path, edited: Write, caplog: pytest.LogCaptureFixture
) -> None:
    config = edited(("steps = 9", "steps = 1"))
    read_examples(read_config(config))
    assert "both splits" not in caplog.text
    assert "same pixels" not in caplog.text
    caplog.clear()
    manifest = work / "data" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("c5", "c4"))
    for end in (".png", "_labels.png", "_types.csv"):
        shutil.copy(work / "data" / f"i0{end}", work / "data" / f"i2{end}")
    read_examples(read_config(config))
    assert "case c4: case in both splits" in caplog.text
    assert "the same pixels as" in caplog.text
    assert caplog.text.count("in both splits") == caplog.text.count("same pixels") == 1


@pytest.mark.parametrize("typed", [True, False])
def test_without_classes_the_classes_of_the_data_are_not_used(
    work: Path, edited: Write, typed: bool
) -> None:
    for path in (work / "data").glob("*_types.csv"):
        if not typed:
            path.unlink()
    done = train(edited(('["a", "b"]', "[]"), ("steps = 9", "steps = 1")), work / "out")
    assert wsiseg.load_model(done.weights).spec.classes == ()


def test_research_data_never_make_open_weights(
    work: Path, edited: Write, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = work / "data" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("CC0", "none stated", 1))
    done = train(edited(("steps = 9", "steps = 1")), work / "out")
    assert done.licence == "CC0-1.0 AND LicenseRef-research-use-only"
    assert not wsiseg.model.zoo.model_info(done.weights).is_open  # type: ignore[attr-defined]
    assert "For research use" in (done.weights / "LICENSE").read_text()
    assert "research use only" in caplog.text


@pytest.mark.parametrize("stated", ["", "MIT"])
def test_weights_of_ones_own_data_alone_have_the_licence_that_one_gives_them(
    work: Path, edited: Write, stated: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = work / "data" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("CC0", OWN))
    given = ('name = "tiny"', f'name = "tiny"\nlicence = "{stated}"')
    done = train(edited(given, ("steps = 9", "steps = 1")), work / "out")
    assert done.licence == (stated or RESEARCH_ONLY)
    assert ("set model.licence" in caplog.text) == (not stated)
    assert "not open" not in caplog.text


def test_another_algorithm_or_library_is_another_training(
    work: Path, edited: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = edited(("steps = 9", "steps = 1"))
    train(config, work / "out")
    with monkeypatch.context() as patched:
        patched.setattr(key, "TRAINING_ALGORITHM", -1)
        with pytest.raises(KeyMismatchError, match="algorithm -1"):
            train(config, work / "out")
    monkeypatch.setattr(key, "version", lambda name: "0.0")
    with pytest.raises(KeyMismatchError, match=r"versions\.numpy"):
        train(config, work / "out")


@pytest.fixture
def missing_labels(work: Path) -> str:
    (work / "data" / "i1_labels.png").unlink()
    return "i1_labels.png"


@pytest.fixture
def other_size(work: Path) -> str:
    cv2.imwrite(str(work / "data" / "i1_labels.png"), np.zeros((9, 9), np.uint16))
    return "i1"


@pytest.fixture
def one_class(work: Path) -> str:
    for path in (work / "data").glob("*_types.csv"):
        path.write_text(path.read_text().replace(",b", ",a"))
    return "all of class 'a'"


@pytest.fixture
def unreadable(work: Path) -> str:
    (work / "data" / "i1.png").write_bytes(b"no image")
    return "i1.png"


@pytest.mark.parametrize("bad", ["missing_labels", "other_size", "one_class", "unreadable"])
def test_bad_data_end_in_a_typed_error_that_names_the_file(
    work: Path, bad: str, request: pytest.FixtureRequest
) -> None:
    said = request.getfixturevalue(bad)
    with pytest.raises(WsisegError) as caught:
        train(work / "train.toml", work / "out")
    assert said in str(caught.value)
    assert str(work) in str(caught.value) or "data" in str(caught.value)
    assert not (work / "out").exists()


def test_a_loss_that_is_not_finite_names_the_run(edited: Write, work: Path) -> None:
    path = edited(("[machine]", "[loss]\nnp = 1e39\n[machine]"))
    with pytest.raises(ModelError, match=r"out: at step 0 .*np.* not finite.*state\.safetensors"):
        train(path, work / "out")
    assert not (work / "out" / "weights").exists()


def test_a_damaged_checkpoint_is_named_with_the_remedy(work: Path) -> None:
    train(work / "train.toml", work / "out")
    state = work / "out" / ".wsiseg" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"state\.safetensors is cut short.*--fresh"):
        train(work / "train.toml", work / "out")
    assert train(work / "train.toml", work / "out", fresh=True).step == 9


def test_another_training_in_the_folder_is_refused_and_named(work: Path, edited: Write) -> None:
    train(edited(("steps = 9", "steps = 1")), work / "out")
    path = edited(("steps = 9", "steps = 1"), ("rate = 0.01", "rate = 0.02"))
    with pytest.raises(KeyMismatchError, match=r"settings.schedule.rate 0.02 \(there: 0.01\)"):
        train(path, work / "out")
    train(path, work / "out", fresh=True)
    image = work / "data" / "i0.png"
    pixels = cv2.imread(str(image))
    cv2.imwrite(str(image), pixels // 2)
    with pytest.raises(KeyMismatchError, match="data "):
        train(path, work / "out")


def test_what_never_changes_the_result_may_change(work: Path, edited: Write) -> None:
    train(edited(("steps = 9", "steps = 1")), work / "out")
    path = edited(
        ("steps = 9", "steps = 1"), ("checkpoint = 3", "checkpoint = 5"), ("pictures = 2", "")
    )
    assert train(path, work / "out").step == 1


def test_folders_of_others_and_folders_in_use_are_refused(work: Path) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ForeignFolderError, match=r"notes\.txt"):
        train(work / "train.toml", work / "mine", fresh=True)
    (work / "busy" / ".wsiseg").mkdir(parents=True)
    with RunLock(work / "busy" / ".wsiseg"), pytest.raises(LockedError, match="busy"):
        train(work / "train.toml", work / "busy")


def save_tiny(
    folder: Path, spacing: float = 0.25, temperature: float = 1.0, **config: object
) -> Path:
    network = UNetConfig(
        **{  # type: ignore[arg-type]
            "classes": 2,
            "widths": (4, 8),
            "blocks": (1, 1),
            "decoder_blocks": (1,),
            "stem": 2,
            "distance": True,
            "temperature": temperature,
            **config,
        }
    )
    spec = default_spec(
        "old", network, spacing=(spacing, spacing), classes=("b", "c"), licence="CC-BY-NC-SA-4.0",
        patch=(64, 64), margin=8, min_object=5,
    )  # fmt: skip
    save_unet(folder, UNet(network), spec, card="# c", licence="the old licence")
    return folder


def test_weights_are_started_from_and_classes_go_by_name(work: Path, edited: Write) -> None:
    old = load_weights(save_tiny(work / "old", temperature=2.0))
    path = edited(
        ("seed = 3", 'seed = 3\nfrom = "old"'), ("rate = 0.01", "rate = 1e-9\ndecay = 0"),
        ("steps = 9", "steps = 1"),
    )  # fmt: skip
    done = train(path, work / "out")
    new = load_weights(done.weights)
    np.testing.assert_allclose(
        new.tensors["stem.conv.weight"], old.tensors["stem.conv.weight"], atol=1e-3
    )
    # np, 2 x hv, dt, then the classes: b is row 1 of 2 now and was row 0, with its temperature;
    # hv is not stored
    np.testing.assert_allclose(
        new.tensors["head.bias"][:2], old.tensors["head.bias"][[0, 3]], atol=1e-6
    )
    np.testing.assert_allclose(
        new.tensors["head.bias"][3], old.tensors["head.bias"][4] / 2, atol=1e-6
    )
    assert done.before["syn"]["pq"] is not None
    assert done.licence == "CC-BY-NC-SA-4.0 AND CC0-1.0"
    assert "the old licence" in (done.weights / "LICENSE").read_text()


def test_several_weights_are_started_from_at_their_mean(work: Path, edited: Write) -> None:
    one, two = (load_weights(save_tiny(work / n, temperature=t)) for n, t in (("a", 1.0), ("b", 2)))
    done = train(edited(*mean_of_a_and_b(work)), work / "out")
    new, norm = load_weights(done.weights), "stem.norm.running_var"
    for name in ("stem.conv.weight", norm):
        mean = (one.tensors[name] + two.tensors[name]) / 2
        np.testing.assert_allclose(new.tensors[name], mean, rtol=1e-3, atol=1e-6)
    # row 4 of the old, class b, whose logits the second divides by its temperature
    mean = (one.tensors["head.bias"][4] + two.tensors["head.bias"][4] / 2) / 2
    np.testing.assert_allclose(new.tensors["head.bias"][3], mean, atol=1e-3)
    assert done.step == 0
    assert f"the mean of old ({one.sha256[:12]}) and old" in (done.weights / "card.md").read_text()


def mean_of_a_and_b(work: Path) -> list[tuple[str, str]]:
    (work / "TERMS").write_text("both licences")
    return [
        ("seed = 3", 'seed = 3\nfrom = ["a", "b"]'),
        ("steps = 9", "steps = 0"),
        ("[model]", '[model]\nlicence_file = "TERMS"'),
    ]


def test_the_mean_is_under_the_licences_of_all(work: Path, edited: Write) -> None:
    for name, licence in (("a", ""), ("b", "MIT")):
        weights = load_weights(save_tiny(work / name))
        spec = weights.facts["spec"] | {"licence": licence}
        save_weights(work / name, with_facts(weights, spec=spec), card="# c", licence="l")
    done = train(edited(*mean_of_a_and_b(work)), work / "out")
    assert done.licence == "LicenseRef-research-use-only AND MIT AND CC0-1.0"
    assert (done.weights / "LICENSE").read_text() == "both licences"


def test_weights_of_different_classes_have_no_mean(work: Path, edited: Write) -> None:
    save_tiny(work / "a")
    weights = load_weights(save_tiny(work / "b"))
    spec = weights.facts["spec"] | {"classes": ["b", "d"]}
    save_weights(work / "b", with_facts(weights, spec=spec), card="# c", licence="l")
    with pytest.raises(ModelError, match=r"different classes have no mean: .*b, c.*b, d"):
        train(edited(*mean_of_a_and_b(work)), work / "out")


@pytest.mark.parametrize(
    ("start", "says"), [('""', "must name weights"), ('["a", "b"]', r"licence_file is missing")]
)
def test_starts_that_say_too_little_are_refused(
    work: Path, edited: Write, start: str, says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        train(edited(("seed = 3", f"seed = 3\nfrom = {start}")), work / "out")


def test_no_steps_need_weights_to_start_from(work: Path, edited: Write) -> None:
    with pytest.raises(SettingsError, match=r"schedule\.steps must be 1 or more"):
        train(edited(("steps = 9", "steps = 0")), work / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"widths": (4, 6)}, r"widths \(4, 6\), expected \(4, 8\)"),
        ({"stem": 1}, "stem 1, expected 2"),
        ({"spacing": 0.5}, r"spacing \[0.5, 0.5\], expected 0.25"),
    ],
)
def test_weights_for_another_spec_are_refused_with_the_reason(
    work: Path, edited: Write, change: dict[str, object], said: str
) -> None:
    save_tiny(work / "old", **change)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=f"old.*{said}"):
        train(edited(("seed = 3", 'seed = 3\nfrom = "old"')), work / "out")


def test_frozen_norms_keep_their_statistics_and_others_do_not(work: Path, edited: Write) -> None:
    old = load_weights(save_tiny(work / "old"))
    for norms in ("0", "0.5"):
        pair = ("seed = 3", f'seed = 3\nfrom = "old"\nnorms = {norms}')
        done = train(edited(pair, ("steps = 9", "steps = 2")), work / norms)
        new = load_weights(done.weights)
        name = "stem.norm.running_mean"
        assert np.array_equal(new.tensors[name], old.tensors[name]) == (norms == "0")
