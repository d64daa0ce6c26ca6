"""What goes and who absorbs it: constants are folded into the readers, carriers and counts stay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from slimtask.compress.network.probes import Probes
from slimtask.compress.proof.certify import certify
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.cost import count_parameters
from slimtask.train.models import MultiTaskNet
from tests.compress.difference import difference

Kill = Callable[..., None]


EXAMPLE = torch.zeros(1, 3, 64, 64)


def test_dropping_the_constant_would_be_wrong(small_net: Callable[..., MultiTaskNet], kill: Kill) -> None:
    """The trap itself: cutting dead filters without absorbing what BatchNorm makes of them changes the outputs."""
    model = small_net()
    kill(model, "filter", "trunk.layer1")
    done = remove_zeros(model, EXAMPLE)
    naive = small_net()
    kill(naive, "filter", "trunk.layer1")
    without_fold = done.plan.model_copy(
        update={"layers": tuple(layer.model_copy(update={"adds_bias": False}) for layer in done.plan.layers)}
    )
    without_fold.apply_(naive)
    assert difference(model, naive, (64, 64)) > 1e-2
    assert not certify(model, naive, Probes(ordinary=(torch.randn(1, 3, 64, 64),))).holds


def test_a_wholly_dead_block_keeps_one_channel(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    model.trunk.layer3[1].residual[0].weight.data.zero_()
    done = remove_zeros(model, EXAMPLE)
    assert done.model.trunk.layer3[1].residual[0].out_channels == 1
    assert difference(model, done.model, (64, 64)) < 1e-5


def test_alignment_keeps_multiples_and_stays_exact(small_net: Callable[..., MultiTaskNet], kill: Kill) -> None:
    model = small_net()
    kill(model, "filter", "trunk")
    done = remove_zeros(model, EXAMPLE, align=8)
    widths = [m.out_channels for m in done.model.trunk.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert count_parameters(done.model) > count_parameters(remove_zeros(model, EXAMPLE).model)
    assert any("to make 8, the next count allowed" in group.note for group in done.plan.groups)
    assert difference(model, done.model, (64, 64)) < 1e-5
