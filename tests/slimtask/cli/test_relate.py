"""`slimtask relate`: tables, files, JSON; one sentence for what cannot be related."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """
name: tiny
data: {height: 32, width: 48, train: 8, cache: true, tasks: [depth, normals, objects]}
model: {width: 0.125, head_hidden: 8}
train: {batch: 4}
relate: {batches: 1, seeds: 2, sparsities: [0.5, 0.7]}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def test_relate_prints_and_writes_what_it_found(
    slimtask: Callable[..., int], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copy = tiny.parent / "out", tiny.parent / "copy.json"
    assert slimtask("relate", tiny, "--set", "relate.weighting=linear", "--out", out, "--json", copy) == 0
    found = json.loads((out / "relate.json").read_text())
    report = json.loads(copy.read_text())
    assert report.pop("slimtask")["report"] == "relate"
    assert report == found
    assert found["settings"]["weighting"] == "linear"
    assert sorted(path.name for path in out.iterdir()) == ["relate.json", "relate.png", "relate.svg"]
    text = capsys.readouterr().out
    assert "MCSS, linear layer weights, sparsity 50%, 70%, 2 seeds" in text
    for entry in found["similarities"]:
        if entry["weighting"] == "linear":
            assert f"{entry['mean']:.3f}" in text  # every measure of every pair
    assert " | ".join(", ".join(group) for group in found["grouping"]["groups"]) in text
    assert f"{found['grouping']['seeds_that_agree']} of 2 seeds suggest the same split" in text


def test_a_recipe_without_a_relate_section_gets_the_defaults(
    slimtask: Callable[..., int], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its folder under runs, named after the recipe."""
    monkeypatch.chdir(tiny.parent)
    tiny.write_text(RECIPE.replace("relate: {batches: 1, seeds: 2, sparsities: [0.5, 0.7]}\n", ""))
    assert slimtask("relate", tiny, "--set", "relate.batches=1", "--set", "relate.seeds=1") == 0
    found = json.loads((tiny.parent / "runs" / "tiny-relate" / "relate.json").read_text())
    assert found["settings"]["sparsities"] == [0.3, 0.5, 0.7, 0.9]
    assert found["similarities"][0]["spread"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "relate.similarty=iou"], "unknown key 'relate.similarty'; did you mean 'similarity'"),
        (["--set", "data.tasks=[depth]"], "relate compares at least two tasks"),
        (["--set", "relate.kappa=nyu_v2", "--set", "relate.sparsities=[0.6]"], "take kappa ratio"),
    ],
)
def test_bad_input_is_a_sentence_and_leaves_nothing(
    slimtask: Callable[..., int], tiny: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert slimtask("relate", tiny, *words, "--out", tiny.parent / "out") == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.yaml"]


def test_an_existing_folder_is_refused_before_any_work(
    slimtask: Callable[..., int], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slimtask("relate", tiny, "--out", tiny.parent) == 2
    assert "exists already" in capsys.readouterr().err
