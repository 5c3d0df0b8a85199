"""Tables into dataclasses, and back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wsiseg.errors import InputFileError, SettingsError
from wsiseg.settings import fill, flat, plain, read_toml


@dataclass(frozen=True)
class Wheel:
    inches: int
    rim: str = "steel"


@dataclass(frozen=True)
class Car:
    plate: str
    mass: float = 1.5
    doors: int | None = None
    wheel: Wheel = field(default_factory=lambda: Wheel(15))
    spare: tuple[Wheel, ...] = ()
    tags: tuple[str, ...] = ()
    share: tuple[tuple[str, float], ...] = ()
    manual: Path = Path("manual.pdf")
    towed: bool = False


WHOLE: dict[str, Any] = {
    "plate": "B-1",
    "mass": 2.0,
    "doors": 5,
    "wheel": {"inches": 17, "rim": "alloy"},
    "spare": [{"inches": 16, "rim": "steel"}],
    "tags": ["old", "red"],
    "share": {"a": 0.5, "b": 1.0},
    "manual": "m.pdf",
    "towed": True,
}


def test_a_table_becomes_a_dataclass_and_comes_back() -> None:
    assert plain(fill(Car, WHOLE)) == WHOLE


def test_what_is_missing_comes_from_the_base_else_from_the_default() -> None:
    car = fill(Car, WHOLE)
    assert fill(Car, {}, base=car) == car
    assert fill(Car, {"wheel": {"rim": "x"}}, base=car).wheel == Wheel(17, "x")
    assert fill(Car, {"plate": "C", "wheel": {"rim": "x"}}).wheel == Wheel(15, "x")
    with pytest.raises(SettingsError, match="the file lacks plate"):
        fill(Car, {})


def test_a_key_may_be_called_otherwise_than_its_field() -> None:
    assert fill(Car, {"plate": "C", "label": "x"}, names={"label": "tags"}).tags == ("x",)
    with pytest.raises(SettingsError, match="tags is unknown"):
        fill(Car, {"plate": "C", "tags": ["x"]}, names={"label": "tags"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"plte": "x"}, "car.plte is unknown: did you mean plate?"),
        ({"plate": 3}, "car.plate must be a text, got 3"),
        ({"doors": 2.0}, "car.doors must be a whole number, got 2.0"),
        ({"doors": True}, "car.doors must be a whole number, got True"),
        ({"towed": 1}, "car.towed must be true or false, got 1"),
        ({"mass": float("inf")}, "car.mass must be a finite number"),
        ({"spare": 3}, "car.spare must be a list, got 3"),
        ({"wheel": 3}, "car.wheel must be a table, got 3"),
        ({"wheel": {"inch": 3}}, "car.wheel.inch is unknown"),
        ({"spare": [{"rim": "x"}]}, "car.spare.0 lacks inches"),
        ({"share": [1]}, "car.share must be a table"),
        ({"share": {"a": "x"}}, "car.share.a must be a number"),
        ({"tags": ["x", 1]}, "car.tags.1 must be a text"),
        ({"manual": "x"}, "car.manual cannot be set: it is printed"),
    ],
)
def test_a_mistake_names_key_expected_and_got(table: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        fill(Car, {"plate": "x"} | table, "car", fixed={"car.manual": "it is printed"})
    assert said in str(caught.value)


def test_flat_names_every_value_by_its_path() -> None:
    assert flat({"a": {"b": 1}, "c": [{"d": 2}, {"d": 3}], "e": [1, 2]}) == {
        "a.b": 1,
        "c.0.d": 2,
        "c.1.d": 3,
        "e": [1, 2],
    }


@pytest.mark.parametrize("data", [b"a = = 3", b"a = '\xff'"])
def test_a_file_that_is_no_toml_is_an_input_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with pytest.raises(InputFileError, match=r"cannot read .*x\.toml"):
        read_toml(path)
    path.write_bytes(data)
    with pytest.raises(InputFileError, match=r"x\.toml is no TOML"):
        read_toml(path)
