"""Saliencies equal the gradient of explicit masks, task by task; masks keep exactly what was asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.batches import Batch, Batches
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.losses import task_loss
from slimtask.train.models import MultiTaskNet, multitask_net
from slimtask.train.saliency import kept_entries, prunable_weights, task_masks, task_saliencies, top_mask, xavier_


def scene_batches(count: int = 2, size: int = 3) -> tuple[tuple[TaskSpec, ...], list[Batch]]:
    names = ("segmentation", "depth", "normals", "objects")
    data = open_dataset(DataConfig(name="scenes", height=32, width=48, train=8, tasks=names), "train")
    batches = Batches(data, Preprocessing(height=32, width=48), batch=size, seed=0)
    return data.tasks, [batches(step) for step in range(count)]


def network(tasks: tuple[TaskSpec, ...], head: str = "light") -> MultiTaskNet:
    torch.manual_seed(0)
    return multitask_net(tasks=tasks, width=0.125, head_hidden=8, head=head)


def test_saliencies_equal_the_gradient_of_explicit_masks() -> None:
    """The truth: multiply every weight with a mask of ones, differentiate by the masks."""
    tasks, batches = scene_batches()
    model = network(tasks)
    found = task_saliencies(model, batches, tasks, init="keep")
    model.train()
    weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}
    for task in tasks:
        expected = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for images, targets in batches:
            masks = {name: torch.ones_like(weight, requires_grad=True) for name, weight in weights.items()}
            masked = {name: weights[name] * mask for name, mask in masks.items()}
            loss = task_loss(functional_call(model, masked, (images,))[task.name], targets[task.name], task)
            loss.backward()
            for name, mask in masks.items():
                if mask.grad is not None:
                    expected[name] += mask.grad.abs()
        own = [name for name in weights if name.startswith(("trunk.", f"heads.{task.name}."))]
        assert list(found[task.name]) == own
        for name in own:
            torch.testing.assert_close(found[task.name][name], expected[name], rtol=1e-4, atol=1e-8)


def test_batches_add_up_in_absolute_value() -> None:
    tasks, batches = scene_batches()
    model = network(tasks)
    whole = task_saliencies(model, batches, tasks, init="keep")
    parts = [task_saliencies(model, [batch], tasks, init="keep") for batch in batches]
    for task in whole:
        for name, score in whole[task].items():
            torch.testing.assert_close(score, parts[0][task][name] + parts[1][task][name])


@pytest.mark.parametrize("head", ["light", "scene"])
def test_model_and_generator_are_left_as_they_were_and_the_result_repeats(head: str) -> None:
    tasks, batches = scene_batches(1)
    model = network(tasks, head).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    first = task_saliencies(model, batches, tasks, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    torch.manual_seed(99)
    second, other = (task_saliencies(model, batches, tasks, seed=seed) for seed in (5, 6))
    name = "trunk.stem.0.weight"
    assert all(torch.equal(first[task.name][name], second[task.name][name]) for task in tasks)
    assert not torch.equal(first["depth"][name], other["depth"][name])


def test_xavier_draws_the_published_deviation_and_leaves_the_rest() -> None:
    tasks, _ = scene_batches(1)
    model = multitask_net(tasks=tasks, width=0.5)
    weights = prunable_weights(model)
    rest = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in weights}
    xavier_(model, 3)
    conv = weights["trunk.layer4.1.residual.0.weight"]
    fans = (conv.shape[0] + conv.shape[1]) * 9
    assert float(conv.detach().std()) == pytest.approx((2 / fans) ** 0.5, rel=0.02)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in rest.items())


def test_tied_weights_count_once() -> None:
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    two.weight = one.weight
    assert list(prunable_weights(nn.Sequential(one, nn.ReLU(), two))) == ["0.weight"]


def test_top_mask_keeps_exactly_so_many_and_the_first_of_equals() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, 0.0]])
    assert top_mask(scores, 3).tolist() == [[False, True, True], [True, False, False]]
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.integers(0, 6, generator.integers(1, 30)).astype(np.float32)
        keep = int(generator.integers(0, len(values) + 1))
        expected = np.zeros(len(values), dtype=bool)
        expected[np.argsort(-values, kind="stable")[:keep]] = True
        assert top_mask(torch.from_numpy(values), keep).tolist() == expected.tolist()


def test_task_masks_have_a_global_threshold_over_trunk_and_own_head() -> None:
    tasks, batches = scene_batches(1)
    saliencies = task_saliencies(network(tasks), batches, tasks)
    masks = task_masks(saliencies, 0.3)
    for task, scores in saliencies.items():
        flat = torch.cat([score.flatten() for score in scores.values()])
        kept = torch.cat([masks.per_task[task][name].flatten() for name in scores])
        assert int(kept.sum()) == int(0.3 * len(flat))
        assert float(flat[kept].min()) >= float(flat[~kept].max())
    differing = task_masks(saliencies, {task.name: 0.1 * (i + 1) for i, task in enumerate(tasks)})
    assert differing.total_density(["depth"]) == pytest.approx(0.2, abs=1e-3)


def test_decimal_ratios_are_not_one_short() -> None:
    assert kept_entries(0.29, 100) == 29
    assert kept_entries(1 / 3, 100) == 33
    assert kept_entries(1.0, 7) == 7


def test_bad_input_is_a_sentence(small_net: Callable[..., MultiTaskNet]) -> None:
    tasks, batches = scene_batches(1)
    model = network(tasks)
    with pytest.raises(InputError, match="without a batch"):
        task_saliencies(model, [], tasks)
    images, targets = batches[0]
    with pytest.raises(InputError, match="the loss of task 'depth' is nan"):
        task_saliencies(model, [(images, targets | {"depth": targets["depth"] * float("nan")})], tasks)
    with pytest.raises(InputError, match="cannot keep 4 of 3"):
        top_mask(torch.zeros(3), 4)
    with pytest.raises(InputError, match="NaN"):
        top_mask(torch.tensor([0.0, float("nan")]), 1)
