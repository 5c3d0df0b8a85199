"""Weights come back bit for bit, and a file that is not sound is named and refused."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from wsiseg.errors import ModelError, OutputError
from wsiseg.model.weights import (
    FILE_NAME,
    Weights,
    check_tensors,
    fingerprint,
    load_weights,
    read_facts,
    rounded,
    save_weights,
    weights_bytes,
    with_facts,
)

FACTS = {"kind": "unet", "spec": {"name": "µ", "spacing": [0.5, 0.5]}, "rule": {"steps": 6}}


def _tensors():
    rng = np.random.default_rng(0)
    return {
        "b": rng.normal(size=(3, 5)).astype(np.float32),
        "a": rng.normal(size=7).astype(np.float64),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "scalar": np.array(3, dtype=np.int64),
    }


@pytest.fixture
def file(tmp_path):
    weights = Weights(_tensors(), FACTS, "")
    return save_weights(tmp_path / "net", weights, card="# net\n", licence="text of a licence")


def _split(file):
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _write(file, header, body):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_weights_come_back_bit_for_bit(file):
    for path in (file, file.parent, str(file.parent)):
        weights = load_weights(path)
        assert weights.facts == FACTS
        assert weights.path == file
        assert weights.sha256 == fingerprint(_tensors(), FACTS)
        assert weights.tensors.keys() == _tensors().keys()
        for name, values in _tensors().items():
            assert weights.tensors[name].dtype == values.dtype
            assert np.array_equal(weights.tensors[name], values)
            assert weights.tensors[name].shape == values.shape


def test_half_files_hold_the_nearest_float16_and_load_as_float32(tmp_path):
    tensors = {
        "kernel": np.random.default_rng(1).normal(size=(16, 9, 3, 3)).astype(np.float32),
        "variance": np.array([1e-9, 1e9], dtype=np.float32),
        "counts": np.arange(6).reshape(2, 3),
    }
    weights = Weights(tensors, FACTS, "")
    full = save_weights(tmp_path / "full", weights, card="c", licence="l")
    half = save_weights(tmp_path / "half", weights, card="c", licence="l", half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = load_weights(half)
    rounded = tensors["kernel"].astype(np.float16)
    assert loaded.tensors["kernel"].dtype == np.float32
    assert np.array_equal(loaded.tensors["kernel"], rounded)
    assert np.array_equal(loaded.tensors["variance"], tensors["variance"])  # vectors stay whole
    assert loaded.tensors["counts"].dtype == np.int64
    assert loaded.sha256 == fingerprint({**tensors, "kernel": rounded}, FACTS)
    again = save_weights(tmp_path / "again", loaded, card="c", licence="l", half=True)
    assert load_weights(again).sha256 == loaded.sha256  # what was rounded stays as it is


def test_values_beyond_float16_are_not_halved(tmp_path):
    weights = Weights({"k": np.array([[1.0, -70000.0]], np.float32)}, FACTS, "")
    with pytest.raises(ModelError, match="tensor k has values of up to 70000, beyond float16"):
        save_weights(tmp_path / "n", weights, card="c", licence="l", half=True)
    assert not (tmp_path / "n").exists()


def test_facts_are_read_without_the_tensors(file):
    assert read_facts(file) == read_facts(file.parent) == FACTS
    data = file.read_bytes()
    with file.open("r+b") as opened:
        opened.seek(len(data) - 1)
        opened.write(bytes([data[-1] ^ 1]))
    assert read_facts(file) == FACTS
    file.write_bytes(data[:50])
    with pytest.raises(ModelError, match="cut short"):
        read_facts(file)
    with pytest.raises(ModelError, match="No such file"):
        read_facts(file.parent / "none.safetensors")


def test_added_facts_are_saved_and_change_the_hash(file, tmp_path):
    weights = load_weights(file)
    told = with_facts(weights, scores={"val": {"a": {"pq": 0.5}}}, about="what it is for")
    assert told.path is None
    assert told.sha256 not in ("", weights.sha256)
    again = load_weights(save_weights(tmp_path / "told", told, card="c", licence="l"))
    assert (again.facts, again.sha256) == (told.facts, told.sha256)
    assert again.facts["about"] == "what it is for"
    assert weights.facts == FACTS


@pytest.mark.parametrize("size", [640, 896, 1152, 1408, 0x4B50])
def test_a_header_as_long_as_the_magic_of_a_pickle_or_zip_is_read(file, size):
    header, body = _split(file)
    file.write_bytes(size.to_bytes(8, "little") + json.dumps(header).encode().ljust(size) + body)
    assert file.read_bytes()[:2] in (b"PK", *(b"\x80" + bytes([k]) for k in (2, 3, 4, 5)))
    assert load_weights(file).facts == read_facts(file) == FACTS


def test_a_folder_holds_tensors_card_and_licence(file):
    assert sorted(p.name for p in file.parent.iterdir()) == ["LICENSE", "card.md", FILE_NAME]
    assert (file.parent / "card.md").read_text() == "# net\n"
    assert (file.parent / "LICENSE").read_text() == "text of a licence"


def test_strided_and_big_endian_tensors_are_saved_by_value(tmp_path):
    values = np.arange(24, dtype=">f4").reshape(4, 6)
    weights = Weights({"t": values.T[::2], "e": values}, {}, "")
    loaded = load_weights(save_weights(tmp_path, weights, card="c", licence="l"))
    assert np.array_equal(loaded.tensors["t"], values.T[::2])
    assert np.array_equal(loaded.tensors["e"], values)


def test_the_fingerprint_covers_every_part():
    base = fingerprint(_tensors(), FACTS)
    changes = [
        ({**_tensors(), "b": _tensors()["b"] + 1}, FACTS),
        ({**_tensors(), "b": _tensors()["b"].reshape(5, 3)}, FACTS),
        ({**_tensors(), "b": _tensors()["b"].view(np.int32)}, FACTS),
        ({("c" if k == "b" else k): v for k, v in _tensors().items()}, FACTS),
        (_tensors(), {**FACTS, "kind": "other"}),
    ]
    found = {fingerprint(*change) for change in changes}
    assert len(found) == len(changes)
    assert base not in found
    assert fingerprint(dict(reversed(_tensors().items())), dict(reversed(FACTS.items()))) == base


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match="cut short"):
        load_weights(file)


def test_a_flipped_bit_is_noticed_wherever_it_is(file):
    data = file.read_bytes()
    end = len(data)
    for place in (*range(0, 60, 7), *range(60, end, 41), end - 1):
        file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            load_weights(file)
    file.write_bytes(data)
    load_weights(file)


def test_an_oversized_header_is_refused_unread(file):
    _write(file, b" " * (17 << 20), b"")
    with pytest.raises(ModelError, match="header of 17825792 bytes"):
        load_weights(file)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "not JSON"),
        (b"[1, 2]", "not a table|a list"),
        (b"[" * 100_000, "not JSON"),
        ({"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}, "damaged"),
        ({"b": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, "damaged"),
        ({"b": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]}}, "is BOOL, expected"),
        ({"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "without wsiseg's spec"),
    ],
)
def test_a_damaged_or_foreign_header_is_refused(file, header, message):
    _write(file, header, bytes(8))
    with pytest.raises(ModelError, match=message):
        load_weights(file)


def test_edited_facts_are_noticed(file):
    header, body = _split(file)
    told = json.loads(header["__metadata__"]["wsiseg"])
    told["facts"]["rule"]["steps"] = 7
    header["__metadata__"]["wsiseg"] = json.dumps(told)
    _write(file, header, body)
    with pytest.raises(ModelError, match="damaged or was edited"):
        load_weights(file)


def test_files_with_facts_and_hash_in_an_entry_each_are_read(file):
    header, body = _split(file)
    told = json.loads(header["__metadata__"]["wsiseg"])
    for order in (1, -1):
        pairs = [("wsiseg", json.dumps(told["facts"])), ("sha256", told["sha256"])][::order]
        _write(file, header | {"__metadata__": dict(pairs)}, body)
        weights = load_weights(file)
        assert weights.facts == read_facts(file) == FACTS
        assert weights.sha256 == fingerprint(_tensors(), FACTS)
    _write(file, header | {"__metadata__": {"wsiseg": "{}", "sha256": told["sha256"]}}, body)
    with pytest.raises(ModelError, match="damaged or was edited"):
        load_weights(file)


@pytest.mark.parametrize("part", ["facts", "sha256"])
def test_a_header_without_facts_or_hash_is_refused(file, part):
    header, body = _split(file)
    told = json.loads(header["__metadata__"]["wsiseg"])
    del told[part]
    header["__metadata__"]["wsiseg"] = json.dumps(told)
    _write(file, header, body)
    with pytest.raises(ModelError, match="lacks the facts or their hash"):
        load_weights(file)


def test_equal_weights_make_equal_files():
    names = [f"layer{i}.weight" for i in range(40)]
    tensors = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(names)}
    facts = {f"fact {i}": i for i in range(40)}
    made = {
        weights_bytes(dict(list(tensors.items())[::s]), dict(list(facts.items())[::s]))
        for s in (1, -1) * 8
    }
    assert len(made) == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_facts_that_are_no_finite_numbers_are_refused(file, value):
    header, body = _split(file)
    text = header["__metadata__"]["wsiseg"].replace('"steps": 6', f'"steps": {value}')
    assert value in text
    header["__metadata__"]["wsiseg"] = text
    _write(file, header, body)
    for read in (load_weights, read_facts):
        with pytest.raises(ModelError, match=f"{value} is not a finite number"):
            read(file)


def test_facts_that_json_does_not_hold_are_not_saved(tmp_path):
    for value in (float("nan"), {1, 2}):
        with pytest.raises(ModelError, match="must be JSON values"):
            with_facts(Weights({}, {}, ""), value=value)
        with pytest.raises(ModelError, match="must be JSON values"):
            save_weights(tmp_path, Weights({}, {"v": value}, ""), card="c", licence="l")


def test_rounding_in_memory_is_what_a_half_file_holds(tmp_path):
    tensors = _tensors() | {"huge": np.array([1e9], np.float32)}  # vectors stay whole
    weights = Weights(tensors, FACTS | {"pair": (1, 2)}, "")
    stored = load_weights(save_weights(tmp_path, weights, card="c", licence="l", half=True))
    found = rounded(weights)
    assert (found.facts, found.sha256) == (stored.facts, stored.sha256)
    assert found.tensors.keys() == stored.tensors.keys()
    for name, values in stored.tensors.items():
        assert found.tensors[name].dtype == values.dtype
        assert np.array_equal(found.tensors[name], values)
    assert not np.array_equal(found.tensors["b"], tensors["b"])
    assert rounded(found).sha256 == found.sha256
    with pytest.raises(ModelError, match="beyond float16"):
        rounded(Weights({"k": np.array([[70000.0]], np.float32)}, {}, ""))


class _Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["w.pt", "w.pkl", "w.pth", "w.BIN", "w.ckpt", FILE_NAME])
def test_a_pickle_is_refused_and_never_run(tmp_path, name):
    mark = tmp_path / "ran"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(_Payload(mark)))
    with pytest.raises(ModelError, match=r"safetensors"):
        load_weights(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the payload does work: it was not run above
    assert mark.is_dir()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none\.safetensors.*No such file"):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match=FILE_NAME):
        load_weights(tmp_path)


@pytest.mark.parametrize(("card", "licence"), [("", "x"), ("x", " \n")])
def test_weights_without_card_or_licence_are_not_written(tmp_path, card, licence):
    with pytest.raises(ModelError, match="licence"):
        save_weights(tmp_path / "n", Weights({}, {}, ""), card=card, licence=licence)
    assert not (tmp_path / "n").exists()


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        save_weights(tmp_path / "file" / "n", Weights({}, {}, ""), card="c", licence="l")


def test_tensors_must_be_those_expected():
    tensors = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    good = {"a": ((2, 3), "float32"), "b": ((4,), "float32")}
    check_tensors(tensors, good, "here")
    bad = {
        "lacks 1 tensors.*c": {**good, "c": ((1,), "float32")},
        "unknown 1 tensors.*b": {"a": good["a"]},
        r"a must be float32 \(3, 2\), got float32 \(2, 3\)": {**good, "a": ((3, 2), "float32")},
        "tensor b must be float16": {**good, "b": ((4,), "float16")},
    }
    for message, expected in bad.items():
        with pytest.raises(ModelError, match=message):
            check_tensors(tensors, expected, "here")
    tensors["b"][1] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        check_tensors(tensors, good, "here")
