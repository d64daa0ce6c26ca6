"""Deltas from recipe to files: what changes and what must not, resumed runs, refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slimtask.checkpoint import Checkpoint
from slimtask.compress.edits.deltas import deltas_of
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.delta import Delta
from slimtask.errors import InputError
from slimtask.train.data.config import open_dataset
from slimtask.train.data.pascal_context import TASKS as PASCAL_TASKS
from slimtask.train.methods.delta.run import stage_recipes
from slimtask.train.models import multitask_net
from slimtask.train.optimizers import check_parts
from slimtask.train.recipe import Recipe, load_recipe
from slimtask.train.run import train

Make = Callable[..., Recipe]
ACTIVATIONS = {"strength": 1e-6, "keep": 0.2}


def test_a_run_ends_in_one_network_and_a_delta_per_task(recipe: Make, tmp_path: Path) -> None:
    heads = {"head_hidden": {"segmentation": 128, "depth": 192}}
    result = train(recipe(model=heads, delta={"activations": ACTIVATIONS}), tmp_path / "run")
    checkpoint = Checkpoint.load(result.checkpoint)
    assert [len(checkpoint.weights[f"heads.{name}.project.bias"]) for name in heads["head_hidden"]] == [128, 192]
    assert [task.name for task in checkpoint.tasks] == ["segmentation", "depth", "room"]
    network, base = rebuild(checkpoint), Checkpoint.load(tmp_path / "run" / "base" / "checkpoint.safetensors")
    for name, weight in base.weights.items():
        assert torch.equal(checkpoint.weights[name], weight)  # stored once, and untouched
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = network(x)
        assert torch.equal(out["segmentation"], rebuild(base)(x)["segmentation"])
        for task in ("depth", "room"):
            alone = rebuild(Checkpoint.load(tmp_path / "run" / f"{task}-activations" / "checkpoint.safetensors"))
            assert torch.equal(out[task], alone(x)[task])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    entries = sum(p.numel() for name, p in base.weights.items() if name.startswith("trunk."))
    for task in ("depth", "room"):
        delta = Delta.load(tmp_path / "run" / "deltas" / f"{task}.safetensors")
        changed = sum(len(change.values) for change in delta.changes.values())
        assert 0 < changed / entries <= 0.1
        assert summary["deltas"][task]["density"] == pytest.approx(changed / entries)
        changes = [site["elements"] for site in summary["deltas"][task]["changed"].values()]
        assert max(changes) <= 0.21
        assert sum(changes) > 0
        assert len(delta.execution.thresholds) == 24
        in_network = deltas_of(network)[task]
        assert all(torch.equal(in_network.changes[n].dense(), c.dense()) for n, c in delta.changes.items())
        delta.check(rebuild(base))
    last = json.loads((tmp_path / "run" / "depth-activations" / "summary.json").read_text())
    assert summary["test"]["depth"] == pytest.approx(last["test"]["depth"])


@pytest.mark.parametrize(
    ("kind", "feed"),
    [("element", "own"), ("out-channels", "own"), ("block", "base")],
)
def test_every_kind_of_gate_keeps_its_budget_and_its_pattern(
    kind: str, feed: str, recipe: Make, tmp_path: Path
) -> None:
    gates = {"kind": kind, "density": 0.3, "block": 8}
    chosen = recipe(
        data={"tasks": ["segmentation", "depth"]},
        delta={"feed": feed, "gates": gates, "finetune": 0.2},
        train={"steps": 4},
    )
    train(chosen, tmp_path / "run")
    network: Any = rebuild(Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors"))
    delta = Delta.load(tmp_path / "run" / "deltas" / "depth.safetensors")
    entries = sum(p.numel() for name, p in network.trunk.named_parameters() if not name.startswith("deltas."))
    changed = sum(len(change.values) for change in delta.changes.values())
    assert 0.15 * entries < changed <= 0.3 * entries
    assert all(change.pattern.fits(change.mask()) for change in delta.changes.values())
    assert delta.execution.feed == feed
    if feed == "base":
        assert all(".ln_" not in name and "encoder.layers" in name for name in delta.changes)


def interrupted(chosen: Recipe, out: Path, stop: int, *, resume: bool) -> None:
    def interrupt(step: int, steps: int, text: str) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(chosen, out, progress=interrupt, resume=resume)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_bit_equal_weights(recipe: Make, tmp_path: Path) -> None:
    """Of 8 + 8 + 4 + 4 steps it stops before and after the gates are fixed, in the second and in the third step."""
    chosen = recipe(data={"tasks": ["segmentation", "depth"]}, delta={"activations": ACTIVATIONS})
    whole = train(chosen, tmp_path / "whole").checkpoint
    for number, stop in enumerate((11, 15, 18, 22)):
        interrupted(chosen, tmp_path / "cut", stop, resume=number > 0)
    resumed = train(chosen, tmp_path / "cut", resume=True)
    one, two = Checkpoint.load(whole), Checkpoint.load(resumed.checkpoint)
    assert one.weights.keys() == two.weights.keys()
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert one.edits == two.edits


def test_a_fixed_lambda_keeps_what_is_open_at_the_end(recipe: Make, tmp_path: Path) -> None:
    gates = {"kind": "element", "density": None, "strength": {"depth": 1e-3}, "lr": 1.0}
    chosen = recipe(
        data={"tasks": ["segmentation", "depth"]}, delta={"gates": gates, "lr": {"depth": 0.01}}, train={"steps": 12}
    )
    result = train(chosen, tmp_path / "run")
    delta = deltas_of(rebuild(Checkpoint.load(result.checkpoint)))["depth"]
    assert 0 < delta.density < 0.9


def test_rates_by_part_are_the_bases(recipe: Make, tmp_path: Path) -> None:
    """A delta's parameters have names of their own, and delta.lr."""
    chosen = recipe(train={"rates": {"trunk": 0.1}})
    tasks = open_dataset(chosen.data, "train").tasks
    rates = {name: stage.train.rates for name, stage in stage_recipes(chosen, tmp_path, tasks)}
    assert rates.pop("base") == {"trunk": 0.1}
    assert not any(rates.values())


