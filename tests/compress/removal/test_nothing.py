"""Why nothing could be removed: the number of dead channels is counted, and computed weights are told of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as masks
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from slimtask.compress.api.how import Zeros
from slimtask.compress.api.models import compress
from slimtask.compress.removal.nothing import folding_hint
from slimtask.compress.removal.remove import remove_zeros
from slimtask.errors import InputError

IMAGE = torch.zeros(1, 3, 16, 16)


def half_dead(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), norm, nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    with torch.no_grad():
        net[0].weight[:8] = 0
        net[0].bias[:8] = 0.2
    return net


@pytest.mark.parametrize(
    "norm",
    [
        nn.InstanceNorm2d(16, affine=True),
        nn.InstanceNorm2d(16, affine=True, track_running_stats=True),
        nn.BatchNorm2d(16, track_running_stats=False),
        nn.BatchNorm2d(16),
    ],
)
def test_zero_filters_behind_a_norm_go(norm: nn.Module) -> None:
    nn.init.uniform_(norm.bias, 0.1, 0.5)
    net = half_dead(norm)
    done = remove_zeros(net, IMAGE)
    assert len(done.model[0].weight) == 8
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(done.model(x), net(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_zero_filters_in_half_precision_go(dtype: torch.dtype) -> None:
    net = half_dead(nn.Identity())
    with torch.no_grad():
        net[0].bias[:8] = 0
    assert len(remove_zeros(net.to(dtype), IMAGE.to(dtype)).model[0].weight) == 8


def test_dead_channels_that_stay_are_counted() -> None:
    net = half_dead(nn.GroupNorm(1, 16))
    with pytest.raises(InputError, match=r"8 of 20 channels are dead, but they stay: 8 because the normalisation '1'"):
        compress(net, IMAGE, Zeros(align=1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (weight_norm, "remove_parametrizations"),
        (spectral_norm, "remove_parametrizations"),
        (lambda layer: masks.random_unstructured(layer, "weight", 0.5), "prune.remove"),
    ],
)
def test_computed_weights_are_told_of(make: object, words: str) -> None:
    net = nn.Sequential(make(nn.Conv2d(3, 4, 1)), nn.ReLU(), nn.Conv2d(4, 4, 1))  # type: ignore[operator]
    assert words in folding_hint(net)
    assert "'0'" in folding_hint(net)
    assert folding_hint(nn.Linear(2, 2)) == ""
