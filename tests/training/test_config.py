"""Settings from TOML: what is taken over, and how what cannot be is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from wsiseg.errors import SettingsError
from wsiseg.model.unet import UNet
from wsiseg.settings import flat
from wsiseg.training.config import Data, Product, TrainConfig, read_config
from wsiseg.training.labelled import CLASSES
from wsiseg.training.sample import Sampling

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "t.toml"
    path.write_text(text)
    return path


DATA = '[[data]]\npath = "d"\n'


def test_what_is_not_said_is_the_default_of_the_part_that_uses_it(tmp_path: Path) -> None:
    config = read_config(
        write(tmp_path, DATA + "[sampling]\nbatch = 3\n[sampling.colour]\nblur = 0")
    )
    assert config.sampling == replace(
        Sampling(), batch=3, colour=replace(Sampling().colour, blur=0.0)
    )
    assert config.network.classes == len(config.model.classes) == 4
    assert config.network.distance
    assert config.resolved("x") == tmp_path / "x"


def test_shares_of_the_sets_reach_the_sampling(tmp_path: Path) -> None:
    text = DATA + "share = { a = 0.25, b = 1 }\n" + DATA + "share = { c = 0 }\n"
    config = read_config(write(tmp_path, text))
    assert config.sampling.sets == (("a", 0.25), ("b", 1.0), ("c", 0.0))


def test_paths_may_name_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", str(tmp_path / "far"))
    assert TrainConfig().resolved("$SOMEWHERE/x") == tmp_path / "far" / "x"
    monkeypatch.delenv("SOMEWHERE")
    with pytest.raises(SettingsError, match=r"\$SOMEWHERE"):
        TrainConfig().resolved("$SOMEWHERE/x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sampling]\nbatches = 3", "sampling.batches is unknown: did you mean batch"),
        ("samplings = 3", "samplings is unknown: did you mean sampling"),
        ("[sampling]\nbatch = 3.5", "sampling.batch must be a whole number, got 3.5"),
        ("[sampling]\nbatch = true", "sampling.batch must be a whole number, got True"),
        ("[sampling]\nbatch = 0", "sampling.batch must be 1"),
        ("[sampling]\nscale = nan", "sampling.scale must be a finite number"),
        ('[sampling]\nscale = "wide"', "sampling.scale must be a number, got 'wide'"),
        ("[sampling.colour]\njpeg = 1.5", "sampling.colour.jpeg must be 0 to 1, got 1.5"),
        ("[sampling]\nside = 250", "sampling.side must be a multiple of 16"),
        ("sampling = 3", "sampling must be a table, got 3"),
        ("[sampling]\nsets = { a = 1 }", "sampling.sets cannot be set: give each set its share"),
        ("[network]\nclasses = 3", "network.classes cannot be set"),
        ("[network]\nwidths = [4, 8]", "a width and a number of blocks"),
        ("[network]\nwidths = [4, 'x']", "network.widths.1 must be a whole number, got 'x'"),
        ("[network]\ndistance = false\nvectors = false", "network needs distance or vectors"),
        ("[loss]\nclasses = [1, 2]", "loss.classes must be 4 numbers"),
        ("[loss]\nnp = -1", "loss.np must be 0 or more, got -1"),
        ("[schedule]\nsteps = 0", "schedule.steps must be 1 or more"),
        ('[machine]\nprecision = "fp64"', "machine.precision must be one of auto, bf16, fp32"),
        ('[machine]\nprecision = "fp16"', "machine.precision must be one of auto, bf16, fp32"),
        ('[machine]\ndevice = "tpu"', "machine.device must be one of cpu, cuda, mps"),
        ('[validation]\nkeep = "all"', "validation.keep must be one of best, last"),
        ("[model]\nmargin = 256", "model.patch must be more than two margins"),
        ('[model]\nname = "a/b"', "model.name must be letters"),
        ("seed = -1", "seed must be 0"),
        ('root = "x"', "root cannot be set"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_key_expected_and_got(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, (text + "\n" + DATA).replace("'", '"'))
    with pytest.raises(SettingsError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "[[data]] is missing"),
        ("[[data]]\nmpp = 1", "data.0 lacks path"),
        (DATA + "mpp = 0", "data.0.mpp must be 0.01 to 100"),
        (DATA + 'split = "test"', "data.split must be one of train, val"),
        (DATA + "share = { a = 1 }\n" + DATA, "share must be given for all data or for none"),
        (2 * (DATA + "share = { a = 1 }\n"), "share is given twice for a"),
        (DATA + "share = { a = 0 }\n", "share must be above 0"),
        (DATA + "share = [1]\n", "data.0.share must be a table"),
    ],
)
def test_data_that_cannot_be_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_config(write(tmp_path, text))
    assert said in str(caught.value)


def test_facts_hold_every_setting_and_no_path_of_this_machine(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, DATA + "[schedule]\nrate = 0.5"))
    facts = flat(config.facts())
    assert facts["schedule.rate"] == 0.5
    assert facts["sampling.colour.stain"] == config.sampling.colour.stain
    assert facts["data.0.path"] == "d"
    assert str(tmp_path) not in str(facts)


def test_settings_from_code_are_checked_likewise() -> None:
    with pytest.raises(SettingsError, match=r"data\.0\.held_out"):
        TrainConfig(data=(Data(Path("d"), held_out=1.5),))
    assert TrainConfig(model=Product(classes=())).network.classes == 0


def test_the_settings_of_the_shipped_weights_can_be_read() -> None:
    """And are those of the run that made them, as far as a slip would go unseen."""
    config = read_config(ROOT / "workflows" / "train_nuclei.toml")
    assert sum(share for _, share in config.sampling.sets) == pytest.approx(1)
    assert config.loss.classes == (1.0, 1.0, 1.0, 2.0)
    assert config.model.classes == CLASSES
    assert sum(p.numel() for p in UNet(config.network).parameters()) == 3_800_840
    assert (config.schedule.steps, config.seed) == (12_600, 20_261_120)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflows").glob("train_*.toml")), ids=lambda p: p.stem
)
def test_workflows_can_be_read(path: Path) -> None:
    assert read_config(path).model.name.startswith("nuclei")


def test_the_settings_in_the_docs_are_the_defaults(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    shown = text.split("```toml\n")[1].split("```")[0]
    config = read_config(write(tmp_path, shown))
    default = TrainConfig()
    for part in ("network", "loss", "schedule", "machine", "validation"):
        assert getattr(config, part) == getattr(default, part)
    assert replace(config.sampling, sets=()) == default.sampling
