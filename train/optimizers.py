"""Optimisers and learning-rate schedules, by the names that a recipe uses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimtask.errors import InputError, nearest
from slimtask.train.recipe import TrainConfig
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW


def parameter_groups(
    modules: Iterable[nn.Module], weight_decay: float, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return named parameter groups: weight decay for matrices and filters, none for biases, norms and task weights.

    ``rates`` are factors on the learning rate by part, see ``by_rate``; InputError for a part that is not there.
    """
    every = [pair for module in modules for pair in module.named_parameters()]
    check_parts(rates or {}, [name for name, _ in every])
    named = [(name, p) for name, p in every if p.requires_grad]
    matrices, others = ([pair for pair in named if (pair[1].ndim > 1) is many] for many in (True, False))
    return [
        {**group, "weight_decay": decay}
        for some, decay in ((matrices, weight_decay), (others, 0.0))
        for group in by_rate(some, rates or {})
    ]


def by_rate(named: Iterable[tuple[str, nn.Parameter]], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return ``named`` parameters in groups that have one "factor" on the learning rate each.

    A key of ``rates`` is the name of a parameter or of a module that has it. The longest one that fits gives the
    factor, 1 if none does. The groups together keep the order of the parameters, so that an optimiser's state does not
    depend on the rates.

    >>> by_rate(nn.Linear(2, 1).named_parameters(), {"bias": 0.5})[1]["factor"]
    0.5
    """

    def factor(pair: tuple[str, nn.Parameter]) -> float:
        parts = [part for part in rates if _within(pair[0], part)]
        return rates[max(parts, key=len)] if parts else 1.0

    return [{"params": list(run), "factor": value} for value, run in itertools.groupby(named, factor)]


def check_parts(rates: Mapping[str, float], names: Iterable[str]) -> None:
    """Raise InputError if a part that ``rates`` names has none of the parameters ``names``."""
    names = list(names)
    for part in rates:
        if not any(_within(name, part) for name in names):
            parts = {".".join(name.split(".")[:length]) for name in names for length in range(1, name.count(".") + 2)}
            raise InputError(f"train.rates: the network has no part '{part}'{nearest(part, parts)}")


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def build_optimizer(modules: Iterable[nn.Module], config: TrainConfig) -> Optimizer:
    """Return the recipe's optimiser over all parameters of ``modules``.

    "adamw" decays apart from the gradient and spares biases and norms, "adam" is L2 in the gradient of everything (as
    the original codes train), "sgd" has momentum 0.9 and L2.
    """
    groups = parameter_groups(modules, config.weight_decay, config.rates)
    if config.optimizer == "adamw":
        return ProximalAdamW(groups, lr=config.lr, betas=config.betas)
    for group in groups:
        group["weight_decay"] = config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, foreach=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, foreach=True)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups, times the group's factor where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def restart(optimizer: Optimizer) -> None:
    """Make ``optimizer`` forget all past gradients, moments and step counts, as if it were built anew."""
    if isinstance(optimizer, ProximalAdamW):
        optimizer.restart()
    else:
        optimizer.state.clear()


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
        progress = min(1.0, (step - rising) / max(1, (schedule.horizon or config.steps) - rising))
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
