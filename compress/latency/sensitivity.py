"""What the channels of a group are worth to the outputs: how far these move, on images, when only the best few stay.

Scores say which channels of one group matter more; of how much one group matters beside another they say nothing, as
layers differ in fan-in, in resolution and in what follows them. A measurement does: the mean squared distance of the
outputs, relative to their mean square, when everything that reads the group's other channels sees zeros. What a cut of
many groups costs is predicted from these in ``latency/propose.py``. BatchNorms take the statistics of each batch, in
the network as it is and without channels alike: a cut network gets statistics of its own, and with those of the dense
one the distance says little of what training can make of it (EagleEye, ECCV 2020, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from slimtask.compress.edits.skip import skip_blocks_
from slimtask.compress.graph.analysis import Analysis
from slimtask.compress.graph.groups import Group
from slimtask.compress.network.apart import first_line
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.inputs import named_outputs
from slimtask.compress.removal.reference import masked
from slimtask.compress.removal.surgery import Cut
from slimtask.compress.score.importance import top_channels
from slimtask.compress.tuning import batchnorms
from slimtask.errors import InputError

SHARES = (0.125, 0.25, 0.5, 0.75)
"""The shares of a group's channels that are tried."""
_ENOUGH = 4  # images of a batch whose statistics stand for something

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """How far the outputs move when a group keeps ``counts[i]`` of its channels, the best by score: ``distance[i]``.

    Counts rise to all channels, where the distance is 0; it never rises with the count.
    """

    counts: tuple[int, ...]
    distance: tuple[float, ...]

    def curve(self) -> Float64[np.ndarray, " counts"]:
        """Return the distance with 0, 1, ... all channels, on a line between those tried, below the least as there."""
        return np.asarray(np.interp(np.arange(self.counts[-1] + 1.0), self.counts, self.distance))


class Judge:
    """Measures how far the outputs of one network move without some of its channels or blocks, on batches of images.

    ``analysis`` is that of the network, of which a copy runs; ``images`` are batches of its one input, [batch, ...]
    each. Raises InputError if the network does not run on them.

    Example: ``Judge(analyse(net, x), [images]).damage(score_channels(net, groups, "l2"))``
    """

    def __init__(self, analysis: Analysis, images: Sequence[Tensor]) -> None:
        self._groups, self._images = analysis.groups, images
        self._network = self._ready(analysis.model)
        try:
            self._wanted = self._outputs(self._network)
        except Exception as error:
            shapes = ", ".join(str(list(batch.shape)) for batch in images[:1])
            raise InputError(
                f"the network does not run on a batch of images {shapes} ({first_line(error)}); give images of the "
                "example's size, in batches that it takes."
            ) from None

    def damage(
        self, scores: Sequence[Float[Tensor, " _channels"]], progress: Progress | None = None
    ) -> tuple[Damage, ...]:
        """Return the Damage of every group, all others whole; of a refused one only that of none gone.

        ``scores`` tell per group [channels] which of its channels stay. ``progress`` is called with (done, total).
        """
        found = []
        for index, (group, score) in enumerate(zip(self._groups, scores, strict=True)):
            counts = sorted({max(1, round(share * group.channels)) for share in SHARES} - {group.channels})
            tried = [] if group.refused else counts
            distances = [self.without(_but_best(self._groups, index, score, count)) for count in tried]
            falling = np.maximum.accumulate([0.0, *distances[::-1]])[::-1].tolist()
            found.append(Damage(counts=(*tried, group.channels), distance=tuple(falling)))
            if progress is not None:
                progress(index + 1, len(self._groups))
        return tuple(found)

    def without(self, keep: Sequence[Bool[Tensor, " _channels"]], blocks: Sequence[str] = ()) -> float:
        """Return how far the outputs move without the channels that ``keep`` leaves out and without whole ``blocks``.

        The mean over the batches; infinite where an output is no longer finite.
        """
        cuts = [
            Cut(group=group, keep=stays, reasons={})
            for group, stays in zip(self._groups, keep, strict=True)
            if group.refused is None
        ]
        network = self._network
        if blocks:
            network = independent_copy(network)
            skip_blocks_(network, blocks)
            cuts = [_left(cut, network) for cut in cuts]
        with masked(network, cuts):
            return self._distance(network)

    def distance(self, network: nn.Module) -> float:
        """Return how far the outputs of any other ``network`` of the same task are, e.g. of one that was cut."""
        return self._distance(self._ready(network))

    def _ready(self, model: nn.Module) -> nn.Module:
        """Return a copy to run here, whose BatchNorms take the statistics of each batch if it is large enough."""
        network = independent_copy(model).eval()
        if all(len(batch) >= _ENOUGH for batch in self._images):
            for norm in batchnorms(network):
                norm.training, norm.momentum = True, 0.0
        return network

    def _distance(self, network: nn.Module) -> float:
        outputs = self._outputs(network)
        return sum(moved(*pair) for pair in zip(outputs, self._wanted, strict=True)) / len(outputs)

    @torch.no_grad()
    def _outputs(self, network: nn.Module) -> list[dict[str, Tensor]]:
        return [named_outputs(network(batch)) for batch in self._images]


def moved(outputs: Any, wanted: Any) -> float:
    """Return the mean over the outputs of |outputs - wanted|² / |wanted|², of whole numbers the share that differ.

    Entries that are not finite in ``wanted`` (a mask's -inf) do not count; what is not finite in ``outputs`` alone
    makes the distance infinite.
    """
    ours, distances = named_outputs(outputs), []
    for name, target in named_outputs(wanted).items():
        found = ours[name]
        if not target.is_floating_point():
            distances.append(float((found != target).double().mean()))
            continue
        counted = target.isfinite()
        scale = target[counted].double().square().sum().clamp_min(torch.finfo(torch.float64).tiny)
        distances.append(float((found[counted].double() - target[counted]).square().sum() / scale))
    return sum(distances) / len(distances) if all(map(math.isfinite, distances)) else math.inf


def _but_best(groups: Sequence[Group], index: int, score: Tensor, count: int) -> list[Bool[Tensor, " _channels"]]:
    """Return the masks that keep all channels, but of group number ``index`` only the ``count`` best."""
    whole = [torch.ones(group.channels, dtype=torch.bool) for group in groups]
    return [*whole[:index], top_channels(score, count), *whole[index + 1 :]]


def _left(cut: Cut, network: nn.Module) -> Cut:
    """Return the cut of what is still in a network without some of its blocks."""
    names = {name for name, _ in network.named_modules()}
    members = tuple(member for member in cut.group.members if member.module in names)
    return replace(cut, group=replace(cut.group, members=members))
