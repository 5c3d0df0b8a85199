"""Beats are felt for as long as somebody listens, and come from work alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsiseg.engine.fingerprint import fingerprint
from wsiseg.hashing import sha256_of
from wsiseg.image.open import open_slide
from wsiseg.pulse import beat, felt
from wsiseg.run.job import Job
from wsiseg.run.plan import plan_of
from wsiseg.synth import he_slide, write_he_slide


def test_beats_are_felt_inside_the_block_only() -> None:
    beats: list[str] = []
    with felt(lambda: beats.append("outer")), felt(lambda: beats.append("inner")):
        beat()
    beat()
    assert beats == ["outer", "inner"]


def test_a_listener_is_gone_whatever_happens() -> None:
    beats: list[None] = []
    with pytest.raises(KeyError), felt(lambda: beats.append(None)):
        raise KeyError
    beat()
    assert not beats


def test_every_stage_before_the_first_region_gets_on(tmp_path: Path) -> None:
    """Looking at a slide and hashing it are felt, as often as there is something done."""
    big, slide = tmp_path / "big.bin", tmp_path / "s.tiff"
    with big.open("wb") as file:
        file.truncate(50 << 20)
    write_he_slide(slide, he_slide((331, 383), np.random.default_rng(0)))
    beats: list[None] = []
    with felt(lambda: beats.append(None)):
        fingerprint(big, full=True)
        hashed = len(beats)
        assert hashed >= 12
        sha256_of(big)
        assert len(beats) == 2 * hashed
        plan_of(Job(slide=open_slide(slide), out=tmp_path / "out", model="hematoxylin"))
        assert len(beats) > 2 * hashed
