"""Group sparsity through the training loop: MCP, the penalty in the loss, the files about its layers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from slimtask.checkpoint import Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint
from slimtask.compress.api.how import Zeros
from slimtask.errors import InputError
from slimtask.train.loop import Trainer
from slimtask.train.methods.group_sparsity import GroupSparsity
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.run import method_of, train


def recipe(sparsity: dict[str, Any], steps: int = 30) -> Recipe:
    return parse_recipe(
        {
            "data": {"name": "scenes", "height": 32, "width": 48, "train": 8, "val": 4, "test": 4, "cache": True,
                     "tasks": ["segmentation", "depth"]},
            "model": {"width": 0.125, "head_hidden": 8},
            "train": {"steps": steps, "batch": 2, "lr": 0.003, "eval_every": 10},
            "sparsity": {"warmup": 0.2, **sparsity},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "penalty", [{"penalty": "mcp", "gamma": 20.0}, pytest.param({"loss_penalty": True}, marks=pytest.mark.slow)]
)
def test_a_target_is_reached_and_a_stopped_run_resumes_bit_equal(penalty: dict[str, Any], tmp_path: Path) -> None:
    chosen = recipe({"target": 0.5, **penalty})
    whole = train(chosen, tmp_path / "whole")
    assert whole.reached
    assert 0.5 <= whole.sparsity["parameter_sparsity"] < 0.6
    assert whole.sparsity["zero_filters"] > 0.1

    def interrupt(step: int, steps: int, text: str) -> None:
        if step == 12:  # within the ramp
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "cut", progress=interrupt)
    resumed = train(chosen, tmp_path / "cut", resume=True)
    one, two = (Checkpoint.load(result.checkpoint).weights for result in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    smaller, _ = compress_checkpoint(Checkpoint.load(whole.checkpoint), Zeros(align=1))
    assert sum(w.numel() for w in smaller.weights.values()) < sum(w.numel() for w in one.values())


def test_a_run_whose_optimiser_is_rebuilt_resumes_bit_equal(tmp_path: Path) -> None:
    """It is stopped after step 5; the optimiser starts anew at 3 and at 6, counted from the start of the whole run."""
    chosen = recipe({"strength": 0.01, "groups": "input-channel", "warmup": 0.0}, steps=8)
    chosen = chosen.model_copy(update={"train": chosen.train.model_copy(update={"rebuild_every": 3})})

    def interrupt(step: int, steps: int, text: str) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = Trainer(chosen, tmp_path / "whole", method_of(chosen), resume=False)
    whole = trainer.run(lambda step, steps, text: None)
    assert {int(entry["step"]) for entry in trainer.method.optimizers[0].state.values()} == {2}
    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "cut", progress=interrupt)
    resumed = train(chosen, tmp_path / "cut", resume=True)
    one, two = (Checkpoint.load(result.checkpoint).weights for result in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_layers_and_summary_state_both_counts(tmp_path: Path) -> None:
    result = train(recipe({"strength": 0.5, "groups": "input-channel"}, steps=10), tmp_path / "run")
    content = json.loads((tmp_path / "run" / "layers.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["sparsity"]
    weights = Checkpoint.load(result.checkpoint).weights
    filters = {name: w for name, w in weights.items() if name.startswith("trunk") and w.ndim == 4}
    dead = sum(int((w == 0).all(dim=(0, 2, 3)).sum()) for w in filters.values())
    assert 0 < dead < sum(w.shape[1] for w in filters.values())
    assert content["total"]["input_channels"] == [dead, sum(w.shape[1] for w in filters.values())]
    assert summary["zero_input_channels"] == pytest.approx(summary["group_sparsity"])
    assert summary["zero_filters"] == content["total"]["zero_filters"]
    assert {f"{row['name']}.weight" for row in content["layers"]} == set(filters)
    assert "trunk" in (tmp_path / "run" / "layers.svg").read_text()


def test_the_penalty_in_the_loss_is_there_only_while_lambda_is(tmp_path: Path) -> None:
    chosen = recipe({"strength": 0.01, "loss_penalty": True}, steps=20)
    trainer = Trainer(chosen, tmp_path / "run", method_of(chosen), resume=False)
    method = trainer.method
    assert isinstance(method, GroupSparsity)
    images, targets = method.batch(0)
    network = method.network.eval()
    plain = float(super(GroupSparsity, method).loss(network, images, targets)[0].detach())

    def value() -> float:
        return float(method.loss(network, images, targets)[0].detach())

    assert value() == plain
    method.schedule.exempt = torch.zeros(len(method.schedule.structure.layout), dtype=torch.bool)
    expected = plain + 0.01 * float(method._penalty().detach())
    assert value() == pytest.approx(expected, rel=1e-6)
    method.schedule.held = True
    assert value() == plain


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"strength": 1.0, "penalty": "mcp", "loss_penalty": True}, "'loss_penalty' is an l1 penalty"),
        ({"strength": 1.0, "penalty": "mcp", "gamma": 0.0}, "sparsity.gamma"),
        ({"strength": 1.0, "penalty": "scad"}, "sparsity.penalty"),
    ],
)
def test_bad_penalties_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(section)
