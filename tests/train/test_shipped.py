"""Recipes that come with slimtask are found by name, from anywhere, and a file of the user's comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimtask.errors import InputError
from slimtask.train.recipe import load_recipe
from slimtask.train.shipped import FOLDER, find_recipe, shipped


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", shipped())
def test_every_recipe_loads_by_its_name(name: str) -> None:
    assert load_recipe(name).data


@pytest.mark.parametrize(
    "path", ["scenes/relate", "scenes/relate.yaml", "recipes/scenes/relate.yaml", "./scenes/relate"]
)
def test_every_spelling_leads_to_the_same_file(path: str) -> None:
    assert find_recipe(path) == FOLDER / "scenes" / "relate.yaml"


def test_a_file_comes_first_and_a_folder_is_none() -> None:
    Path("scenes").mkdir()
    assert find_recipe("scenes") == FOLDER / "scenes.yaml"
    Path("scenes", "relate").write_text("mine")
    assert find_recipe("scenes/relate") == Path("scenes/relate")
    with pytest.raises(InputError, match="is a folder"):
        Path("mine").mkdir()
        find_recipe("mine")


@pytest.mark.parametrize("path", ["scnes", "recipes/scnes.yaml", "recipes/scnes"])
def test_a_wrong_name_is_told_the_nearest(path: str) -> None:
    with pytest.raises(InputError, match=r"does not exist, and none .* did you mean 'scenes'"):
        load_recipe(path)


def test_studies_are_no_recipes() -> None:
    assert not [name for name in shipped() if "study" in name]
