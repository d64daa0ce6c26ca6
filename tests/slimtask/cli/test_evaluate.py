"""`slimtask evaluate`: the scores of networks in all forms agree with the training's, and bad input is one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.rebuilding import rebuild
from slimtask.tasks import Preprocessing, TaskSpec, select_tasks
from slimtask.train.data.config import open_dataset
from slimtask.train.data.scenes.source import TASKS
from slimtask.train.evaluate import evaluate
from slimtask.train.models import multitask_net
from slimtask.train.recipe import parse_recipe

RECIPE = {
    "name": "tiny",
    "data": {"height": 32, "width": 48, "train": 4, "val": 5, "test": 3, "tasks": ["segmentation", "depth"]},
    "train": {"batch": 4},
}
SIZE = Preprocessing(height=32, width=48)
MODULE = """
from torch import nn

class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.depth, self.small = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 1, 2, stride=2)
    def forward(self, x):
        return self.depth(self.body(x)), self.small(self.body(x))
"""


def network(tasks: tuple[TaskSpec, ...], provenance: dict[str, Any], scale: float = 1.0) -> Checkpoint:
    torch.manual_seed(0)
    arguments = {"width": 0.125, "head_hidden": 8}
    model = multitask_net(tasks=tasks, **arguments)
    weights = {name: scale * x if name.startswith("heads.depth") else x for name, x in model.state_dict().items()}
    architecture = Architecture(name="multitask-net", arguments=arguments)
    return Checkpoint(
        weights=weights, architecture=architecture, tasks=tasks, preprocessing=SIZE, provenance=provenance
    )


def changed_bundle(folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a copy of the bundle with another manifest."""
    file = shutil.copytree(folder / "net-bundle", folder / f"{name}-bundle") / "manifest.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def only_fused(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest | {"artifacts": [one for one in manifest["artifacts"] if one["role"] == "fused"]}


