"""The ``schedule`` of a recipe: how the learning rate falls."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slimtask.tasks import Frozen


class RateConfig(Frozen):
    """How the learning rate falls after the warm-up: to ``floor`` of it at most, where the kind has one."""

    kind: Literal["cosine", "poly", "step", "plateau", "constant"] = "cosine"
    floor: float = Field(default=0.02, ge=0, le=1, description="cosine, plateau: the share that is left at last")
    power: float = Field(default=0.9, gt=0, le=10, description="poly")
    horizon: int | None = Field(default=None, ge=1, description="cosine, poly: the step that ends the fall; none: all")
    every: int = Field(default=4000, ge=1, description="step: steps between two multiplications")
    factor: float = Field(default=0.5, gt=0, le=1, description="step, plateau")
    patience: int = Field(default=5, ge=0, description="plateau: validations without a better loss")
