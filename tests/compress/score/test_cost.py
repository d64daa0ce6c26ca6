"""Parameters and FLOPs: against networks that are really cut, and by the formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from slimtask.compress.api.models import cost
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.cost import SizeModel, count_parameters
from slimtask.train.models import MultiTaskNet

Kill = Callable[..., None]


EXAMPLE = torch.zeros(1, 3, 64, 64)


def test_size_model_equals_the_real_removal(small_net: Callable[..., MultiTaskNet], kill: Kill) -> None:
    model = small_net(trunk="resnetd50", head="deeplab")
    kill(model, "beta", "trunk")
    groups = [group for group in find_groups(model, EXAMPLE) if group.refused is None]
    done = remove_zeros(model, EXAMPLE)
    after = {group.name: group.after for group in done.plan.groups}
    kept = torch.tensor([float(after[group.name]) for group in groups])
    for prefix, module in (("", "model"), ("trunk.", "trunk")):
        size = SizeModel(model, groups, prefix)
        real = {"model": (model, done.model), "trunk": (model.trunk, done.model.trunk)}[module]
        assert size.total == count_parameters(real[0])
        assert int(size(kept)) == count_parameters(real[1])


def test_flops_are_those_of_the_formula() -> None:
    """One multiply-add is two: a 3x3 convolution of 8x8 maps, 3 -> 4 channels, is 2 * 64 * 27 * 4."""
    assert cost(nn.Conv2d(3, 4, 3, padding=1), torch.zeros(1, 3, 8, 8)).flops == 2 * 64 * 27 * 4
