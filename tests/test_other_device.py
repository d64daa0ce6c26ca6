"""The device that stands for a GPU does what a GPU does: numbers of the CPU, and no mixture."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def test_it_computes_what_the_cpu_computes(other_device: torch.device) -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    there, x = nn.Sequential(*here).to(other_device), torch.randn(2, 3, 8, 8)
    assert there[4].weight.device == other_device
    out = there(x.to(other_device))
    out.square().sum().backward()
    torch.optim.SGD(there.parameters(), lr=0.1).step()
    assert out.device == there[0].weight.grad.device == other_device
    assert there[1].running_mean.cpu().abs().sum() > 0
    with pytest.raises(RuntimeError, match="same device"):
        there(x)


def test_views_and_what_is_written_in_place_share_their_numbers(other_device: torch.device) -> None:
    x = torch.ones(3, 4, device=other_device)
    x[:, 1:].add_(2)
    x[torch.tensor([0])] = 7.0
    assert x.cpu().sum().item() == 4 * 7 + 2 * (1 + 9)
    assert x[x > 2].tolist() == [7.0] * 4 + [3.0] * 6


def test_a_mixture_is_refused(other_device: torch.device) -> None:
    x = torch.ones(3, device=other_device)
    assert (x + torch.tensor(1.0)).tolist() == [2.0] * 3  # a number of no dimension may come from anywhere
    for mixed in (
        lambda: x + torch.ones(3),
        lambda: x.index_select(0, torch.tensor([0])),
        lambda: torch.stack([x, x.cpu()]),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises((RuntimeError, TypeError)):
        x.numpy()