@pytest.fixture(scope="module")
def home(slimtask: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network, its bundle, one network per task, and networks that have no score."""
    folder = tmp_path_factory.mktemp("evaluate")
    torch.set_num_threads(1)
    tasks = select_tasks(TASKS, RECIPE["data"]["tasks"])
    remembers = {"recipe": parse_recipe(RECIPE).model_dump(mode="json")}
    (folder / "tiny.yaml").write_text(json.dumps(RECIPE))
    network(tasks, remembers).save(folder / "net.safetensors")
    network(tasks, remembers, scale=1.5).save(folder / "other.safetensors")
    network(tasks, remembers, scale=3e37).save(folder / "infinite.safetensors")
    network(tasks, {}).save(folder / "forgets.safetensors")
    labels = TaskSpec(name="labels", kind="multilabel", channels=2)
    network((*tasks, labels), remembers).save(folder / "more.safetensors")
    larger = Preprocessing(height=48, width=64)
    network(tasks, remembers).with_changes(preprocessing=larger).save(folder / "larger.safetensors")
    network((labels,), remembers).save(folder / "labels.safetensors")
    assert slimtask("export", folder / "net.safetensors", "--out", folder / "net-bundle") == 0
    changed_bundle(folder, "forgets", lambda manifest: manifest | {"provenance": {}})
    changed_bundle(folder, "fused", only_fused)
    assert slimtask("compress", folder / "net.safetensors", "--per-task", "--align", 1, "--out", folder / "each") == 0
    (folder / "maps_to_score.py").write_text(MODULE)
    (folder / "run").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture
def scored(slimtask: Callable[..., int], tmp_path: Path) -> Callable[..., Any]:
    """Return a function that evaluates and returns the JSON."""

    def run(*words: object) -> Any:
        assert slimtask("evaluate", *words, "--resamples", 20, "--json", tmp_path / "r.json") == 0
        return json.loads((tmp_path / "r.json").read_text())

    return run


def values(result: Any) -> dict[str, float | None]:
    return {f"{task} {name}": one["value"] for task, named in result["metrics"].items() for name, one in named.items()}


@pytest.mark.parametrize("split", ["val", "test", "train"])
def test_a_checkpoint_scores_what_training_says_without_augmentation(scored: Callable[..., Any], split: str) -> None:
    found = scored("net.safetensors", "--split", split, "--metrics", "all")
    config = parse_recipe(RECIPE).data.model_copy(update={"flip": 0.0, "colour": 0.0})
    dataset = open_dataset(config, split)
    truth = evaluate(rebuild(Checkpoint.load("net.safetensors")), dataset, SIZE, extra="all").metrics
    (result,) = found["results"]
    for task, metrics in truth.items():
        for name, one in result["metrics"][task].items():
            assert one["value"] == pytest.approx(metrics[name], rel=1e-5)
            assert one["low"] <= one["high"]
    assert (found["images"], found["split"], found["not_scored"]) == (len(dataset), split, {})


def test_a_bundle_scores_as_its_checkpoint_by_every_path(
    scored: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = scored("net-bundle", "--paths", "fused,per-task", "--against", "net.safetensors")
    fused, each = found["results"]
    assert {task: served.split(",")[0] for task, served in fused["served_by"].items()} == dict.fromkeys(
        ("segmentation", "depth"), "fused.onnx"
    )
    assert each["served_by"]["depth"] == "depth.onnx, fp32"
    for result in (fused, each):
        assert values(result) == pytest.approx(values(found["against"]), rel=1e-3)
        assert result["delta_m"]["value"] == pytest.approx(0, abs=0.05)
        assert result["delta_m"]["low"] <= result["delta_m"]["high"]
    printed = capsys.readouterr().out
    assert "depth.onnx, fp32" in printed
    assert printed.count("delta_m against net.safetensors") == 2
    (chosen,) = scored("net-bundle", "--tasks", "depth")["results"]
    assert chosen["served_by"] == {"depth": "depth.onnx, fp32"}


def test_each_task_by_its_own_network(scored: Callable[..., Any]) -> None:
    found = scored("each", "--against", "other.safetensors")
    (result,) = found["results"]
    assert result["served_by"] == {name: f"{name}.safetensors" for name in ("segmentation", "depth")}
    assert values(result) == pytest.approx(values(scored("net.safetensors")["results"][0]), rel=1e-4)
    depth, other = (one["metrics"]["depth"]["abs_rel"]["value"] for one in (result, found["against"]))
    assert result["delta_m"]["value"] == pytest.approx(100 / 2 * (other - depth) / other, rel=1e-3)
    alone = scored("each/depth.safetensors")["results"][0]
    assert alone["metrics"] == {"depth": result["metrics"]["depth"]}


def test_networks_of_two_sizes_are_compared_on_the_same_images(
    scored: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = scored("net.safetensors", "--against", "larger.safetensors")
    assert values(found["against"]) == values(scored("larger.safetensors")["results"][0])
    assert "scored at its own size, 48 x 32 and 64 x 48 pixels" in capsys.readouterr().out


def test_tasks_that_the_data_lack_are_named_and_the_others_scored(
    scored: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = scored("more.safetensors", "--against", "each/depth.safetensors")
    assert found["results"][0]["metrics"].keys() == {"segmentation", "depth"}
    assert found["not_scored"].keys() == {"labels"}
    printed = capsys.readouterr().out
    assert "'labels' is not scored: unknown task 'labels'" in printed
    assert "'segmentation' is not compared with 'each/depth.safetensors': it has no such task" in printed


def test_a_network_of_the_users_own(
    slimtask: Callable[..., int], scored: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, out = tmp_path / "t.yaml", tmp_path / "own.safetensors"
    tasks.write_text("- {name: depth, kind: depth, channels: 1}\n- {name: edges, kind: edges, channels: 1}\n")
    made = ("--model", "maps_to_score:Maps")
    own = (*made, "--tasks", tasks, "--input", "1x3x32x48", "--keep", 0.5, "--align", 1)
    assert slimtask("compress", *own, "--out", out) == 0
    one = ("--data", "tiny.yaml", "--tasks", "depth")
    found = scored(out, *made, *one, "--against", "net-bundle")
    other = scored("net-bundle", *made, *one, "--against", out)
    for ours, theirs in ((found["results"][0], other["against"]), (other["results"][0], found["against"])):
        assert values(ours) == values(theirs)
    refused(slimtask, capsys, "where its targets need [4, 1, 32, 48]", out, *made, "--data", "tiny.yaml")
    refused(slimtask, capsys, "give --model maps_to_score:Maps", out, "--data", "tiny.yaml")


def refused(slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str], sentence: str, *words: object) -> None:
    capsys.readouterr()
    assert slimtask("evaluate", *words) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert sentence in printed, printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("net.safetensors", "--split", "vla"), "unknown split 'vla'; did you mean 'val'?"),
        (
            ("net.safetensors", "--metrics", "abs_rl"),
            "none of the tasks has a metric 'abs_rl'; did you mean 'abs_rel'?",
        ),
        (("net.safetensors", "--tasks", "dept"), "unknown task 'dept'; did you mean 'depth'?"),
        (("net.safetensors", "--data", "none.yaml"), "does not exist"),
        (("net.safetensors", "--paths", "fused"), "--paths chooses files of a bundle"),
        (("net.safetensors", "--model", "a:b"), "leave out --model"),
        (("net.safetensors", "--against", "labels.safetensors"), "has none of the tasks"),
        (("infinite.safetensors",), "task 'depth' gives NaN or infinity on image 0 of the split"),
        (("forgets.safetensors",), "comes without the recipe it was trained with; give --data RECIPE"),
        (("forgets-bundle",), "give --data RECIPE"),
        (("labels.safetensors",), "unknown task 'labels'"),
        (("net-bundle", "--paths", "split"), "unknown path 'split'"),
        (("net-bundle", "--backend", "tensorrt"), "has nothing for backend 'tensorrt'"),
        (("fused-bundle", "--paths", "per-task"), "export it with --paths per-task"),
        (("run",), "is neither a bundle, which has a manifest.json"),
        (("none.safetensors",), "none.safetensors"),
    ],
)
def test_bad_input_is_one_sentence(
    slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[object, ...], sentence: str
) -> None:
    refused(slimtask, capsys, sentence, *words)


def test_a_data_set_that_is_not_there(
    slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "gone.yaml").write_text("name: gone\ndata: {name: camvid, root: nowhere}\n")
    refused(slimtask, capsys, "the data folder 'nowhere'", "net.safetensors", "--data", tmp_path / "gone.yaml")
