"""Scores of yes-or-no predictions: the best F-measure over one threshold, and of several labels per image."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_average_precision,
    multilabel_accuracy,
    multilabel_f1_score,
)
from torchmetrics.utilities.data import dim_zero_cat

ORIGINAL_THRESHOLD = 0.4
LABEL_NAMES = ("map", "accuracy", "weighted_f1", "accuracy_0.4", "weighted_f1_0.4")


class ThresholdMeter(Metric):
    """The best F-measure, (1 + b) P R / (b P + R) with b = ``beta_squared``, over one threshold for a whole set.

    A pixel is predicted if its probability is at least the threshold. Pixels match only where they are: no tolerance.
    One histogram of the probabilities of the true and of the other pixels is all that is kept.
    """

    full_state_update = False
    counts: Tensor
    thresholds: Tensor

    def __init__(
        self, name: str, thresholds: Float[Tensor, " thresholds"], ignore: float, *, beta_squared: float = 1.0
    ) -> None:
        super().__init__()
        self.names = (name, "precision", "recall", "threshold")
        self.ignore, self.beta_squared = ignore, beta_squared
        self.register_buffer("thresholds", thresholds, persistent=False)
        self.add_state("counts", torch.zeros(2, len(thresholds) + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add logits and targets, true above 0.5, of the same shape."""
        valid = target != self.ignore
        scores, true = prediction[valid].sigmoid(), target[valid] > 0.5
        passed = torch.bucketize(scores, self.thresholds, right=True)
        cells = torch.bincount(passed + true * self.counts.shape[1], minlength=self.counts.numel())
        self.counts += cells.view_as(self.counts)

    def compute(self) -> dict[str, float]:
        """Return the best F-measure by the name given, precision and recall there, and the threshold.

        NaN where nothing counted.
        """
        if not bool(self.counts.any()):
            return dict.fromkeys(self.names, math.nan)
        curves = (*self._curves(self.counts), self.thresholds)
        best = int(curves[0].argmax())
        return {name: float(curve[best]) for name, curve in zip(self.names, curves, strict=True)}

    def _curves(self, counts: Int[Tensor, "2 cells"]) -> list[Float[Tensor, " thresholds"]]:
        """Return F-measure, precision and recall at every threshold, 0 where nothing is predicted or true."""
        false, true = counts.flip(1).cumsum(dim=1).flip(1)[:, 1:].double()
        predicted, positives = false + true, counts[1].sum().double()
        denominators = (predicted + self.beta_squared * positives, predicted, positives)
        factors = (1 + self.beta_squared, 1.0, 1.0)
        return [(factor * true / below).nan_to_num() for factor, below in zip(factors, denominators, strict=True)]


class LabelMeter(Metric):
    """Scores of several yes-or-no labels per image, over a whole set; keeps every score and label.

    ``map``: average precision, averaged over the labels that vary in the set. ``accuracy``: share of the known labels
    that are right at probability 0.5. ``weighted_f1``: F1 of each label, weighted by how often the label is true. The
    names that end in 0.4 have that threshold, which is Less is More's.
    """

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, count: int, ignore: float) -> None:
        super().__init__()
        self.ignore = int(ignore)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")
        self.scores.append(torch.zeros(0, count))  # so that a process without images can join the others
        self.labels.append(torch.zeros(0, count, dtype=torch.int64))

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add logits [batch, labels] and targets of that shape."""
        self.scores.append(prediction.sigmoid())
        self.labels.append(target.long())

    def compute(self) -> dict[str, float]:
        """Return every score by name, NaN where nothing counted."""
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        results = {"map": self._varying_map(scores, labels)}
        if scores.shape[1] == 1:  # torchmetrics wants two labels; a second that is never known changes nothing
            scores, labels = scores.repeat(1, 2), pad(labels, (0, 1), value=self.ignore)
        some, count = bool((labels != self.ignore).any()), scores.shape[1]
        for threshold, suffix in ((0.5, ""), (ORIGINAL_THRESHOLD, f"_{ORIGINAL_THRESHOLD}")):
            right = multilabel_accuracy(scores, labels, count, threshold, "micro", ignore_index=self.ignore)
            f1 = multilabel_f1_score(scores, labels, count, threshold, "weighted", ignore_index=self.ignore)
            results["accuracy" + suffix] = float(right) if some else math.nan
            results["weighted_f1" + suffix] = float(f1) if some else math.nan
        return results

    def _varying_map(self, scores: Float[Tensor, "images labels"], labels: Int[Tensor, "images labels"]) -> float:
        values = []
        for score, label in zip(scores.T, labels.T, strict=True):
            known = label != self.ignore
            if label[known].unique().numel() == 2:
                values.append(float(binary_average_precision(score[known], label[known])))
        return sum(values) / len(values) if values else math.nan
