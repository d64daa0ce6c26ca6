"""Group sparsity (Upadhyay et al., CPAL 2024): a proximal optimiser zeroes whole channel groups while it trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from slimtask.errors import InputError
from slimtask.train import parallel
from slimtask.train.methods.base import Forward, Learned, Method, Setup
from slimtask.train.optimizers import parameter_groups
from slimtask.train.sparsity.layers import layer_zeros, total_zeros, write_layers
from slimtask.train.sparsity.penalty import LossPenalty
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW
from slimtask.train.sparsity.schedule import SparsitySchedule


class GroupSparsity(Method):
    """Trains under the recipe's ``sparsity`` section: a target reached in a closed loop, or a fixed lambda."""

    optimizer: ProximalAdamW

    def __init__(self, setup: Setup) -> None:
        assert setup.recipe.sparsity is not None
        if setup.recipe.train.optimizer != "adamw":
            raise InputError("group sparsity comes with its own AdamW; leave train.optimizer out, or set it to adamw.")
        self.schedule = SparsitySchedule.of(
            setup.model, setup.example(), setup.recipe.sparsity, setup.recipe.train.steps
        )
        super().__init__(setup)
        self._penalty = LossPenalty(dict(self.network.named_parameters()), self.schedule.structure)

    def make_optimizer(self) -> Optimizer:
        """Return the proximal AdamW over the groups of the schedule's structure."""
        config = self.recipe.train
        groups = parameter_groups([self.network, self.weighting], config.weight_decay, config.rates)
        sparsity = self.schedule.config
        gamma = sparsity.gamma if sparsity.penalty == "mcp" else math.inf
        layout = self.schedule.structure.layout
        return ProximalAdamW(groups, layout, lr=config.lr, betas=config.betas, gamma=gamma)

    @property
    def settled(self) -> bool:
        """Return whether the target is held, or a fixed strength is at work."""
        return self.schedule.settled

    @property
    def reached(self) -> bool:
        """Return whether the target is reached; a fixed strength has none."""
        return self.schedule.reached

    def before(self, step: int, rate: float) -> Optimizer:
        """Set learning rate and penalty of ``step``."""
        optimizer = super().before(step, rate)
        self.schedule.before(step, self.optimizer)
        return optimizer

    def loss(self, forward: Forward, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss, with the penalty where the recipe wants it there too, and the tasks' losses."""
        total, losses = super().loss(forward, images, targets)
        strength = self.schedule.loss_strength(self.optimizer)
        if strength > 0:
            total = total + strength * self._penalty(self.schedule.exempt)
        return total, losses

    def after(self, step: int) -> None:
        """Hold the zeros once they suffice."""
        self.schedule.after(step, self.optimizer)

    def report(self) -> dict[str, float]:
        """Return lambda, the sparsity of the groups, and the zeros of the scope counted along either axis."""
        zeros = total_zeros(layer_zeros(self.setup.model, self.schedule.config.scope))
        return {**self.schedule.report(self.optimizer), **zeros.fractions()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the schedule's state."""
        return self.schedule.state()

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        self.schedule.load_state(tensors, facts, self.optimizer)

    def check_fork(self, path: Path, step: int) -> None:
        """Raise InputError if the fork lies behind the dense warm-up."""
        if step > self.schedule.warm_up:
            raise InputError(f"the fork '{path}' is past the dense warm-up of this recipe; fork earlier.")

    def finish(self, out: Path) -> Learned:
        """Return the network; layers.json and layers.svg say where its zeros are."""
        if parallel.rank() == 0:
            write_layers(layer_zeros(self.setup.model, self.schedule.config.scope), out)
        return super().finish(out)
