"""Recipes: one YAML file describes a training run completely. Unknown keys are refused with the nearest right one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from slimtask.documents import parse_yaml
from slimtask.errors import InputError, nearest
from slimtask.files import read_yaml
from slimtask.tasks import Frozen
from slimtask.train.data.config import DataConfig
from slimtask.train.methods.adashare.config import PolicyConfig
from slimtask.train.methods.delta.config import DeltaConfig
from slimtask.train.methods.masks.config import MasksConfig
from slimtask.train.rate_config import RateConfig
from slimtask.train.relate.config import RelateConfig
from slimtask.train.shipped import find_recipe

LAST_QUARTER = 0.75
METHOD_SECTIONS = ("sparsity", "masks", "policy", "delta")
"""The sections that choose how to train; a recipe has one of them, or none for plain training."""


class ModelConfig(Frozen):
    """The network: a trunk at ``width`` times its published channels, and the kind of head the tasks get."""

    trunk: str = "resnet18"
    width: float = Field(default=1.0, gt=0, le=8)
    head: str = "light"
    image_head: str = "pooled"
    head_hidden: int | dict[str, int] | None = Field(
        default=None, description="of all heads, or by task; where none is given it is the published one"
    )

    @field_validator("head_hidden", mode="before")
    @classmethod
    def _widths(cls, value: Any) -> Any:
        widths = value.values() if isinstance(value, dict) else () if value is None else (value,)
        if not all(type(width) is int and width >= 1 for width in widths):
            raise ValueError("give a number of channels of at least 1 for all heads, or one by task: {depth: 64}")
        return value

    def of_task(self, task: str) -> ModelConfig:
        """Return the network of one task alone."""
        hidden = self.head_hidden
        return self.model_copy(update={"head_hidden": hidden.get(task) if isinstance(hidden, dict) else hidden})


class TrainConfig(Frozen):
    """The optimisation: AdamW, cosine decay after a short linear warm-up, weights and early stopping by validation."""

    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=16, ge=1, description="images of one process in one part of a step")
    accumulate: int = Field(default=1, ge=1, description="parts of a step, whose gradients are added up")
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    rates: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="factors on lr by part of the network, trunk or heads.depth say"
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    schedule: RateConfig = RateConfig()
    rebuild_every: int | None = Field(
        default=None, ge=1, description="steps after which the optimiser forgets its moments, as if built anew"
    )
    lr_warmup: float = Field(default=0.03, ge=0, lt=1, description="fraction of the steps with rising learning rate")
    eval_every: int = Field(default=200, ge=1, description="steps between validations")
    patience: int | None = Field(default=None, ge=1, description="validations without a better score before stopping")
    select_from: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the steps after which weights are chosen and patience counts; none: 0.75, or 0 where a "
        "patience may end the run",
    )
    clip_norm: float | None = Field(default=5.0, gt=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**31)
    weighting: Literal["fixed", "sum", "uncertainty"] = "fixed"
    loss_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    losses: dict[str, str] = Field(
        default_factory=dict, description="the loss of a task where it is not its kind's usual one, see docs/metrics.md"
    )
    metrics: tuple[str, ...] | Literal["all"] = Field(
        default=(), description="metrics beyond the usual ones, see docs/metrics.md"
    )
    task_patience: int | None = Field(
        default=None, ge=1, description="validations without a better loss of a task before its head is frozen"
    )
    init: str | None = Field(default=None, description="checkpoint whose weights the training starts from")

    @model_validator(mode="before")
    @classmethod
    def _no_trackers(cls, values: Any) -> Any:
        """Take the recipes that earlier runs wrote down, which all have the key, most of them empty."""
        if not isinstance(values, dict) or "trackers" not in values:
            return values
        if values["trackers"]:
            raise ValueError(
                "there are no 'trackers' any more, as wandb and MLflow read the TensorBoard events of a run by "
                "themselves; leave the key out and call train() from Python as docs/recipes.md says"
            )
        return {key: value for key, value in values.items() if key != "trackers"}

    @property
    def window(self) -> int:
        """Return the step after whose validations weights may be kept: one window for every method.

        A sparse structure is final after three quarters of the steps at the latest (by default), so a dense run does
        not choose among earlier weights either.
        """
        impatient = self.patience is not None or self.task_patience is not None
        share = self.select_from if self.select_from is not None else 0.0 if impatient else LAST_QUARTER
        return math.ceil(share * self.steps)


class SparsityConfig(Frozen):
    """Group l1/l2 sparsity: what a group is, and how strong the penalty: a target to reach or a fixed lambda.

    With a ``target`` the network trains dense for ``warmup`` of the steps, then lambda is controlled so that the
    sparsity follows a rising curve to the target within ``ramp`` of the steps; then the zeros are held, the penalty
    ends and training goes on. ``strength`` keeps lambda fixed after the warm-up. The penalty acts through the proximal
    step; ``loss_penalty`` adds it to the loss too, with the weights that the published code has there.
    """

    groups: Literal["coupled", "input-channel", "output-channel"] = "coupled"
    target: float | None = Field(default=None, gt=0, lt=1)
    strength: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    measure: Literal["parameters", "groups"] = "parameters"
    scope: str = "trunk"
    warmup: float = Field(default=0.2, ge=0, lt=1)
    ramp: float = Field(default=0.4, gt=0, le=1)
    min_keep: float = Field(
        default=0.05, ge=0, lt=1, description="fraction of each layer's channels never penalised away"
    )
    penalty: Literal["l1", "mcp"] = "l1"
    gamma: float = Field(
        default=100.0,
        gt=0,
        description="mcp: groups whose weights have a root mean square above gamma lambda are let go",
    )
    loss_penalty: bool = False

    @model_validator(mode="after")
    def _one_penalty(self) -> SparsityConfig:
        if self.loss_penalty and self.penalty != "l1":
            raise ValueError("'loss_penalty' is an l1 penalty; leave it out, or set 'penalty' to l1")
        return self

    @model_validator(mode="after")
    def _one_strength(self) -> SparsityConfig:
        if (self.target is None) == (self.strength is None):
            raise ValueError("give either 'target' (a sparsity to reach) or 'strength' (a fixed lambda)")
        if self.target is not None and self.warmup + self.ramp >= 1:
            raise ValueError("warmup + ramp must be below 1, so that training goes on after the target is reached")
        return self


class Recipe(Frozen):
    """A training run: data, network, optimisation and, unless it is a dense one, sparsity.

    Examples:
        >>> from slimtask.train import Recipe
        >>> recipe = Recipe.model_validate({"data": {"name": "scenes"}, "sparsity": {"target": 0.7}})
        >>> recipe.model.trunk, recipe.train.steps, recipe.sparsity.groups
        ('resnet18', 1000, 'coupled')
    """

    name: str = "run"
    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    sparsity: SparsityConfig | None = None
    masks: MasksConfig | None = None
    policy: PolicyConfig | None = None
    delta: DeltaConfig | None = None
    relate: RelateConfig | None = None

    @model_validator(mode="after")
    def _one_method(self) -> Recipe:
        given = [section for section in METHOD_SECTIONS if getattr(self, section, None) is not None]
        if len(given) > 1:
            raise ValueError(f"the sections {' and '.join(given)} are methods of their own; give one of them")
        return self


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in the YAML file ``path`` with ``a.b=value`` overrides; InputError says what is wrong.

    Where there is no such file ``path`` may name a recipe that comes with slimtask, "scenes" say. A recipe may say
    ``extends: FILE`` (relative to itself): it then changes single keys of that one.

    Examples:
        >>> from slimtask.train import load_recipe
        >>> load_recipe("scenes", ["sparsity.target=0.5"]).sparsity.target
        0.5
    """
    content = _content(find_recipe(path), ())
    for override in overrides:
        _override(content, override)
    return parse_recipe(content, f"recipe '{path}'")


