"""Which weights a run keeps, and when it stops: both by validation, never by the test split."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class Selection:
    """Keeps the weights of the best validation score, and counts validations without a better one.

    The score is that of the tasks' metrics (``relative_score``): a summed loss goes on rising where a network that
    over-fits grows sure of its mistakes, while its metrics still improve. ``patience`` of the validations end the run.
    ``task_patience`` of them for the loss of one task alone mark it as ``stalled``: its head is trained no further.
    """

    def __init__(self, patience: int | None, task_patience: int | None) -> None:
        self.patience, self.task_patience = patience, task_patience
        self.best, self.stale = -math.inf, 0
        self.weights: dict[str, Tensor] = {}
        self._tasks: dict[str, tuple[float, int]] = {}

    @property
    def exhausted(self) -> bool:
        """Return whether validation has stalled for long enough to end the run."""
        everything = bool(self._tasks) and len(self.stalled) == len(self._tasks)
        return (self.patience is not None and self.stale >= self.patience) or everything

    @property
    def stalled(self) -> tuple[str, ...]:
        """Return the tasks whose own loss has stalled, once and for all."""
        limit = self.task_patience
        return tuple(name for name, (_, stale) in self._tasks.items() if limit is not None and stale >= limit)

    def observe(self, score: float, losses: dict[str, float], network: nn.Module) -> None:
        """Take note of a validation: the score, the loss of each task, and the network that has them.

        A score that is NaN is no better than any.
        """
        if score > self.best:
            self.best, self.stale = score, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        else:
            self.stale += 1
        for name, value in losses.items():
            if name in self.stalled:
                continue
            best, stale = self._tasks.get(name, (math.inf, 0))
            self._tasks[name] = (value, 0) if value < best else (best, stale + 1)

    def state(self) -> dict[str, Any]:
        """Return the counts as JSON; ``weights`` are tensors, saved apart."""
        tasks = {name: [best, stale] for name, (best, stale) in self._tasks.items()}
        return {"score": self.best if math.isfinite(self.best) else None, "stale": self.stale, "tasks": tasks}

    def load_state(self, facts: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Continue from what ``state`` returned; a state of earlier versions, which chose by the loss, has no score."""
        score = facts.get("score")
        self.best = -math.inf if score is None else float(score)
        self.stale, self.weights = int(facts["stale"]), weights
        self._tasks = {name: (float(best), int(stale)) for name, (best, stale) in facts["tasks"].items()}
