"""The multi-task network: one trunk, one head per task, outputs in physical units at the input's resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.architectures import register
from slimtask.errors import InputError, nearest
from slimtask.tasks import TaskSpec, select_tasks
from slimtask.train.models.heads import build_head
from slimtask.train.models.trunks import TRUNKS, ResNetTrunk
from slimtask.train.models.vit import VITS, ViTTrunk


class MultiTaskNet(nn.Module):
    """Map images to a dict of predictions; ``forward(x, tasks=None)`` computes only the heads that are asked for.

    Segmentation, edges, saliency: logits [batch, channels, height, width]. Depth: metres, positive. Normals: unit
    vectors. Classification, multilabel: logits [batch, channels].
    """

    def __init__(self, trunk: nn.Module, heads: nn.ModuleDict, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = heads
        self.tasks = tuple(tasks)

    def forward(
        self, x: Float[Tensor, "batch 3 height width"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Return the predictions of ``tasks`` (all for None) by name; InputError for an unknown task."""
        specs = select_tasks(self.tasks, tasks)
        features = self.trunk(x)
        return {spec.name: _output(self.heads[spec.name](features), spec, x) for spec in specs}


@register("multitask-net")
def multitask_net(
    *,
    tasks: Sequence[TaskSpec],
    trunk: str = "resnet18",
    width: float = 1.0,
    head: str = "light",
    image_head: str = "pooled",
    head_hidden: int | Mapping[str, int] | None = None,
) -> MultiTaskNet:
    """Return a fresh MultiTaskNet: ``trunk`` at ``width`` times its published channels, one head per task.

    ``head`` serves the dense tasks (light, scene, deeplab, convnext), ``image_head`` the image-level ones (pooled,
    attribute); ``head_hidden`` overrides the heads' published hidden width, of all or by task. Raises InputError for an
    unknown name, that of a task too.
    """
    body, hidden = build_trunk(trunk, width), hidden_widths(head_hidden, [task.name for task in tasks])
    heads = {
        task.name: build_head(
            head if task.dense else image_head,
            body.out_channels,
            task.channels,
            dense=task.dense,
            hidden=hidden[task.name],
        )
        for task in tasks
    }
    return MultiTaskNet(body, nn.ModuleDict(heads), tasks)


def hidden_widths(head_hidden: int | Mapping[str, int] | None, tasks: Sequence[str]) -> dict[str, int | None]:
    """Return the hidden width by task, None for the published one; InputError if it is given for an unknown task."""
    if not isinstance(head_hidden, Mapping):
        return dict.fromkeys(tasks, head_hidden)
    for name in head_hidden:
        if name not in tasks:
            raise InputError(f"head_hidden: there is no task '{name}'{nearest(name, tasks)}")
    return {task: head_hidden.get(task) for task in tasks}


def build_trunk(name: str, width: float) -> ResNetTrunk | ViTTrunk:
    """Return the trunk called ``name`` at ``width`` times its published channels; InputError for an unknown name."""
    if name not in TRUNKS and name not in VITS:
        raise InputError(f"unknown trunk '{name}'{nearest(name, [*TRUNKS, *VITS])}")
    return ViTTrunk(name, width=width) if name in VITS else ResNetTrunk(name, width=width)


def _output(raw: Tensor, spec: TaskSpec, x: Tensor) -> Tensor:
    if not spec.dense:
        return raw
    full = F.interpolate(raw, size=x.shape[-2:], mode="bilinear", align_corners=False)
    if spec.kind == "depth":
        return F.softplus(full)
    return F.normalize(full, dim=1) if spec.kind == "normals" else full
