"""delta_m against its definition."""

from __future__ import annotations

import math

import pytest

from slimtask.tasks import TaskSpec
from slimtask.train.metrics import delta_m, relative_score


def test_delta_m_is_signed_so_that_better_is_positive() -> None:
    tasks = [
        TaskSpec(name="s", kind="segmentation", channels=2),
        TaskSpec(name="d", kind="depth", channels=1),
        TaskSpec(name="m", kind="multilabel", channels=2),
    ]
    base = {"s": {"miou": 0.5}, "d": {"abs_rel": 0.2}, "m": {"map": math.nan}}
    now = {"s": {"miou": 0.55}, "d": {"abs_rel": 0.22}, "m": {"map": 0.3}}
    assert delta_m(now, base, tasks) == pytest.approx((10 - 10) / 2)
    assert delta_m({**now, "d": {"abs_rel": 0.1}}, base, tasks) == pytest.approx((10 + 50) / 2)
    assert math.isnan(delta_m({"m": {"map": 1.0}}, {"m": {"map": math.nan}}, tasks[2:]))


def test_differences_of_the_score_are_relative_changes() -> None:
    """Small changes are those of delta_m, whatever the units; what is not finite does not count; 0 is no crash."""
    tasks = [
        TaskSpec(name="s", kind="segmentation", channels=2),
        TaskSpec(name="d", kind="depth", channels=1),
        TaskSpec(name="m", kind="multilabel", channels=2),
    ]
    base = {"s": {"miou": 0.5}, "d": {"abs_rel": 200.0}, "m": {"map": math.nan}}
    now = {"s": {"miou": 0.505}, "d": {"abs_rel": 199.0}, "m": {"map": math.nan}}
    change = relative_score(now, tasks) - relative_score(base, tasks)
    assert change == pytest.approx(delta_m(now, base, tasks) / 100, rel=1e-2)
    assert change == pytest.approx(math.log(1.01 * 200 / 199) / 2)
    assert math.isnan(relative_score(base, tasks[2:]))
    assert relative_score({"s": {"miou": 0.0}}, tasks[:1]) < relative_score({"s": {"miou": 1e-5}}, tasks[:1])
