"""The peer of several benchmarks: torch-pruning's group magnitude, the same share of the channels of every group."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from slimtask.compress.network.inputs import Inputs


def prune_uniformly_(
    model: nn.Module, inputs: Inputs, ratio: float, outputs: Sequence[nn.Module], **settings: Any
) -> Any:
    """Take ``ratio`` of the channels of every group out of ``model``, least magnitude first, and return the pruner.

    The layers ``outputs`` keep theirs; ``settings`` are further ones of torch-pruning's BasePruner. Example:
    ``prune_uniformly_(net, image, 0.5, [net.fc], round_to=8)``.
    """
    import torch_pruning as tp

    # These defaults are dictionaries shared by all calls: one network would leak into the next.
    own: dict[str, Any] = {
        "in_channel_groups": {}, "out_channel_groups": {}, "channel_groups": {}, "customized_pruners": {},
        "num_heads": {},
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            model,
            inputs,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=list(outputs),
            **(own | settings),
        )
        pruner.step()
    return pruner