def test_a_trained_base_can_be_used_again(recipe: Make, tmp_path: Path) -> None:
    first = train(recipe(data={"tasks": ["segmentation", "depth"]}), tmp_path / "one")
    again = recipe(
        data={"tasks": ["segmentation", "depth"]},
        delta={"base_checkpoint": str(tmp_path / "one" / "base" / "checkpoint.safetensors")},
    )
    second = train(again, tmp_path / "two")
    assert not (tmp_path / "two" / "base").exists()
    one, two = (Checkpoint.load(result.checkpoint).weights for result in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert set(second.test.metrics) == {"segmentation", "depth"}
    wrong = again.delta.model_copy(update={"base": "depth"})
    with pytest.raises(InputError, match="for the task 'depth' alone"):
        train(again.model_copy(update={"delta": wrong}), tmp_path / "three")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"delta": {"base": "dept"}}, "no task 'dept'; did you mean 'depth'"),
        ({"data": {"tasks": ["segmentation"]}}, "is the only task"),
        ({"model": {"trunk": "resnet18"}}, "need a transformer, not the trunk 'resnet18'"),
        ({"delta": {"lr": {"depth": 0.1}}}, "none for 'room'"),
        ({"delta": {"gates": {"strength": {"depth": 0.1}}}}, "none for 'room'"),
        (
            {"delta": {"gates": {"density": None, "strength": {"depth": 0.1, "room": 0.1, "rom": 0.1}}}},
            r"delta\.gates\.strength: the data have no task 'rom'; did you mean 'room'\?",
        ),
        ({"model": {"head_hidden": {"dept": 64}}}, "head_hidden: there is no task 'dept'; did you mean 'depth'"),
        ({"train": {"loss_weights": {"dept": 2.0}}}, "unknown task 'dept'; did you mean 'depth'"),
        ({"train": {"metrics": ["rmsee"]}}, "none of the tasks has a metric 'rmsee'"),
        ({"data": {"height": 20}}, "multiples of 8 pixels, not 20 x "),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    sections: Any, message: str, recipe: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train(recipe(**sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_deltas_have_their_own_schedule(recipe: Make, tmp_path: Path) -> None:
    chosen = recipe(delta={"schedule": {"kind": "poly"}})
    tasks = open_dataset(chosen.data, "train").tasks
    kinds = {name: stage.train.schedule.kind for name, stage in stage_recipes(chosen, tmp_path, tasks)}
    assert kinds.pop("base") == "cosine"
    assert {*kinds.values()} == {"poly"}


def test_the_ready_recipes_are_whole() -> None:
    folder = Path(__file__).parents[4] / "recipes"
    scenes, pascal = (load_recipe(folder / name / "delta.yaml") for name in ("scenes", "pascal_context"))
    assert scenes.delta is not None
    assert pascal.delta is not None
    assert pascal.delta.gates.kind == "element"
    assert pascal.delta.gates.alpha == 5
    with torch.device("meta"):
        network = multitask_net(tasks=PASCAL_TASKS, **pascal.model.model_dump())
    check_parts(pascal.train.rates, [name for name, _ in network.named_parameters()])
    sizes = {name: sum(p.numel() for p in head.parameters()) / 1e6 for name, head in network.heads.items()}
    published = {"segmentation": 2.98, "edges": 2.98, "saliency": 2.98, "human_parts": 1.34, "normals": 1.34}
    assert sizes == pytest.approx(published, abs=0.01)
