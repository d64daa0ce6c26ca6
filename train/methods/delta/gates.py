"""Deltas behind gates: W_task = W_base + gate * delta, the gates learned with the deltas (EfficientMTL, step 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from slimtask.compress.structures.delta import Change
from slimtask.train.methods.delta.config import GatesConfig
from slimtask.train.methods.delta.hard_concrete import deterministic, log_open_probability, open_probability, sample
from slimtask.train.methods.delta.layout import Gated


class GatedDelta(nn.Module):
    """The deltas of one task's trunk: per parameter a delta, zero at first, and one gate for each of its units.

    While it trains gates are drawn, all processes the same; otherwise they are at their medians. ``fix_`` ends that:
    from then on a delta's entries are there or not. Kind "element" has one gate more for each whole tensor.
    """

    def __init__(self, layout: Mapping[str, Gated], base: Mapping[str, Tensor], config: GatesConfig) -> None:
        super().__init__()
        self.layout, self.config = dict(layout), config
        self.numbers = {name: number for number, name in enumerate(layout)}
        self.shapes = {name: tuple(base[name].shape) for name in layout}
        self.deltas = nn.ParameterList(torch.zeros_like(base[name]) for name in layout)
        for name, number in self.numbers.items():
            self.register_buffer(f"mask_{number}", torch.ones(self.shapes[name], dtype=torch.bool))
        self.gates = {
            gated.gates: number for number, gated in enumerate({g.gates: g for g in layout.values()}.values())
        }
        sizes = self._sizes()
        self.alphas = nn.ParameterList(torch.full_like(sizes[gates], config.alpha) for gates in self.gates)
        for gates, number in self.gates.items():
            self.register_buffer(f"sizes_{number}", sizes[gates], persistent=False)
        if config.kind == "element":
            self.tensor_alphas = nn.Parameter(torch.full((len(layout),), config.alpha))
        else:  # not a parameter: one that no forward pass uses has no place among those of several processes
            self.register_buffer("tensor_alphas", torch.zeros(0), persistent=False)
        self.register_buffer("fixed", torch.tensor(False))
        self.generator: torch.Generator | None = None

    def seed(self, seed: int) -> None:
        """Draw gates from ``seed`` on from now on."""
        self.generator = torch.Generator(self.tensor_alphas.device).manual_seed(seed)

    def weights(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the task's weights by name, gates drawn or at their medians, or fixed."""
        if self.fixed:
            return {name: base[name] + self.mask(name) * self.deltas[i] for name, i in self.numbers.items()}
        drawn = {gates: self._draw(self.alphas[number]) for gates, number in self.gates.items()}
        whole = self._draw(self.tensor_alphas)
        made = {}
        for name, number in self.numbers.items():
            gate = self.layout[name].pattern.expand(drawn[self.layout[name].gates], self.shapes[name])
            gate = gate * whole[number] if len(whole) else gate
            made[name] = base[name] + gate * self.deltas[number]
        return made

    def mask(self, name: str) -> Tensor:
        """Return which entries of the parameter are there once the gates are fixed."""
        return self.get_buffer(f"mask_{self.numbers[name]}")

    def penalty(self) -> Float[Tensor, ""]:
        """Return the expected number of entries behind open gates, and that of open gates of whole tensors."""
        counts = [
            (self.get_buffer(f"sizes_{number}") * self._open(self.alphas[number])).sum()
            for number in self.gates.values()
        ]
        return torch.stack([*counts, self._open(self.tensor_alphas).sum()]).sum()

    @torch.no_grad()
    def expected_entries(self) -> float:
        """Return the expected number of entries behind gates that are all open; those that are once these are fixed."""
        if self.fixed:
            return float(sum(int(self.mask(name).sum()) for name in self.layout))
        chances = self._log_chances()
        return float(
            sum((self.get_buffer(f"sizes_{i}") * chances[gates].exp()).sum() for gates, i in self.gates.items())
        )

    @torch.no_grad()
    def fix_(self, most: float | None) -> None:
        """Fix the gates: what is open stays, with its delta times its gate; what is not is gone for good.

        ``most`` is the number of entries that may stay: the units that are most likely to be open do (of equal ones
        those that changed most), as many as fit, even if their gates were closed: those with the largest logits, with
        kind "element" by the product of the chances of both their gates. None keeps the units whose gates are open
        and whose deltas are not zero.
        """
        moved = {name: self.deltas[i] * self._median_gate(name) for name, i in self.numbers.items()}
        if most is None:
            kept = {gates: changed > 0 for gates, changed in self._changed(moved).items()}
        else:
            kept = self._best_units(most)
        for name, number in self.numbers.items():
            gated = self.layout[name]
            mask = gated.pattern.expand(kept[gated.gates], self.shapes[name])
            self.mask(name).copy_(mask)
            self.deltas[number].copy_(moved[name] * mask)
        self.get_buffer("fixed").fill_(True)

    def changes(self) -> dict[str, Change]:
        """Return the fixed deltas by parameter name."""
        return {
            name: Change.of(self.layout[name].pattern, self.deltas[i].detach().cpu(), self.mask(name).cpu())
            for name, i in self.numbers.items()
        }

    def _sizes(self) -> dict[str, Tensor]:
        sizes: dict[str, Tensor] = {}
        for name, gated in self.layout.items():
            own = gated.pattern.sizes(self.shapes[name])
            sizes[gated.gates] = sizes.get(gated.gates, torch.zeros_like(own)) + own
        return sizes

    def _draw(self, alpha: Tensor) -> Tensor:
        config = self.config
        if not self.training:
            return self._median(alpha)
        noise = torch.rand(alpha.shape, generator=self.generator, device=alpha.device)
        return sample(alpha, noise, stretch=config.stretch, temperature=config.temperature)

    def _median(self, alpha: Tensor) -> Tensor:
        return deterministic(alpha, stretch=self.config.stretch, temperature=self.config.temperature)

    def _open(self, alpha: Tensor) -> Tensor:
        return open_probability(alpha, stretch=self.config.stretch, temperature=self.config.temperature)

    def _log_open(self, alpha: Tensor) -> Tensor:
        return log_open_probability(alpha, stretch=self.config.stretch, temperature=self.config.temperature)

    def _median_gate(self, name: str) -> Tensor:
        gated = self.layout[name]
        gate = gated.pattern.expand(self._median(self.alphas[self.gates[gated.gates]]), self.shapes[name])
        return gate * self._median(self.tensor_alphas)[self.numbers[name]] if len(self.tensor_alphas) else gate

    def _changed(self, deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return for every unit the sum of |delta|."""
        sums: dict[str, Tensor] = {}
        for name, delta in deltas.items():
            gated = self.layout[name]
            own = gated.pattern.reduce(delta.abs())
            sums[gated.gates] = sums.get(gated.gates, torch.zeros_like(own)) + own
        return sums

    @torch.no_grad()
    def _log_chances(self) -> dict[str, Float64[Tensor, " units"]]:
        """Return for every unit the log of the probability that its gate is open, and that of its tensor if it has one.

        Both must be for W_base + z_e z_g delta to differ from W_base; they are drawn independently.
        """
        found = {gates: self._log_open(self.alphas[number]) for gates, number in self.gates.items()}
        for chance, name in zip(self._log_open(self.tensor_alphas), self.numbers, strict=False):
            found[self.layout[name].gates] += chance
        return found

    def _best_units(self, most: float) -> dict[str, Tensor]:
        changed = self._changed({name: self.deltas[i] for name, i in self.numbers.items()})
        chances = torch.cat(list(self._log_chances().values()))
        sizes = torch.cat([self.get_buffer(f"sizes_{number}") for number in self.gates.values()])
        by_change = torch.cat([changed[gates] for gates in self.gates]) / sizes
        order = by_change.argsort(descending=True, stable=True)
        order = order[chances[order].argsort(descending=True, stable=True)]
        kept = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        kept[order[fitting(sizes[order], most)]] = True
        parts = torch.split(kept, [len(self.alphas[number]) for number in self.gates.values()])
        return dict(zip(self.gates, parts, strict=True))


def fitting(sizes: Float[Tensor, " units"], most: float) -> Tensor:
    """Return the mask of units that fit into ``most`` entries, taken in order, those that do not fit left out."""
    if len(sizes) == 0 or bool((sizes == sizes[0]).all()):
        count = math.floor(most / float(sizes[0])) if len(sizes) else 0
        return torch.arange(len(sizes), device=sizes.device) < count
    left, fits = most, []
    for size in sizes.tolist():
        fits.append(size <= left)
        left -= size if fits[-1] else 0
    return torch.tensor(fits, device=sizes.device)
