"""Synthetic scenes, slides and models that know every object: README, tests, benchmarks."""

from wsiseg.synth.oracle import HVOracleModel, OracleModel, hv_source, oracle_source
from wsiseg.synth.pyramid import write_he_slide
from wsiseg.synth.scenes import KINDS, scene
from wsiseg.synth.slides import HEPlan, SyntheticSlide, he_slide, plan_he

__all__ = [
    "KINDS",
    "HEPlan",
    "HVOracleModel",
    "OracleModel",
    "SyntheticSlide",
    "he_slide",
    "hv_source",
    "oracle_source",
    "plan_he",
    "scene",
    "write_he_slide",
]
