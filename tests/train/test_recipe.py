"""Recipes: what is wrong is said in one sentence with the nearest right word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slimtask.errors import InputError
from slimtask.train.recipe import load_recipe, parse_recipe


def write(folder: Path, text: str) -> Path:
    (folder / "r.yaml").write_text(text)
    return folder / "r.yaml"


def test_overrides_reach_nested_keys_and_keep_types(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ndata: {name: scenes, height: 32}\n")
    recipe = load_recipe(path, ["train.steps=7", "sparsity.target=0.7", "data.tasks=[depth, edges]"])
    assert (recipe.train.steps, recipe.data.height, recipe.data.tasks) == (7, 32, ("depth", "edges"))
    assert recipe.sparsity is not None
    assert recipe.sparsity.target == 0.7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("data: {name: scenes}\ntrain: {stpes: 5}", r"unknown key 'train\.stpes'; did you mean 'steps'"),
        ("data: {name: scenes}\nspartsity: {target: .5}", r"unknown key 'spartsity'; did you mean 'sparsity'"),
        ("data: {nme: scenes}", r"unknown key 'data\.nme'; did you mean 'name'"),
        ("data: {name: scenes}\nsparsity: {tagret: .5}", r"unknown key 'sparsity\.tagret'; did you mean 'target'"),
        ("data: {name: scenes}\ntrain: {steps: many}", r"'train\.steps': Input should be a valid integer"),
        ("data: {name: scenes}\nsparsity: {target: 1.5}", r"'sparsity\.target': Input should be less than 1"),
        ("data: {name: scenes}\nsparsity: {}", "give either 'target'.*or 'strength'"),
        ("train: {steps: 5}", "'data': Field required"),
        ("", "holds no keys"),
        ("a: [", "is not valid YAML"),
        ("data: {}\ntrain: {steps: 5}\ntrain: {batch: 4}", "is not valid YAML .'train' is given twice.*line 3"),
        ("data: {}\nname: 2024-99-99", "is not valid YAML"),
        ("data: {}\ntrain: {loss_weights: {depth: -1}}", "greater than or equal to 0"),
        ("data: {}\ntrain: {seed: 99999999999999}", "less than 2147483648"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence(content: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"r\.yaml'.*{words}") as caught:
        load_recipe(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_recipes_that_earlier_runs_wrote_down_are_read_and_trackers_are_refused_by_name() -> None:
    old = {"data": {"name": "scenes"}, "train": {"steps": 5, "trackers": []}}
    assert parse_recipe(old) == parse_recipe({"data": {"name": "scenes"}, "train": {"steps": 5}})
    old["train"]["trackers"] = ["wandb"]
    with pytest.raises(InputError, match=r"'train': there are no 'trackers' any more.*; leave the key out"):
        parse_recipe(old)


def test_wrong_overrides_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ndata: {name: scenes}")
    for override, words in (("train.steps", "takes key=value"), ("name.x=1", "'name' is a single value")):
        with pytest.raises(InputError, match=words):
            load_recipe(path, [override])


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(InputError, match=r"recipe 'absent\.yaml' does not exist"):
        load_recipe("absent.yaml")


def test_what_an_anchor_brings_may_be_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {<<: {height: 32, width: 48}, width: 64}\n")
    assert (load_recipe(path).data.height, load_recipe(path).data.width) == (32, 64)


def test_warm_up_and_ramp_must_leave_room() -> None:
    with pytest.raises(InputError, match=r"warmup \+ ramp must be below 1"):
        parse_recipe({"data": {}, "sparsity": {"target": 0.5, "warmup": 0.5, "ramp": 0.5}})


def test_a_recipe_changes_single_keys_of_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "data: {height: 32, width: 48}\ntrain: {steps: 7, lr: 0.1}\nsparsity: {target: 0.5}\n"
    )
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / "one.yaml"
    mine.write_text("extends: ../base.yaml\nname: mine\ntrain: {lr: 0.2}\nsparsity: null\n")
    recipe = load_recipe(mine, ["train.batch=3"])
    assert (recipe.name, recipe.data.height, recipe.train.steps, recipe.train.lr) == ("mine", 32, 7, 0.2)
    assert recipe.train.batch == 3
    assert recipe.sparsity is None
    (tmp_path / "base.yaml").write_text("extends: mine/one.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        load_recipe(mine)
    mine.write_text("extends: [a, b]\n")
    with pytest.raises(InputError, match="names one recipe file"):
        load_recipe(mine)
    mine.write_text("extends: gone.yaml\n")
    with pytest.raises(InputError, match=r"one\.yaml' extends '.*gone\.yaml', which does not exist"):
        load_recipe(mine)


ROOT = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    recipe = load_recipe(path, ["train.steps=5"])
    assert recipe.name.replace("_", "-") != "run"


def test_a_recipe_that_is_a_circle_of_links_or_a_pipe_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "child.yaml").write_text("extends: pipe.yaml")
    for name, words in (("loop", "cannot be read"), ("pipe", "a pipe or device"), ("child", "a pipe or device")):
        with pytest.raises(InputError, match=words):
            load_recipe(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize("value", ["[" * 5000, "!!bool maybe", "9" * 5000, "2020-01-01", "a: b: c", "\x01"])
def test_an_override_that_is_no_value_is_one_sentence(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.yaml").write_text("data: {name: scenes}")
    with pytest.raises(InputError, match=r"--set train\.steps: ") as failure:
        load_recipe(tmp_path / "a.yaml", [f"train.steps={value}"])
    assert len(str(failure.value)) < 800
