"""Probabilities and logits of the same network score the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.logits import as_logits
from slimtask.train.losses import task_loss
from slimtask.train.metrics.task_metrics import TaskMetrics

KINDS: dict[str, tuple[int, tuple[int, ...]]] = {
    "segmentation": (4, (2, 4, 6, 5)), "classification": (4, (2, 4)), "multilabel": (3, (2, 3)),
    "edges": (1, (2, 1, 6, 5)), "saliency": (1, (2, 1, 6, 5)),
}  # fmt: skip


def example(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, the probabilities they stand for, and a target."""
    generator = torch.Generator().manual_seed(0)
    channels, shape = KINDS[kind]
    logits = torch.randn(shape, generator=generator) * 2
    if kind in ("segmentation", "classification"):
        target = torch.randint(0, channels, (shape[0], *shape[2:]), generator=generator)
        return logits, logits.softmax(1), target
    return logits, logits.sigmoid(), (torch.rand(shape, generator=generator) > 0.5).float()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_metrics_are_those_of_the_logits(kind: Any) -> None:
    logits, probabilities, target = example(kind)
    spec = TaskSpec(name="t", kind=kind, channels=KINDS[kind][0])
    decided = spec.model_copy(update={"unit": "probability"})
    torch.testing.assert_close(task_loss(probabilities, target, decided), task_loss(logits, target, spec))
    meters = TaskMetrics(spec), TaskMetrics(decided)
    for meter, prediction in zip(meters, (logits, probabilities), strict=True):
        meter.update(prediction, target)
    assert meters[1].compute() == pytest.approx(meters[0].compute(), rel=1e-5)


def test_what_is_no_probability_is_refused() -> None:
    spec = TaskSpec(name="t", kind="edges", channels=1, unit="probability")
    with pytest.raises(InputError, match=r"between -2 and 3; set its unit to logit"):
        as_logits(torch.tensor([[[[-2.0, 3.0]]]]), spec)
    assert bool(as_logits(torch.tensor([0.0, 1.0]), spec).isfinite().all())
    depth = TaskSpec(name="d", kind="depth", channels=1, unit="metre")
    assert as_logits(torch.tensor([7.0]), depth).tolist() == [7.0]
