"""Lambda in a closed loop: the sparsity follows a rising curve to its target, from below, and never jumps past it.

Nobody can tune lambda by hand: a factor of two separates "half of the channels at no loss" from collapse. Here lambda
is steered in every step by two facts the optimiser knows exactly: the sparsity now, and for each group the *critical*
lambda that would zero it in this step. The first makes lambda grow or shrink; the second caps it, so that the step
zeroes no more groups than the curve allows, up to one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimtask.train.sparsity.structure import SparseStructure

_GROWTH = 8.0  # lambda may grow by a factor e^8 over the ramp
_LAG_FOR_FULL_GROWTH = 0.1  # of the target
_ROUNDING = 1e-9


class TargetController:
    """Steers lambda for one run; ``limit`` is the optimiser's callback during the ramp.

    ``target`` is a sparsity in (0, 1) as the structure measures it; ``ramp_steps`` is the length of the curve.
    """

    def __init__(self, structure: SparseStructure, *, target: float, ramp_steps: int) -> None:
        self.structure = structure
        self.target = target
        self.ramp_steps = max(1, ramp_steps)
        self.step = 0
        self.strength = 0.0

    def limit(self, critical: Float[Tensor, " groups"]) -> float:
        """Return lambda for this step, given the smallest lambda that would zero each group now."""
        critical = critical.detach().double().cpu()
        if self.step == 0:
            self.strength = float(critical[critical.isfinite()].median()) / self.ramp_steps
        self.step += 1
        allowed = self.target * min(1.0, self.step / self.ramp_steps)
        strength = min(self.strength, self._cap(critical, allowed))
        now = float(self.structure.sparsity(self.structure.alive_counts(critical > strength)))
        lag = max(-1.0, min(1.0, (allowed - now) / (self.target * _LAG_FOR_FULL_GROWTH)))
        if strength == self.strength or lag < 0:  # no growth while the cap holds: it would only wind up
            self.strength *= math.exp(_GROWTH / self.ramp_steps * lag)
        return strength

    def reached(self, zero: Bool[Tensor, " groups"]) -> bool:
        """Return whether the groups that are zero now make up the target."""
        return float(self.structure.sparsity(self.structure.alive_counts(~zero.cpu()))) >= self.target - _ROUNDING

    def state(self) -> dict[str, float | int]:
        """Return what resuming needs."""
        return {"step": self.step, "strength": self.strength}

    def load_state(self, state: dict[str, float | int]) -> None:
        """Continue from what ``state`` returned."""
        self.step, self.strength = int(state["step"]), float(state["strength"])

    def _cap(self, critical: Tensor, allowed: float) -> float:
        """Return the largest lambda that zeroes ``allowed`` plus at most one group; infinity if none does."""
        order = critical.argsort()
        layers = torch.nn.functional.one_hot(self.structure.layer_of[order], len(self.structure.layer_names))
        left = self.structure.layer_sizes - layers.cumsum(dim=0)
        enough = (self.structure.sparsity(left) >= allowed - _ROUNDING).nonzero()
        return float(critical[order[int(enough[0])]]) if len(enough) else math.inf


def strongest(critical: Tensor, structure: SparseStructure, fraction: float) -> Bool[Tensor, " groups"]:
    """Return the mask of each layer's strongest groups, ``fraction`` of them, at least one.

    They are exempt from the penalty for the whole run, so that no layer can collapse.
    """
    mask = torch.zeros(len(critical), dtype=torch.bool)
    for layer, size in enumerate(structure.layer_sizes.tolist()):
        members = (structure.layer_of == layer).nonzero().flatten()
        keep = min(size, max(1, math.ceil(fraction * size)))
        mask[members[critical[members].topk(keep).indices]] = True
    return mask
