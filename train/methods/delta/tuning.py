"""Steps 2 and 3 of a sub-task: the support of its delta is fixed, its values and its head are trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.edits.deltas import DeltaPath, DeltaPaths, deltas_of
from slimtask.compress.rebuilding import rebuild
from slimtask.train import parallel
from slimtask.train.methods.base import Forward, Learned, Method, Setup
from slimtask.train.methods.delta.activations import Differences, PenalisedSites, linear_thresholds
from slimtask.train.methods.delta.config import ActivationsConfig, of_task
from slimtask.train.methods.delta.learning import stage_of
from slimtask.train.optimizers import parameter_groups


class SupportTuning(Method):
    """Step 2: trains the values that the delta has, and the head, on the task's loss alone."""

    def __init__(self, setup: Setup) -> None:
        self.config, self.stage = stage_of(setup)
        network: Any = rebuild(Checkpoint.load(self.stage.start))
        network.requires_grad_(False)
        network.trunk.deltas.requires_grad_(True)
        network.heads.requires_grad_(True)
        self.trunk = network.trunk
        super().__init__(dataclasses.replace(setup, model=network))

    def make_optimizer(self) -> Optimizer:
        """Return AdamW on values and head."""
        train = self.recipe.train
        groups = parameter_groups([self.network, self.weighting], train.weight_decay)
        return AdamW([group for group in groups if group["params"]], lr=train.lr, betas=train.betas, foreach=True)

    def finish(self, out: Path) -> Learned:
        """Return the network with the tuned delta."""
        delta = deltas_of(self.network)[self.stage.task]
        entries = sum(p.numel() for name, p in self.trunk.named_parameters() if not name.startswith("deltas."))
        density = sum(len(change.values) for change in delta.changes.values()) / entries
        edit = DeltaPaths(paths=(DeltaPath.of(delta),))
        facts: dict[str, Any] = {"density": density, "layers": delta.densities()}
        return Learned(model=self.network, edits=(json_safe(edit.model_dump(mode="json")),), facts={"delta": facts})


class ActivationTuning(SupportTuning):
    """Step 3: adds beta times what differs from the base task's activations, summed over elements, images, sites."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        assert self.config.activations is not None
        self.activations: ActivationsConfig = self.config.activations
        self.beta = of_task(self.activations.strength, self.stage.task) or 0.0
        if self.activations.threshold is not None:
            self._drop_below(linear_thresholds(self.trunk, self.activations.threshold))

    def loss(self, forward: Forward, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the task's loss plus the penalty, which is a sum over the global batch."""
        self.trunk.watch = penalised = PenalisedSites()
        try:
            total, losses = super().loss(forward, images, targets)
        finally:
            self.trunk.watch = None
        shares = parallel.processes() * self.recipe.train.accumulate  # over which the loop takes means
        return total + self.beta * shares * penalised.total(), losses

    def finish(self, out: Path) -> Learned:
        """Return the network that drops small differences, and how much of every layer stays different."""
        device = next(self.network.parameters()).device
        images = parallel.of_first(self.setup.batches()(0)[0].to(device))  # one set of thresholds for all processes
        if self.activations.keep is not None:
            self._drop_below(self._differences(images).thresholds(self.activations.keep))
        execution = self.trunk.executions[self.stage.task]
        shares = self._differences(images).shares(execution.thresholds)
        learned = super().finish(out)
        facts = {"delta": {**learned.facts["delta"], "changed": shares, "thresholds": execution.thresholds}}
        return dataclasses.replace(learned, facts=facts)

    def _drop_below(self, thresholds: dict[str, float]) -> None:
        old = self.trunk.executions[self.stage.task]
        self.trunk.executions[self.stage.task] = old.model_copy(update={"thresholds": thresholds})

    @torch.no_grad()
    def _differences(self, images: Tensor) -> Differences:
        """Return what differs at the linear layers of a pass as it is executed, on the first training images."""
        self.network.eval()
        self.trunk.watch = seen = Differences()
        try:
            self.network(images)
        finally:
            self.trunk.watch = None
        return seen
