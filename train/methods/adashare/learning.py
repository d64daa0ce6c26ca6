"""Learning a policy: warm-up, then weights and policy in turn, each on its own part of the training data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.edits.trunk_costs import TrunkCosts
from slimtask.files import write_json
from slimtask.train import parallel
from slimtask.train.batches import Batch
from slimtask.train.data.dataset import TransformedDataset
from slimtask.train.data.partition import partition
from slimtask.train.methods.adashare.following import facts, followed, notes_on
from slimtask.train.methods.adashare.losses import (
    entropy_bits,
    execute_probabilities,
    gumbel,
    initial_logits,
    sharing_loss,
    soft_sample,
    sparsity_loss,
)
from slimtask.train.methods.adashare.network import PolicyNet, block_names
from slimtask.train.methods.adashare.schedule import PolicySchedule
from slimtask.train.methods.base import Forward, Learned, Method, Setup
from slimtask.train.optimizers import by_rate, set_rate

ESTIMATED = 16
PROBABILITIES = "probabilities.json"
DENSE = "network.safetensors"


class PolicyLearning(Method):
    """Learns weights and logits under the recipe's ``policy`` section (AdaShare, section 3; the code's schedule).

    Warm-up: the recipe's optimiser on the whole train split, all blocks executed. Then rounds: SGD on the weights with
    soft policies, and Adam on the logits, of the last blocks only. Validation takes the most likely policy; its loss
    chooses weights and logits once all blocks may be skipped. The mixtures that are trained say nothing of the
    statistics on that policy's paths, so they are estimated from ``ESTIMATED`` training batches whenever it is
    validated; with ``batchnorm: shared`` they are the one set that training left, as in the code.
    """

    network: PolicyNet

    def __init__(self, setup: Setup) -> None:
        assert setup.recipe.policy is not None
        assert isinstance(setup.train_set, TransformedDataset)
        self.config = setup.recipe.policy
        blocks, self.costs = block_names(setup.model), TrunkCosts.of(setup.model, setup.example())
        self.schedule = PolicySchedule.of(self.config, setup.recipe.train.steps, len(blocks))
        logits = initial_logits(self.config, len(setup.tasks), len(blocks))
        names = tuple(task.name for task in setup.tasks)
        net = PolicyNet(setup.model, names, logits, self.config.batchnorm)
        super().__init__(setup)
        self.network = net
        self._step = 0
        parts = partition(setup.train_set, self.config.share, setup.recipe.train.seed)
        sets = dict(zip(("warmup", "weights", "policy"), (setup.train_set, *parts), strict=True))
        self._parts = {phase: setup.batches(part) for phase, part in sets.items()}
        named = (*net.model.named_parameters(), *self.weighting.named_parameters())
        decay = setup.recipe.train.weight_decay
        rate = self.config.weights_lr or setup.recipe.train.lr
        weights = by_rate(named, setup.recipe.train.rates)
        self._sgd = torch.optim.SGD(weights, lr=rate, momentum=0.9, weight_decay=decay, foreach=True)
        set_rate(self._sgd, rate)
        self._adam = torch.optim.Adam([net.logits], lr=self.config.policy_lr, weight_decay=self.config.policy_decay)

    @property
    def clipped(self) -> Iterable[nn.Parameter]:
        """Return the weights: a limit for their gradients says nothing of the logits'."""
        weights: Iterable[nn.Parameter] = self.network.model.parameters()
        return weights

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Return that of the warm-up, that of the weights, that of the logits."""
        return (self.optimizer, self._sgd, self._adam)

    @property
    def evaluated(self) -> nn.Module:
        """Return the network of the most likely policy."""
        return self.network if self.config.batchnorm == "shared" else self._followed().model

    @property
    def settled(self) -> bool:
        """Return whether every block may be skipped by now."""
        return self._step + 1 >= self.schedule.settled

    @property
    def reached(self) -> bool:
        """Return whether the curriculum came to its end, so that a policy could be chosen."""
        return self.settled

    def batch(self, step: int, part: int = 0) -> Batch:
        """Return the batch of the step's phase; draws the noise of its policies."""
        net, phase = self.network, self.schedule.phase(step)
        if phase != "warmup":
            train = self.recipe.train
            noise = gumbel(tuple(net.logits.shape), (train.seed + 1) * 1_000_033 + step * train.accumulate + part)
            logits = net.logits if phase == "policy" else net.logits.detach()
            net.choices = soft_sample(logits, noise.to(logits.device), self.schedule.temperature(step))
        return self._parts[phase](self.schedule.place(step), part)

    def before(self, step: int, rate: float) -> Optimizer:
        """Freeze what the phase of ``step`` does not learn and return its optimiser."""
        self._step, phase = step, self.schedule.phase(step)
        self.network.learnable = self.schedule.learnable(step)
        self.network.choices = None
        self.network.model.requires_grad_(phase != "policy")
        set_rate(self.optimizer, rate)
        return {"warmup": self.optimizer, "weights": self._sgd, "policy": self._adam}[phase]

    def loss(self, forward: Forward, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss to descend: that of the tasks, and in a policy phase what the policy costs."""
        total, losses = super().loss(forward, images, targets)
        if self.schedule.phase(self._step) == "policy":
            total = total + self._cost()
        return total, losses

    def _cost(self) -> Tensor:
        config, logits = self.config, self.network.logits
        sharing = sharing_loss(logits, config.sharing_depth)
        sparsity = sparsity_loss(logits, self.network.learnable, config.sparsity_form)
        return config.sharing_weight * sharing + config.sparsity_weight * sparsity

    def report(self) -> dict[str, float]:
        """Return where the policy stands."""
        logits = self.network.logits.detach()
        policy = self.network.policy
        executes = [used for row in policy.selects.values() for used in row]
        return {
            "executed": sum(executes) / len(executes),
            "trunks": self.costs.trunks(policy),
            "execute_probability": float(execute_probabilities(logits).mean()),
            "entropy_bits": entropy_bits(execute_probabilities(logits)),
            "learnable": float(self.network.learnable),
            "temperature": self.schedule.temperature(self._step),
            "sharing": float(sharing_loss(logits, self.config.sharing_depth)),
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the step last made; everything else follows from it."""
        return {}, {"step": self._step}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        self._step = int(facts["step"])
        self.network.learnable = self.schedule.learnable(self._step)

    def finish(self, out: Path) -> Learned:
        """Return the network of the most likely policy; ``out`` gets policy.json and the probabilities."""
        net = self.network
        # an unsettled run has tried to skip the last blocks only: its other logits are as they were at the start
        probabilities = execute_probabilities(net.logits.detach()).cpu()
        probabilities[:, : len(net.blocks) - net.learnable] = 1.0
        if parallel.rank() == 0:
            rows = dict(zip(net.tasks, probabilities.tolist(), strict=True))
            write_json(out / PROBABILITIES, {"blocks": net.blocks, "execute": rows})
            net.policy.save(out / "policy.json")
            if self.config.keep_weights:
                self._save_dense(out / DENSE)
        found = {"policy": facts(net.policy, self.costs)}
        return replace(self._followed(), facts=found, notes=notes_on(net.policy))

    def _followed(self) -> Learned:
        """Return the network of the most likely policy, with the statistics of its paths."""
        net, kind = self.network, self.config.batchnorm
        batches = [] if kind == "shared" else [self._parts["warmup"](number)[0] for number in range(ESTIMATED)]
        return followed(self.setup, net.policy, net.model.state_dict(), kind, batches)

    def _save_dense(self, path: Path) -> None:
        """Write the network with all its blocks, from which ``train.init`` goes on."""
        Checkpoint(
            weights=self.network.model.state_dict(),
            architecture=Architecture(name="multitask-net", arguments=self.recipe.model.model_dump()),
            tasks=self.setup.tasks,
            preprocessing=self.setup.preprocessing,
            provenance=json_safe({"recipe": self.recipe.model_dump(mode="json")}),
        ).save(path)
