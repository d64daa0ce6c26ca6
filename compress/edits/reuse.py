"""How a sub-task's pass reuses the base task's activations (EfficientMTL, Shoouri et al., ICCV 2023; base feeding).

A trunk calls ``at(site, value)`` at every site. The names of sites end in "attention", "mlp" (what a residual branch
reads), "qkv", "proj", "fc1", "fc2" (outputs of linear layers), "norm1", "norm2" or "act".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slimtask.compress.structures.delta import Execution
from slimtask.compress.structures.patterns import Rows

BRANCHES = ("attention", "mlp")

Watch = Callable[[str, Tensor, Tensor], None]
"""Called with a site, the base task's value there and the sub-task's, before anything is dropped."""


class Record:
    """Remembers what passes the sites, if ``on``; returns everything as it is."""

    def __init__(self, on: bool = False) -> None:
        self.on = on
        self.sites: dict[str, Tensor] = {}

    def __call__(self, site: str, value: Tensor) -> Tensor:
        """Return ``value``."""
        if self.on:
            self.sites[site] = value
        return value


class Reuse:
    """Replaces what a sub-task takes from the base task's pass ``base`` by it."""

    def __init__(
        self, base: Record, execution: Execution, *, watch: Watch | None = None, thresholds: bool = True
    ) -> None:
        self.base, self.execution, self.watch = base.sites, execution, watch
        self.thresholds = execution.thresholds if thresholds else {}

    def __call__(self, site: str, value: Tensor) -> Tensor:
        """Return what goes on at ``site``: the own value, the base's, or a mixture of both."""
        if site.rpartition(".")[2] in BRANCHES:
            return self._fed(site, value)
        if self.watch is not None:
            self.watch(site, self.base[site], value)
        if site in self.thresholds:
            value = above_threshold(value, self.base[site], self.thresholds[site])
        return value

    def _fed(self, site: str, own: Tensor) -> Tensor:
        if self.execution.feed == "base":
            return self.base[site]
        if self.execution.rows is None:
            return own
        fresh = Rows.project((own - self.base[site]).detach(), self.execution.rows)
        return torch.where(fresh, own, self.base[site])


def above_threshold(value: Tensor, base: Tensor, threshold: float) -> Tensor:
    """Return ``value`` where it differs from ``base`` by at least ``threshold``, ``base`` elsewhere.

    Threshold 0 gives ``value``, infinity ``base``, both exactly.
    """
    return torch.where((value - base).abs() >= threshold, value, base)
