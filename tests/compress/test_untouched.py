"""The user's network is the same object with the same contents after every verb, whether it succeeds or refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.api.how import Prune, Zeros
from slimtask.compress.api.models import compress
from slimtask.compress.api.rounds import compress_in_rounds
from slimtask.compress.edits.skip import check_skippable
from slimtask.compress.edits.tasks import task_names, unneeded_modules
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.blocks import residual_blocks
from slimtask.compress.latency.specs import layer_specs
from slimtask.compress.network.by_task import check_tasks
from slimtask.compress.network.contents import tensors_in
from slimtask.compress.network.trace import record
from slimtask.compress.per_task.networks import task_network
from slimtask.compress.per_task.table import task_table
from slimtask.compress.pruning import prune
from slimtask.compress.removal.explain import coverage
from slimtask.compress.removal.remove import Compressed, remove_zeros
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import SizeModel, count_flops
from slimtask.compress.score.flops import FlopModel
from slimtask.compress.score.importance import score_channels
from slimtask.compress.structures.masks import Masks
from slimtask.compress.tuning import finetune
from slimtask.errors import InputError, SlimtaskError
from slimtask.export.onnx import frozen_copy
from slimtask.tasks import TaskSpec
from tests.compress.stateful import NETWORKS, Broken, CachedGrid, Closed, Everything, OnValues, Residual
from tests.snapshot import Snapshot

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
A = TaskSpec(name="a", kind="segmentation", channels=2)
B = TaskSpec(name="b", kind="segmentation", channels=3)
Verb = Callable[[nn.Module, Any], object]


def loss(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    return {name: output.square().mean() for name, output in network(batch).items()}


def scored(criterion: str) -> Verb:
    def verb(model: nn.Module, x: Tensor) -> object:
        return score_channels(model, grouped(model), criterion, calibration=[x, x], loss=loss)

    return verb


@functools.cache
def groups_of_class(kind: type[nn.Module]) -> tuple[Group, ...]:
    with torch.random.fork_rng():
        return find_groups(kind(), X)


def grouped(model: nn.Module) -> tuple[Group, ...]:
    """Return the groups of another network of the same class, so that the verb alone has to do with this one."""
    return groups_of_class(CachedGrid if isinstance(model, Broken) else type(model))


def measured(network: nn.Module, x: Tensor) -> float:
    network(x)
    return 1.0


def rounds(model: nn.Module, x: Tensor) -> object:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def fresh() -> nn.Module:
        with torch.random.fork_rng():
            return type(model)()

    made = Architecture(name="my:net", arguments={})
    checkpoint = Checkpoint(weights=weights, architecture=made, tasks=(), preprocessing=None, inputs=(tuple(x.shape),))
    return compress_in_rounds(
        checkpoint, Prune(Budget(keep=0.5), align=1), rounds=2, between=lambda c, _: c, factory=fresh
    )


def taught(model: nn.Module, x: Tensor) -> object:
    with torch.random.fork_rng():
        student = nn.Conv2d(3, 2, 1)
    return finetune(student, [x], steps=1, lr=0.1, teacher=Only(model))


ANALYSES: dict[str, Verb] = {
    "record": record,
    "record, computed": lambda model, x: record(model, x, compute=True),
    "record, training": lambda model, x: record(model, x, training=True),
    "find_groups": find_groups,
    "count_flops": count_flops,
    "FlopModel": lambda model, x: FlopModel(model, grouped(model), record(model, x)),
    "SizeModel": lambda model, _: SizeModel(model, grouped(model)),
    "coverage": lambda model, _: coverage(model, grouped(model)),
    **{f"score by {name}": scored(name) for name in ("l1", "l2", "batchnorm", "taylor", "snip", "random")},
    "layer_specs": lambda model, x: layer_specs(model, grouped(model), x),
    "residual_blocks": lambda model, x: residual_blocks(
        model, grouped(model), layer_specs(model, grouped(model), x), x
    ),
    "task_names": task_names,
    "unneeded_modules": lambda model, x: unneeded_modules(model, ["a"], x),
    "check_tasks": lambda model, x: check_tasks(model, x, (A, B)),
    "check_skippable": lambda model, x: check_skippable(model, [inside(model)], x),
    "frozen_copy": lambda model, _: frozen_copy(model),
    "teacher": taught,
}
REMOVALS: dict[str, Verb] = {
    "prune": lambda model, x: prune(model, x, budget=Budget(keep=0.5)),
    "prune by loss": lambda model, x: prune(
        model, x, budget=Budget(flops=0.7), criterion="taylor", calibration=[x], loss=loss
    ),
    "remove_zeros": remove_zeros,
    "compress": lambda model, x: compress(model, x, Zeros(align=1)),
    "rounds": rounds,
    "task_network": lambda model, x: task_network(model, Masks(per_task={"a": {}, "b": {}}), ["a"], x),
    "task_table": lambda model, x: task_table(model, Masks(per_task={"a": {}, "b": {}}), x, measure=measured),
}


class Only(nn.Module):
    """The output of the first task alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.held = [model]

    def train(self, mode: bool = True) -> Only:
        """Switch what is held, too."""
        self.held[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        out: Tensor = self.held[0](x)["a"]
        return out


def inside(model: nn.Module) -> str:
    return next(name for name, _ in model.named_modules() if name.rpartition(".")[2] == "block")


def unchanged(model: nn.Module, verb: Verb, x: Any, error: type[Exception] | None = None) -> object:
    """Run the verb, which must end in the error if one is given, and compare the network with what it was."""
    generator = torch.get_rng_state()
    before, result, refused = Snapshot(model), None, None
    try:
        result = verb(model, x)
    except SlimtaskError as refusal:
        refused = refusal
    assert before.difference(Snapshot(model)) == []
    assert torch.equal(generator, torch.get_rng_state())
    assert isinstance(refused, error or type(None)), refused
    assert refused is None or "\n" not in str(refused)
    return result


def shares_nothing(model: nn.Module, result: object) -> bool:
    """Return whether no tensor that the result's network reaches lies in memory of the user's."""
    made = result.model if isinstance(result, Compressed) else nn.Identity()
    mine = {x.untyped_storage().data_ptr() for x in tensors_in(model)}
    return not any(x.untyped_storage().data_ptr() in mine for x in tensors_in(made))


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    """Return the network with dead channels."""
    torch.manual_seed(0)
    model = kind()
    block = next(module for module in model.modules() if isinstance(module, Residual))
    with torch.no_grad():
        for tensor in (block.one.weight, block.one.bias, block.norm.weight, block.norm.bias):
            tensor[:4] = 0
    return model


@pytest.mark.parametrize("kind", [Everything, OnValues])
@pytest.mark.parametrize("verb", ANALYSES)
def test_an_analysis_leaves_the_network_as_it_was(verb: str, kind: type[nn.Module]) -> None:
    """On networks that change in every way there is, so that not every verb needs to meet every way on its own."""
    unchanged(made(kind), ANALYSES[verb], X)


@pytest.mark.parametrize("verb", REMOVALS)
def test_a_removal_leaves_the_network_as_it_was(verb: str) -> None:
    model = made(Everything)
    assert shares_nothing(model, unchanged(model, REMOVALS[verb], X))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_kind_of_network_stays_as_it_was(name: str) -> None:
    """One verb that only looks, one that compares with the network itself and one that compares with a masked one."""
    model = made(NETWORKS[name])
    for verb in (find_groups, REMOVALS["remove_zeros"], REMOVALS["prune"]):
        assert shares_nothing(model, unchanged(model, verb, X))


RUNNING = [name for name in ANALYSES if name not in ("SizeModel", "coverage", "frozen_copy", "teacher")]
RUNNING = [name for name in RUNNING if not name.startswith("score")]


@pytest.mark.parametrize("verb", RUNNING)
def test_an_input_that_does_not_fit_is_refused_and_nothing_changes(verb: str) -> None:
    unchanged(made(Everything), ANALYSES[verb], torch.zeros(1, 4, 16, 16), InputError)


@pytest.mark.parametrize("verb", ["record", "check_tasks"])
def test_an_input_that_is_no_map_is_refused_and_nothing_changes(verb: str) -> None:
    unchanged(made(Everything), ANALYSES[verb], torch.zeros(2, 3), InputError)


@pytest.mark.parametrize("verb", [name for name in RUNNING if name != "unneeded_modules"])
def test_code_that_raises_is_refused_and_nothing_changes(verb: str) -> None:
    unchanged(Broken(), ANALYSES[verb], X, InputError)


@pytest.mark.parametrize("verb", ["prune", "compress"])
def test_where_nothing_may_go_nothing_changes(verb: str) -> None:
    unchanged(Closed(), REMOVALS[verb], X, InputError)


def test_the_snapshot_sees_what_changes() -> None:
    model = Everything()
    changes: list[Callable[[], object]] = [
        lambda: model.train(not model.training),
        lambda: model.stem.weight.data.add_(1),
        lambda: model.anchors.__setitem__(3, X),
        lambda: setattr(model, "grid", model.grid.clone()),
        lambda: model.grid.add_(1),
        lambda: setattr(model, "new", 1),
        lambda: model.stem.register_forward_hook(lambda *_: None),
        lambda: model.a.requires_grad_(False),
        lambda: setattr(model.a.weight, "grad", torch.ones_like(model.a.weight)),
        lambda: model.to(torch.float64),
        lambda: setattr(model, "b", nn.Conv2d(8, 3, 1)),
        lambda: model.table(5),
        lambda: model.stem.weight.detach().add_(0),
    ]
    for change in changes:
        before = Snapshot(model)
        assert before.difference(Snapshot(model)) == []
        change()
        assert before.difference(Snapshot(model)) != []
