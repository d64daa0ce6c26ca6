"""Training under masks: what they give up is exactly zero after every step, its gradient and its moments too."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.train import parallel
from slimtask.train.methods.base import Learned, Method, Setup
from slimtask.train.methods.masks.choose import choose_masks, weights_in_scope
from slimtask.train.methods.masks.config import MasksConfig
from slimtask.train.methods.masks.overlap import overlap

_SHARED, _PER_TASK = "shared", "task"
_NAMED = 5  # of the layers that a warning is about; summary.json has them all


class MaskedTraining(Method):
    """Trains under masks that are decided once, before the first step, at initialisation or on trained weights."""

    def __init__(self, setup: Setup) -> None:
        assert setup.recipe.masks is not None
        self.config: MasksConfig = setup.recipe.masks
        if self.config.when == "pretrained" and setup.recipe.train.init is None:
            raise InputError("masks.when pretrained needs trained weights; give train.init, a dense checkpoint.")
        super().__init__(setup)
        self.weights = weights_in_scope(setup.model, self.config.scope)
        self.masks, self.keep_ratio = Masks(), 1.0
        self._gone: dict[str, Tensor] = {}
        self._report: dict[str, float] = {}

    def prepare(self) -> None:
        """Decide on the masks, and put them on the network as it was initialised."""
        config, batches = self.config, self.setup.batches()
        masks, self.keep_ratio = choose_masks(
            config,
            self.network,
            self.setup.tasks,
            (batches(number) for number in range(config.batches)),
            self.weighting,
            self.recipe.train.seed,
        )
        self._refuse_empty_heads(masks)
        self.install(masks)
        self._warn_of_empty_layers()

    def _refuse_empty_heads(self, masks: Masks) -> None:
        """Raise InputError if a task is left without a single weight of its own."""
        for task in self.setup.tasks:
            own = [mask for name, mask in masks.union().items() if name.startswith(f"heads.{task.name}.")]
            if own and not any(bool(mask.any()) for mask in own):
                raise InputError(
                    f"the masks leave no weight of the head of '{task.name}', so that it would predict a constant; "
                    "lower masks.sparsity, or set masks.scope to trunk."
                )

    def _warn_of_empty_layers(self) -> None:
        """Tell, once and before the first step, which layers the masks leave without a weight."""
        kept = self.masks.union()
        empty = [name.removesuffix(".weight") for name, mask in kept.items() if not bool(mask.any())]
        if not empty or parallel.rank() != 0:
            return
        named = ", ".join(empty[:_NAMED]) + (f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else "")
        left, entries = sum(int(mask.sum()) for mask in kept.values()), sum(mask.numel() for mask in kept.values())
        warnings.warn(
            f"masks.sparsity {self.config.sparsity:g} leaves {left:,} of {entries:,} weights, and none in "
            f"{len(empty)} of {len(kept)} layers, whose output is then the same for every image: {named}; if that is "
            "not meant, lower it.",
            stacklevel=2,
        )

    @torch.no_grad()
    def install(self, masks: Masks) -> None:
        """Train under ``masks`` from now on: zero what their union gives up, the optimiser's moments of it too."""
        if not self._gone:  # only now are the weights on the device that trains
            for name, weight in self.weights.items():
                weight.register_hook(partial(self._masked, name))  # type: ignore[no-untyped-call]
        self.masks, kept = masks, masks.union()
        self._gone = {name: ~kept[name].to(weight.device) for name, weight in self.weights.items() if name in kept}
        for name, gone in self._gone.items():
            weight = self.weights[name]
            for tensor in (weight, *self.optimizer.state.get(weight, {}).values()):
                if isinstance(tensor, Tensor) and tensor.shape == gone.shape:
                    tensor.masked_fill_(gone, 0)
        self._report = sparsities(kept)

    def _masked(self, name: str, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(self._gone[name], 0) if name in self._gone else gradient

    def report(self) -> dict[str, float]:
        """Return the sparsity of all weights in scope, of trunk and heads, and how many layers are empty."""
        return dict(self._report)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the masks and the keep ratio."""
        tensors = {f"{_SHARED}/{name}": mask for name, mask in self.masks.shared.items()}
        for task, own in self.masks.per_task.items():
            tensors |= {f"{_PER_TASK}/{task}/{name}": mask for name, mask in own.items()}
        return tensors, {"keep_ratio": self.keep_ratio}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        shared: dict[str, Tensor] = {}
        per_task: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind == _SHARED:
                shared[name] = tensor
            elif kind == _PER_TASK:
                task, _, name = name.partition("/")
                per_task.setdefault(task, {})[name] = tensor
        self.keep_ratio = facts["keep_ratio"]
        own = {task.name: per_task[task.name] for task in self.setup.tasks if task.name in per_task}
        self.install(
            Masks(
                shared=_ordered(shared, self.weights),
                per_task={task: _ordered(masks, self.weights) for task, masks in own.items()},
            )
        )

    def check_fork(self, path: Path, step: int) -> None:
        """Raise InputError: the masks hold from the first step on."""
        raise InputError(f"masks cannot take over the dense run '{path}' midway; start from it with train.init.")

    def finish(self, out: Path) -> Learned:
        """Return the network with its zeros in place; ``masks.safetensors`` goes to ``out``."""
        self.masks.apply_(self.network)
        if parallel.rank() == 0:
            self.masks.save(out / "masks.safetensors")
        density = self.masks.density()
        facts: dict[str, Any] = {
            **self.config.model_dump(mode="json", include={"method", "when", "scope"}),
            "target": self.config.sparsity,
            "keep_ratio": self.keep_ratio,
            "densities": density,
            "empty_layers": [name for name, share in density.items() if share == 0],
        }
        if len(self.masks.per_task) > 1:
            facts["iou"] = overlap(self.masks).total.mean
        return Learned(model=self.network, facts={"masks": facts})


def sparsities(kept: Mapping[str, Bool[Tensor, "..."]]) -> dict[str, float]:
    """Return the share of masked entries overall, in trunk and heads, and how many layers are empty.

    A part without masks is left out.
    """
    parts = {
        "overall": list(kept.values()),
        "trunk": [mask for name, mask in kept.items() if not name.startswith("heads.")],
        "heads": [mask for name, mask in kept.items() if name.startswith("heads.")],
    }
    shares = {
        part: 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        for part, masks in parts.items()
        if masks
    }
    named = {f"{part}_sparsity": share for part, share in shares.items()}
    return {**named, "empty_layers": sum(not bool(mask.any()) for mask in kept.values())}


def _ordered(masks: dict[str, Tensor], names: Mapping[str, object]) -> dict[str, Tensor]:
    """Return ``masks`` in the order of ``names``, which a file does not keep."""
    return {name: masks[name] for name in names if name in masks}
