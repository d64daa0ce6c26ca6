"""What differs between a sub-task's activations and the base task's: the penalty on it, thresholds, statistics."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

PENALISED = ("norm1", "qkv", "proj", "fc1", "act", "fc2")
LINEAR = ("qkv", "proj", "fc1", "fc2")


class PenalisedSites:
    """Sums |A_base - A_task| over all elements of the penalised sites that it is called with (EfficientMTL)."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def __call__(self, site: str, base: Tensor, own: Tensor) -> None:
        """Take note of a site."""
        if site.rpartition(".")[2] in PENALISED:
            self._sums.append((base - own).abs().float().sum())

    def total(self) -> Float[Tensor, ""]:
        """Return the sum over the sites."""
        return torch.stack(self._sums).sum()


class Differences:
    """Keeps |A_base - A_task| of the outputs of linear layers, [batch, tokens, channels] by site."""

    def __init__(self) -> None:
        self.sites: dict[str, Float[Tensor, "batch tokens channels"]] = {}

    def __call__(self, site: str, base: Tensor, own: Tensor) -> None:
        """Take note of a site."""
        if site.rpartition(".")[2] in LINEAR:
            self.sites[site] = (base - own).abs().float()

    def thresholds(self, keep: float) -> dict[str, float]:
        """Return for every site the threshold that leaves the share ``keep`` of its elements different."""
        made = {}
        for site, difference in self.sites.items():
            stays = max(1, round(keep * difference.numel()))
            made[site] = float(difference.flatten().kthvalue(difference.numel() - stays + 1).values)
        return made

    def shares(self, thresholds: dict[str, float]) -> dict[str, dict[str, float]]:
        """Return for every site which share of its ``elements``, and of its ``rows`` (tokens), stays different."""
        made = {}
        for site, difference in self.sites.items():
            stays = (difference >= thresholds.get(site, 0.0)) & (difference > 0)
            rows = stays.any(dim=-1)
            made[site] = {"elements": float(stays.float().mean()), "rows": float(rows.float().mean())}
        return made


def linear_thresholds(trunk: nn.Module, threshold: float) -> dict[str, float]:
    """Return one threshold for the outputs of all linear layers of a transformer trunk, by site."""
    blocks = [name.rpartition(".")[2] for name in trunk.blocks]  # type: ignore[union-attr]
    return {f"{block}.{layer}": threshold for block in blocks for layer in LINEAR}
