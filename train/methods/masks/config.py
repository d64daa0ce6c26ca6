"""The ``masks`` section of a recipe: which weights train, who decides that, and when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimtask.tasks import Frozen
from slimtask.train.relate.config import KAPPA_TABLES

Table = Literal["nyu_v2", "cityscapes", "taskonomy"]
KeepRatio = Annotated[float, Field(gt=0, le=1)]

# DiSparse's hand-tuned keep ratios of a task, by overall sparsity: at initialisation, and of trained networks.
STATIC_TABLES = KAPPA_TABLES
PRETRAINED_TABLES: dict[str, dict[float, float]] = {
    "nyu_v2": {0.9: 0.10, 0.7: 0.30, 0.5: 0.50, 0.3: 0.70},
    "cityscapes": {0.9: 0.13, 0.7: 0.37, 0.5: 0.60, 0.3: 0.644},
    "taskonomy": {0.9: 0.20, 0.7: 0.30, 0.5: 0.50, 0.3: 0.70},
}
_METHODS = {
    "static": ("disparse", "snip", "magnitude", "random"),
    "pretrained": ("disparse", "snip", "magnitude", "random"),
    "dynamic": ("disparse", "rigl"),
}


class MasksConfig(Frozen):
    """Unstructured masks on convolution and linear weights; biases and norms are never masked. See docs/masks.md.

    ``when``: "static" decides at initialisation, "pretrained" on the weights of ``train.init``, "dynamic" while it
    trains: the masks move up to ``end`` of the steps. ``method`` "disparse" lets every task decide for itself and
    prunes what all give up; the others rank once for all tasks ("snip", "magnitude"), draw ("random"), or grow by the
    gradient of the one total loss ("rigl").
    """

    method: Literal["disparse", "snip", "magnitude", "random", "rigl"] = "disparse"
    when: Literal["static", "pretrained", "dynamic"] = "static"
    sparsity: float = Field(default=0.9, gt=0, lt=1, description="share of the weights in scope that are zero")
    scope: Literal["network", "trunk"] = "network"
    keep: KeepRatio | Literal["exact"] | Table = Field(
        default="exact", description="disparse: each task's keep ratio; exact: the one whose union has the sparsity"
    )
    batches: int = Field(default=50, ge=1, description="mini-batches that gradients are measured on")
    score: Literal["magnitude", "gradient"] = Field(
        default="magnitude", description="pretrained disparse: |w|, or |dL/dw| w^2"
    )
    layers: Literal["erk", "uniform"] = Field(default="erk", description="random, dynamic: density of each layer")
    end: float = Field(default=0.75, gt=0, le=1, description="dynamic: share of the steps in which the masks move")
    interval: int = Field(default=50, ge=1, description="dynamic: steps between two moves")
    drop: float = Field(default=0.5, gt=0, lt=1, description="dynamic: share dropped at first, falling to 0 at end")
    faithful: bool = Field(
        default=False, description="dynamic: as the original does, density overshoots and regrown weights are stale"
    )

    @model_validator(mode="after")
    def _fits(self) -> MasksConfig:
        if self.method not in _METHODS[self.when]:
            raise ValueError(f"when {self.when} goes with method {' or '.join(_METHODS[self.when])}, not {self.method}")
        if self.keep != "exact" and (self.method != "disparse" or self.when == "dynamic"):
            raise ValueError(f"keep is a ratio of disparse's static and pretrained masks; leave out keep {self.keep}")
        if self.faithful and self.when != "dynamic":
            raise ValueError(f"faithful is about dynamic masks; leave it out when {self.when}")
        if self.score == "gradient" and (self.method, self.when) != ("disparse", "pretrained"):
            raise ValueError("score gradient is of disparse's pretrained masks; leave it out")
        if isinstance(self.keep, str) and self.keep != "exact" and self.sparsity not in self._table(self.keep):
            known = ", ".join(f"{value:g}" for value in sorted(self._table(self.keep)))
            raise ValueError(f"the table '{self.keep}' has the sparsities {known}, not {self.sparsity:g}; keep exact")
        return self

    @property
    def ratio(self) -> float | None:
        """Return the keep ratio of every task, None if it is to be found."""
        if self.keep == "exact":
            return None
        return self._table(self.keep)[self.sparsity] if isinstance(self.keep, str) else self.keep

    def _table(self, name: str) -> dict[float, float]:
        return (STATIC_TABLES if self.when == "static" else PRETRAINED_TABLES)[name]
