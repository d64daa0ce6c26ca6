"""What a relate run found: every similarity of every pair of tasks, the mean and spread of the one that decides."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64

from slimtask.train.relate.config import METRICS, WEIGHTINGS, Metric, RelateConfig, Weighting
from slimtask.train.relate.grouping import Grouping, group_tasks


@dataclass(frozen=True, kw_only=True, eq=False)
class Relation:
    """Similarities of all pairs of tasks (in the order of ``pairs``) by measure, and by layer weighting.

    ``values[metric, weighting]`` is [seeds, sparsities, pairs], NaN where no layer has weight; ``layer_values[metric]``
    is [seeds, sparsities, pairs, layers], its layers the trunk weights ``layers`` in module order.
    """

    tasks: tuple[str, ...]
    layers: tuple[str, ...]
    config: RelateConfig
    values: dict[tuple[Metric, Weighting], Float64[np.ndarray, "seeds sparsities pairs"]]
    layer_values: dict[Metric, Float64[np.ndarray, "seeds sparsities pairs layers"]]

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of tasks, each once."""
        return tuple(combinations(self.tasks, 2))

    def per_seed(
        self, metric: Metric | None = None, weighting: Weighting | None = None
    ) -> Float64[np.ndarray, "seeds pairs"]:
        """Return each seed's similarities, averaged over the sparsities that count; the deciding ones for None."""
        chosen = self.values[metric or self.config.similarity, weighting or self.config.weighting]
        return np.asarray(chosen[:, list(self.config.averaged)].mean(axis=1))

    def matrix(self, similarities: Float64[np.ndarray, " pairs"]) -> Float64[np.ndarray, "tasks tasks"]:
        """Return the symmetric matrix of one value per pair, with ones on the diagonal."""
        made = np.eye(len(self.tasks))
        rows, columns = np.triu_indices(len(self.tasks), k=1)
        made[rows, columns] = made[columns, rows] = similarities
        return made

    def grouping(self) -> Grouping:
        """Return the grouping that the deciding similarity, averaged over the seeds, suggests."""
        return self._grouping(self.per_seed().mean(axis=0))

    def agreement(self) -> int:
        """Return how many seeds, each for itself, suggest the same groups as their average."""
        groups = set(self.grouping().groups)
        return sum(set(self._grouping(values).groups) == groups for values in self.per_seed())

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON: the grouping, and mean, spread and seeds of each measure and weighting."""
        grouping = self.grouping()
        return {
            "schema": 1,
            "tasks": list(self.tasks),
            "layers": list(self.layers),
            "settings": self.config.model_dump(mode="json"),
            "averaged_over": [self.config.sparsities[index] for index in self.config.averaged],
            "keep_ratios": {f"{s:g}": self.config.keep_ratio(s) for s in self.config.sparsities},
            "grouping": {
                "groups": [list(group) for group in grouping.groups],
                "score": grouping.score,
                "alone": grouping.alone,
                "exact": grouping.exact,
                "seeds_that_agree": self.agreement(),
            },
            "similarities": [
                self._similarity(metric, weighting, index)
                for metric in METRICS
                for weighting in WEIGHTINGS
                for index in range(len(self.pairs))
            ],
            "layer_similarities": [
                self._layers(metric, index) for metric in METRICS for index in range(len(self.pairs))
            ],
        }

    def _grouping(self, values: Float64[np.ndarray, " pairs"]) -> Grouping:
        return group_tasks(self.tasks, self.matrix(values), self.config.groups, alone=self.config.alone)

    def _similarity(self, metric: Metric, weighting: Weighting, pair: int) -> dict[str, Any]:
        values = self.values[metric, weighting][:, :, pair]
        return {
            "tasks": list(self.pairs[pair]),
            "similarity": metric,
            "weighting": weighting,
            **statistics(self.per_seed(metric, weighting)[:, pair]),
            "per_sparsity": {
                f"{sparsity:g}": statistics(values[:, index]) for index, sparsity in enumerate(self.config.sparsities)
            },
        }

    def _layers(self, metric: Metric, pair: int) -> dict[str, Any]:
        means = self.layer_values[metric][:, :, pair].mean(axis=0)
        return {
            "tasks": list(self.pairs[pair]),
            "similarity": metric,
            "per_sparsity": {
                f"{sparsity:g}": means[index].tolist() for index, sparsity in enumerate(self.config.sparsities)
            },
        }


def statistics(seeds: Float64[np.ndarray, " seeds"]) -> dict[str, Any]:
    """Return mean, spread (sample standard deviation, None for one seed) and the seeds' own values; None for NaN."""
    if not bool(np.isfinite(seeds).all()):
        return {"mean": None, "spread": None, "seeds": [None] * len(seeds)}
    spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
    return {"mean": float(seeds.mean()), "spread": spread, "seeds": seeds.tolist()}
