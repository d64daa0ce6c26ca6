"""The phases of a sparse training run: dense warm-up, rising penalty, zeros held."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.train.recipe import SparsityConfig
from slimtask.train.sparsity.controller import TargetController, strongest
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW
from slimtask.train.sparsity.structure import SparseStructure, sparse_structure


class SparsitySchedule:
    """Drives a ProximalAdamW through one run: ``before(step)`` and ``after(step)`` each optimiser step.

    With a target the phases are dense, ramp, held; with a fixed strength dense, penalised. ``held`` says that the
    target is reached and the zeros stay.
    """

    def __init__(self, structure: SparseStructure, config: SparsityConfig, steps: int) -> None:
        self.structure = structure
        self.config = config
        self.warm_up = int(config.warmup * steps)
        self.held = False
        self.exempt: Tensor | None = None
        self.controller = (
            None
            if config.target is None
            else TargetController(structure, target=config.target, ramp_steps=int(config.ramp * steps))
        )

    @classmethod
    def of(cls, model: nn.Module, example: Tensor, config: SparsityConfig, steps: int) -> SparsitySchedule:
        """Return the schedule for ``model``, traced on ``example``; InputError for a target out of reach."""
        structure = sparse_structure(model, example, config)
        sizes = structure.layer_sizes
        limit = float(structure.sparsity((sizes * config.min_keep).ceil().clamp(min=1)))
        if config.target is not None and config.target > limit:
            raise InputError(
                f"sparsity.target {config.target:g} is out of reach: with min_keep {config.min_keep:g} at most "
                f"{limit:.3f} can vanish; lower one of them."
            )
        return cls(structure, config, steps)

    @property
    def settled(self) -> bool:
        """Return whether selection and early stopping may begin: the target is held, or a fixed strength is at work."""
        return self.held or (self.controller is None and self.exempt is not None)

    @property
    def reached(self) -> bool:
        """Return whether the target is reached; a fixed strength has none."""
        return self.held or self.controller is None

    def before(self, step: int, optimizer: ProximalAdamW) -> None:
        """Set the optimiser's penalty for ``step``; the first penalised step only looks who is strongest."""
        optimizer.limit = None
        if step < self.warm_up or self.held:
            return
        if self.exempt is None:
            optimizer.limit = lambda critical: 0.0
        elif self.controller is not None:
            optimizer.limit = self.controller.limit
        else:
            assert self.config.strength is not None
            optimizer.strength = self.config.strength

    def after(self, step: int, optimizer: ProximalAdamW) -> None:
        """Exempt each layer's strongest groups before anything is penalised; hold the zeros once they suffice."""
        if step < self.warm_up or self.held:
            return
        if self.exempt is None:
            self.exempt = strongest(optimizer.critical_strengths().cpu(), self.structure, self.config.min_keep)
            optimizer.exempt(self.exempt)
        zero = optimizer.zero_groups()
        if self.controller is not None and self.controller.reached(zero):
            optimizer.hold(zero)
            optimizer.limit, optimizer.strength, self.held = None, 0.0, True

    def loss_strength(self, optimizer: ProximalAdamW) -> float:
        """Return the strength of the penalty in the loss of the coming step: in a closed loop that of the last step."""
        if not self.config.loss_penalty or self.held or self.exempt is None:
            return 0.0
        return optimizer.used_strength if self.config.strength is None else self.config.strength

    def report(self, optimizer: ProximalAdamW) -> dict[str, float]:
        """Return lambda and both sparsity counts now."""
        strength = self.controller.strength if self.controller and not self.held else optimizer.strength
        return {"strength": strength, **self.structure.report(optimizer.zero_groups().cpu())}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what resuming needs: tensors, and JSON facts."""
        exempt = {} if self.exempt is None else {"exempt": self.exempt}
        return exempt, {"held": self.held, "controller": self.controller.state() if self.controller else {}}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any], optimizer: ProximalAdamW) -> None:
        """Continue from what ``state`` returned."""
        self.held, self.exempt = bool(facts["held"]), tensors.get("exempt")
        if self.exempt is not None:
            optimizer.exempt(self.exempt)
        if self.controller is not None:
            self.controller.load_state(facts["controller"])
