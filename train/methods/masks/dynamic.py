"""Masks that move while the network trains: RigL's drop and grow (ICML 2020), grown by the tasks (DiSparse, 3.4)."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimtask.compress.structures.masks import Masks
from slimtask.train.methods.base import Setup
from slimtask.train.methods.masks.choose import losses_by_task, total_loss
from slimtask.train.methods.masks.densities import layer_counts, random_masks
from slimtask.train.methods.masks.growth import drop_fraction, grown, keep_largest
from slimtask.train.methods.masks.training import MaskedTraining
from slimtask.train.saliency import Saliencies, gradient_scores

_STALE = "stale"


class DynamicMasks(MaskedTraining):
    """Trains under one mask that drops its weakest and grows by gradients every ``interval`` steps until ``end``.

    The layers' densities are fixed. Growth asks every task ("disparse") or the total loss ("rigl") and is held to what
    was dropped. A weight that grows starts at zero; one that is dropped and grows at once was never gone and keeps its
    value. ``faithful`` is the original: the first layer starts dense, all that the tasks ask for grows, with the value
    that it had when it was dropped; at ``end`` what overshot is dropped.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.end = math.ceil(self.config.end * self.recipe.train.steps)
        shapes = {name: weight.shape for name, weight in self.weights.items()}
        self.counts = layer_counts(shapes, 1 - self.config.sparsity, self.config.layers)
        self._made, self._moves = 0, 0
        self._stale: dict[str, Tensor] = {}

    @property
    def settled(self) -> bool:
        """Return whether the masks have ceased to move."""
        return self._made >= self.end

    def prepare(self) -> None:
        """Draw the first masks."""
        shapes = {name: weight.shape for name, weight in self.weights.items()}
        masks = random_masks(self.counts, shapes, self.recipe.train.seed)
        self.keep_ratio = 1 - self.config.sparsity
        if self.config.faithful:
            first = next(iter(masks))
            masks[first] = torch.ones_like(masks[first])
            self._stale = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.install(Masks(shared=masks))
        self._warn_of_empty_layers()

    def before(self, step: int, rate: float) -> Optimizer:
        """Move the masks if it is time, then prepare ``step``."""
        if 0 < step < self.end and step % self.config.interval == 0:
            self.move(step)
        return super().before(step, rate)

    def after(self, step: int) -> None:
        """Count the steps that are made; ``faithful`` masks drop what overshot when they come to rest."""
        self._made = step + 1
        if self.config.faithful and self._made == self.end:
            self._drop_surplus()

    @torch.no_grad()
    def move(self, step: int) -> None:
        """Drop and grow in every layer, by the gradients of the batch of ``step``."""
        share = drop_fraction(step, self.end, self.config.drop)
        gradients = self._gradients(step)
        masks = {}
        for name, weight in self.weights.items():
            old, count = ~self._gone[name], self.counts[name]
            left = keep_largest(weight, old, round(count * (1 - share)))
            asked = [own[name] for own in gradients.values() if name in own]
            new = left | grown(asked, left, count - int(left.sum()), held=not self.config.faithful)
            masks[name] = new
            if self.config.faithful:
                self._stale[name] = torch.where(old, weight, self._stale[name])
                weight.copy_(torch.where(new, self._stale[name], weight))
        self._moves += 1
        self.install(Masks(shared=masks))

    @torch.no_grad()
    def _drop_surplus(self) -> None:
        """Drop the weakest of every layer down to its density, and grow none (the original's last move)."""
        counts, gone = self.counts, self._gone
        self.install(Masks(shared={n: keep_largest(w, ~gone[n], counts[n]) for n, w in self.weights.items()}))

    def _gradients(self, step: int) -> Saliencies:
        """Return |dL/dw| of all weights, active or not, for the losses that have a say."""
        by_task = self.config.method == "disparse"
        losses = losses_by_task(self.tasks) if by_task else total_loss(self.tasks, self.weighting)
        parts = (self.batch(step, part) for part in range(self.recipe.train.accumulate))
        return gradient_scores(self._asked(), parts, losses, power=0, seed=self.recipe.train.seed + step)

    def _asked(self) -> nn.Module:
        """Return the network whose gradients decide: as it is, or ``faithful`` without masks on its stale weights."""
        if not self.config.faithful:
            return self.network
        whole = copy.deepcopy(self.network)
        parameters = dict(whole.named_parameters())
        for name, gone in self._gone.items():
            parameters[name].copy_(torch.where(gone, self._stale[name], parameters[name]))
        return whole

    def report(self) -> dict[str, float]:
        """Return the shares of masked weights, and how often the masks have moved."""
        return {**super().report(), "moves": self._moves}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the masks, where they stand, and the stale weights."""
        tensors, facts = super().state()
        stale = {f"{_STALE}/{name}": tensor for name, tensor in self._stale.items()}
        return tensors | stale, {**facts, "made": self._made, "moves": self._moves}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        self._made, self._moves = int(facts["made"]), int(facts["moves"])
        self._stale = {
            name: tensors[f"{_STALE}/{name}"].to(weight.device)
            for name, weight in self.weights.items()
            if f"{_STALE}/{name}" in tensors
        }
        super().load_state(tensors, facts)
