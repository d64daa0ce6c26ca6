"""A whole tiny run: its files, its choice, its resumption, and what the other verbs make of it."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from slimtask.checkpoint import Checkpoint
from slimtask.cli.app import app
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.train.loop import Trainer, TrainResult
from slimtask.train.methods.adashare.learning import ESTIMATED, PolicyLearning
from slimtask.train.methods.adashare.run import (
    learning_recipe,
    retraining_recipe,
    retraining_steps,
    sampled_policies,
    trial_steps,
)
from slimtask.train.methods.adashare.schedule import PolicySchedule
from slimtask.train.recipe import Recipe, load_recipe, parse_recipe
from slimtask.train.run import method_of, train

RECIPES = Path(__file__).parents[4] / "recipes"
POLICY = {
    "samples": 2, "retrain": 0.5, "alternate": {"weights": 2, "policy": 1}, "warmup": 0.1, "policy_lr": 0.5,
    "curriculum_speed": 1,
}  # fmt: skip


def recipe(steps: int = 10, tasks: tuple[str, ...] = ("depth", "objects"), **policy: Any) -> Recipe:
    return parse_recipe(
        {
            "data": {"name": "scenes", "height": 32, "width": 32, "train": 10, "val": 4, "test": 4, "cache": True,
                     "tasks": list(tasks)},
            "model": {"width": 0.125, "head_hidden": 8},
            "train": {"steps": steps, "batch": 2, "lr": 0.003, "eval_every": 5},
            "policy": POLICY | policy,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(recipe(), tmp_path_factory.mktemp("adashare") / "run")


def interrupted(out: Path, chosen: Recipe, at: int) -> None:
    def interrupt(step: int, steps: int, text: str) -> None:
        assert steps == 20
        if step == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(chosen, out, progress=interrupt)


def test_the_best_retrained_policy_is_kept(whole: TrainResult) -> None:
    out = whole.checkpoint.parent
    summary = json.loads((out / "summary.json").read_text())
    losses = [candidate["validation_loss"] for candidate in summary["candidates"]]
    assert len(losses) == 2
    assert summary["chosen"] == losses.index(min(losses))
    assert whole.validation.loss == min(losses)
    policy = Policy.load(out / "policy.json")
    assert summary["policy"]["selects"] == {task: list(row) for task, row in policy.selects.items()}
    best = Checkpoint.load(out / f"retrain-{summary['chosen']}" / "checkpoint.safetensors")
    kept = Checkpoint.load(whole.checkpoint)
    assert all(torch.equal(best.weights[name], tensor) for name, tensor in kept.weights.items())
    for name in ("policy.svg", "learning/policy.json", "learning/probabilities.json"):
        assert (out / name).stat().st_size > 0
    assert not whole.reached  # ten steps are three rounds, of the eight that open all blocks


def test_the_checkpoint_skips_and_shares_as_its_policy_says(whole: TrainResult) -> None:
    policy = Policy.load(whole.checkpoint.parent / "policy.json")
    model = rebuild(Checkpoint.load(whole.checkpoint))
    calls: Counter[str] = Counter()
    for name, block in model.trunk.blocks.items():
        if hasattr(block, "residual"):
            block.residual.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    for index, block in enumerate(policy.blocks):
        assert calls[block] == len({row[: index + 1] for row in policy.selects.values() if row[index]})


@pytest.mark.parametrize("stop", [3, 14])
def test_a_stopped_run_resumes_to_bit_equal_weights(stop: int, whole: TrainResult, tmp_path: Path) -> None:
    """Stops within the learning, after its first policy phase, and within the first retraining."""
    interrupted(tmp_path / "cut", recipe(), stop)
    resumed = train(recipe(), tmp_path / "cut", resume=True)
    for name in ("learning", "retrain-0", "retrain-1", "."):
        one, two = (
            Checkpoint.load(result.checkpoint.parent / name / "checkpoint.safetensors").weights
            for result in (whole, resumed)
        )
        assert set(one) == set(two)
        assert all(torch.equal(one[key], two[key]) for key in one), name
    assert (tmp_path / "cut" / "policy.json").read_text() == (whole.checkpoint.parent / "policy.json").read_text()


def test_only_the_weights_are_clipped(tmp_path: Path) -> None:
    chosen = recipe(warmup=0.0)
    tight = chosen.model_copy(update={"train": chosen.train.model_copy(update={"clip_norm": 1e-6})})
    trainer = Trainer(learning_recipe(tight), tmp_path / "run", PolicyLearning, resume=False)
    learning = trainer.method
    assert isinstance(learning, PolicyLearning)
    net = learning.network

    def norm(values: list[torch.nn.Parameter]) -> float:
        return float(sum(p.grad.square().sum() for p in values if p.grad is not None)) ** 0.5

    for phase in ("weights", "weights", "policy"):
        assert learning.schedule.phase(trainer.step) == phase
        trainer._step()
        if phase == "weights":
            assert 0 < norm(list(net.model.parameters())) <= 1.01e-6
    assert norm([net.logits]) > 1e-4


def test_bad_starts_are_refused(whole: TrainResult, tmp_path: Path) -> None:
    out = whole.checkpoint.parent
    with pytest.raises(InputError, match="exists already"):
        train(recipe(), out)
    with pytest.raises(InputError, match="nothing to resume in"):
        train(recipe(), tmp_path / "absent", resume=True)
    with pytest.raises(InputError, match="started with another recipe"):
        train(recipe(steps=11), out, resume=True)
    with pytest.raises(InputError, match="several stages, so there is no one dense warm-up"):
        train(recipe(), tmp_path / "absent", fork_at=2)
    assert list(tmp_path.iterdir()) == []


def test_phases_change_only_what_they_learn(tmp_path: Path) -> None:
    chosen = recipe(batchnorm="shared", policy_decay=0.0, alternate={"weights": 1, "policy": 1})
    trainer = Trainer(learning_recipe(chosen), tmp_path / "run", PolicyLearning, resume=False)
    method = trainer.method
    assert isinstance(method, PolicyLearning)
    seen: dict[str, set[int]] = {}
    for step in range(3):
        before = {name: value.detach().clone() for name, value in method.network.named_parameters()}
        trainer._step()
        phase = method.schedule.phase(step)
        changed = {name for name, value in method.network.named_parameters() if not torch.equal(before[name], value)}
        assert changed
        assert ("logits" in changed) == (phase == "policy")
        assert (changed == {"logits"}) == (phase == "policy")
        if phase == "policy":  # the curriculum: only the last block may be skipped yet
            moved = (before["logits"] != method.network.logits).any(dim=2).any(dim=0)
            sharing_alone = torch.zeros(8, dtype=torch.bool)  # equal logits: no gradient of the sharing loss
            sharing_alone[-1] = True
            assert torch.equal(moved, sharing_alone)
        seen.setdefault(phase, set())
    parts = [{*part.dataset.source.indices} for phase, part in method._parts.items() if phase != "warmup"]
    assert set(seen) == {"warmup", "weights", "policy"}
    assert parts[0].isdisjoint(parts[1])
    assert sorted(parts[0] | parts[1]) == list(range(10))


def test_the_likely_policy_is_validated_with_the_statistics_of_its_paths(tmp_path: Path) -> None:
    """Against torch's own BatchNorm, averaging over the same batches with each block run by hand."""
    trainer = Trainer(learning_recipe(recipe(warmup=0.0)), tmp_path / "run", PolicyLearning, resume=False)
    for _ in range(3):
        trainer._step()
    method = trainer.method
    assert isinstance(method, PolicyLearning)
    net = method.network
    net.learnable, executes = 8, torch.tensor([[True] * 8, [True, False] * 4])
    net.logits.data = torch.stack([executes, ~executes], dim=-1).float()
    net.model.trunk.choices = None  # of the last step, with its gradients
    trunk = copy.deepcopy(net.model.trunk).train()
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None

    def features(x: torch.Tensor) -> torch.Tensor:
        x = trunk.stem(x)
        for used, block in zip(executes[1].tolist(), trunk.blocks.values(), strict=True):
            x = torch.relu(block.shortcut(x) + block.residual(x)) if used else block.shortcut(x)
        return x

    with torch.no_grad():
        for number in range(ESTIMATED):
            features(method._parts["warmup"](number)[0])
        validated, x = method.evaluated.eval(), method._parts["warmup"](99)[0]
        got, trunk = validated.trunk(x)["objects"], trunk.eval()
        torch.testing.assert_close(got, features(x))


