"""delta_m against its definition."""

from __future__ import annotations

import math

import pytest

from slimtask.tasks import TaskSpec
from slimtask.train.metrics import delta_m


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
