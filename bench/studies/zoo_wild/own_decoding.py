"""Multi-task networks by hand, by how they decode: distillation between tasks, pyramids, cached grids, hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.zoo_wild.own_sharing import Residual, Trunk, conv


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` at the size of ``like``."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class PadNet(nn.Module):
    """First guesses of every task that the others read through gates before the final ones (PAD-Net)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.tasks = {"classes": 7, "depth": 1, "normals": 3}
        self.trunk = Trunk(16, 32, 64)
        self.own = nn.ModuleDict({task: conv(64, width) for task in self.tasks})
        self.guess = nn.ModuleDict({task: nn.Conv2d(width, n, 1) for task, n in self.tasks.items()})
        pairs = [f"{a}_{b}" for a in self.tasks for b in self.tasks if a != b]
        self.gates = nn.ModuleDict({pair: nn.Conv2d(width, width, 3, padding=1) for pair in pairs})
        self.messages = nn.ModuleDict({pair: nn.Conv2d(width, width, 3, padding=1, bias=False) for pair in pairs})
        self.final = nn.ModuleDict(
            {task: nn.Sequential(Residual(width, width), nn.Conv2d(width, n, 1)) for task, n in self.tasks.items()}
        )

    def forward(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the first guesses and the final outputs of every task."""
        deep = self.trunk(x)[-1]
        own = {task: self.own[task](deep) for task in self.tasks}
        found: dict[str, dict[str, Tensor]] = {"guess": {}, "final": {}}
        for task in self.tasks:
            found["guess"][task] = self.guess[task](own[task])
            told = own[task]
            for other in self.tasks:
                if other != task:
                    gate = torch.sigmoid(self.gates[f"{task}_{other}"](own[task]))
                    told = told + gate * self.messages[f"{task}_{other}"](own[other])
            found["final"][task] = self.final[task](told)
        return found


class Fuse(nn.Module):
    """A weighted mean of maps with learnt positive weights, then a separable convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.conv = nn.Sequential(depthwise, nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))

    def forward(self, *maps: Tensor) -> Tensor:
        """Return the convolved mean of maps of one size."""
        weights = F.relu(self.weights) / (F.relu(self.weights).sum() + 1e-4)
        stacked = torch.stack([weight * each for weight, each in zip(weights, maps, strict=True)])
        fused: Tensor = self.conv(F.silu(stacked.sum(dim=0)))
        return fused


