"""Branched trunks: every path's features are those of its blocks run by hand, common beginnings are computed once."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimtask.compress.branches import BranchPaths, why_not_branch
from slimtask.compress.policy import Policy
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.models import MultiTaskNet, multitask_net

X = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(3))
SPECS = tuple(TaskSpec(name=name, kind="multilabel", channels=2) for name in ("a", "b", "c"))


def network() -> MultiTaskNet:
    torch.manual_seed(0)
    return multitask_net(tasks=SPECS, width=0.125).eval()


def features_by_hand(trunk: nn.Module, path: tuple[bool, ...]) -> torch.Tensor:
    x = trunk.stem(X)
    for executes, block in zip(path, trunk.blocks.values(), strict=True):
        x = torch.relu(block.shortcut(x) + block.residual(x)) if executes else block.shortcut(x)
    return x


PATH = st.tuples(*[st.booleans()] * 8)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(a=PATH, b=PATH, common=st.integers(0, 8))
def test_any_two_paths_against_the_blocks_by_hand(a: tuple[bool, ...], b: tuple[bool, ...], common: int) -> None:
    model = network()
    policy = Policy(blocks=tuple(model.trunk.blocks), selects={"a": a, "b": a[:common] + b[common:], "c": a})
    branched = copy.deepcopy(model)
    BranchPaths.model_validate_json(BranchPaths(policy=policy).model_dump_json()).apply_(branched)
    branched = copy.deepcopy(branched)
    calls: Counter[str] = Counter()
    watched = {
        "stem": branched.trunk.stem,
        **{n: m for n, m in branched.trunk.blocks.items() if hasattr(m, "residual")},
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.no_grad():
        got = branched(X)
        for task, path in policy.selects.items():
            assert torch.equal(got[task], model.heads[task](features_by_hand(model.trunk, path)))
    assert calls.pop("stem") == 1
    for index, block in enumerate(policy.blocks):
        assert calls[block] == len({path[: index + 1] for path in policy.selects.values() if path[index]})


def test_a_branched_network_keeps_its_names_and_exports() -> None:
    model = network()
    rows = {"a": (True,) * 8, "b": (True,) * 7 + (False,), "c": (True, False) * 4}
    before = model.state_dict()
    BranchPaths(policy=Policy(blocks=tuple(model.trunk.blocks), selects=rows)).apply_(model)
    assert set(model.state_dict()) == set(before)
    program = torch.export.export(model, (X,))
    with torch.no_grad():
        got, expected = program.module()(X), model(X)
    for task in expected:
        torch.testing.assert_close(got[task], expected[task])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: delattr(m.trunk, "stem"), "has no trunk with a 'stem'"),
        (lambda m: m.trunk.layer1.append(copy.deepcopy(m.trunk.layer1[1])), "has a trunk of other blocks"),
        (lambda m: m.heads.pop("b"), "has no ModuleDict 'heads' with a head for each of them"),
        (lambda m: m.heads.update({"b": nn.Conv2d(64, 2, 1)}), "has a head that is a bare layer"),
    ],
)
def test_a_network_that_cannot_branch_is_told_what_else_to_do(
    change: Callable[[MultiTaskNet], object], message: str
) -> None:
    model = network()
    rows = {"a": (True,) * 8, "b": (False,) * 8, "c": (True,) * 8}
    policy = Policy(blocks=tuple(model.trunk.blocks), selects=rows)
    assert why_not_branch(model, policy) is None
    change(model)
    with pytest.raises(InputError, match=f"part at block 'layer1.0' and the network {message}.*each of: a, c \\| b"):
        BranchPaths(policy=policy).apply_(model)
    assert type(model) is MultiTaskNet
    assert all(hasattr(block, "residual") for block in model.trunk.blocks.values())
