"""``wsiseg info`` and ``wsiseg models``: what there is, before anything is run."""

from __future__ import annotations

from wsiseg.cli.options import AsJson, Mpp, Plane, Scene, SlideArgument
from wsiseg.cli.say import show_json

__all__ = ["info", "models"]


def info(
    slide: SlideArgument,
    mpp: Mpp = None,
    scene: Scene = None,
    z: Plane = None,
    as_json: AsJson = False,
) -> None:
    """Say what a slide is: levels, pixel size, scanner, scenes."""
    from wsiseg.image.open import open_slide
    from wsiseg.run.info import describe, info_text

    with open_slide(slide, mpp=mpp, scene=scene, z=z) as opened:
        found = describe(opened)
    if as_json:
        show_json(found)
    else:
        print(info_text(found))


def models(as_json: AsJson = False) -> None:
    """List the models: licence, pixel size, classes, PQ on validation sets."""
    from dataclasses import asdict

    from wsiseg.model.zoo import models as known
    from wsiseg.run.info import models_text

    found = [asdict(model) for model in known()]
    if as_json:
        show_json(found)
    else:
        print(models_text(found))
