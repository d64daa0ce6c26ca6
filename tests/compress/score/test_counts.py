"""Which counts a group may keep, and that dead channels fill up to one no slower than what is alive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.align import worth_having
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.counts import Align, check_align, counts_of
from slimtask.errors import InputError

EXAMPLE = torch.zeros(1, 3, 16, 16)


def group(channels: int, refused: str | None = None) -> Group:
    return Group(name="g", channels=channels, members=(), refused=refused)


@pytest.mark.parametrize(
    ("align", "smallest", "expected"),
    [
        (8, 1, (8, 16, 20)),
        (8, 9, (16, 20)),
        (32, 1, (20,)),
        ({"g": (12, 4)}, 1, (4, 12, 20)),
        ({"g": (4, 12, 20, 28)}, 5, (12, 20)),
        ({"g": ()}, 1, (20,)),
        ({"g": (-1, 0, 3)}, 1, (3, 20)),
        ({}, 1, (8, 16, 20)),
    ],
)
def test_counts_are_multiples_or_the_groups_own_and_all(align: Align, smallest: int, expected: tuple[int, ...]) -> None:
    assert counts_of(group(20), align, smallest) == expected
    assert counts_of(group(20, refused="an output"), align, smallest) == (20,)


def test_what_is_no_alignment_is_one_sentence() -> None:
    check_align({"g": (4,)}, [group(20)])
    with pytest.raises(InputError, match="cannot be aligned to 0"):
        check_align(0, [group(20)])
    with pytest.raises(InputError, match="no group 'gg' to give channel counts to; did you mean 'g'"):
        check_align({"gg": (4,)}, [group(20)])


def two_layers(alive: int) -> nn.Module:
    """32 filters of which the first ``alive`` count; the others are dead, behind zero padding."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 3, padding=1)).eval()
    net[0].weight.data[alive:] = 0
    net[0].bias.data[alive:] = -1.0
    return net


@pytest.mark.parametrize("seed", range(3))
def test_dead_channels_fill_up_to_a_count_no_slower_than_the_living_alone(seed: int) -> None:
    """On staircases with steps up and down at random: no count from the living on is faster than the one kept."""
    counts = np.arange(1, 33)
    ms = np.random.default_rng(seed).uniform(0.1, 1.0, 32) + 0.02 * counts
    allowed = worth_having(counts, ms)
    for alive in (1, 5, 11, 20, 31):
        net = two_layers(alive)
        name = next(found.name for found in find_groups(net, EXAMPLE) if found.refused is None)
        done = remove_zeros(net, EXAMPLE, align={name: allowed})
        kept = done.model[0].out_channels
        assert kept >= alive
        assert kept in allowed
        assert ms[kept - 1] <= ms[alive - 1 :].min() / 0.99  # the tolerance below which two times are one
        x = torch.randn(2, 3, 13, 17, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            assert torch.allclose(done.model.double()(x.double()), net.double()(x.double()), atol=1e-6)
