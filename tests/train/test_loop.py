"""The training loop: a target is reached and held, a stopped run resumes to the same result, bad input is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from slimtask.checkpoint import Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint, example_input
from slimtask.compress.api.how import Zeros
from slimtask.compress.api.models import cost
from slimtask.compress.rebuilding import rebuild
from slimtask.errors import CheckFailed, InputError
from slimtask.train import loop
from slimtask.train.evaluate import Evaluation
from slimtask.train.history import read_history
from slimtask.train.loop import Trainer
from slimtask.train.methods.base import Method
from slimtask.train.methods.group_sparsity import GroupSparsity
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.run import method_of, train
from slimtask.train.state import load_state


def recipe(**sections: dict[str, Any]) -> Recipe:
    content: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "name": "scenes", "height": 32, "width": 48, "train": 24, "val": 8, "test": 8, "cache": True,
            "tasks": ["segmentation", "depth", "objects"],
        },
        "model": {"width": 0.125, "head_hidden": 8},
        "train": {"steps": 40, "batch": 4, "lr": 0.003, "eval_every": 10},
    }  # fmt: skip
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    return parse_recipe(content)


SPARSE = {"target": 0.6, "warmup": 0.2, "ramp": 0.4}


def test_a_sparsity_target_is_reached_held_and_removed(tmp_path: Path) -> None:
    result = train(recipe(sparsity=SPARSE), tmp_path / "run")
    assert result.reached
    assert 0.6 <= result.sparsity["parameter_sparsity"] < 0.65
    records = [r for r in read_history(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "train"]
    assert records[-1]["sparsity/strength"] == 0
    dense = Checkpoint.load(result.checkpoint)
    smaller, done = compress_checkpoint(dense, Zeros(align=1))
    before, after = (cost(rebuild(one), example_input(one)) for one in (dense, smaller))
    removed = 1 - after.trunk_params / before.trunk_params
    assert removed == pytest.approx(result.sparsity["parameter_sparsity"], abs=1e-6)
    assert done.certificate.max_rel_error <= 1e-5
    assert set(result.test.metrics) == {"segmentation", "depth", "objects"}


def test_a_fixed_strength_penalises_to_the_end(tmp_path: Path) -> None:
    result = train(recipe(sparsity={"strength": 0.5, "warmup": 0.2}, train={"steps": 12}), tmp_path / "run")
    assert result.sparsity["group_sparsity"] > 0
    assert result.sparsity["strength"] == 0.5
    # the file is as sparse as the report
    _, done = compress_checkpoint(Checkpoint.load(result.checkpoint), Zeros(align=1))
    removed = sum(group.before - group.after for group in done.plan.groups if group.name.startswith("trunk"))
    total = sum(group.before for group in done.plan.groups if group.name.startswith("trunk"))
    assert removed / total == pytest.approx(result.sparsity["group_sparsity"], abs=1e-6)


@pytest.mark.parametrize("stop", [33])
def test_a_stopped_run_resumes_to_bit_equal_weights(stop: int, tmp_path: Path) -> None:
    """Stops in the dense warm-up, within the ramp and after it."""
    chosen = recipe(sparsity=SPARSE)
    whole = train(chosen, tmp_path / "whole")

    def interrupt(step: int, steps: int, text: str) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "cut", progress=interrupt)
    resumed = train(chosen, tmp_path / "cut", resume=True)
    one, two = (Checkpoint.load(result.checkpoint).weights for result in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    "settings",
    [
        {
            "rates": {"heads": 0.5},
            "weighting": "uncertainty",
            "schedule": {"kind": "plateau", "patience": 0},
            "eval_every": 1,
            "steps": 16,
        },
    ],
)
def test_a_sparse_run_from_a_fork_equals_one_from_scratch(settings: dict[str, Any], tmp_path: Path) -> None:
    """With rates by part, learned task weights and a rate that validations have lowered, too."""
    chosen = recipe(sparsity={**SPARSE, "warmup": 8 / settings.get("steps", 40)}, train=settings)
    whole = train(chosen, tmp_path / "whole")
    train(recipe(train=settings), tmp_path / "dense", fork_at=8)
    forked = train(chosen, tmp_path / "forked", fork=tmp_path / "dense" / "fork.safetensors")
    one, two = (Checkpoint.load(result.checkpoint).weights for result in (whole, forked))
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_a_fork_of_another_network_is_refused_in_a_sentence(tmp_path: Path) -> None:
    train(recipe(train={"steps": 2, "eval_every": 2}), tmp_path / "dense", fork_at=1)
    with pytest.raises(InputError, match=r"holds another network .* \(trunk\.stem\.0\.weight is not the same\)"):
        train(recipe(model={"width": 0.25}), tmp_path / "forked", fork=tmp_path / "dense" / "fork.safetensors")
    assert not (tmp_path / "forked").exists()


def test_ctrl_c_within_a_step_never_saves_a_torn_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal arrives in the forward pass: the step is finished, then the state saved, then the run stops."""
    chosen, real, calls = recipe(train={"steps": 12, "eval_every": 4}), Method.loss, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    whole = train(chosen, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Method, "loss", interrupted)
        train(chosen, tmp_path / "cut")
    assert len(calls) == 3
    resumed = train(chosen, tmp_path / "cut", resume=True)
    one, two = (Checkpoint.load(result.checkpoint).weights for result in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_patience_stops_and_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    chosen = recipe(train={"patience": 1, "eval_every": 1, "lr": 0.3, "weight_decay": 0, "steps": 30})
    result = train(chosen, tmp_path / "run")
    assert result.steps < 30
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    assert train(chosen, tmp_path / "run", resume=True).steps == result.steps
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before


def test_weights_are_chosen_by_metrics_in_the_last_quarter_of_dense_and_sparse_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the loss, which rises where a network that over-fits grows sure of its mistakes."""
    scores = {1: 9.0, 2: 8.0, 3: 1.0, 4: 3.0, 5: 2.0}
    for name, changes in (("dense", {}), ("masks", {"masks": {"sparsity": 0.5, "method": "random", "when": "static"}})):
        chosen = recipe(train={"steps": 5, "eval_every": 1, "select_from": 0.6}, **changes)
        trainer = Trainer(chosen, tmp_path / name, method_of(chosen), resume=False)
        seen: list[dict[str, torch.Tensor]] = []

        def evaluated(network: torch.nn.Module, *_: Any, seen: list[dict[str, torch.Tensor]] = seen, **__: Any) -> Any:
            seen.append({key: value.clone() for key, value in network.state_dict().items()})
            number = len(seen)
            return Evaluation(loss=float(number), losses={}, metrics={}, score=scores.get(number, 0.0))

        monkeypatch.setattr(loop, "evaluate", evaluated)
        trainer.run(lambda step, steps, text: None)
        kept = trainer.network.state_dict()
        assert all(torch.equal(kept[key], value) for key, value in seen[3].items()), name
        assert not all(torch.equal(kept[key], value) for key, value in seen[4].items()), name
    assert recipe(train={"steps": 10}).train.window == 8
    assert recipe(train={"steps": 10, "patience": 2}).train.window == 0


def test_a_stalled_task_is_trained_no_further(tmp_path: Path) -> None:
    chosen = recipe(train={"steps": 12, "eval_every": 2, "task_patience": 1, "weight_decay": 0.1})
    trainer = Trainer(chosen, tmp_path / "run", method_of(chosen), resume=False)
    trainer.selection.observe(1.0, {"segmentation": 1.0, "depth": 1.0, "objects": 1.0}, trainer.network)
    trainer.selection.observe(0.9, {"segmentation": 0.9, "depth": 1.1, "objects": 0.9}, trainer.network)
    trainer._freeze(trainer.selection.stalled)
    before = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}
    losses = trainer._step()
    assert "loss/depth" not in losses
    assert {"loss/segmentation", "loss/objects"} <= set(losses)
    changed = {name for name, tensor in trainer.network.named_parameters() if not torch.equal(before[name], tensor)}
    assert not any(name.startswith("heads.depth") for name in changed)
    assert any(name.startswith("trunk") for name in changed)
    assert any(name.startswith("heads.objects") for name in changed)


def test_no_task_is_frozen_before_the_fork(tmp_path: Path) -> None:
    """The sparse runs that start from it train all tasks, and a run in which all have stalled must come that far."""
    chosen = recipe(train={"steps": 4, "eval_every": 1, "task_patience": 1})
    trainer = Trainer(chosen, tmp_path / "run", method_of(chosen), resume=False, fork_at=3)
    for loss in (1.0, 1.1):
        trainer.selection.observe(loss, dict.fromkeys(("segmentation", "depth", "objects"), loss), trainer.network)
    trainer._freeze(trainer.selection.stalled)
    assert len(trainer._step()) == 5  # the loss, one for each task, the rate
    trainer.step = 4
    trainer._freeze(trainer.selection.stalled)
    assert trainer.method.tasks == ()
    assert not any(parameter.requires_grad for parameter in trainer.network.get_submodule("heads").parameters())


def test_the_statistics_of_a_frozen_head_stay_with_its_weights(tmp_path: Path) -> None:
    trainer = Trainer(recipe(train={"steps": 4}), tmp_path / "run", Method, resume=False)
    trainer._freeze(("depth",))
    before = {name: tensor.clone() for name, tensor in trainer.network.named_buffers()}
    trainer._evaluate(trainer.val_set)
    for _ in range(2):
        trainer._step()
    moved = {name for name, tensor in trainer.network.named_buffers() if not torch.equal(before[name], tensor)}
    assert any(name.startswith("heads.depth.") for name in before)
    assert not any(name.startswith("heads.depth.") for name in moved)
    assert moved == {name for name in before if not name.startswith("heads.depth.")}


def test_a_run_with_stalled_tasks_resumes_to_bit_equal_weights(tmp_path: Path) -> None:
    chosen = recipe(
        train={"steps": 16, "eval_every": 2, "task_patience": 1, "lr": 0.005, "weighting": "uncertainty",
               "schedule": {"kind": "plateau", "patience": 0}}
    )  # fmt: skip
    whole = train(chosen, tmp_path / "whole")

    def interrupt(step: int, steps: int, text: str) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "cut", progress=interrupt)
    resumed = train(chosen, tmp_path / "cut", resume=True)
    states = [load_state(tmp_path / name / "state.safetensors") for name in ("whole", "cut")]
    assert states[0][1] == states[1][1]
    for section in states[0][0]:
        assert all(torch.equal(states[0][0][section][n], t) for n, t in states[1][0][section].items()), section
    assert whole.steps == resumed.steps


def test_accumulated_parts_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Without BatchNorm in training and with as many valid entries in each part, both are the same mean."""
    whole = Trainer(recipe(train={"batch": 4}, data={"tasks": ["objects"]}), tmp_path / "a", Method, resume=False)
    parts = Trainer(
        recipe(train={"batch": 2, "accumulate": 2}, data={"tasks": ["objects"]}), tmp_path / "b", Method, resume=False
    )
    for trainer in (whole, parts):
        for module in trainer.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
                module.training = False
        trainer._step()
    for (name, one), (_, two) in zip(whole.network.named_parameters(), parts.network.named_parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_bf16_autocast_stays_near_float32(tmp_path: Path) -> None:
    """The weights stay float32, the losses are near; bf16 has eight bits, so near is a few per cent."""
    plain = Trainer(recipe(), tmp_path / "a", Method, resume=False)
    mixed = Trainer(recipe(train={"precision": "bf16-mixed"}), tmp_path / "b", Method, resume=False)
    assert {parameter.dtype for parameter in mixed.network.parameters()} == {torch.float32}
    for _ in range(3):
        one, two = plain._step(), mixed._step()
        assert two["loss"] == pytest.approx(one["loss"], rel=0.05)
        assert two["loss"] != one["loss"]


def test_selection_uses_the_recipes_loss_weights(tmp_path: Path) -> None:
    trainer = Trainer(recipe(train={"loss_weights": {"depth": 100.0}}), tmp_path / "run", Method, resume=False)
    evaluation = trainer._evaluate(trainer.val_set)
    expected = sum((100 if name == "depth" else 1) * loss for name, loss in evaluation.losses.items())
    assert evaluation.loss == pytest.approx(expected, rel=1e-4)


def test_a_plain_sum_is_what_selection_sees(tmp_path: Path) -> None:
    chosen = recipe(train={"loss_weights": {"depth": 100.0}, "weighting": "sum"})
    trainer = Trainer(chosen, tmp_path / "run", method_of(chosen), resume=False)
    evaluation = trainer._evaluate(trainer.val_set)
    assert evaluation.loss == pytest.approx(sum(evaluation.losses.values()), rel=1e-5)


def test_a_recipe_names_losses_and_metrics(tmp_path: Path) -> None:
    chosen = recipe(train={"steps": 2, "losses": {"depth": "mse"}, "metrics": ["sq_rel", "cross_entropy"]})
    result = train(chosen, tmp_path / "run")
    assert "sq_rel" in result.test.metrics["depth"]
    assert "cross_entropy" in result.test.metrics["segmentation"]
    assert Checkpoint.load(result.checkpoint).tasks[1].loss == "mse"
    for section, sentence in (
        ({"losses": {"depth": "msse"}}, "mse"),
        ({"losses": {"dept": "mse"}}, "unknown task 'dept'"),
        ({"metrics": ["sq_relative"]}, "sq_rel"),
    ):
        with pytest.raises(InputError, match=sentence):
            train(recipe(train=section), tmp_path / "other")
        assert not (tmp_path / "other").exists()


def test_a_target_beyond_what_min_keep_leaves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sparsity\.target 0\.97 is out of reach: with min_keep 0\.3 at most 0\.\d+"):
        train(recipe(sparsity={**SPARSE, "target": 0.97, "min_keep": 0.3, "measure": "groups"}), tmp_path / "run")


def test_min_keep_holds_at_a_fixed_strength_too(tmp_path: Path) -> None:
    trainer = Trainer(recipe(sparsity={"strength": 50.0, "warmup": 0.1}), tmp_path / "run", GroupSparsity, resume=False)
    for _ in range(8):
        trainer._step()
    method = trainer.method
    assert isinstance(method, GroupSparsity)
    zero, exempt = method.optimizer.zero_groups(), method.schedule.exempt
    assert exempt is not None
    assert bool(zero.any())
    assert not bool((zero & exempt).any())


def test_divergence_is_a_sentence_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="the training diverged: the loss is nan at step"):
        train(recipe(train={"lr": 1e30, "clip_norm": None, "weight_decay": 0}), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    with pytest.raises(CheckFailed, match="the training diverged: the validation loss is nan"):  # in its last step
        train(recipe(train={"lr": 1e30, "clip_norm": None, "weight_decay": 0, "steps": 1}), tmp_path / "last")
    assert not (tmp_path / "last" / "checkpoint.safetensors").exists()


def test_bad_starts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        train(recipe(), tmp_path / "there")
    with pytest.raises(InputError, match="nothing to resume in"):
        train(recipe(), tmp_path / "absent", resume=True)
    with pytest.raises(InputError, match="unknown task 'dept'; did you mean 'depth'"):
        train(recipe(data={"tasks": ["dept"]}), tmp_path / "a")
    with pytest.raises(InputError, match="unknown task 'edges'"):
        train(recipe(train={"loss_weights": {"edges": 2.0}}), tmp_path / "a")
    with pytest.raises(InputError, match="none"):
        train(recipe(data={"name": "camvid", "root": str(tmp_path / "none"), "tasks": None}), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_run_killed_before_its_first_state_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe(train={"steps": 2, "eval_every": 1})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "save_state", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train(chosen, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]
    with pytest.raises(InputError, match="started with another recipe"):
        train(recipe(train={"steps": 3, "eval_every": 1}), tmp_path / "run", resume=True)
    assert train(chosen, tmp_path / "run", resume=True).steps == 2


def test_resuming_with_another_recipe_is_refused(tmp_path: Path) -> None:
    train(recipe(train={"steps": 2, "eval_every": 1}), tmp_path / "run")
    with pytest.raises(InputError, match="started with another recipe"):
        train(recipe(train={"steps": 3, "eval_every": 1}), tmp_path / "run", resume=True)


def test_a_run_from_before_a_key_existed_resumes(tmp_path: Path) -> None:
    chosen = recipe(train={"steps": 2, "eval_every": 1})
    train(chosen, tmp_path / "run")
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    del written["train"]["accumulate"], written["masks"]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(written))
    assert train(chosen, tmp_path / "run", resume=True).steps == 2


def test_training_starts_from_a_checkpoint(tmp_path: Path) -> None:
    first = train(recipe(train={"steps": 2}), tmp_path / "first")
    trainer = Trainer(recipe(train={"init": str(first.checkpoint)}), tmp_path / "second", Method, resume=False)
    weights = Checkpoint.load(first.checkpoint).weights
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.network.state_dict().items())
    with pytest.raises(InputError, match="holds another network"):
        other = recipe(train={"init": str(first.checkpoint)}, model={"width": 0.25})
        Trainer(other, tmp_path / "third", method_of(other), resume=False)


def test_the_summary_is_json_with_both_splits(tmp_path: Path) -> None:
    train(recipe(train={"steps": 2}), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["validation"]) == set(summary["test"]) == {"segmentation", "depth", "objects"}
    assert list((tmp_path / "run" / "tensorboard").iterdir())