class BiFpn(nn.Module):
    """Two rounds of a pyramid that is fused down and up again (EfficientDet), shared heads at every level."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.trunk = Trunk(16, 32, 64)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (16, 32, 64))
        self.down = nn.ModuleList(nn.ModuleList(Fuse(2, width) for _ in range(2)) for _ in range(2))
        self.up = nn.ModuleList(nn.ModuleList([Fuse(3, width), Fuse(2, width)]) for _ in range(2))
        self.boxes = nn.Sequential(conv(width, width), nn.Conv2d(width, 4, 1))
        self.classes = nn.Sequential(conv(width, width), nn.Conv2d(width, 5, 1))

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        """Return boxes and classes at every level, [batch, values, places]."""
        maps = [lateral(each) for lateral, each in zip(self.laterals, self.trunk(x), strict=True)]
        for down, up in zip(self.down, self.up, strict=True):
            middle = down[0](maps[1], F.interpolate(maps[2], scale_factor=2))  # type: ignore[index]
            first = down[1](maps[0], F.interpolate(middle, scale_factor=2))  # type: ignore[index]
            second = up[0](maps[1], middle, F.max_pool2d(first, 2))  # type: ignore[index]
            maps = [first, second, up[1](maps[2], F.max_pool2d(second, 2))]  # type: ignore[index]
        return {
            "boxes": [self.boxes(m).flatten(2) for m in maps],
            "classes": [self.classes(m).flatten(2) for m in maps],
        }


class Yolop(nn.Module):
    """A focus stem, a cross-stage-partial trunk, boxes decoded on grids that are cached, and two masks (YOLOP)."""

    def __init__(self, anchors: int = 3, classes: int = 2) -> None:
        super().__init__()
        self.stem = conv(12, 16)
        self.one, self.two = nn.Sequential(conv(16, 32, 2), Partial(32)), nn.Sequential(conv(32, 64, 2), Partial(64))
        self.pool = conv(4 * 64, 64, kernel=1)
        self.neck = nn.Sequential(conv(96, 32), Partial(32))
        self.anchors, self.outputs = anchors, classes + 5
        self.detect = nn.ModuleList(nn.Conv2d(channels, anchors * (classes + 5), 1) for channels in (32, 64))
        self.register_buffer("sizes", torch.tensor([[[4.0, 6.0], [8.0, 8.0], [9.0, 5.0]]] * 2))
        self.grids: list[Tensor] = [torch.zeros(1), torch.zeros(1)]  # no buffers: what a map's size asks for
        self.masks = nn.ModuleList(nn.Sequential(conv(32, 16), nn.ConvTranspose2d(16, 2, 4, 4)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the boxes of both levels, [batch, boxes, values], and both masks."""
        corners = [x[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]
        fine = self.one(self.stem(torch.cat(corners, dim=1)))
        deep = self.two(fine)
        pooled = [F.max_pool2d(deep, size, 1, size // 2) for size in (5, 9, 13)]
        deep = self.pool(torch.cat([deep, *pooled], dim=1))
        joined = self.neck(torch.cat([fine, F.interpolate(deep, scale_factor=2)], dim=1))
        boxes = [self._boxes(level, each) for level, each in enumerate((joined, deep))]
        return torch.cat(boxes, dim=1), [mask(joined) for mask in self.masks]

    def _boxes(self, level: int, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        raw = self.detect[level](x).view(batch, self.anchors, self.outputs, height, width).permute(0, 1, 3, 4, 2)
        if self.grids[level].shape[2:4] != raw.shape[2:4]:
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            self.grids[level] = torch.stack([columns, rows], dim=2).view(1, 1, height, width, 2).to(raw)
        y, sizes = raw.sigmoid(), self.get_buffer("sizes")[level].view(1, self.anchors, 1, 1, 2)
        centres, extents = y[..., :2] * 2 - 0.5 + self.grids[level], (y[..., 2:4] * 2) ** 2 * sizes
        return torch.cat([centres, extents, y[..., 4:]], dim=-1).reshape(batch, -1, self.outputs)


class Partial(nn.Module):
    """A cross-stage-partial block: half of the channels go past the bottleneck."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.inner = conv(width, width, kernel=1), Residual(width // 2, width // 2)
        self.out = conv(width, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of both halves."""
        past, through = torch.split(self.into(x), x.shape[1] // 2, dim=1)
        joined: Tensor = self.out(torch.cat([past, self.inner(through)], dim=1))
        return joined


class HookedDpt(nn.Module):
    """A transformer whose layers are tapped by hooks, reassembled into maps and fused for two tasks (MiDaS, DPT)."""

    def __init__(self, width: int = 48, patch: int = 8, side: int = 64) -> None:
        super().__init__()
        self.side = side // patch
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, self.side**2 + 1, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        layers = (nn.TransformerEncoderLayer(width, 4, 96, batch_first=True, norm_first=True) for _ in range(3))
        self.layers = nn.ModuleList(layers)
        self.readout = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(3))
        self.assemble = nn.ModuleList(
            [nn.ConvTranspose2d(width, 32, 4, 4), nn.ConvTranspose2d(width, 32, 2, 2), nn.Conv2d(width, 32, 1)]
        )
        self.fuse = nn.ModuleList(nn.ModuleList(Residual(32, 32) for _ in range(3)) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(32, channels, 3, padding=1) for channels in (1, 6))
        self.taps: dict[int, Tensor] = {}
        for index, layer in enumerate(self.layers):
            layer.register_forward_hook(Tap(self.taps, index))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return one map per task."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.position
        for layer in self.layers:
            tokens = layer(tokens)
        maps = [self._map(level) for level in range(3)]
        self.taps.clear()
        found = []
        for fuse, head in zip(self.fuse, self.heads, strict=True):
            path = fuse[2](maps[2])  # type: ignore[index]
            for level in (1, 0):
                path = fuse[level](resized(path, maps[level]) + maps[level])  # type: ignore[index]
            found.append(head(path))
        return tuple(found)

    def _map(self, level: int) -> Tensor:
        tokens = self.taps[level]
        token = tokens[:, :1].expand(-1, tokens.shape[1] - 1, -1)
        read = F.gelu(self.readout[level](torch.cat([tokens[:, 1:], token], dim=-1)))
        made: Tensor = self.assemble[level](read.transpose(1, 2).reshape(len(read), -1, self.side, self.side))
        return made


class Tap:
    """A forward hook that keeps the output of its layer for the network that put it there."""

    def __init__(self, taps: dict[int, Tensor], index: int) -> None:
        self.taps, self.index = taps, index

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Keep the output."""
        self.taps[self.index] = output


class PanopticFpn(nn.Module):
    """A pyramid with group norms whose levels are upsampled step by step and summed (Panoptic FPN), two heads."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.trunk = Trunk(16, 32, 64)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (16, 32, 64))
        self.smooth = nn.ModuleList(self._block(width, 24) for _ in range(3))
        self.again = self._block(24, 24)
        self.stuff, self.things = nn.Conv2d(24, 8, 1), nn.Conv2d(24, 2, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(4, outputs), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return both maps at the size of the image."""
        maps = [lateral(each) for lateral, each in zip(self.laterals, self.trunk(x), strict=True)]
        for level in (1, 0):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], size=maps[level].shape[-2:])
        low = [smooth(each) for smooth, each in zip(self.smooth, maps, strict=True)]
        summed = low[0] + resized(low[1], low[0]) + resized(self.again(resized(low[2], low[1])), low[0])
        return {"stuff": resized(self.stuff(summed), x), "things": resized(self.things(summed), x)}


class CrossTask(nn.Module):
    """Tasks whose tokens attend to each other's: heads by hand one way, nn.MultiheadAttention the other way."""

    def __init__(self, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.trunk = Trunk(16, 32, 64)
        self.own = nn.ModuleList(conv(64, width, kernel=1) for _ in range(2))
        self.query, self.pair = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.back = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Linear(96, width)) for _ in range(2)
        )
        self.outs = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in (7, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return both maps at the size of the image."""
        maps = [own(self.trunk(x)[-1]) for own in self.own]
        size = maps[0].shape[-2:]
        one, two = (norm(m.flatten(2).transpose(1, 2)) for norm, m in zip(self.norms[:2], maps, strict=True))
        mixed = [one + self._attend(one, two), two + self.back(two, one, one, need_weights=False)[0]]
        found = {}
        for name, each, norm, mlp, out in zip(("a", "b"), mixed, self.norms[2:], self.mlps, self.outs, strict=True):
            tokens = each + mlp(norm(each))
            found[name] = resized(out(tokens.transpose(1, 2).unflatten(2, size)), x)
        return found

    def _attend(self, asking: Tensor, told: Tensor) -> Tensor:
        query = self.query(asking).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.pair(told).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)
        projected: Tensor = self.project((attention @ value).transpose(1, 2).flatten(2))
        return projected
