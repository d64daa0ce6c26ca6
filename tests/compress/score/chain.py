"""A small chain of layers to score, and its scores by the module that writes the channels."""

from __future__ import annotations

import torch
from torch import nn

from slimtask.compress.graph.analysis import find_groups


def chain(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm2d(6), nn.ReLU()] if norm else [nn.ReLU()]
    tail = [nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2)]
    model = nn.Sequential(nn.Conv2d(3, 6, 3), *middle, *tail)
    if norm:
        nn.init.uniform_(model[1].weight, 0.5, 1.5)
    return model.eval()


def by_name(model: nn.Module, scores: list[torch.Tensor], example: torch.Tensor) -> dict[str, torch.Tensor]:
    groups = find_groups(model, example)
    return {m.module: score for g, score in zip(groups, scores, strict=True) for m in g.producers}
