"""Which method a recipe asks for: the one whose section it has, plain training without any."""

from __future__ import annotations

from slimtask.train.methods.base import Method
from slimtask.train.recipe import Recipe


def method_of(recipe: Recipe) -> type[Method]:
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
    return Method
