"""What the optimiser knows of its sparsity groups from one step to the next, and where that lets Newton start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.train.sparsity.layout import UNGROUPED, GroupLayout
from slimtask.train.sparsity.mcp import relief

Limit = Callable[[Tensor], float]
# A group without a norm to start from (new, or zero so far) starts at a ridge this many times its metric, which means
# from ||x|| close to 0 and so, most often, from below the root.
COLD = 8.0
# The change of a norm from one step to the next is expected to repeat, up to this factor.
MAX_TREND = 2.0
_TENSORS = ("weights", "held", "norm", "trend", "metric")


@dataclass(kw_only=True, eq=False)
class GroupState:
    """The groups of one optimiser. A shared object, so that wrappers of the optimiser see every change.

    ``roles`` gives axis and group of every slice for each grouped parameter (the number of groups stands for "none").
    Per group: ``weights`` of the penalty, ``held`` at zero, ``norm`` after the last step (0 if zero), ``trend``, the
    factor by which it changed, ``metric``, a typical d (0 if unknown), ``critical`` strengths of the last step,
    ``relief``, what the penalty with ``gamma`` takes off the threshold of this step.
    """

    roles: dict[Tensor, tuple[int, Tensor]]
    weights: Tensor
    held: Tensor
    norm: Tensor
    trend: Tensor
    metric: Tensor
    relief: Tensor
    strength: float
    gamma: float = math.inf
    used_strength: float = 0.0
    limit: Limit | None = None
    critical: Tensor | None = None

    @classmethod
    def of(
        cls,
        layout: GroupLayout | None,
        named: Mapping[str, Tensor],
        weights: Tensor | None,
        strength: float,
        gamma: float = math.inf,
    ) -> GroupState:
        """Return the state before the first step; InputError if layout, parameters and weights do not fit."""
        count = 0 if layout is None else len(layout)
        if weights is None:
            weights = torch.zeros(0) if layout is None else layout.group_sizes.double().sqrt()
        if weights.shape != (count,) or not bool((weights >= 0).all() & weights.isfinite().all()):
            raise InputError(f"the weights of the groups must be {count} finite numbers of at least 0, one a group.")
        return cls(
            roles={} if layout is None else _roles(layout, named),
            weights=weights.double().clone(),
            held=torch.zeros(count, dtype=torch.bool),
            norm=torch.zeros(count, dtype=torch.float64),
            trend=torch.ones(count, dtype=torch.float64),
            metric=torch.zeros(count, dtype=torch.float64),
            relief=torch.zeros(count, dtype=torch.float64),
            strength=valid_strength(strength),
            gamma=gamma,
        )

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.weights)

    def to(self, device: torch.device) -> None:
        """Move all tensors to ``device``."""
        if self.weights.device != device:
            self.roles = {parameter: (axis, slices.to(device)) for parameter, (axis, slices) in self.roles.items()}
            for name in (*_TENSORS, "relief"):
                setattr(self, name, getattr(self, name).to(device))

    def forget(self) -> None:
        """Forget norms and metrics of past steps; Newton starts as in a first step."""
        self.norm, self.metric = torch.zeros_like(self.norm), torch.zeros_like(self.metric)
        self.trend = torch.ones_like(self.trend)

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of everything that a resumed run needs."""
        saved = {name: getattr(self, name).clone() for name in _TENSORS}
        saved["strength"] = torch.tensor([self.strength, self.used_strength], dtype=torch.float64)
        return saved if self.critical is None else {**saved, "critical": self.critical.clone()}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Restore what ``tensors`` returned."""
        missing = {*_TENSORS, "strength"} - saved.keys()
        if missing:
            raise InputError(f"the optimiser state lacks the group tensors {sorted(missing)}; start the run anew.")
        if saved["held"].shape != self.held.shape:
            raise InputError(
                f"the optimiser state has {len(saved['held'])} groups, the layout {len(self)}; "
                "resume with the layout that the state was saved with."
            )
        device = self.weights.device
        for name in _TENSORS:
            setattr(self, name, saved[name].to(device).clone())
        self.strength, self.used_strength = saved["strength"].tolist()
        self.critical = saved["critical"].to(device).clone() if "critical" in saved else None

    def units(self, param_groups: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return lr * weight [groups]; a group that spans several learning rates takes the largest."""
        grouped = [
            (float(settings["lr"]), parameter)
            for settings in param_groups
            for parameter in settings["params"]
            if parameter in self.roles
        ]
        rates = {rate for rate, _ in grouped}
        if len(rates) <= 1:
            return self.weights * max(rates, default=0.0)
        largest = extended(torch.zeros_like(self.weights))
        for rate, parameter in grouped:
            slices = self.roles[parameter][1]
            largest[slices] = largest[slices].clamp(min=rate)
        return self.weights * largest[:-1]

    def relieve(self, norm: Tensor, units: Tensor) -> None:
        """Take note of the norms [groups] before the step, of which the slope of MCP depends."""
        self.relief = relief(norm, self.weights, units, self.gamma)

    def thresholds(self, units: Tensor, strength: float) -> Tensor:
        """Return lr times the slope of the penalty [groups]."""
        return (units * strength - self.relief).clamp(min=0)

    def critical_of(self, norm_dp: Tensor, units: Tensor) -> Tensor:
        """Return the least strength [groups] that zeroes each group, from ||d p||; infinite where none may."""
        return torch.where((units > 0) & ~self.held, (norm_dp + self.relief) / units, torch.inf)

    def first_ridge(self, units: Tensor) -> Tensor:
        """Return the ridge [groups] to evaluate at before a strength is known: as in the last step, trend followed."""
        threshold = self.thresholds(units, self.used_strength or self.strength)
        warm = (self.norm > 0) & (threshold > 0)
        ridge = torch.where(warm, threshold / (self.norm * self.trend), COLD * self.metric)
        return torch.where(units > 0, ridge, 0.0)

    def remember(self, norm: Tensor, metric: Tensor) -> None:
        """Store ``norm`` and ``metric`` [groups] of this step; a metric that is not a positive number is no news."""
        known = (norm > 0) & (self.norm > 0)
        self.trend = torch.where(known, (norm / self.norm).clamp(1 / MAX_TREND, MAX_TREND), 1.0)
        self.norm = norm
        self.metric = torch.where((metric > 0) & metric.isfinite(), metric, self.metric)


def extended(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return per-group ``values`` with a 0 appended, the entry of slices in no group, as ``dtype``."""
    return torch.cat([values, values.new_zeros(1)]).to(dtype or values.dtype)


def valid_strength(value: float) -> float:
    """Return ``value`` as a float; InputError unless it is finite and at least 0."""
    value = float(value)
    if not 0 <= value < float("inf"):
        raise InputError(f"the strength of the penalty is {value}; it must be a finite number of at least 0.")
    return value


def _roles(layout: GroupLayout, named: Mapping[str, Tensor]) -> dict[Tensor, tuple[int, Tensor]]:
    roles = {}
    for member in layout.members:
        parameter = named.get(member.parameter)
        if parameter is None:
            raise InputError(
                f"the layout names parameter '{member.parameter}', which the optimiser was not given; "
                "pass (name, parameter) pairs with the layout's names."
            )
        if parameter.shape[member.axis : member.axis + 1] != member.groups.shape:
            raise InputError(
                f"parameter '{member.parameter}' has shape {tuple(parameter.shape)}, but its member in the layout "
                f"has {len(member.groups)} slices on axis {member.axis}; build the layout from this model."
            )
        groups = member.groups.cpu()
        roles[parameter] = member.axis, torch.where(groups == UNGROUPED, len(layout), groups)
    return roles
