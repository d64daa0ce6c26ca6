"""Per-task networks compute what the masked dense network does, and are as small as arithmetic says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import nn

from slimtask.compress.edits.branches import BranchPaths
from slimtask.compress.edits.skip import SkipBlocks
from slimtask.compress.edits.tasks import KeepTasks, Selected
from slimtask.compress.per_task import networks as per_task
from slimtask.compress.per_task.networks import PathByPath, SubNetwork, task_network, union_network
from slimtask.compress.removal.plan import Plan
from slimtask.compress.removal.remove import Compressed
from slimtask.compress.score.cost import count_parameters
from slimtask.compress.structures.masks import Masks
from slimtask.compress.structures.policy import Policy
from slimtask.errors import CheckFailed, InputError
from slimtask.train.models import MultiTaskNet

EXAMPLE = torch.zeros(1, 3, 32, 32)
TASKS = ("segmentation", "depth", "normals", "edges", "presence")
NetMaker = Callable[..., MultiTaskNet]


def difference(before: nn.Module, after: nn.Module, tasks: tuple[str, ...]) -> float:
    """Return the largest relative difference on the outputs of ``tasks``, in float64 on a fresh input and size."""
    x = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(9)).double()
    before, after = copy.deepcopy(before).double(), copy.deepcopy(after).double()
    with torch.no_grad():
        one, two = before(x), after(x)
    assert set(two) == set(tasks)
    return max(float((one[task] - two[task]).abs().max() / one[task].abs().max()) for task in tasks)


def thirds(model: nn.Module, tasks: tuple[str, ...], what: tuple[str, ...] = ("weight", "bias")) -> Masks:
    """Return masks of the trunk: task k keeps the filters whose number is k modulo 3, and their BatchNorms' entries."""
    per_task = {}
    for k, task in enumerate(tasks):
        masks = {}
        for name, parameter in model.trunk.named_parameters(prefix="trunk"):
            if parameter.ndim == 4 or name.rpartition(".")[2] in what:
                keep = torch.arange(len(parameter)) % 3 == k % 3
                masks[name] = keep.view(-1, *[1] * (parameter.ndim - 1)).expand_as(parameter).clone()
        per_task[task] = masks
    return Masks(per_task=per_task)


