"""A recipe that trains in a moment: two tasks, four images, a narrow network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slimtask.train.recipe import Recipe, parse_recipe


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """Return a function of the masks section and of keys of the train section."""

    def make(masks: dict[str, Any] | None, **train: Any) -> Recipe:
        content: dict[str, Any] = {
            "name": "tiny",
            "data": {
                "name": "scenes", "height": 32, "width": 48, "train": 4, "val": 2, "test": 2, "cache": True,
                "tasks": ["segmentation", "depth"],
            },
            "model": {"width": 0.125, "head_hidden": 8},
            "train": {"steps": 8, "batch": 2, "lr": 0.003, "eval_every": 4, **train},
            **({} if masks is None else {"masks": {"batches": 2, **masks}}),
        }  # fmt: skip
        return parse_recipe(content)

    return make
