"""What a run starts from: a network that is there, and that the recipe's own words lead to."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from slimtask.errors import InputError
from slimtask.train.prepare import initial_model
from slimtask.train.recipe import load_recipe, parse_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_network_to_start_from_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    recipe = parse_recipe({"data": {}, "train": {"init": str(tmp_path / "dense.safetensors")}})
    with pytest.raises(
        InputError, match=r"train\.init '.*dense\.safetensors' does not exist; train that network first"
    ):
        initial_model(recipe, ())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/disparse_pretrained.yaml")), ids=lambda path: path.parent.name)
def test_the_command_that_a_recipe_names_makes_the_network_it_starts_from(path: Path) -> None:
    comment = " ".join(line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    command = re.search(r"`slimtask train recipes/([^`]+/dense\.yaml[^`]*)`", comment)
    assert command is not None
    name, *words = shlex.split(command[1])
    dense, recipe = load_recipe(RECIPES / name, [word for word in words if word != "--set"]), load_recipe(path)
    assert recipe.train.init == f"runs/{dense.name}/checkpoint.safetensors"
    assert dense.model == recipe.model
    assert dense.data == recipe.data
    assert dense.masks is None
