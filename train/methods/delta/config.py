"""The ``delta`` section of a recipe: which task is the base, what the others change of it, how they are executed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen
from slimtask.train.rate_config import RateConfig

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
GateKind = Literal["element", "tensor", "out-channels", "block", "hidden-units", "heads", "units"]


class GatesConfig(Frozen):
    """Step 1, hard-concrete gates on the deltas: what one gate opens, and how many stay open.

    ``kind``: "element" has a gate for every weight and one for its tensor (EfficientMTL); "tensor", "out-channels",
    "block" for such a part of every tensor; "hidden-units" of the MLPs, "heads" of the attentions, "units" both.
    ``density`` is the share of the trunk's parameters that may change: lambda is controlled so that the expected share
    falls to it within ``ramp`` of the steps, then the gates are fixed. ``strength`` is a fixed lambda instead, by task
    or for all.
    """

    kind: GateKind = "units"
    block: int = Field(default=64, ge=1, le=4096, description="side of a block in weights")
    density: float | None = Field(default=None, gt=0, le=1)
    strength: Weight | dict[str, Weight] | None = None
    ramp: float = Field(default=0.7, gt=0, lt=1)
    alpha: float = Field(default=5.0, allow_inf_nan=False, description="logit of every gate at the start")
    stretch: tuple[float, float] = (-1.5, 1.5)
    temperature: Positive = 1.0
    lr: Positive = 0.1
    weight_decay: Weight = 0.01

    @model_validator(mode="after")
    def _fits(self) -> GatesConfig:
        if (self.density is None) == (self.strength is None):
            raise ValueError("give either 'density' (a share to come down to) or 'strength' (a fixed lambda)")
        if not (self.stretch[0] < 0 and self.stretch[1] > 1):
            raise ValueError("stretch is an interval that holds [0, 1] inside, such as [-1.5, 1.5]")
        return self


class ActivationsConfig(Frozen):
    """Step 3, an L1 penalty on what differs from the base task's activations, and what is dropped at run time.

    ``strength`` is beta, by task or for all, ``lr`` the learning rate of this step. Differences below ``threshold``
    are dropped at the outputs of all linear layers; ``keep`` chooses a threshold for each of them such that this share
    of its outputs stays different.
    """

    strength: Weight | dict[str, Weight] = 2.5e-10
    lr: Positive | dict[str, Positive] | None = None
    threshold: Weight | None = None
    keep: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_threshold(self) -> ActivationsConfig:
        if self.threshold is not None and self.keep is not None:
            raise ValueError("give one of 'threshold' and 'keep', which chooses thresholds")
        return self


class StageConfig(Frozen):
    """One step of one sub-task; written by the run as a whole, not by hand."""

    step: Literal["gates", "support", "activations"]
    task: str
    start: str = Field(description="checkpoint to start from: the base's for gates, else that of the step before")


class DeltaConfig(Frozen):
    """The base task trains plainly for ``train.steps``; then every other task learns its delta in three steps.

    Their lengths are ``learn``, ``finetune`` and ``settle`` in ``train.steps``; the third is left out without
    ``activations``. ``base_checkpoint`` is a base network that is trained already. ``feed`` and ``rows``: see
    ``compress.delta.Execution``; the deltas are trained and evaluated in the way they will be executed.
    """

    base: str = Field(description="the base task")
    base_checkpoint: str | None = None
    feed: Literal["own", "base"] = "own"
    rows: float | None = Field(default=None, gt=0, le=1)
    gates: GatesConfig
    activations: ActivationsConfig | None = None
    learn: Positive = 1.0
    finetune: Positive = 0.5
    settle: Positive = 0.5
    lr: Positive | dict[str, Positive] | None = Field(default=None, description="of the deltas; none: train.lr")
    schedule: RateConfig | None = Field(default=None, description="of the deltas' rates; none: train.schedule")
    stage: StageConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> DeltaConfig:
        if self.feed == "base" and (self.rows is not None or self.activations is not None):
            raise ValueError("with feed base all layers read the base task's features; leave out rows and activations")
        return self


def check_tasks(config: DeltaConfig, tasks: Sequence[str]) -> None:
    """Raise InputError if a value of the section is for a task that is none of ``tasks``: nothing would use it."""
    sections = {"delta": config, "delta.gates": config.gates, "delta.activations": config.activations}
    for where, section in sections.items():
        for key, values in section or ():
            unknown = [name for name in values if name not in tasks] if isinstance(values, dict) else []
            if unknown:
                raise InputError(f"{where}.{key}: the data have no task '{unknown[0]}'{nearest(unknown[0], tasks)}")


def of_task(value: float | dict[str, float] | None, task: str) -> float | None:
    """Return the value for ``task``: its own of several, or the one for all. InputError if only others have one."""
    if isinstance(value, dict) and task not in value:
        raise InputError(f"the recipe's delta section has values for {', '.join(value)}, none for '{task}'; add one.")
    return value[task] if isinstance(value, dict) else value
