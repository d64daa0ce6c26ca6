"""Optimisers and learning-rate schedules, by the names that a recipe uses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimtask.train.recipe import TrainConfig
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Return named parameter groups: weight decay for matrices and filters, none for biases, norms and task weights."""
    named = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    return [
        {"params": [(name, p) for name, p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [(name, p) for name, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(modules: Iterable[nn.Module], config: TrainConfig) -> Optimizer:
    """Return the recipe's optimiser over all parameters of ``modules``.

    "adamw" decays apart from the gradient and spares biases and norms, "adam" is L2 in the gradient of everything (as
    the original codes train), "sgd" has momentum 0.9 and L2.
    """
    groups = parameter_groups(modules, config.weight_decay)
    if config.optimizer == "adamw":
        return ProximalAdamW(groups, lr=config.lr, betas=config.betas)
    for group in groups:
        group["weight_decay"] = config.weight_decay
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, foreach=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, foreach=True)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class LearningRate:
    """The learning rate of every step: a linear warm-up, then what ``train.schedule`` says."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._factor, self._best, self._stale = 1.0, math.inf, 0

    def __call__(self, step: int) -> float:
        """Return the learning rate of ``step``."""
        config, schedule = self.config, self.config.schedule
        rising = config.lr_warmup * config.steps
        if step < rising:
            return config.lr * (step + 1) / (rising + 1)
        progress = (step - rising) / max(1, config.steps - rising)
        if schedule.kind == "cosine":
            return config.lr * (schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * progress)) / 2)
        if schedule.kind == "poly":
            return float(config.lr * (1 - progress) ** schedule.power)
        if schedule.kind == "step":
            return config.lr * schedule.factor ** (step // schedule.every)
        return max(config.lr * self._factor, config.lr * schedule.floor if schedule.kind == "plateau" else 0.0)

    def observe(self, loss: float) -> None:
        """Take note of a validation loss: "plateau" multiplies the rate by its factor after ``patience`` worse ones."""
        if self.config.schedule.kind != "plateau":
            return
        if loss < self._best:
            self._best, self._stale = loss, 0
            return
        self._stale += 1
        if self._stale > self.config.schedule.patience:
            self._factor, self._stale = self._factor * self.config.schedule.factor, 0

    def state(self) -> dict[str, float | int | None]:
        """Return what resuming needs, as JSON."""
        best = self._best if math.isfinite(self._best) else None
        return {"factor": self._factor, "best": best, "stale": self._stale}

    def load_state(self, facts: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        self._factor, self._stale = float(facts["factor"]), int(facts["stale"])
        self._best = math.inf if facts["best"] is None else float(facts["best"])


def flat_state(optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """Return the tensors of the optimisers' states under flat names."""
    from slimtask.train.state import flatten_optimizer

    return {
        f"{number}/{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for name, tensor in flatten_optimizer(optimizer.state_dict()).items()
    }


def load_flat_state(optimizers: Iterable[Optimizer], flat: dict[str, Tensor], only: str = "") -> None:
    """Load what ``flat_state`` returned into the same optimisers; ``only`` takes names that start so."""
    from slimtask.train.state import unflatten_optimizer

    for number, optimizer in enumerate(optimizers):
        prefix = f"{number}/"
        mine = {name.removeprefix(prefix): tensor for name, tensor in flat.items() if name.startswith(prefix + only)}
        optimizer.load_state_dict(unflatten_optimizer(mine, optimizer.state_dict()["param_groups"]))
