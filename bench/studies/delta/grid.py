"""What is measured: the linear layers of ViT-B and ViT-L, and the shares of weights and rows that change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DENSITIES = (0.01, 0.02, 0.05, 0.1)
ROWS = (0.0, 0.1, 0.3, 0.5, 1.0)
TASKS = 4
DENSITY = 0.05  # where rows or tasks vary


@dataclass(frozen=True, kw_only=True)
class Vit:
    """The sizes of a transformer that decide its cost."""

    name: str
    width: int
    heads: int
    depth: int = 12

    @property
    def hidden(self) -> int:
        """Return the number of hidden units of an MLP."""
        return 4 * self.width

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of a block's linear layers by name."""
        width = self.width
        return {
            "qkv": (width, 3 * width),
            "proj": (width, width),
            "fc1": (width, self.hidden),
            "fc2": (self.hidden, width),
        }


VIT_B = Vit(name="ViT-B", width=768, heads=12)
VIT_L = Vit(name="ViT-L", width=1024, heads=16, depth=24)


@dataclass(frozen=True, kw_only=True)
class LinearCase:
    """A linear layer of ``vit`` on ``tokens`` rows; ``points`` are the (density, rows) at which it is measured."""

    vit: Vit
    layer: str
    tokens: int
    points: tuple[tuple[float, float], ...]

    @property
    def sizes(self) -> tuple[int, int]:
        """Return (inputs, outputs)."""
        return self.vit.linears[self.layer]


def points(densities: Sequence[float] = DENSITIES, rows: Sequence[float] = ROWS) -> tuple[tuple[float, float], ...]:
    """Return the (density, rows) pairs: every density on an unchanged input, and changed rows at ``DENSITY``."""
    shared = [(density, 0.0) for density in densities]
    return (*shared, *((DENSITY, share) for share in rows if share > 0))


def linear_cases(*, quick: bool = False) -> list[LinearCase]:
    """Return the linear layers, the most important first; ``quick`` tiny ones that only show that everything runs."""
    if quick:
        tiny = Vit(name="tiny", width=64, heads=2, depth=2)
        return [LinearCase(vit=tiny, layer="fc1", tokens=32, points=((0.05, 0.0), (0.05, 0.3)))]
    whole = [LinearCase(vit=VIT_B, layer=layer, tokens=1024, points=points()) for layer in VIT_B.linears]
    few = points((DENSITY,), (0.1, 0.3))
    more = [
        LinearCase(vit=vit, layer=layer, tokens=tokens, points=few)
        for vit, tokens in ((VIT_B, 2048), (VIT_L, 1024))
        for layer in ("fc1", "fc2")
    ]
    return whole + more


def chosen(count: int, density: float) -> int:
    """Return how many of ``count`` units change at ``density``, at least one."""
    return max(1, round(density * count))
