"""The coupled groups hold exactly what must vanish: zeroing them makes the removal exact, and nothing less does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.cost import count_parameters
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet
from slimtask.train.recipe import SparsityConfig
from slimtask.train.sparsity.structure import SparseStructure, sparse_structure

EXAMPLE = torch.zeros(1, 3, 48, 48)


def zero_groups_(model: torch.nn.Module, structure: SparseStructure, dead: torch.Tensor) -> None:
    parameters = dict(model.named_parameters())
    for member in structure.layout.members:
        index = ((member.groups >= 0) & dead[member.groups.clamp_min(0)]).nonzero().flatten()
        parameters[member.parameter].data.index_fill_(member.axis, index, 0.0)


@pytest.mark.parametrize(("trunk", "layers"), [("resnet18", 12), ("resnetd50", 39)])
def test_coupled_groups_are_those_of_the_trunk(trunk: str, layers: int, small_net: Callable[..., MultiTaskNet]) -> None:
    """Block-internal layers and residual streams; ResNet-18's stem writes stage 1's, ResNetD's adds three layers."""
    model = small_net(trunk=trunk)
    structure = sparse_structure(model, EXAMPLE, SparsityConfig(target=0.5))
    assert len(structure.layer_names) == layers
    assert all(name.startswith("trunk.") for name in structure.layer_names)
    names = {member.parameter for member in structure.layout.members}
    assert names == {name for name, _ in model.trunk.named_parameters(prefix="trunk")}


def test_both_counts_are_those_of_the_real_removal(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    structure = sparse_structure(model, EXAMPLE, SparsityConfig(target=0.5))
    dead = torch.rand(len(structure.layout), generator=torch.Generator().manual_seed(3)) < 0.6
    zero_groups_(model, structure, dead)
    done = remove_zeros(model, EXAMPLE)
    removed = 1 - count_parameters(done.model.trunk) / count_parameters(model.trunk)
    report = structure.report(dead)
    assert report["parameter_sparsity"] == pytest.approx(removed, abs=1e-9)
    assert report["group_sparsity"] == pytest.approx(float(dead.float().mean()))
    assert float(structure.sparsity(structure.alive_counts(~dead))) == pytest.approx(removed)


def test_input_channel_groups_are_the_papers(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net(trunk="resnetd50", width=0.125)
    structure = sparse_structure(model, EXAMPLE, SparsityConfig(target=0.5, groups="input-channel"))
    convolutions = [p for _, p in model.trunk.named_parameters() if p.ndim == 4]
    assert len(structure.layout) == sum(p.shape[1] for p in convolutions)
    dead = torch.zeros(len(structure.layout), dtype=torch.bool)
    dead[: convolutions[0].shape[1]] = True
    share = convolutions[0].numel() / sum(p.numel() for p in convolutions)
    assert structure.report(dead)["parameter_sparsity"] == pytest.approx(share)


def test_a_scope_without_groups_is_refused(small_net: Callable[..., MultiTaskNet]) -> None:
    with pytest.raises(InputError, match="no removable channel group lies under 'body'"):
        sparse_structure(small_net(), EXAMPLE, SparsityConfig(target=0.5, scope="body"))
