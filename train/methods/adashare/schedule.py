"""Which phase a step of policy learning belongs to, what may be skipped by then, and at which temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slimtask.errors import InputError
from slimtask.train.methods.adashare.config import PolicyConfig

Phase = Literal["warmup", "weights", "policy"]


@dataclass(frozen=True, kw_only=True)
class PolicySchedule:
    """``warmup`` steps, then rounds of ``weights`` and ``policy`` steps; all of it a function of the step.

    ``blocks`` is how many the trunk has, ``config`` gives temperature and curriculum.
    """

    warmup: int
    weights: int
    policy: int
    blocks: int
    config: PolicyConfig

    @classmethod
    def of(cls, config: PolicyConfig, steps: int, blocks: int) -> PolicySchedule:
        """Return the schedule of a run of ``steps``; phases that are too long for one round shrink in proportion.

        Raises InputError if fewer than two steps are left after the warm-up.
        """
        warmup = int(config.warmup * steps)
        left, weights, policy = steps - warmup, config.alternate.weights, config.alternate.policy
        if left < 2:
            raise InputError(
                f"learning a policy takes at least two steps after the warm-up, train.steps leaves {left}; raise it."
            )
        if weights + policy > left:
            policy = min(left - 1, max(1, round(left * policy / (weights + policy))))
            weights = left - policy
        return cls(warmup=warmup, weights=weights, policy=policy, blocks=blocks, config=config)

    def phase(self, step: int) -> Phase:
        """Return the phase of ``step``."""
        if step < self.warmup:
            return "warmup"
        return "weights" if (step - self.warmup) % (self.weights + self.policy) < self.weights else "policy"

    def place(self, step: int) -> int:
        """Return how many steps of the same phase came before: the number of the step's batch on its own data."""
        if step < self.warmup:
            return step
        rounds, inside = divmod(step - self.warmup, self.weights + self.policy)
        if inside < self.weights:
            return rounds * self.weights + inside
        return rounds * self.policy + inside - self.weights

    def finished(self, step: int) -> int:
        """Return how many policy phases lie before ``step``."""
        return max(0, step - self.warmup) // (self.weights + self.policy)

    def learnable(self, step: int) -> int:
        """Return how many of the last blocks may be skipped: one, and one more every ``curriculum_speed`` rounds."""
        return min(self.blocks, self.finished(step) // self.config.curriculum_speed + 1)

    def temperature(self, step: int) -> float:
        """Return the temperature of the Gumbel-softmax."""
        return self.config.temperature * self.config.temperature_decay ** self.finished(step)

    @property
    def settled(self) -> int:
        """Return the first step after which a policy may be chosen: the curriculum is through (the code's rule)."""
        return self.warmup + self.blocks * self.config.curriculum_speed * (self.weights + self.policy)
