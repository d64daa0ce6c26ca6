"""Which method a recipe asks for: the one whose section it has, plain training without any."""

from __future__ import annotations

from slimtask.train.methods.base import Method
from slimtask.train.recipe import Recipe


def method_of(recipe: Recipe) -> type[Method]:  # noqa: PLR0911  one for each method
    """Return the class of the method that ``recipe`` asks for."""
    if recipe.sparsity is not None:
        from slimtask.train.methods.group_sparsity import GroupSparsity

        return GroupSparsity
    if recipe.masks is not None and recipe.masks.when == "dynamic":
        from slimtask.train.methods.masks.dynamic import DynamicMasks

        return DynamicMasks
    if recipe.masks is not None:
        from slimtask.train.methods.masks.training import MaskedTraining

        return MaskedTraining
    if recipe.policy is not None and recipe.policy.fixed:
        from slimtask.train.methods.adashare.following import PolicyFollowing

        return PolicyFollowing
    if recipe.policy is not None:
        from slimtask.train.methods.adashare.learning import PolicyLearning

        return PolicyLearning
    if recipe.delta is not None and recipe.delta.stage is not None:
        return _delta_step(recipe.delta.stage.step)
    return Method


def _delta_step(step: str) -> type[Method]:
    if step == "gates":
        from slimtask.train.methods.delta.learning import GateLearning

        return GateLearning
    from slimtask.train.methods.delta.tuning import ActivationTuning, SupportTuning

    return SupportTuning if step == "support" else ActivationTuning
