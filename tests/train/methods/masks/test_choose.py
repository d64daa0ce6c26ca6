"""Masks decided once: the sparsity asked for is met, by the ratio a bisection finds; scores equal plain gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.structures.masks import Masks
from slimtask.tasks import TaskSpec
from slimtask.train.batches import Batch
from slimtask.train.loop import Trainer
from slimtask.train.losses import multi_task_loss, task_loss
from slimtask.train.methods.masks.choose import choose_masks, exact_keep, top_weights, uses, weights_in_scope
from slimtask.train.methods.masks.config import MasksConfig
from slimtask.train.recipe import Recipe
from slimtask.train.run import method_of
from slimtask.train.saliency import Saliencies, task_masks, xavier_
from slimtask.train.weighting import FixedWeights


def random_scores(seed: int, tasks: int) -> Saliencies:
    """Return scores of ``tasks`` over a trunk and heads of their own size, related but not equal."""
    generator = torch.Generator().manual_seed(seed)
    common = {name: torch.rand(size, generator=generator) for name, size in (("stem", 200), ("last", 3000))}
    return {
        f"t{k}": {name: score + 0.5 * torch.rand(score.shape, generator=generator) for name, score in common.items()}
        | {f"head{k}": torch.rand(300 + 111 * k, generator=generator)}
        for k in range(tasks)
    }


def kept_and_all(masks: Masks) -> tuple[int, int]:
    union = masks.union().values()
    return sum(int(mask.sum()) for mask in union), sum(mask.numel() for mask in union)


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.9, 0.99])
def test_the_union_has_the_sparsity_to_within_one_weight_a_task(tasks: int, sparsity: float) -> None:
    scores = random_scores(tasks, tasks)
    keep = exact_keep(scores, sparsity)
    kept, entries = kept_and_all(task_masks(scores, keep))
    assert 0 <= round((1 - sparsity) * entries) - kept <= tasks
    low, high = 0.0, 1.0  # the bisection
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if kept_and_all(task_masks(scores, middle))[0] <= kept else (low, middle)
    assert kept_and_all(task_masks(scores, low))[0] == kept
    assert keep <= high + 1e-9


def test_ten_thousandths_are_met_on_a_larger_network() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {
        f"t{k}": {"trunk": torch.rand(60_000, generator=generator), f"head{k}": torch.rand(20_000, generator=generator)}
        for k in range(3)
    }
    kept, entries = kept_and_all(task_masks(scores, exact_keep(scores, 0.9)))
    assert 1 - kept / entries == pytest.approx(0.9, abs=1e-4)


def test_sparsity_falls_as_the_keep_ratio_rises_and_unions_hold_every_task() -> None:
    scores = random_scores(3, 3)
    counts = []
    for keep in torch.linspace(0, 1, 41).tolist():
        masks = task_masks(scores, keep)
        union = masks.union()
        counts.append(kept_and_all(masks)[0])
        for own in masks.per_task.values():
            assert all(bool((union[name] | ~mask).all()) for name, mask in own.items())
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == kept_and_all(task_masks(scores, 1.0))[1]


def test_equal_scores_stay_together_without_exceeding_the_density() -> None:
    scores = {task: {"w": torch.tensor([3.0, 2.0, 2.0, 1.0])} for task in "ab"}
    kept, _ = kept_and_all(task_masks(scores, exact_keep(scores, 0.25)))
    assert kept == 3  # both tasks rank alike, so every step is one entry


class Small(nn.Module):
    """Two tasks on a trunk of one convolution, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh())
        self.heads = nn.ModuleDict({"depth": nn.Conv2d(6, 1, 1), "objects": nn.Sequential(nn.Linear(6, 4))})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        depth = nn.functional.softplus(self.heads["depth"](features))
        return {"depth": depth, "objects": self.heads["objects"](features.mean(dim=(2, 3)))}


def small_problem() -> tuple[Small, tuple[TaskSpec, ...], list[Batch]]:
    torch.manual_seed(0)
    tasks = (
        TaskSpec(name="depth", kind="depth", channels=1, weight=3.0),
        TaskSpec(name="objects", kind="multilabel", channels=4),
    )
    batches = [
        (torch.randn(2, 3, 5, 6).double(), {"depth": torch.rand(2, 1, 5, 6) + 1, "objects": torch.ones(2, 4)})
        for _ in range(3)
    ]
    return Small().double(), tasks, batches


