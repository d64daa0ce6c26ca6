"""Networks of published width whose channel groups were zeroed at random and removed exactly, on a GPU.

In PyTorch inside a CUDA graph, so that launches cost nothing and only the kernels differ, levels in turns. Random
groups measure what removal buys at a size, not accuracy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.timing.gpu_clock import Clock, GraphClock, replayed
from slimtask.bench.timing.isolated import Say
from slimtask.compress.api.models import Cost, cost
from slimtask.compress.removal.remove import remove_zeros
from slimtask.tasks import TaskSpec
from slimtask.train.models import multitask_net
from slimtask.train.recipe import SparsityConfig
from slimtask.train.sparsity.structure import sparse_structure

TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=40),
    TaskSpec(name="depth", kind="depth", channels=1),
    TaskSpec(name="normals", kind="normals", channels=3),
)
LEVELS = (0.0, 0.5, 0.7, 0.9)
SMALL = (120, 160)  # pixels at which channels are removed and the removal certified: seconds instead of minutes
_CLOCK = GraphClock(replays=500, per_sample=5)


def trunk_latency(say: Say, trunk: str, precisions: Sequence[torch.dtype]) -> list[dict[str, Any]]:
    """Return the rows of a trunk at every level, in each precision; images of 480 x 640."""
    size = (480, 640)
    levels = cut_levels(trunk, LEVELS, size)
    return [row for dtype in precisions for row in latency(levels, size, dtype, clock=_CLOCK, device="cuda")]


@dataclass(frozen=True, kw_only=True)
class CutLevel:
    """One network with a share of its channel groups removed, its size, and the certificate's difference."""

    trunk: str
    target: float
    model: nn.Module
    size: Cost
    certificate: float | None


def cut_levels(trunk: str, levels: Sequence[float], size: tuple[int, int], *, width: float = 1.0) -> list[CutLevel]:
    """Return the dense network and one with each level of its groups zeroed and removed; costs are for ``size``."""
    example, made = torch.zeros(1, 3, *size), []
    for level in levels:
        model, proof = random_level(trunk, level, torch.zeros(1, 3, *SMALL), width=width)
        made.append(CutLevel(trunk=trunk, target=level, model=model, size=cost(model, example), certificate=proof))
    return made


def latency(
    levels: Sequence[CutLevel],
    size: tuple[int, int],
    dtype: torch.dtype,
    *,
    clock: Clock,
    device: str,
) -> list[dict[str, Any]]:
    """Return one row per level, the first being the baseline: sizes, certificate, latency and speed-up by ``clock``."""
    x = torch.randn(1, 3, *size).to(device, dtype).to(memory_format=torch.channels_last)
    networks = {
        f"{level.target:g}": copy.deepcopy(level.model).to(device, dtype).to(memory_format=torch.channels_last)
        for level in levels
    }
    replays = {name: [clock.capture(partial(network, x))] for name, network in networks.items()}
    measured = replayed(
        clock.time(replays, cold=False),
        cuda=device == "cuda",
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        precision=str(dtype).removeprefix("torch."),
        shape=(3, *size),
    )
    baseline = measured[f"{levels[0].target:g}"]
    return [
        {
            "trunk": level.trunk,
            "target": level.target,
            **vars(level.size),
            "certificate": level.certificate,
            "speedup": baseline.ratio(measured[f"{level.target:g}"]).model_dump(),
            "latency_ms": measured[f"{level.target:g}"].summary(),
        }
        for level in levels
    ]


def random_level(trunk: str, level: float, example: Tensor, *, width: float = 1.0) -> tuple[nn.Module, float | None]:
    """Return a multi-task network without ``level`` of its coupled trunk groups, and the certificate's difference."""
    torch.manual_seed(0)
    model = multitask_net(tasks=TASKS, trunk=trunk, width=width).eval()
    if not level:
        return model, None
    structure = sparse_structure(model, example, SparsityConfig(target=level))
    dead = torch.rand(len(structure.layout)) < level
    parameters = dict(model.named_parameters())
    for member in structure.layout.members:
        index = ((member.groups >= 0) & dead[member.groups.clamp_min(0)]).nonzero().flatten()
        parameters[member.parameter].data.index_fill_(member.axis, index, 0.0)
    done = remove_zeros(model, example, align=8)
    return done.model, done.certificate.max_rel_error
