"""The one dispatcher: what a section of a recipe stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimtask.errors import InputError
from slimtask.train.methods.adashare.following import PolicyFollowing
from slimtask.train.methods.adashare.run import train_policy
from slimtask.train.methods.base import Method
from slimtask.train.methods.delta.run import train_deltas
from slimtask.train.methods.group_sparsity import GroupSparsity
from slimtask.train.methods.masks.dynamic import DynamicMasks
from slimtask.train.methods.masks.training import MaskedTraining
from slimtask.train.recipe import parse_recipe
from slimtask.train.run import METHODS, method_of, train

DATA = {"data": {"name": "scenes", "height": 32, "width": 48, "train": 4, "val": 2, "test": 2}}
SECTIONS: list[tuple[dict[str, Any], Any]] = [
    ({}, Method),
    ({"sparsity": {"target": 0.5}}, GroupSparsity),
    ({"masks": {}}, MaskedTraining),
    ({"masks": {"when": "dynamic", "method": "disparse"}}, DynamicMasks),
    ({"policy": {}}, train_policy),
    ({"policy": {"random": {"trunks": 1.5}}}, PolicyFollowing),
    ({"delta": {"base": "segmentation", "gates": {"kind": "units", "density": 0.1}}}, train_deltas),
]


@pytest.mark.parametrize(("sections", "expected"), SECTIONS, ids=[str(sections) for sections, _ in SECTIONS])
def test_a_section_is_trained_by_its_method(sections: dict[str, Any], expected: Any) -> None:
    assert method_of(parse_recipe({**DATA, **sections})) is expected


def test_every_method_is_reached() -> None:
    assert {name for sections, _ in SECTIONS for name in sections} == set(METHODS)


@pytest.mark.parametrize(("sections", "words"), [(SECTIONS[4][0], "a policy is learned"), (SECTIONS[6][0], "deltas")])
def test_what_runs_in_stages_takes_no_fork_and_writes_nothing(
    sections: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        train(parse_recipe({**DATA, **sections}), tmp_path / "run", fork_at=3)
    assert list(tmp_path.iterdir()) == []
