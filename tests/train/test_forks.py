"""A fork fits a run of the same network, task weights and kind of optimiser; anything else is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.errors import InputError
from slimtask.train.forks import check_fork_fits, refuse_fork
from slimtask.train.optimizers import build_optimizer, flat_state
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.weighting import weighting_of


def network(inputs: int = 3, **tasks: int) -> nn.Module:
    heads = nn.ModuleDict({name: nn.Linear(4, channels) for name, channels in (tasks or {"depth": 1}).items()})
    return nn.ModuleDict({"trunk": nn.Linear(inputs, 4), "heads": heads})


def recipe(optimizer: str) -> Recipe:
    return parse_recipe({"data": {"name": "scenes"}, "train": {"optimizer": optimizer}})


def sections(model: nn.Module, weighting: nn.Module, optimizer: str) -> dict[str, Any]:
    made = build_optimizer([model], recipe(optimizer).train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    return {"model": model.state_dict(), "weighting": weighting.state_dict(), "optimizer": flat_state([made])}


FIXED, LEARNED = weighting_of("fixed", ()), nn.ParameterDict({"depth": nn.Parameter(torch.zeros(()))})


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_fork_of_the_same_run_fits(kind: str) -> None:
    check_fork_fits(Path("fork"), sections(network(), LEARNED, kind), network(), LEARNED, recipe(kind))
    bare = {"model": network().state_dict()}  # of step 0: no moments yet
    check_fork_fits(Path("fork"), bare, network(), FIXED, recipe(kind))


def test_another_network_is_named_by_its_first_difference() -> None:
    for model, name in (
        (network(5), "trunk.weight"),
        (network(depth=2), "heads.depth.weight"),
        (network(depth=1, normals=3), "heads.normals.weight"),
    ):
        for one, other in ((model, network()), (network(), model)):
            with pytest.raises(InputError, match=rf"'fork' holds another network .* \({name} is not the same\)"):
                check_fork_fits(Path("fork"), {"model": one.state_dict()}, other, FIXED, recipe("adamw"))


def test_other_task_weights_and_optimisers_are_refused() -> None:
    for mine, theirs in ((FIXED, LEARNED), (LEARNED, FIXED)):
        with pytest.raises(InputError, match=r"task weights of another train\.weighting than 'fixed'"):
            check_fork_fits(Path("fork"), sections(network(), theirs, "adamw"), network(), mine, recipe("adamw"))
    for mine, theirs in (("adamw", "sgd"), ("sgd", "adam")):
        with pytest.raises(InputError, match=rf"trained with another train\.optimizer than '{mine}'"):
            check_fork_fits(Path("fork"), sections(network(), FIXED, theirs), network(), FIXED, recipe(mine))


def test_a_run_of_several_stages_takes_no_fork() -> None:
    refuse_fork("it has stages", None, None)
    for fork, at in (("fork", None), (None, 3)):
        with pytest.raises(InputError, match="it has stages, so there is no one dense warm-up to share"):
            refuse_fork("it has stages", fork, at)
