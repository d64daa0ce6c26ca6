"""The masks section: what does not go together is refused in a sentence, DiSparse's tables are its own."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from slimtask.errors import InputError
from slimtask.train.methods.masks.config import MasksConfig
from slimtask.train.recipe import parse_recipe


def test_ratios_are_the_tables_of_the_time_they_were_made_for() -> None:
    assert MasksConfig().ratio is None
    assert MasksConfig(keep=0.2).ratio == 0.2
    assert MasksConfig(keep="cityscapes", sparsity=0.7).ratio == 0.300
    assert MasksConfig(keep="cityscapes", sparsity=0.7, when="pretrained").ratio == 0.37
    with pytest.raises(
        ValidationError, match=r"the table 'nyu_v2' has the sparsities 0\.3, 0\.5, 0\.7, 0\.9, not 0\.8"
    ):
        MasksConfig(keep="nyu_v2", sparsity=0.8)


def test_methods_go_with_their_time() -> None:
    with pytest.raises(ValidationError, match="when dynamic goes with method disparse or rigl, not snip"):
        MasksConfig(when="dynamic", method="snip")
    with pytest.raises(ValidationError, match="not rigl"):
        MasksConfig(method="rigl")
    with pytest.raises(ValidationError, match=r"leave out keep 0\.5"):
        MasksConfig(method="snip", keep=0.5)
    with pytest.raises(ValidationError, match="faithful is about dynamic masks"):
        MasksConfig(faithful=True)
    with pytest.raises(ValidationError, match="score gradient is of disparse's pretrained masks"):
        MasksConfig(score="gradient")


def test_a_recipe_has_one_method() -> None:
    content = {"data": {"name": "scenes"}, "masks": {}, "sparsity": {"target": 0.5}}
    with pytest.raises(InputError, match="the sections sparsity and masks are methods of their own"):
        parse_recipe(content)
    with pytest.raises(InputError, match=r"unknown key 'masks\.sparsty'; did you mean 'sparsity'"):
        parse_recipe({"data": {"name": "scenes"}, "masks": {"sparsty": 0.5}})
