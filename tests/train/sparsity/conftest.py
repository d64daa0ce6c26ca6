"""A plain reference of ProximalAdamW in NumPy float64: one group at a time, its root by bisection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slimtask.train.sparsity.layout import GroupLayout, Member


class Reference:
    """The optimiser's definition, written down as slowly as possible."""

    def __init__(self, values: dict[str, Tensor], layout: GroupLayout | None) -> None:
        self.p = {name: value.detach().double().numpy().copy() for name, value in values.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.layout, self.t = layout, 0

    def step(
        self,
        gradients: dict[str, Tensor],
        *,
        lr: float,
        strength: float = 0.0,
        weights: np.ndarray | None = None,
        decay: Callable[[str], float] = lambda _: 0.01,
        eps: float = 1e-6,
        gamma: float = np.inf,
    ) -> np.ndarray:
        """Take one step and return the critical strengths [groups] of it."""
        self.t += 1
        norms = np.zeros(0) if self.layout is None else self.norms()
        for name, gradient in gradients.items():
            g = gradient.double().numpy()
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g**2
            size = lr * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
            self.p[name] = self.p[name] - size * self.m[name] / (np.sqrt(self.v[name]) + eps)
            self.p[name] = self.p[name] - lr * decay(name) * self.p[name]
        if self.layout is None:
            return np.zeros(0)
        weights = self.layout.group_sizes.double().sqrt().numpy() if weights is None else weights
        offsets = np.where(weights > 0, norms / gamma, 0.0)
        return np.array(
            [
                self._prox(group, lr, strength, float(weights[group]), eps, offsets[group])
                for group in range(len(weights))
            ]
        )

    def norms(self) -> np.ndarray:
        """Return the norms [groups] now."""
        assert self.layout is not None
        pieces = [[self.p[name][where].ravel() for name, where in self._places(g)] for g in range(len(self.layout))]
        return np.array([np.linalg.norm(np.concatenate(piece)) for piece in pieces])

    def _places(self, group: int) -> list[tuple[str, tuple[Any, ...]]]:
        assert self.layout is not None
        places: list[tuple[str, tuple[Any, ...]]] = []
        for member in self.layout.members:
            for index in (member.groups == group).nonzero()[:, 0].tolist():
                where = [slice(None)] * self.p[member.parameter].ndim
                where[member.axis] = index
                places.append((member.parameter, tuple(where)))
        return places

    def _prox(self, group: int, lr: float, strength: float, weight: float, eps: float, offset: float) -> float:
        places = self._places(group)
        p = np.concatenate([np.ravel(self.p[name][where]) for name, where in places])
        d = np.concatenate([np.ravel(np.sqrt(self.v[name][where]) + eps) for name, where in places])
        x, start = prox_by_bisection(p, d, lr * max(0.0, strength * weight - offset)), 0
        for name, where in places:
            shape = np.shape(self.p[name][where])
            count = int(np.prod(shape))
            self.p[name][where] = x[start : start + count].reshape(shape)
            start += count
        return (float(np.linalg.norm(d * p)) / lr + offset) / weight if weight > 0 else np.inf


def prox_by_bisection(p: np.ndarray, d: np.ndarray, threshold: float) -> np.ndarray:
    """Return the prox of one group from sum p^2 / (theta + threshold / d)^2 = 1, bracketed and halved."""
    if threshold == 0:
        return p
    if np.linalg.norm(d * p) <= threshold:
        return np.zeros_like(p)
    low, high = 0.0, float(np.linalg.norm(p))
    for _ in range(200):
        middle = (low + high) / 2
        if np.sum((p / (middle + threshold / d)) ** 2) > 1:
            low = middle
        else:
            high = middle
    return np.asarray(p * d * low / (d * low + threshold))


def coupled_network(dtype: torch.dtype) -> tuple[dict[str, Tensor], GroupLayout]:
    """Return parameters and a layout with every kind of member: filters with their BatchNorm, a residual stream that
    two of them share, input channels, slices in no group, channels-last memory, a parameter outside of the layout."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "stem.weight": (12, 3, 3, 3),
        "stem.gamma": (12,),
        "stem.beta": (12,),
        "block.weight": (20, 12, 3, 3),
        "block.gamma": (20,),
        "skip.weight": (20, 12, 1, 1),
        "wide.weight": (8, 40, 3, 3),
        "last.weight": (14, 10, 3, 3),
        "head.weight": (5, 14),
        "head.bias": (5,),
    }
    values = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    values["last.weight"] = values["last.weight"].contiguous(memory_format=torch.channels_last)
    stem, block = torch.arange(12), torch.arange(12, 32)
    block = torch.where(block % 5 == 0, -1, block)
    block = torch.where(block >= 0, 12 + torch.arange(20) // 2, -1)  # two channels a group, some in none
    axis_and_groups = {
        "stem.weight": (0, stem),
        "stem.gamma": (0, stem),
        "stem.beta": (0, stem),
        "block.weight": (0, block),
        "block.gamma": (0, block),
        "skip.weight": (0, block),
        "wide.weight": (1, 22 + torch.arange(40)),
        "last.weight": (1, 62 + torch.arange(10)),
    }
    members = [Member(parameter=name, axis=axis, groups=groups) for name, (axis, groups) in axis_and_groups.items()]
    return values, GroupLayout(members=members, shapes=shapes)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks and packs so small that tiny parameters take every path."""
    monkeypatch.setattr("slimtask.train.sparsity.blocked.CHUNK_ELEMENTS", 300)
    monkeypatch.setattr("slimtask.train.sparsity.blocked.PACKED_ELEMENTS", 100)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch do all passes, as on a machine without a C compiler."""
    monkeypatch.setattr("slimtask.train.sparsity.native.library", lambda: None)


@pytest.fixture
def reference() -> type[Reference]:
    """Return the class of the plain reference."""
    return Reference


@pytest.fixture
def network() -> Callable[[torch.dtype], tuple[dict[str, Tensor], GroupLayout]]:
    """Return the builder of parameters and layout with every kind of member."""
    return coupled_network
