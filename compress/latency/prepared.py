"""A network with everything that choosing its channels for latency takes, measured once for any number of budgets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import analyse
from slimtask.compress.latency.blocks import Block
from slimtask.compress.latency.choose import Align, LatencyChooser
from slimtask.compress.latency.meter import Meter
from slimtask.compress.latency.propose import Proposals, worths_of
from slimtask.compress.latency.sensitivity import Judge
from slimtask.compress.latency.specs import axis_ranges, layer_specs
from slimtask.compress.removal.nothing import nothing_prunable
from slimtask.compress.score.counts import FLOOR, least_count
from slimtask.compress.score.importance import Scores
from slimtask.errors import InputError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


class Prepared:
    """Groups, layers and measured layer times of ``model``, which is left as it is.

    ``example`` is an image [batch, ...]. Raises InputError if no channel may be removed.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        meter: Meter,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.example, self.meter = model, example, meter
        self._progress = progress
        self.analysis = analyse(model, example)
        self.groups = self.analysis.groups
        if all(group.refused is not None for group in self.groups):
            raise InputError(nothing_prunable(model, self.groups))
        self.specs = layer_specs(model, self.groups, example)
        self.table = meter.layer_table(axis_ranges(self.specs, self.groups), self._stage("measuring layers"))

    def proposals(
        self,
        scores: Scores,
        dense_ms: Mapping[str, float],
        *,
        paths: Mapping[str, Collection[str]],
        judge: Judge,
        align: Align = "auto",
        floor: float = FLOOR,
        blocks: Sequence[Block] = (),
    ) -> Proposals:
        """Return what answers a budget: a chooser for every idea of worth, and the measurement that decides.

        ``scores`` rank the channels of every group; ``dense_ms`` and ``paths`` (modules) are by path. ``judge``
        measures what groups and blocks matter; ``blocks`` may go whole, no other group below ``floor``.
        """
        damage = judge.damage(scores, self._stage("measuring what groups matter"))
        whole = [torch.ones(group.channels, dtype=torch.bool) for group in self.groups]
        worths = worths_of(self.groups, damage, {block: judge.without(whole, [block.name]) for block in blocks})
        choosers = {
            name: LatencyChooser(
                self.groups,
                self.specs,
                scores,
                self.table,
                dense_ms,
                paths=paths,
                align=align,
                smallest=[least_count(group, floor) for group in self.groups],
                blocks=blocks,
                worths=mine,
            )
            for name, mine in worths.items()
        }
        return Proposals(choosers, lambda chosen: judge.without(chosen.keep, chosen.blocks))

    def judge(self, images: Sequence[Tensor] | None) -> Judge:
        """Return the judge on ``images``, batches of the network's input, by default on eight images of seeded noise.

        They are a batch, or where the network takes no eight at once as many of the example's size.
        """
        if images is not None:
            return Judge(self.analysis, images)
        generator = torch.Generator().manual_seed(0)
        noise = [torch.randn(self.example.shape, generator=generator, dtype=self.example.dtype) for _ in range(8)]
        try:
            return Judge(self.analysis, [torch.cat(noise)])
        except InputError:
            return Judge(self.analysis, noise)

    def _stage(self, name: str) -> Callable[[int, int], None] | None:
        progress = self._progress
        return None if progress is None else lambda done, total: progress(name, done, total)