def plain_gradients(
    model: nn.Module, tasks: tuple[TaskSpec, ...], batches: list[Batch], which: str
) -> dict[str, Tensor]:
    """Return the sum over batches of the absolute gradient of one task's loss, or of the weighted "total"."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for images, targets in batches:
        model.zero_grad()
        predictions = {name: value.float() for name, value in model.train()(images).items()}
        if which == "total":
            loss, _ = multi_task_loss(predictions, targets, tasks)
        else:
            task = next(task for task in tasks if task.name == which)
            loss = task_loss(predictions[which], targets[which], task)
        loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad.abs()
    return sums


WEIGHTS = ("trunk.0.weight", "heads.depth.weight", "heads.objects.0.weight")


def expected_top(scores: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return masks of the ``count`` highest scores over all tensors, by sorting them in Python."""
    ranked = sorted(((v, n, i) for n, s in scores.items() for i, v in enumerate(s.flatten().tolist())), reverse=True)
    masks = {name: torch.zeros(score.numel(), dtype=torch.bool) for name, score in scores.items()}
    for _, name, index in ranked[:count]:
        masks[name][index] = True
    return {name: mask.view(scores[name].shape) for name, mask in masks.items()}


@pytest.mark.parametrize("when", ["static", "pretrained"])
def test_snip_keeps_the_largest_saliencies_of_the_total_loss(when: str) -> None:
    model, tasks, batches = small_problem()
    before = copy.deepcopy(model.state_dict())
    config = MasksConfig(method="snip", when=when, sparsity=0.6)  # type: ignore[arg-type]
    masks, _ = choose_masks(config, model, tasks, batches, FixedWeights(tasks), seed=4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    if when == "static":
        xavier_(model, 4)
    gradients = plain_gradients(model, tasks, batches, "total")
    scores = {name: (gradients[name] * model.get_parameter(name)).abs() for name in WEIGHTS}
    entries = sum(score.numel() for score in scores.values())
    expected = expected_top(scores, round(0.4 * entries))
    assert all(torch.equal(masks.shared[name], expected[name]) for name in WEIGHTS)


def test_trained_weights_score_by_gradient_times_their_square() -> None:
    model, tasks, batches = small_problem()
    config = MasksConfig(when="pretrained", score="gradient", sparsity=0.6, keep=0.35)
    masks, keep = choose_masks(config, model, tasks, batches, FixedWeights(tasks), seed=0)
    assert keep == 0.35
    for task in tasks:
        gradients = plain_gradients(model, tasks, batches, task.name)
        scores = {n: gradients[n] * model.get_parameter(n).square() for n in WEIGHTS if uses(task.name, n)}
        expected = expected_top(scores, int(0.35 * sum(score.numel() for score in scores.values())))
        assert list(masks.per_task[task.name]) == list(expected)
        assert all(torch.equal(masks.per_task[task.name][name], mask) for name, mask in expected.items())


def test_magnitudes_are_nested_over_the_tasks_trunks() -> None:
    """Of trained weights only the threshold differs between tasks, so the union of the trunk is the largest mask."""
    model, tasks, batches = small_problem()
    config = MasksConfig(when="pretrained", sparsity=0.7)
    masks, _ = choose_masks(config, model, tasks, batches, FixedWeights(tasks), seed=0)
    own = [masks.per_task[task.name]["trunk.0.weight"] for task in tasks]
    assert any(torch.equal(masks.union()["trunk.0.weight"], mask) for mask in own)
    kept, entries = kept_and_all(masks)
    assert 0 <= round(0.3 * entries) - kept <= 2


def test_the_magnitude_baseline_ranks_all_weights_once() -> None:
    model, tasks, batches = small_problem()
    masks, _ = choose_masks(
        MasksConfig(method="magnitude", sparsity=0.8), model, tasks, batches, FixedWeights(tasks), seed=0
    )
    scores = {name: model.get_parameter(name).detach().abs() for name in WEIGHTS}
    expected = expected_top(scores, round(0.2 * sum(score.numel() for score in scores.values())))
    assert all(torch.equal(masks.shared[name], expected[name]) for name in WEIGHTS)
    assert torch.equal(top_weights(scores, 0.2)["trunk.0.weight"], expected["trunk.0.weight"])


def test_biases_and_norms_are_never_in_scope() -> None:
    model, _, _ = small_problem()
    assert tuple(weights_in_scope(model, "network")) == WEIGHTS
    assert tuple(weights_in_scope(model, "trunk")) == WEIGHTS[:1]


def test_every_baseline_has_the_same_sparsity(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    for scope in ("network", "trunk"):
        for method in ("disparse", "snip", "random"):
            chosen = make_recipe({"method": method, "sparsity": 0.9, "scope": scope, "batches": 1})
            trainer = Trainer(chosen, tmp_path / f"{scope}-{method}", method_of(chosen), resume=False)
            report = trainer.method.report()
            assert report["overall_sparsity"] == pytest.approx(0.9, abs=1e-4)
            assert ("heads_sparsity" in report) == (scope == "network")
