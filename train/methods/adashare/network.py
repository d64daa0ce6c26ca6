"""The network while its policy is learned: every task runs the trunk with its own mixture of executing and skipping."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.edits.branches import BranchPaths, mix_in_, use_lane_
from slimtask.compress.edits.skip import shortcut_of
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.train.methods.adashare.losses import EXECUTE, SKIP, Logits, execute_probabilities
from slimtask.train.models.blocks import ResidualBlock


class PolicyNet(nn.Module):
    """``model`` under the policy of ``logits`` [tasks, blocks, 2].

    In training mode it mixes with the weights ``choices`` [tasks, blocks, 2] of (executing, skipping), of which the
    last ``learnable`` blocks count: what lies before is executed, and computed once for all tasks. Without choices all
    is executed. In eval mode each task takes its most likely path, and skips for real.
    """

    def __init__(self, model: nn.Module, tasks: tuple[str, ...], logits: Logits, batchnorm: str = "per-path") -> None:
        super().__init__()
        self.tasks, self.blocks = tasks, block_names(model)
        BranchPaths.model_validate({"policy": self._policy(all_of(logits)), "batchnorm": batchnorm}).apply_(model)
        self.model: Any = model
        mix_in_(model.trunk, MixingTrunk)  # type: ignore[arg-type]
        self.logits = nn.Parameter(logits)
        self.learnable = logits.shape[1]
        self.choices: Logits | None = None

    @property
    def policy(self) -> Policy:
        """Return the most likely policy; blocks that may not be skipped yet are executed."""
        executes = execute_probabilities(self.logits.detach()) >= 0.5
        executes[:, : executes.shape[1] - self.learnable] = True
        return self._policy(executes)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Return the predictions of all tasks by name."""
        mixes = self.training and self.choices is not None
        self.model.trunk.choices = self.choices if mixes else None
        self.model.trunk.learnable = self.learnable
        self.model.trunk.paths = (self._policy(all_of(self.logits)) if self.training else self.policy).selects
        predictions: dict[str, Tensor] = self.model(x)
        return predictions

    def _policy(self, executes: Tensor) -> Policy:
        rows = zip(self.tasks, executes.tolist(), strict=True)
        return Policy(blocks=self.blocks, selects={task: tuple(row) for task, row in rows})


class MixingTrunk(nn.Module):
    """Mixed into a branched trunk: forward mixes executing and skipping if there are ``choices``."""

    choices: Logits | None
    learnable: int
    stem: nn.Module
    blocks: dict[str, ResidualBlock]
    paths: dict[str, tuple[bool, ...]]
    lanes: dict[str, tuple[str, ...]]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Any:
        """Return the features [batch, c, h, w] by task."""
        if self.choices is None:
            return super().forward(x)
        blocks = list(self.blocks.values())
        executed = len(blocks) - self.learnable
        features: dict[str, Tensor] = {}
        starts: dict[str, Tensor] = {}
        for task, choices in zip(self.paths, self.choices, strict=True):
            lane = self.lanes[task][0]  # while all tasks execute everything a task stays in one lane
            use_lane_(self, lane)
            if lane not in starts:
                starts[lane] = self.stem(x)
                for block in blocks[:executed]:
                    starts[lane] = block(starts[lane])
            features[task] = starts[lane]
            for block, weights in zip(blocks[executed:], choices[executed:], strict=True):
                features[task] = mixed(block, features[task], weights)
        return features


def mixed(block: ResidualBlock, x: Float[Tensor, "batch c h w"], weights: Float[Tensor, "2"]) -> Tensor:
    """Return p0 relu(S(x) + F(x)) + p1 S(x) for weights (p0, p1): the skip path has no ReLU (as in the code)."""
    shortcut = shortcut_of(block)(x)
    out: Tensor = weights[EXECUTE] * block.relu(shortcut + block.residual(x)) + weights[SKIP] * shortcut
    return out


def block_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the trunk's residual blocks. Raises InputError if it is not made of such blocks."""
    blocks = getattr(getattr(model, "trunk", None), "blocks", {})
    if not blocks or not all(isinstance(block, ResidualBlock) for block in blocks.values()):
        raise InputError(
            "a policy needs a trunk of residual blocks; set model.trunk to resnet18, resnet34 or another ResNet."
        )
    return tuple(blocks)


def all_of(logits: Logits) -> Tensor:
    """Return decisions [tasks, blocks] to execute everything."""
    return torch.ones(logits.shape[:2], dtype=torch.bool)
