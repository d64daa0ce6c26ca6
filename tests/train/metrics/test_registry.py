"""Which metrics are reported, and how a wrong name or direction is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.losses import LOSSES
from slimtask.train.metrics import check_metrics, metric_names
from slimtask.train.metrics.registry import FAMILIES, reported

CHANNELS = {"depth": 1, "normals": 3, "edges": 1, "saliency": 1}
TASKS = {kind: TaskSpec(name="t", kind=kind, channels=CHANNELS.get(kind, 2)) for kind in FAMILIES}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_primary_metric_of_every_kind_is_reported_and_names_are_unique(kind: str) -> None:
    names = metric_names(kind)
    assert len(set(names)) == len(names)
    assert TASKS[kind].metric in reported(TASKS[kind], ())
    assert set(reported(TASKS[kind], ())) <= set(reported(TASKS[kind], "all")) == set(names)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_meter_computes_the_names_it_is_registered_for(kind: str) -> None:
    for family in FAMILIES[kind]:
        meter = family.build(TASKS[kind])
        shape = (1, TASKS[kind].channels) + ((2, 2) if TASKS[kind].dense else ())
        labels = kind in ("segmentation", "classification")
        meter.update(torch.ones(shape), torch.ones(shape)[:, 0].long() if labels else torch.ones(shape))
        assert set(family.names) <= set(meter.compute())


def test_extra_and_primary_metrics_are_reported_once() -> None:
    task = TaskSpec(name="n", kind="normals", channels=3, metric="cosine", higher_is_better=True)
    names = reported(task, ("raw_mean_angle", "mean_angle"))
    assert set(names) - set(reported(TASKS["normals"], ())) == {"cosine", "raw_mean_angle"}
    assert len(set(names)) == len(names)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="no metric 'mean_angel'; did you mean 'mean_angle'"):
        reported(TASKS["normals"], ("mean_angel",))
    with pytest.raises(InputError, match="none of the tasks has a metric 'cosine'"):
        check_metrics([TASKS["depth"], TASKS["edges"]], ("mae", "cosine"))
    check_metrics([TASKS["depth"], TASKS["normals"]], ("mae", "cosine"))


@pytest.mark.parametrize(
    ("kind", "metric", "higher"),
    [("depth", "delta1", True), ("edges", "mae", False), ("normals", "raw_median_angle", False),
     ("segmentation", "cross_entropy", False), ("saliency", "max_f", True)],
)  # fmt: skip
def test_a_primary_metric_with_the_wrong_direction_is_refused(kind: str, metric: str, higher: bool) -> None:
    right = TASKS[kind].model_copy(update={"metric": metric, "higher_is_better": higher})
    assert metric in reported(right, ())
    with pytest.raises(InputError, match=f"set higher_is_better to {higher}"):
        reported(right.model_copy(update={"higher_is_better": not higher}), ())


def test_the_documentation_names_every_metric_and_loss() -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = {name for kind in FAMILIES for name in metric_names(kind) if not name.startswith("raw_")}
    names |= {name for losses in LOSSES.values() for name in losses}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
