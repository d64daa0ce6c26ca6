"""The tiny recipe that the tests of deltas train by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slimtask.train.recipe import Recipe, parse_recipe


def _recipe(**sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "name": "scenes", "height": 16, "width": 24, "train": 12, "val": 4, "test": 4, "cache": True,
            "tasks": ["segmentation", "depth", "room"],
        },
        "model": {"trunk": "vit_tiny", "width": 0.25, "head": "convnext", "head_hidden": 128},
        "train": {"steps": 8, "batch": 4, "lr": 0.002, "eval_every": 4},
        "delta": {"base": "segmentation", "gates": {"kind": "units", "density": 0.1}},
    }  # fmt: skip
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    return parse_recipe(content)


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Return a maker of recipes; its keywords are sections whose keys replace those of the tiny one."""
    return _recipe
