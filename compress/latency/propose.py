"""Several ways to spend one latency, and the one that keeps the outputs nearest by measurement.

Importance is the objective and time the constraint. What a cut of many groups costs is not known before it is made: the
sum of what each costs alone misjudges strong cuts. So the integer program is asked with more than one idea of worth,
and of its answers, which all take the same time by the table, a measurement on images decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.blocks import Block
from slimtask.compress.latency.choose import Chosen, LatencyChooser, Worth
from slimtask.compress.latency.sensitivity import Damage
from slimtask.errors import InputError

_WRECKED = 0.99  # the relative distance at which nothing of the outputs is left

Ask = Callable[[LatencyChooser], Chosen]
Distance = Callable[[Chosen], float]


def worths_of(
    groups: Sequence[Group], damage: Sequence[Damage], blocks: Mapping[Block, float]
) -> dict[str, list[Worth]]:
    """Return by name the ideas of what the best 0, 1, ... channels of each group are worth.

    "damage": what they keep of the outputs, 1 less their distance, multiplies over the groups, so its logarithm is
    what is summed: a group that is wrecked alone wrecks all. "root": the square root of that, for which small damages
    count more. "shares": a group's worth falls with the square of the share it loses, so that all lose about the same.
    ``blocks`` tells how far the outputs move without each removable block.
    """
    curves = [_cost(mine.curve()) for mine in damage]
    for block, distance in blocks.items():
        first, *others = block.groups
        curves[first][0] = _cost(distance)
        for other in others:
            curves[other][0] = 0.0
    return {
        "damage": [curve.max() - curve for curve in curves],
        "root": [np.sqrt(curve.max()) - np.sqrt(curve) for curve in curves],
        "shares": [1.0 - np.linspace(1.0, 0.0, group.channels + 1) ** 2 for group in groups],
    }


def _cost(distance: Any) -> Any:
    return -np.log1p(-np.minimum(distance, _WRECKED))


class Proposals:
    """Asks each of ``choosers``, keyed by its idea of worth, and returns the choice that is nearest by ``distance``."""

    def __init__(self, choosers: Mapping[str, LatencyChooser], distance: Distance) -> None:
        self._choosers, self._distance = dict(choosers), distance

    def __call__(self, ask: Ask, by: str | None = None) -> Chosen:
        """Return what ``ask`` makes of the best chooser, or of the one called ``by``, with its distance.

        Raises InputError where ``ask`` raises one for all of them.
        """
        found: list[Chosen] = []
        for name in self._choosers if by is None else (by,):
            try:
                chosen = ask(self._choosers[name])
            except InputError as error:
                refusal = error
                continue
            found.append(replace(chosen, by=name, distance=self._distance(chosen)))
        if not found:
            raise refusal
        return min(found, key=lambda chosen: chosen.distance)
