"""Branched trunks: every path's features are those of its blocks run by hand, common beginnings are computed once."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.edits.branches import BranchPaths, why_not_branch
from slimtask.compress.edits.tasks import KeepTasks
from slimtask.compress.per_task.networks import task_network
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.cost import count_parameters
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.models import MultiTaskNet, multitask_net

X = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(3))
SPECS = tuple(TaskSpec(name=name, kind="multilabel", channels=2) for name in ("a", "b", "c"))


def network() -> MultiTaskNet:
    torch.manual_seed(0)
    return multitask_net(tasks=SPECS, width=0.125).eval()


def features_by_hand(trunk: nn.Module, path: tuple[bool, ...], x: torch.Tensor = X) -> torch.Tensor:
    x = trunk.stem(x)
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


def test_a_second_policy_narrows_the_paths_of_the_first() -> None:
    model = network()
    blocks = tuple(model.trunk.blocks)
    first = {"a": (True,) * 8, "b": (True,) * 4 + (False,) * 4, "c": (True, False) * 4}
    second = {"a": (False,) + (True,) * 7, "c": (True,) * 7 + (False,)}
    twice = copy.deepcopy(model)
    BranchPaths(policy=Policy(blocks=blocks, selects=first)).apply_(twice)
    KeepTasks(tasks=("a", "c"), unneeded=()).apply_(twice)
    BranchPaths(policy=Policy(blocks=blocks, selects=second)).apply_(twice)
    with torch.no_grad():
        got = twice(X)
        for task, path in {"a": second["a"], "c": first["c"]}.items():
            assert torch.equal(got[task], model.heads[task](features_by_hand(model.trunk, path)))
    assert set(got) == {"a", "c"}


def test_only_the_paths_of_the_tasks_that_are_asked_for_are_computed() -> None:
    model = network()
    rows = {"a": (True,) * 8, "b": (True,) * 4 + (False,) * 4, "c": (False,) + (True,) * 7}
    BranchPaths(policy=Policy(blocks=tuple(model.trunk.blocks), selects=rows)).apply_(model)
    calls: Counter[str] = Counter()
    for name, block in model.trunk.blocks.items():
        block.residual.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.no_grad():
        model(X, tasks=["b"])
    assert list(calls) == list(model.trunk.blocks)[:4]


def test_batchnorms_per_task_run_each_task_through_its_own() -> None:
    """Against a network for each task alone, whose BatchNorms are those of that task."""
    model = network()
    rows = {"a": (True,) * 8, "b": (True,) * 4 + (False,) * 4, "c": (True,) * 8}
    policy = Policy(blocks=tuple(model.trunk.blocks), selects=rows)
    branched = copy.deepcopy(model)
    edit = BranchPaths(policy=policy, batchnorm="per-task")
    BranchPaths.model_validate_json(edit.model_dump_json()).apply_(branched)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in branched.state_dict().items():
        if name.startswith("trunk") and name.split(".")[-2] in rows and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    exported = torch.export.export(branched, (X,)).module()
    for task, path in rows.items():
        alone = copy.deepcopy(model)
        weights = {
            name if name.startswith("heads") else name.replace(f".{task}.", "."): tensor
            for name, tensor in branched.state_dict().items()
        }
        alone.load_state_dict({name: weights[name] for name in alone.state_dict()})
        with torch.no_grad():
            expected = alone.heads[task](features_by_hand(alone.trunk, path))
            assert torch.equal(branched(X)[task], expected)
            torch.testing.assert_close(exported(X)[task], expected)
        kept = task_network(branched, policy, (task,), X[:1])
        assert len(kept.model.state_dict()) < len(branched.state_dict()) / 2
        replayed = copy.deepcopy(model)
        edit.apply_(replayed)
        kept.replay_(replayed)
        replayed.load_state_dict(kept.model.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(replayed(X)[task], expected, rtol=1e-4, atol=1e-5)


def test_each_path_has_the_statistics_of_a_plain_network_that_runs_it_alone(tmp_path: Path) -> None:
    """Against torch's own BatchNorm in a network per task, after a few batches in training mode; then as a file."""
    rows = {"a": (True,) * 8, "b": (True,) * 4 + (False, True) * 2, "c": (True, False, False, True) * 2}
    dense = network()
    policy = Policy(blocks=tuple(dense.trunk.blocks), selects=rows)
    edit = BranchPaths(policy=policy, batchnorm="per-path")
    branched, alone = copy.deepcopy(dense), {task: copy.deepcopy(dense).train() for task in rows}
    edit.apply_(branched)
    branched = copy.deepcopy(branched).train()
    calls: Counter[str] = Counter()
    branched.trunk.stem.register_forward_hook(lambda *_: calls.update(["stem"]))
    for seed in range(4):
        x = torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(seed)) + seed
        with torch.no_grad():
            branched(x)
            for task, path in rows.items():
                features_by_hand(alone[task].trunk, path, x)
    assert calls["stem"] == 4
    Checkpoint(
        weights=branched.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.125}),
        tasks=SPECS,
        preprocessing=Preprocessing(height=32, width=40),
        edits=(edit.model_dump(mode="json"),),
    ).save(tmp_path / "c.safetensors")
    rebuilt = rebuild(Checkpoint.load(tmp_path / "c.safetensors"))
    assert count_parameters(rebuilt) == count_parameters(dense)  # one weight and bias for all paths
    kept = task_network(rebuilt, policy, ("b", "c"), X[:1])
    replayed = network()
    edit.apply_(replayed)
    kept.replay_(replayed)
    replayed.load_state_dict(kept.model.state_dict())
    for task, path in rows.items():
        with torch.no_grad():
            expected = dense.heads[task](features_by_hand(alone[task].eval().trunk, path))
            assert torch.equal(rebuilt(X)[task], expected)
            for smaller in (kept.model, replayed) if task != "a" else ():
                torch.testing.assert_close(smaller(X)[task], expected)


def test_dead_channels_go_that_paths_normalise_apart() -> None:
    """Against the network with one set of statistics for all paths, of which the same channels go."""
    rows = {"a": (True,) * 8, "b": (True,) * 6 + (False, True), "c": (True,) * 6 + (True, False)}
    left = {}
    for batchnorm in ("shared", "per-path"):
        model = network()
        policy = Policy(blocks=tuple(model.trunk.blocks), selects=rows)
        for block in model.trunk.blocks.values():
            block.residual[1].weight.data[::2] = block.residual[1].bias.data[::2] = 0
        BranchPaths.model_validate({"policy": policy, "batchnorm": batchnorm}).apply_(model)
        with torch.no_grad():
            model.train()(X)
        removed = remove_zeros(model.eval(), X[:1])
        assert removed.certificate
        left[batchnorm] = count_parameters(removed.model)
    assert left["per-path"] == left["shared"] < count_parameters(model) * 0.6


def test_tasks_of_one_path_run_it_once() -> None:
    model = network()
    policy = Policy(blocks=tuple(model.trunk.blocks), selects=dict.fromkeys("abc", (True, False) * 4))
    branched = copy.deepcopy(model)
    BranchPaths(policy=policy).apply_(branched)
    calls: Counter[str] = Counter()
    branched.trunk.stem.register_forward_hook(lambda *_: calls.update(["stem"]))
    with torch.no_grad():
        got = branched(X)
        for task in "abc":
            assert torch.equal(got[task], model.heads[task](features_by_hand(model.trunk, (True, False) * 4)))
    assert calls["stem"] == 1


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
