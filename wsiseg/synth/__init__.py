"""Synthetic scenes, slides and models that know every object: README, tests, benchmarks."""

from wsiseg.synth.oracle import HVOracleModel, OracleModel, hv_source, oracle_source
from wsiseg.synth.scenes import KINDS, scene

__all__ = ["KINDS", "HVOracleModel", "OracleModel", "hv_source", "oracle_source", "scene"]