def _content(path: Path, children: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys of a recipe file on top of those of the recipe that it extends."""
    place = os.path.realpath(path)  # resolve() fails on links in a circle
    if place in children:
        raise InputError(f"recipe '{path}' extends itself; end the chain at a whole recipe.")
    content = read_yaml(path, "recipe")
    if not isinstance(content, dict):
        raise InputError(f"recipe '{path}' holds no keys; it must be a mapping with at least 'data'.")
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise InputError(f"recipe '{path}': 'extends' names one recipe file, not '{base}'.")
    if not (path.parent / base).exists():
        raise InputError(f"recipe '{path}' extends '{path.parent / base}', which does not exist; check the path.")
    return _merged(_content(path.parent / base, (*children, place)), content)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def parse_recipe(content: dict[str, Any], where: str = "the recipe") -> Recipe:
    """Return the validated recipe of a plain mapping; ``where`` names its source in the InputError."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    location = [part for part in problems[0]["loc"] if not isinstance(part, int)]
    key = ".".join(str(part) for part in location)
    if problems[0]["type"] == "extra_forbidden":
        return f"unknown key '{key}'{nearest(str(location[-1]), _keys(location[:-1]))}"
    return f"'{key or 'recipe'}': {problems[0]['msg'].removeprefix('Value error, ')}."


def _keys(location: Iterable[Any]) -> list[str]:
    """Return the keys that the recipe section at ``location`` takes."""
    section: type[BaseModel] = Recipe
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        options = getattr(annotation, "__args__", ()) or (annotation,)
        section = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(section.model_fields)


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set takes key=value such as train.steps=500, not '{override}'.")
    *parents, leaf = key.split(".")
    for parent in parents:
        child = content.setdefault(parent, {})
        if child is None:
            child = content[parent] = {}
        if not isinstance(child, dict):
            raise InputError(f"--set {key}: '{parent}' is a single value in the recipe, not a section.")
        content = child
    content[leaf] = parse_yaml(value, f"--set {key}: '{value}'")
