"""The policy section: what contradicts itself is refused, and a given policy is none to learn."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from slimtask.train.methods.adashare.config import PolicyConfig


@pytest.mark.parametrize(
    ("section", "fixed"), [({}, False), ({"select": {"depth": (True, False)}}, True), ({"random": {"trunks": 1}}, True)]
)
def test_a_policy_is_learned_unless_it_is_given(section: dict[str, Any], fixed: bool) -> None:
    assert PolicyConfig.model_validate(section).fixed is fixed


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"select": {"depth": (True,)}, "random": {"trunks": 1}}, "'select' and 'random' are two policies"),
        ({"keep_weights": True, "batchnorm": "per-task"}, "keep_weights needs 'batchnorm: per-path'"),
        ({"random": {"trunks": 0}}, "greater than 0"),
        ({"share": 1.0}, "less than 1"),
        ({"temperature_decay": 1.1}, "less than or equal to 1"),
        ({"policy_lr": float("inf")}, "finite"),
        ({"sparsty_weight": 0.1}, "sparsty_weight"),
    ],
)
def test_what_is_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PolicyConfig.model_validate(section)
