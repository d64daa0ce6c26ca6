"""A network analysed: its tapes, what none of them reads, and which atoms stay after a cut."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import analyse
from slimtask.compress.removal.surgery import Cut, kept_atoms


class Heads(nn.Module):
    """One head for small inputs, one for large ones, one for training, and one for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.small, self.large, self.aux, self.spare = (nn.Conv2d(6, 2, 1) for _ in range(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the output of the head for this size, in training of another too."""
        y = self.a(x)
        made = {"y": self.small(y) if x.shape[-1] < 8 else self.large(y)}
        return made | ({"aux": self.aux(y)} if self.training else {})


SMALL, LARGE = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8)


def test_further_inputs_reach_further_parts() -> None:
    model = Heads()
    assert {name.partition(".")[0] for name in analyse(model, SMALL).idle()} == {"large", "aux", "spare"}
    found = analyse(model, SMALL, [LARGE])
    assert {name.partition(".")[0] for name in found.idle()} == {"aux", "spare"}
    assert [tape.training for tape in found.tapes] == [False, False, True]  # the last for the sake of aux
    assert len(found.inputs) == 3
    group = next(group for group in found.groups if group.name == "a")
    assert {member.module for member in group.consumers} == {"small", "large", "aux"}
    assert model.training


def test_the_tape_is_that_of_the_example() -> None:
    found = analyse(Heads().eval(), LARGE, [SMALL])
    assert found.tape is found.tapes[0]
    assert found.tape.operations[0].outputs[0].shape == (1, 6, 8, 8)


def test_a_network_without_twins_is_not_copied_and_one_with_them_is() -> None:
    plain = Heads()
    assert analyse(plain, SMALL).model is plain
    encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    found = analyse(encoder, torch.zeros(1, 3, 8))
    assert found.model is not encoder
    assert type(encoder.self_attn) is nn.MultiheadAttention
    assert type(found.model.get_submodule("self_attn")) is not nn.MultiheadAttention


def test_a_cut_takes_the_atoms_of_every_axis_that_its_channels_lie_on() -> None:
    found = analyse(Heads().eval(), SMALL)
    group = next(group for group in found.groups if group.name == "a")
    keep = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    kept = kept_atoms(found, [Cut(group=group, keep=keep, reasons={})])
    axes = {(axis.tensor, axis.axis): kept[axis.atoms] for axis in found.coupling.labels.axes}
    for name in (("a.weight", 0), ("a.bias", 0), ("small.weight", 1)):
        assert axes[name].tolist() == keep.tolist()
    for name in (("a.weight", 1), ("small.weight", 0), ("small.bias", 0)):
        assert axes[name].all()


def test_without_cuts_everything_stays() -> None:
    found = analyse(Heads().eval(), SMALL)
    assert np.all(kept_atoms(found, []))