def test_learned_weights_can_be_kept(tmp_path: Path) -> None:
    chosen = recipe(steps=3, samples=1, keep_weights=True)
    train(chosen, tmp_path / "run")
    dense = Checkpoint.load(tmp_path / "run" / "learning" / "network.safetensors")
    policy = sampled_policies(chosen, tmp_path / "run")[0]
    again = retraining_recipe(chosen, policy, tmp_path / "run", "retrain-0", 1)
    retraining = Trainer(again, tmp_path / "again", method_of(again), resume=False)
    assert all(torch.equal(dense.weights[name], t) for name, t in retraining.network.state_dict().items())


def test_short_trials_decide_which_sample_is_retrained(tmp_path: Path) -> None:
    chosen = recipe(steps=3, samples=3, trial=0.4, retrain=1.0)
    result = train(chosen, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    losses = [candidate["validation_loss"] for candidate in summary["candidates"]]
    best = losses.index(min(losses))
    assert summary["chosen"] == best
    assert summary["policy"]["selects"] == summary["candidates"][best]["selects"]
    assert summary["steps"] == result.steps == 3 + len(losses) + 3
    assert (tmp_path / "run" / "retrain" / "summary.json").exists()
    assert summary["learning"]["entropy_bits"] == result.sparsity["entropy_bits"]


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/adashare*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_recipe_anneals_and_tries_four_draws_at_least(path: Path) -> None:
    whole = load_recipe(path)
    assert whole.policy is not None
    blocks = {"resnet18": 8, "resnet34": 16}[whole.model.trunk]
    schedule = PolicySchedule.of(whole.policy, whole.train.steps, blocks)
    assert schedule.temperature(whole.train.steps - 1) <= 0.1
    assert schedule.settled < whole.train.steps
    assert whole.policy.samples >= 1 + 4


def test_the_scenes_recipe_takes_five_steps() -> None:
    short = load_recipe(RECIPES / "scenes" / "adashare.yaml", ["train.steps=5"])
    assert trial_steps(short) + retraining_steps(short) <= 10


def test_the_other_verbs_take_the_result(whole: TrainResult, tmp_path: Path) -> None:
    checkpoint, policy = str(whole.checkpoint), str(whole.checkpoint.parent / "policy.json")
    for arguments in (
        ["compress", checkpoint, "--per-task", "--policy", policy, "--out", f"{tmp_path}/tasks"],
        ["export", checkpoint, "--paths", "fused", "--out", f"{tmp_path}/bundle"],
        ["inspect", checkpoint],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    dense, x = (
        rebuild(Checkpoint.load(checkpoint)),
        torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    )
    for task in ("depth", "objects"):
        model = rebuild(Checkpoint.load(tmp_path / "tasks" / f"{task}.safetensors"))
        with torch.no_grad():
            torch.testing.assert_close(model(x)[task], dense(x)[task], rtol=1e-4, atol=1e-5)
        executed = sum(Policy.load(policy).selects[task])
        assert sum(hasattr(block, "residual") for block in model.trunk.blocks.values()) == executed
