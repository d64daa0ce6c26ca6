"""What ``run`` says of a prediction in words."""

from __future__ import annotations

import numpy as np

from slimtask.export.predict import _summary
from slimtask.tasks import TaskSpec


def test_a_depth_is_told_in_the_unit_of_its_task() -> None:
    values = np.array([[1.0, 2.5]], dtype=np.float32)
    metres = TaskSpec(name="depth", kind="depth", channels=1)
    assert _summary(metres, values) == "depth 1.00 to 2.50 m"
    assert _summary(metres.model_copy(update={"unit": "inverse depth"}), values) == "depth 1.00 to 2.50 inverse depth"
