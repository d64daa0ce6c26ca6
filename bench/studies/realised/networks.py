"""The networks of the realised-speed benchmark, and how both sides cut them: torch-pruning's way, and ours."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimtask.bench.studies.torch_pruning import prune_uniformly_
from slimtask.compress.latency.choose import Chosen
from slimtask.compress.latency.prepared import Prepared
from slimtask.compress.latency.sensitivity import Judge
from slimtask.compress.removal.remove import remove_channels
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.errors import CheckFailed

MODELS = ("resnet18", "resnet50", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny")
CRITERION = "l2"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A cut network with its cost and what is left of it before any tuning.

    ``kept`` is the share of the dense network's squared weights, ``distance`` how far the outputs are from the dense
    ones (``sensitivity.py``).
    """

    model: nn.Module
    flops: int
    parameters: int
    kept: float
    distance: float


def dense_network(name: str, classes: int, size: int = 224, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return torchvision's network of ``classes`` with seeded random weights in eval mode, and one example."""
    from torchvision import models

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.get_model(name, weights=None, num_classes=classes)
    return model.eval(), torch.randn(1, 3, size, size)


def cut_by_torch_pruning(what: Prepared, judge: Judge, level: float) -> Cut:
    """Return a copy cut by torch-pruning: the same share ``level`` of every group, least group magnitude first.

    Its classifier's outputs stay.
    """
    copied = copy.deepcopy(what.model)
    classifier = [module for module in copied.modules() if isinstance(module, nn.Linear)][-1]
    prune_uniformly_(copied, what.example, level, [classifier])
    copied.eval()
    return _measured(copied, what, judge)


def cut_as_chosen(what: Prepared, judge: Judge, chosen: Chosen, flops: int) -> Cut:
    """Return the copy with the chosen channels, certified; CheckFailed if it costs more than ``flops``."""
    why = "chosen for latency"
    done = remove_channels(what.model, what.example, what.groups, chosen.keep, why=why, thorough=False)
    made = _measured(done.model, what, judge)
    if made.flops > flops:
        raise CheckFailed(f"the cut network takes {made.flops} FLOPs instead of at most {flops}; no figure is written.")
    return made


def _measured(model: nn.Module, what: Prepared, judge: Judge) -> Cut:
    return Cut(
        model=model,
        flops=count_flops(model, what.example),
        parameters=count_parameters(model),
        kept=_squares(model) / _squares(what.model),
        distance=judge.distance(model),
    )


def _squares(model: nn.Module) -> float:
    return sum(float(weight.detach().double().square().sum()) for weight in model.parameters() if weight.dim() > 1)
