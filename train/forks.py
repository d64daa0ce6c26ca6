"""Starting from the fork of another run: only one that trained the same network, task weights and kind of optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.train.recipe import Recipe

Sections = Mapping[str, Mapping[str, Tensor]]
_MOMENTS = {"sgd": {"momentum_buffer"}}
_ADAM_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


def refuse_fork(why: str, fork: Path | str | None, fork_at: int | None) -> None:
    """Raise InputError if a run that has no dense warm-up to share, because ``why``, is asked for a fork."""
    if fork is not None or fork_at is not None:
        raise InputError(f"{why}, so there is no one dense warm-up to share; train without a fork.")


def check_fork_fits(path: Path, sections: Sections, network: nn.Module, weighting: nn.Module, recipe: Recipe) -> None:
    """Raise InputError if the fork ``path`` with the state ``sections`` is of another run than ``recipe`` continues."""
    differs = _difference(sections.get("model", {}), network)
    if differs is not None:
        raise InputError(
            f"the fork '{path}' holds another network than this recipe trains ({differs} is not the same); fork a run "
            "with the same data.tasks and model section."
        )
    if _difference(sections.get("weighting", {}), weighting) is not None:
        raise InputError(
            f"the fork '{path}' has task weights of another train.weighting than '{recipe.train.weighting}', which "
            "this recipe asks for; fork a run with the same one."
        )
    moments = {name.rpartition("/")[2] for name in sections.get("optimizer", {}) if "/state/" in name}
    if not moments <= _MOMENTS.get(recipe.train.optimizer, _ADAM_MOMENTS):
        raise InputError(
            f"the fork '{path}' was trained with another train.optimizer than '{recipe.train.optimizer}', which this "
            "recipe asks for; fork a run with the same one."
        )


def _difference(theirs: Mapping[str, Tensor], module: nn.Module) -> str | None:
    """Return the first name that is not in both or has another shape there, None if there is none."""
    own = module.state_dict()
    names = [*own, *(name for name in theirs if name not in own)]
    same = (name in own and name in theirs and own[name].shape == theirs[name].shape for name in names)
    return next((name for name, fits in zip(names, same, strict=True) if not fits), None)