class Foreign(nn.Module):
    """Two layers of 12 channels and two heads of known size; forward takes no ``tasks``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1)
        self.out = nn.ModuleDict({"a": nn.Conv2d(12, 2, 1), "b": nn.Conv2d(12, 1, 1), "c": nn.Conv2d(12, 5, 1)})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.two(self.one(x).relu()).relu()
        return {name: head(y) for name, head in self.out.items()}


def foreign_masks(tasks: tuple[str, ...] = ("a", "b", "c")) -> Masks:
    """Return masks by which the tasks keep 4, 3 and 2 channels of both layers, all different ones."""
    ranges = {"a": range(4), "b": range(4, 7), "c": range(7, 9)}
    model, per_task = Foreign(), {}
    for task in tasks:
        keep = torch.zeros(12, dtype=torch.bool)
        keep[list(ranges[task])] = True
        per_task[task] = {
            name: keep.view(-1, *[1] * (parameter.ndim - 1)).expand_as(parameter).clone()
            for name, parameter in model.named_parameters()
            if name.startswith(("one", "two"))
        }
    return Masks(per_task=per_task)


@pytest.mark.parametrize("count", [1, 2])
def test_sizes_by_hand_for_every_set_of_tasks(count: int) -> None:
    """n channels stay of each layer: 27n + n, n*n + n, and per head n inputs by its outputs and its biases."""
    model, masks = Foreign().eval(), foreign_masks()
    channels, outputs = {"a": 4, "b": 3, "c": 2}, {"a": 2, "b": 1, "c": 5}
    for tasks in combinations("abc", count):
        made = task_network(model, masks, tasks, EXAMPLE)
        n = sum(channels[task] for task in tasks)
        heads = sum((n + 1) * outputs[task] for task in tasks)
        assert count_parameters(made.model) == 28 * n + n * n + n + heads
        assert made.certificate
        assert difference(masks.applied(model, tasks), made.model, tasks) < 1e-6
    assert count_parameters(model) == 28 * 12 + 12 * 13 + 13 * 8  # left as it was


def test_unstructured_masks_are_exact_and_remove_only_what_is_wholly_dead() -> None:
    model, generator = Foreign().train(), torch.Generator().manual_seed(0)
    keep = {task: torch.rand(12, 12, 1, 1, generator=generator) < 0.3 for task in "abc"}
    for mask in keep.values():
        mask[:, 5] = False  # two.weight ignores channel 5 of one in every task
    masks = Masks(per_task={task: {"two.weight": mask} for task, mask in keep.items()})
    made = union_network(model, masks, EXAMPLE)
    assert (made.model.one.out_channels, made.model.two.out_channels) == (11, 12)
    assert model.training
    assert difference(masks.applied(model), made.model, ("a", "b", "c")) < 1e-6


def test_a_network_with_nothing_to_remove_comes_back_whole() -> None:
    model = Foreign().eval()
    made = union_network(model, Masks(), EXAMPLE)
    assert made.edits == ()
    assert count_parameters(made.model) == count_parameters(model)


def test_a_tasks_network_exports() -> None:
    made = task_network(Foreign().eval(), foreign_masks(), ["b"], EXAMPLE)
    program = torch.export.export(made.model, (EXAMPLE,))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x)["b"], made.model(x)["b"])


def test_the_union_removes_what_no_task_uses_and_shared_masks_hold_for_all() -> None:
    model, masks = Foreign().eval(), foreign_masks()
    union = union_network(model, masks, EXAMPLE)
    assert union.tasks == ("a", "b", "c")
    assert union.model.one.out_channels == 9
    merged = union_network(model, masks.merged(), EXAMPLE)
    assert count_parameters(merged.model) == count_parameters(union.model)
    only = task_network(model, masks.merged(), ["a"], EXAMPLE)
    assert only.model.one.out_channels == 9  # the mask says nothing of tasks, only the heads go
    assert difference(masks.applied(model), only.model, ("a",)) < 1e-6


def test_disjoint_thirds_of_the_house_network(small_net: NetMaker) -> None:
    """Filters alone are masked: the constants behind BatchNorm must be carried along."""
    model = small_net()
    masks = thirds(model, TASKS, ())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sizes = {}
    for tasks in (("depth",), ("segmentation", "edges"), TASKS):
        made = task_network(model, masks, tasks, EXAMPLE)
        sizes[tasks] = count_parameters(made.model.trunk)
        assert [task.name for task in made.model.tasks] == list(tasks)
        assert made.certificate.tasks.keys() == set(tasks)
        assert difference(masks.applied(model, tasks), made.model, tasks) < 1e-5
    whole = count_parameters(model.trunk)
    assert sizes[("depth",)] < 0.3 * whole
    assert sizes[("depth",)] < sizes[("segmentation", "edges")] <= sizes[TASKS] <= whole
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class ByHand(nn.Module):
    """The trunk's own blocks, run one by one; a skipped one is its shortcut."""

    def __init__(self, trunk: nn.Module, executes: tuple[bool, ...]) -> None:
        super().__init__()
        self.trunk, self.executes = trunk, executes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.trunk.stem(x)
        for executes, block in zip(self.executes, self.trunk.blocks.values(), strict=True):
            shortcut = block.shortcut(x)
            x = torch.relu(shortcut + block.residual(x)) if executes else shortcut
        return x


def policy_of(model: MultiTaskNet) -> Policy:
    """Return a policy in which depth and edges take one path, and two others part from it."""
    one = (True, False, True, True, False, True, True, False)
    other = (True, False, False, False, True, True, False, True)
    rows = {"segmentation": (True,) * 8, "depth": one, "normals": other, "edges": one, "presence": (False,) * 8}
    return Policy(blocks=tuple(model.trunk.blocks), selects=rows)


@pytest.mark.parametrize("tasks", [("depth", "edges"), ("presence",)])
def test_a_policys_network_is_its_blocks_run_by_hand(tasks: tuple[str, ...], small_net: NetMaker) -> None:
    model = small_net()
    policy = policy_of(model)
    made = task_network(model, policy, tasks, EXAMPLE)
    by_hand = copy.deepcopy(model)
    by_hand.trunk = ByHand(by_hand.trunk, policy.selects[tasks[0]])
    assert difference(by_hand, made.model, tasks) < 1e-6
    left = [count_parameters(model.heads[task]) for task in tasks] + [count_parameters(model.trunk.stem)]
    left += [
        count_parameters(block if executes else block.shortcut)
        for executes, block in zip(policy.selects[tasks[0]], model.trunk.blocks.values(), strict=True)
    ]
    # a network of projections alone has a final one that no later block adds to, and loses nothing either
    assert count_parameters(made.model) == sum(left)


