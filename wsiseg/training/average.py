"""The mean of several trained weights, as one start.

Trainings that begin at the same weights end where their mean is often better than each (Wortsman
et al. 2022, "Model soups", arXiv:2203.05482).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wsiseg.errors import ModelError
from wsiseg.model.unet import UNet
from wsiseg.model.weights import Weights, with_facts
from wsiseg.training.config import TrainConfig
from wsiseg.training.product import raw_weights
from wsiseg.training.provenance import all_of, licence_of
from wsiseg.training.start import adopt

__all__ = ["mean_weights"]


def mean_weights(several: Sequence[Weights], config: TrainConfig) -> Weights:
    """Weights of the network of ``config``, each tensor the mean over ``several``.

    Raises ModelError as ``adopt``, and where their classes differ. The licence is that of all of
    them together.
    """
    classes = [tuple(weights.facts["spec"]["classes"]) for weights in several]
    if len(set(classes)) > 1:
        each = (f"{w.path}: {', '.join(c)}" for w, c in zip(several, classes, strict=True))
        raise ModelError(f"weights of different classes have no mean: {'; '.join(each)}")
    torch.manual_seed(config.seed)  # rows of the head that none of them has
    net = UNet(config.network)
    begun = {name: value.clone() for name, value in net.state_dict().items()}
    total = {name: torch.zeros_like(value) for name, value in begun.items()}
    for weights in several:
        net.load_state_dict(begun)
        adopt(net, weights, config)
        for name, value in net.state_dict().items():
            total[name] += value
    net.load_state_dict({k: _divided(v, len(several)) for k, v in total.items()})
    mean = raw_weights(net, config, all_of(sorted(licence_of(w) for w in several)))
    names = (f"{w.facts['spec']['name']} ({w.sha256[:12]})" for w in several)
    spec = {**mean.facts["spec"], "name": f"the mean of {' and '.join(names)}"}
    return with_facts(mean, spec=spec)


def _divided(total: torch.Tensor, count: int) -> torch.Tensor:
    return total / count if total.is_floating_point() else total // count
