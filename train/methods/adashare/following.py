"""Training the network of one policy, given or random: the retraining of AdaShare, and its baseline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimtask.architectures import build
from slimtask.checkpoint import json_safe
from slimtask.compress.edits.branches import BatchNormKind, BranchPaths
from slimtask.compress.edits.skip import SkipBlocks
from slimtask.compress.edits.trunk_costs import TrunkCosts
from slimtask.compress.structures.policy import Policy
from slimtask.compress.tuning import recalibrate_batchnorm
from slimtask.errors import InputError
from slimtask.train import parallel
from slimtask.train.methods.adashare.config import PolicyConfig
from slimtask.train.methods.adashare.heatmap import save_heatmap
from slimtask.train.methods.adashare.losses import random_policy
from slimtask.train.methods.adashare.network import block_names
from slimtask.train.methods.base import Learned, Method, Setup


class PolicyFollowing(Method):
    """Plain training of the network in which every task follows its path; skipped blocks are not computed."""

    def __init__(self, setup: Setup) -> None:
        assert setup.recipe.policy is not None
        config, tasks = setup.recipe.policy, tuple(task.name for task in setup.tasks)
        blocks, self.costs = block_names(setup.model), TrunkCosts.of(setup.model, setup.example())
        self.policy = given_policy(config, tasks, blocks, self.costs)
        self.edits = edits_of(self.policy, config.batchnorm)
        _apply_(setup.model, self.edits)
        super().__init__(setup)

    def finish(self, out: Path) -> Learned:
        """Return the network with its edit; ``out`` gets policy.json and the policy as a picture."""
        if parallel.rank() == 0:
            self.policy.save(out / "policy.json")
            save_heatmap(out / "policy.svg", self.policy)
        found = {"policy": facts(self.policy, self.costs)}
        return Learned(model=self.network, edits=_json(self.edits), facts=found, notes=notes_on(self.policy))


def given_policy(config: PolicyConfig, tasks: tuple[str, ...], blocks: tuple[str, ...], costs: TrunkCosts) -> Policy:
    """Return the policy that ``select`` or ``random`` describes. Raises InputError if it does not fit the network."""
    if config.random is not None:
        return random_policy(tasks, blocks, costs, config.random.trunks, config.random.seed)
    select = config.select or {}
    if set(select) != set(tasks):
        raise InputError(
            f"policy.select decides for {', '.join(select) or 'no task'}, the recipe learns {', '.join(tasks)}; give "
            "one list for each of them."
        )
    for task in tasks:
        if len(select[task]) != len(blocks):
            raise InputError(
                f"policy.select decides on {len(select[task])} blocks for '{task}', the trunk has {len(blocks)}: "
                f"{', '.join(blocks)}."
            )
    return Policy(blocks=blocks, selects={task: select[task] for task in tasks})


def edits_of(policy: Policy, batchnorm: BatchNormKind = "per-path") -> tuple[BranchPaths | SkipBlocks, ...]:
    """Return what makes a dense network follow the policy: nothing, skipped blocks, or a trunk that branches."""
    if batchnorm == "per-task" or policy.merge_points():
        return (BranchPaths(policy=policy, batchnorm=batchnorm),)
    return (SkipBlocks(blocks=policy.skipped()),) if policy.skipped() else ()


def followed(
    setup: Setup, policy: Policy, weights: dict[str, Tensor], batchnorm: BatchNormKind, batches: Iterable[Tensor] = ()
) -> Learned:
    """Return the network of ``policy`` with those of the ``weights`` that it has.

    These are of the network that executes everything, with the BatchNorms of a policy ("per-task") or one for all. The
    statistics of each path are then estimated anew from the images of ``batches``, as the average over them, if given.
    """
    edits = edits_of(policy, batchnorm)
    model: nn.Module = build("multitask-net", setup.recipe.model.model_dump(), setup.tasks)
    if batchnorm == "per-task":
        _apply_(model, edits)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    else:
        model.load_state_dict(weights)
        _apply_(model, edits)
    model = model.to(next(iter(weights.values())).device)
    images = list(batches)
    if images:
        if parallel.processes() > 1:
            parallel.share_batchnorm_(model)
        recalibrate_batchnorm(model, images)
    return Learned(model=model, edits=_json(edits))


def _apply_(model: nn.Module, edits: Iterable[BranchPaths | SkipBlocks]) -> None:
    for edit in edits:
        edit.apply_(model)


def facts(policy: Policy, costs: TrunkCosts) -> dict[str, Any]:
    """Return the policy as JSON, the share of (task, block) pairs that it executes, and its cost in dense trunks."""
    executes = [used for row in policy.selects.values() for used in row]
    return {
        **policy.model_dump(mode="json"),
        "executed": sum(executes) / len(executes),
        "trunks": costs.trunks(policy),
    }


def notes_on(policy: Policy) -> tuple[str, ...]:
    """Return a sentence about a policy that is none, because it skips nothing or everything."""
    executes = {used for row in policy.selects.values() for used in row}
    if executes == {True}:
        return ("the policy skips nothing: every task executes every block, as in the dense network.",)
    if executes == {False}:
        return ("the policy skips everything: of the trunk only stem and projections are left.",)
    return ()


def _json(edits: tuple[BranchPaths | SkipBlocks, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(json_safe(edit.model_dump()) for edit in edits)
