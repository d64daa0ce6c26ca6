"""The ``relate`` section of a recipe: how task similarities are measured, and which of them decides the grouping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimtask.tasks import Finite, Frozen

Metric = Literal["epi", "iou", "css", "mcss"]
Weighting = Literal["equal", "linear", "linear_plus_one", "step", "mean_sparsity", "min_sparsity", "epi"]
Kappa = Literal["ratio", "nyu_v2", "cityscapes", "taskonomy"]
METRICS: tuple[Metric, ...] = ("epi", "iou", "css", "mcss")
WEIGHTINGS: tuple[Weighting, ...] = (
    "equal", "linear", "linear_plus_one", "step", "mean_sparsity", "min_sparsity", "epi"
)  # fmt: skip

# Keep ratios that DiSparse tuned by hand so that the union of the tasks' masks has the sparsity in the key.
KAPPA_TABLES: dict[str, dict[float, float]] = {
    "nyu_v2": {0.9: 0.080, 0.7: 0.257, 0.5: 0.460, 0.3: 0.675},
    "cityscapes": {0.9: 0.095, 0.7: 0.300, 0.5: 0.510, 0.3: 0.710},
    "taskonomy": {0.9: 0.097, 0.7: 0.257, 0.5: 0.460, 0.3: 0.675},
}
_TYPICAL = (0.5, 0.7)
"""Where the masked saliencies order tasks as joint training does, and no other measure does (meta-sparse's report)."""


class RelateConfig(Frozen):
    """Task similarity from the subnetworks that matter to each task at initialisation; see docs/relate.md."""

    batches: int = Field(default=5, ge=1, description="mini-batches per seed, of train.batch images")
    seeds: int = Field(default=5, ge=1, le=1000, description="fresh networks, each with its own order of the data")
    sparsities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.3, 0.5, 0.7, 0.9), min_length=1)
    average_over: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="sparsities that count; default: those from 0.5 to 0.7, else all"
    )
    similarity: Metric = "mcss"
    weighting: Weighting = "equal"
    kappa: Kappa = Field(default="ratio", description="keep ratio of a sparsity: 1 - sparsity, or DiSparse's table")
    groups: int = Field(default=2, ge=1, description="most groups the tasks may be split into")
    alone: Finite | None = Field(default=None, description="worth of a task alone; default: mean over all pairs")

    @model_validator(mode="after")
    def _check_sparsities(self) -> RelateConfig:
        if len(set(self.sparsities)) < len(self.sparsities):
            raise ValueError("a sparsity is given twice; name each once")
        for sparsity in self.average_over or ():
            if sparsity not in self.sparsities:
                raise ValueError(f"average_over: {sparsity:g} is not among the sparsities {list(self.sparsities)}")
        for sparsity in self.sparsities:
            if self.kappa != "ratio" and sparsity not in KAPPA_TABLES[self.kappa]:
                known = ", ".join(f"{value:g}" for value in sorted(KAPPA_TABLES[self.kappa]))
                raise ValueError(f"kappa: the table '{self.kappa}' has {known}, not {sparsity:g}; take kappa ratio")
        return self

    def keep_ratio(self, sparsity: float) -> float:
        """Return the share of its connections that each task keeps at ``sparsity``."""
        return 1 - sparsity if self.kappa == "ratio" else KAPPA_TABLES[self.kappa][sparsity]

    @property
    def averaged(self) -> tuple[int, ...]:
        """Return the indices of the sparsities that count in the similarity that decides."""
        low, high = _TYPICAL
        wanted = self.average_over or [s for s in self.sparsities if low <= s <= high] or self.sparsities
        return tuple(index for index, sparsity in enumerate(self.sparsities) if sparsity in wanted)