def test_tasks_whose_paths_part_get_a_network_that_branches(small_net: NetMaker, kill: Callable[..., None]) -> None:
    model = small_net()
    kill(model, "beta", "trunk.layer3")
    policy = policy_of(model)
    made = union_network(model, policy, EXAMPLE)
    assert made.paths == 4
    for task in TASKS:
        by_hand = copy.deepcopy(model)
        by_hand.trunk = ByHand(by_hand.trunk, policy.selects[task])
        alone = made.model(EXAMPLE, tasks=[task])
        assert list(alone) == [task]
        assert difference(Selected(by_hand, [task]), Selected(made.model, [task]), (task,)) < 1e-5
    assert count_parameters(made.model) < count_parameters(model)
    assert difference(made.model, replayed(made, small_net(seed=5)), TASKS) == 0


def replayed(made: SubNetwork, fresh: nn.Module) -> nn.Module:
    """Return ``fresh`` after the JSON of the edits, as a checkpoint would replay them, with the weights loaded."""
    kinds = {"tasks": KeepTasks, "skip": SkipBlocks, "branches": BranchPaths, "plan": Plan}
    for edit in json.loads(json.dumps(made.edits)):
        kinds[edit["kind"]].model_validate(edit).apply_(fresh)
    fresh.load_state_dict(made.model.state_dict())
    return fresh.eval()


@pytest.mark.parametrize("structure", ["masks", "policy"])
def test_the_edits_replay_on_a_fresh_dense_network(
    structure: str, small_net: NetMaker, kill: Callable[..., None]
) -> None:
    model = small_net()
    kill(model, "beta", "trunk.layer3")
    given = thirds(model, TASKS) if structure == "masks" else policy_of(model)
    made = task_network(model, given, ["depth"], EXAMPLE)
    assert [edit["kind"] for edit in made.edits] == ["tasks", *(["skip"] if structure == "policy" else []), "plan"]
    assert difference(made.model, replayed(made, small_net(seed=5)), ("depth",)) == 0
    again = small_net(seed=6)
    made.replay_(again)
    again.load_state_dict(made.model.state_dict())
    assert difference(made.model, again, ("depth",)) == 0


def test_the_edits_of_a_foreign_network_replay_too() -> None:
    made = task_network(Foreign().eval(), foreign_masks(), ["b"], EXAMPLE)
    assert made.keep.unneeded == ("out.a", "out.c")
    assert difference(made.model, replayed(made, Foreign()), ("b",)) == 0


def test_a_task_that_needs_every_module_still_returns_itself_alone() -> None:
    class Chained(Foreign):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = super().forward(x)
            outputs["c"] = outputs["a"].mean(dim=1) + outputs["b"].mean(dim=1) + outputs["c"].mean(dim=1)
            return outputs

    made = task_network(Chained().eval(), Masks(), ["c"], EXAMPLE)
    assert made.edits == ({"kind": "tasks", "tasks": ["c"], "unneeded": []},)
    assert list(replayed(made, Chained())(EXAMPLE)) == list(made.model(EXAMPLE)) == ["c"]


def test_the_reference_of_several_paths_holds_the_weights_once(small_net: NetMaker) -> None:
    model = small_net()
    assert count_parameters(PathByPath(model, policy_of(model), TASKS)) == count_parameters(model)


def test_what_does_not_fit_is_said(small_net: NetMaker) -> None:
    model = Foreign().eval()
    for tasks, message in ((["d"], "no task 'd'"), ([], "name at least one task")):
        with pytest.raises(InputError, match=message):
            task_network(model, foreign_masks(), tasks, EXAMPLE)
    with pytest.raises(InputError, match="no masks of task 'c'"):
        union_network(model, foreign_masks(("a", "b")), EXAMPLE)
    with pytest.raises(InputError, match="the masks do not fit this network"):
        union_network(small_net(), Masks(shared={"one.weight": torch.ones(12, 3, 3, 3) > 0}), EXAMPLE)
    stem = Policy(blocks=("stem",), selects=dict.fromkeys(TASKS, (False,)))
    with pytest.raises(InputError, match="block 'stem' cannot be skipped"):
        union_network(small_net(), stem, EXAMPLE)


def test_a_network_that_differs_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = per_task.remove_zeros

    def wrong(model: nn.Module, example: torch.Tensor, *, align: int = 1) -> Compressed:
        done = real(model, example, align=align)
        done.model.out["a"].bias.data += 1e-3
        return done

    monkeypatch.setattr(per_task, "remove_zeros", wrong)
    with pytest.raises(CheckFailed, match="the network of 'a' differs from the dense one"):
        task_network(Foreign().eval(), foreign_masks(), ["a"], EXAMPLE)
