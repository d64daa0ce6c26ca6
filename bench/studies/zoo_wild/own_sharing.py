"""Multi-task networks by hand, by how their tasks share a trunk: all of it, mixed columns, attention, conditions."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Return convolution, BatchNorm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """A basic residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.one = conv(inputs, outputs, stride)
        self.two = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return act(body(x) + shortcut(x))."""
        return F.relu(self.two(self.one(x)) + self.shortcut(x))


class Trunk(nn.Module):
    """Three residual stages; its output is the map of each, finest first."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.stem = conv(3, widths[0], 2)
        steps = pairwise(widths)
        self.stages = nn.ModuleList([Residual(widths[0], widths[0]), *(Residual(a, b, 2) for a, b in steps)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the map of every stage."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class HardSharing(nn.Module):
    """One trunk, heads of four kinds: classes, depth above zero, unit normals, one vector for the image."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(16, 32, 64)
        self.heads = nn.ModuleDict({"classes": nn.Conv2d(64, 7, 1), "depth": conv(64, 24), "normals": conv(64, 24)})
        self.depth, self.normals = nn.Conv2d(24, 1, 1), nn.Conv2d(24, 3, 1)
        self.scene = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the output of every task."""
        deep = self.trunk(x)[-1]
        return {
            "classes": F.interpolate(self.heads["classes"](deep), size=x.shape[-2:], mode="bilinear"),
            "depth": F.softplus(self.depth(self.heads["depth"](deep))),
            "normals": F.normalize(self.normals(self.heads["normals"](deep)), dim=1),
            "scene": self.scene(deep),
        }


class CrossStitch(nn.Module):
    """Two columns whose maps are mixed after every stage, channel by channel, by learnt weights (Misra et al.)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48)) -> None:
        super().__init__()
        self.columns = nn.ModuleList(
            nn.ModuleList(Residual(a, b, 2) for a, b in zip((3, *widths), widths, strict=False)) for _ in range(2)
        )
        mixed = torch.eye(2)[:, :, None]
        self.stitches = nn.ParameterList(mixed + 0.1 * torch.randn(2, 2, width) for width in widths)
        self.heads = nn.ModuleList([nn.Conv2d(widths[-1], 6, 1), nn.Conv2d(widths[-1], 1, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return one map per task."""
        both = [x, x]
        for one, two, stitch in zip(*self.columns, self.stitches, strict=True):
            stacked = torch.stack([one(both[0]), two(both[1])])
            both = list(torch.einsum("stc,tbchw->sbchw", stitch, stacked))
        return tuple(head(each) for head, each in zip(self.heads, both, strict=True))


class Nddr(nn.Module):
    """Two columns that are concatenated and brought back to their width by a 1x1 convolution each (NDDR-CNN)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48)) -> None:
        super().__init__()
        pairs = list(zip((3, *widths), widths, strict=False))
        self.columns = nn.ModuleList(nn.ModuleList(Residual(a, b, 2) for a, b in pairs) for _ in range(2))
        self.mixes = nn.ModuleList(nn.ModuleList(conv(2 * w, w, kernel=1) for w in widths) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(sum(widths), channels, 1) for channels in (6, 3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one map per task."""
        both = [x, x]
        seen: list[list[Tensor]] = [[], []]
        for one, two, *mixes in zip(*self.columns, *self.mixes, strict=True):
            joined = torch.cat([one(both[0]), two(both[1])], dim=1)
            both = [mix(joined) for mix in mixes]
            for task, each in enumerate(both):
                seen[task].append(each)
        size = seen[0][0].shape[-2:]
        columns = [torch.cat([F.interpolate(m, size=size) for m in each], dim=1) for each in seen]
        return [head(each) for head, each in zip(self.heads, columns, strict=True)]


class Mtan(nn.Module):
    """A shared trunk whose maps each task masks by an attention of its own, stage by stage (MTAN)."""

    def __init__(self, tasks: tuple[int, ...] = (7, 1, 3), widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.trunk = Trunk(*widths)
        lower = (0, *widths)
        self.masks, self.outs = nn.ModuleList(), nn.ModuleList()
        for _ in tasks:
            pairs = list(zip(lower, widths, strict=False))
            self.masks.append(nn.ModuleList(self._mask(below + width, width) for below, width in pairs))
            self.outs.append(nn.ModuleList(conv(width, width) for width in widths))
        self.heads = nn.ModuleList(nn.Conv2d(widths[-1], channels, 1) for channels in tasks)

    @staticmethod
    def _mask(inputs: int, outputs: int) -> nn.Sequential:
        last = [nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs), nn.Sigmoid()]
        return nn.Sequential(*conv(inputs, outputs, kernel=1), *last)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return one map per task."""
        maps, found = self.trunk(x), {}
        for task, head in enumerate(self.heads):
            own: Tensor | None = None
            masks, outs = list(self.masks[task].children()), list(self.outs[task].children())
            for mask, out, shared in zip(masks, outs, maps, strict=True):
                if own is not None:
                    own = F.max_pool2d(own, 2)
                seen = shared if own is None else torch.cat([shared, own], dim=1)
                own = out(mask(seen) * shared)
            found[f"task{task}"] = head(own)
        return found


class Film(nn.Module):
    """One trunk that a task's embedding scales and shifts (FiLM), called with keyword arguments."""

    def __init__(self, tasks: int = 3, width: int = 48) -> None:
        super().__init__()
        self.stem = conv(3, width, 2)
        self.condition = nn.Sequential(nn.Linear(tasks, 32), nn.ReLU(), nn.Linear(32, 2 * width))
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.deep = nn.Sequential(Residual(width, width), nn.Conv2d(width, width, 3, padding=1))
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, *, image: Tensor, task: Tensor) -> Tensor:
        """Return the map of the task that the one-hot ``task``, [batch, tasks], asks for."""
        scale, shift = self.condition(task)[:, :, None, None].chunk(2, dim=1)
        x = self.norm(self.deep(self.stem(image)))
        made: Tensor = self.head(F.silu(x * (1 + scale) + shift))
        return made


class Refined(NamedTuple):
    """The outputs of ``Recurrent``: one coarse map, one after three steps."""

    coarse: Tensor
    fine: Tensor


class Recurrent(nn.Module):
    """A convolutional GRU that refines one task's map by another's features, three times with one set of weights."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.context, self.features = Trunk(16, 32), Trunk(16, 32)
        self.gates = nn.Conv2d(2 * width + 1, 2 * width, 3, padding=1)
        self.candidate = nn.Conv2d(2 * width + 1, width, 3, padding=1)
        self.delta = nn.Sequential(conv(width, 16), nn.Conv2d(16, 1, 3, padding=1))
        self.up = nn.Sequential(nn.Conv2d(width, 16, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Refined:
        """Return the coarse and the refined map."""
        state, seen = torch.tanh(self.context(x)[-1]), self.features(x)[-1]
        disparity = state.new_zeros(len(x), 1, *state.shape[-2:])
        for _ in range(3):
            inputs = torch.cat([state, seen, disparity], dim=1)
            update, reset = torch.sigmoid(self.gates(inputs)).chunk(2, dim=1)
            new = torch.tanh(self.candidate(torch.cat([reset * state, seen, disparity], dim=1)))
            state = (1 - update) * state + update * new
            disparity = disparity + self.delta(state)
        return Refined(coarse=disparity, fine=self.up(state))
