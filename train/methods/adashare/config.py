"""The policy section of a recipe: how a policy is learned, or the policy that a plain training follows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimtask.compress.edits.branches import BatchNormKind
from slimtask.tasks import Frozen

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AlternateConfig(Frozen):
    """Steps of a weights phase, and of the policy phase that follows it; shortened if not one round would fit."""

    weights: int = Field(default=400, ge=1)
    policy: int = Field(default=100, ge=1)


class RandomConfig(Frozen):
    """A random policy whose branched trunk costs the FLOPs of ``trunks`` dense ones, within 2 %."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    trunks: float = Field(gt=0, le=1000, allow_inf_nan=False)


class PolicyConfig(Frozen):
    """Learning a policy takes ``train.steps``; then ``samples`` of it are tried and the best one is kept.

    ``select`` (per task one boolean per block, true executes it) or ``random`` train the network of that policy
    instead. The defaults are AdaShare's for NYU-v2, as its code has them.
    """

    warmup: float = Field(default=0.2, ge=0, lt=1, description="fraction of the steps: all blocks executed")
    alternate: AlternateConfig = AlternateConfig()
    share: float = Field(default=0.8, gt=0, lt=1, description="of the images for the weights, the rest for the policy")
    weights_lr: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="SGD; none: train.lr")
    policy_lr: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    policy_decay: Weight = 5e-4
    temperature: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    temperature_decay: float = Field(default=0.965, gt=0, le=1, description="factor after every policy phase")
    curriculum_speed: int = Field(default=3, ge=1, description="policy phases until one more block may be skipped")
    sparsity_weight: Weight = 0.05
    sharing_weight: Weight = 0.05
    sparsity_form: Literal["skip", "execute"] = Field(default="skip", description="-log p(skip) or log p(execute)")
    sharing_depth: Literal["deep", "shallow", "flat"] = "deep"
    init: Literal["equal", "random", "all_chosen"] = "equal"
    init_skip_logit: float = Field(default=-10.0, allow_inf_nan=False, description="of all_chosen")
    samples: int = Field(default=8, ge=1, le=1000, description="the most likely policy, and drawn ones")
    trial: float | None = Field(default=None, gt=0, le=100, description="in train.steps; none: all are retrained")
    retrain: float = Field(default=1.0, gt=0, le=100, description="length of a retraining in train.steps")
    keep_weights: bool = Field(default=False, description="retrain from the learned weights, not from new ones")
    batchnorm: BatchNormKind = Field(default="per-path", description="whose statistics: see BranchPaths")
    select: dict[str, tuple[bool, ...]] | None = None
    random: RandomConfig | None = None

    @property
    def fixed(self) -> bool:
        """Return whether the policy is given, so that there is none to learn."""
        return self.select is not None or self.random is not None

    @model_validator(mode="after")
    def _check(self) -> PolicyConfig:
        if self.select is not None and self.random is not None:
            raise ValueError("'select' and 'random' are two policies; give one of them")
        if self.keep_weights and self.batchnorm == "per-task":
            raise ValueError(
                "keep_weights needs 'batchnorm: per-path': a fresh network has one BatchNorm for all tasks"
            )
        return self
