"""Step 1 of a sub-task: deltas on a frozen base, behind gates that a penalty closes until few entries change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.edits.branches import mix_in_
from slimtask.compress.edits.deltas import DeltaPath, DeltaPaths, install_deltas_
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.delta import Delta, Execution, digest
from slimtask.errors import InputError
from slimtask.train.methods.base import Forward, Learned, Method, Setup
from slimtask.train.methods.delta.config import DeltaConfig, StageConfig, of_task
from slimtask.train.methods.delta.gates import GatedDelta
from slimtask.train.methods.delta.layout import gated_parameters
from slimtask.train.optimizers import parameter_groups
from slimtask.train.prepare import initial_model

_TRUNK = "trunk."
_GATES = ("trunk.gated.alphas.", "trunk.gated.tensor_alphas")
_FIRST_STRENGTH = 0.1  # lambda of the closed loop at the start, in units of the loss for all of the trunk
_GROWTH = 8.0  # it may grow by a factor e^8 over the ramp


class GatedTrunk(nn.Module):
    """Mixed into the class of a trunk with deltas: the one task's weights come from its gates."""

    gated: GatedDelta

    def weights_of(self, task: str) -> dict[str, Tensor]:
        """Return the weights in which the task differs from the base, by name in the trunk."""
        return self.gated.weights(dict(self.named_parameters()))


class GateLearning(Method):
    """Learns which entries of the base's trunk the sub-task changes, and its head, which is dense.

    With ``gates.density`` the gates are fixed at the end of the ramp, so that selection compares networks of one
    structure; with ``gates.strength`` when the run ends.
    """

    def __init__(self, setup: Setup) -> None:
        self.config, self.stage = stage_of(setup)
        base = Checkpoint.load(self.stage.start)
        load_trunk_(setup.model, base)
        model: Any = setup.model
        model.trunk.requires_grad_(False)
        self.execution = Execution(feed=self.config.feed, rows=self.config.rows)
        DeltaPaths(paths=(DeltaPath(task=self.stage.task, execution=self.execution, changes=()),)).apply_(model)
        parameters = dict(model.trunk.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        head_width = next(iter(model.trunk.blocks.values())).self_attention.head_dim
        layout = gated_parameters(shapes, self.config, head_width=head_width)
        mix_in_(model.trunk, GatedTrunk)
        self.gated = model.trunk.gated = GatedDelta(layout, parameters, self.config.gates)
        self.entries = sum(math.prod(shape) for shape in shapes.values())
        self.ramp = min(setup.recipe.train.steps - 1, round(self.config.gates.ramp * setup.recipe.train.steps))
        given = of_task(self.config.gates.strength, self.stage.task)
        self.strength = _FIRST_STRENGTH / self.entries if given is None else given
        super().__init__(setup)

    def make_optimizer(self) -> Optimizer:
        """Return AdamW, with a learning rate and a weight decay of their own for the gates."""
        train, gates = self.recipe.train, self.config.gates
        groups = parameter_groups([self.network, self.weighting], train.weight_decay)
        closing = [(name, p) for group in groups for name, p in group["params"] if name.startswith(_GATES)]
        for group in groups:
            group["params"] = [(name, p) for name, p in group["params"] if not name.startswith(_GATES)]
        groups.append({"params": closing, "weight_decay": gates.weight_decay, "lr": gates.lr})
        return AdamW([group for group in groups if group["params"]], lr=train.lr, betas=train.betas, foreach=True)

    @property
    def settled(self) -> bool:
        """Return whether the gates are fixed."""
        return bool(self.gated.fixed)

    @property
    def density(self) -> float:
        """Return the expected share of the trunk's entries that change."""
        return float(self.gated.expected_entries() / self.entries)

    def before(self, step: int, rate: float) -> Optimizer:
        """Set learning rates, gates and penalty of ``step``."""
        gates = self.config.gates
        if gates.density is not None and step >= self.ramp and not self.settled:
            self.gated.fix_(gates.density * self.entries)
        self.gated.seed(self.recipe.train.seed * 1_000_003 + step)
        optimizer = super().before(step, rate)
        optimizer.param_groups[-1]["lr"] = gates.lr * rate / self.recipe.train.lr
        self._penalised = not self.settled
        if gates.density is not None and not self.settled:
            self._penalised = self._steer(step, gates.density)
        return optimizer

    def _steer(self, step: int, target: float) -> bool:
        """Change lambda by how far the density is from its curve, and return whether it is above."""
        lag = math.log(max(self.density, 1e-12)) - math.log(target) * min(1.0, (step + 1) / max(1, self.ramp))
        self.strength *= math.exp(_GROWTH / max(1, self.ramp) * max(-1.0, min(1.0, 10 * lag)))
        return lag > 0

    def loss(self, forward: Forward, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the task's loss plus lambda times the expected number of entries that change."""
        total, losses = super().loss(forward, images, targets)
        return (total + self.strength * self.gated.penalty() if self._penalised else total), losses

    def report(self) -> dict[str, float]:
        """Return the expected density and lambda."""
        return {"density": self.density, "strength": self.strength}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return lambda."""
        return {}, {"strength": self.strength}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        self.strength = float(facts["strength"])

    def finish(self, out: Path) -> Learned:
        """Return the base with the head and the delta, executed as it will be."""
        if not self.settled:
            self.gated.fix_(None)
        learned = initial_model(self.recipe, self.setup.tasks)
        device = next(self.network.parameters()).device
        own = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        learned.load_state_dict({name: own[name] for name in learned.state_dict()})
        changes = {f"{_TRUNK}{name}": change for name, change in self.gated.changes().items()}
        delta = Delta(task=self.stage.task, base=digest(learned, changes), changes=changes, execution=self.execution)
        edit = install_deltas_(learned, [delta])
        facts = {"density": self.density, "layers": delta.densities()}
        return Learned(
            model=learned.to(device), edits=(json_safe(edit.model_dump(mode="json")),), facts={"delta": facts}
        )


def stage_of(setup: Setup) -> tuple[DeltaConfig, StageConfig]:
    """Return the recipe's delta section and the step of it that this run is."""
    config = setup.recipe.delta
    assert config is not None
    assert config.stage is not None
    return config, config.stage


@torch.no_grad()
def load_trunk_(model: nn.Module, base: Checkpoint) -> None:
    """Copy the trunk of a base checkpoint into ``model``; InputError if it is not of the same kind."""
    if base.edits:
        raise InputError("the base checkpoint of deltas must hold a dense network, as plain training makes it.")
    theirs: Any = rebuild(base)
    own = dict(model.named_parameters())
    source = {name: p for name, p in theirs.named_parameters() if name.startswith(_TRUNK)}
    wanted = [name for name in own if name.startswith(_TRUNK)]
    if list(source) != wanted or any(source[name].shape != own[name].shape for name in wanted):
        raise InputError("the base checkpoint of deltas holds another trunk than the recipe's model section.")
    for name in wanted:
        own[name].copy_(source[name])
