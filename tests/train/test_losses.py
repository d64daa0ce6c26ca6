"""Losses against their float64 definitions, with and without ignored entries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.losses import LOSSES, loss_terms, multi_task_loss, task_loss


def spec(kind: str, channels: int, **more: object) -> TaskSpec:
    return TaskSpec(name=kind, kind=kind, channels=channels, **more)


def test_segmentation_is_the_mean_negative_log_probability_of_valid_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    target[0, 0] = 255
    log = logits.double() - logits.double().exp().sum(1, keepdim=True).log()
    picked = [
        -log[b, target[b, y, x], y, x] for b in range(2) for y in range(4) for x in range(5) if target[b, y, x] < 3
    ]
    expected = float(sum(picked) / len(picked))
    assert float(task_loss(logits, target, spec("segmentation", 3))) == pytest.approx(expected, rel=1e-5)


def test_depth_is_l1_in_metres_where_depth_is_known() -> None:
    prediction, target = torch.full((1, 1, 2, 2), 3.0), torch.tensor([[[[1.0, 0.0], [5.0, 3.0]]]])
    assert float(task_loss(prediction, target, spec("depth", 1))) == pytest.approx((2 + 2 + 0) / 3)


def test_normals_is_one_minus_cosine_where_the_normal_is_known() -> None:
    prediction = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    target = torch.zeros(1, 3, 1, 3)
    target[0, :, 0, 0] = torch.tensor([0.0, 1, 0])
    target[0, :, 0, 1] = torch.tensor([math.cos(0.5), math.sin(0.5), 0])
    expected = (1 + 1 - math.cos(0.5)) / 2
    assert float(task_loss(prediction, target, spec("normals", 3))) == pytest.approx(expected, rel=1e-6)


def test_edges_weigh_both_classes_the_same() -> None:
    logits = torch.tensor([[[[2.0, -1.0, 0.5, 7.0]]]])
    target = torch.tensor([[[[1.0, 0.0, 0.0, 255.0]]]])
    positive = math.log1p(math.exp(-2))
    negative = (math.log1p(math.exp(-1)) + math.log1p(math.exp(0.5))) / 2
    assert float(task_loss(logits, target, spec("edges", 1))) == pytest.approx((positive + negative) / 2, rel=1e-6)


def test_image_level_tasks() -> None:
    logits, labels = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([1, -1])
    assert float(task_loss(logits, labels, spec("classification", 2))) == pytest.approx(math.log1p(math.exp(-1)))
    many = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2)) + math.log(2)) / 3
    assert float(task_loss(logits, many, spec("multilabel", 2))) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "channels"), [("segmentation", 3), ("depth", 1), ("normals", 3), ("edges", 1)])
def test_a_batch_without_any_valid_pixel_costs_nothing_and_breaks_nothing(kind: str, channels: int) -> None:
    task = spec(kind, channels)
    prediction = torch.randn(1, channels, 4, 4, requires_grad=True)
    shape = (1, 4, 4) if kind == "segmentation" else (1, channels, 4, 4)
    target: Tensor = torch.full(shape, task.ignore)
    loss = task_loss(prediction, target.long() if kind == "segmentation" else target, task)
    loss.backward()
    assert float(loss.detach()) == 0
    assert prediction.grad is not None
    assert bool((prediction.grad == 0).all())


def test_the_total_is_the_weighted_sum() -> None:
    tasks = (spec("depth", 1, weight=2.0), spec("classification", 2, weight=0.5))
    predictions = {"depth": torch.ones(1, 1, 2, 2), "classification": torch.zeros(1, 2)}
    targets = {"depth": torch.full((1, 1, 2, 2), 4.0), "classification": torch.tensor([0])}
    total, losses = multi_task_loss(predictions, targets, tasks)
    assert float(total) == pytest.approx(2 * 3 + 0.5 * math.log(2))
    assert float(losses["depth"]) == 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labelled() -> tuple[Tensor, Tensor]:
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    target[0, 0] = 255
    return drawn(2, 3, 4, 5), target


def probabilities(logits: Tensor, b: int, y: int, x: int) -> list[float]:
    exponentials = [math.exp(float(logits[b, c, y, x])) for c in range(logits.shape[1])]
    return [value / sum(exponentials) for value in exponentials]


def test_soft_cross_entropy_smooths_the_labels_by_a_tenth() -> None:
    logits, target = labelled()
    losses = []
    for b, y, x in (target < 255).nonzero().tolist():
        wanted = [0.1 / 3 + 0.9 * (c == int(target[b, y, x])) for c in range(3)]
        losses.append(-sum(w * math.log(p) for w, p in zip(wanted, probabilities(logits, b, y, x), strict=True)))
    found = task_loss(logits, target, spec("segmentation", 3), "soft_cross_entropy")
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-4])  # a sum of weights below 1 must not count as 1
def test_weighted_cross_entropy_is_the_weighted_mean(scale: float) -> None:
    logits, target = labelled()
    weights = [0.5 * scale, 9.0 * scale, 2.0 * scale]
    total = norm = 0.0
    for b, y, x in (target < 255).nonzero().tolist():
        right = int(target[b, y, x])
        total -= weights[right] * math.log(probabilities(logits, b, y, x)[right])
        norm += weights[right]
    task = spec("segmentation", 3, class_weights=tuple(weights))
    assert float(task_loss(logits, target, task, "weighted_cross_entropy")) == pytest.approx(total / norm, rel=1e-5)
    assert float(task_loss(logits, target, task)) != pytest.approx(total / norm, rel=1e-3)
    with pytest.raises(InputError, match="needs the task's class_weights"):
        task_loss(logits, target, spec("segmentation", 3), "weighted_cross_entropy")


def test_mse_is_over_known_pixels() -> None:
    prediction, target = torch.full((1, 1, 2, 2), 3.0), torch.tensor([[[[1.0, 0.0], [5.0, 3.5]]]])
    assert float(task_loss(prediction, target, spec("depth", 1), "mse")) == pytest.approx((4 + 4 + 0.25) / 3)


def test_normals_by_l1_and_by_raw_colours() -> None:
    prediction, target = (torch.nn.functional.normalize(drawn(2, 3, 3, 4, seed=seed), dim=1) for seed in (0, 1))
    target[1, :, 0] = 0
    l1, raw = [], []
    for b, y, x in target.any(dim=1).nonzero().tolist():
        p, t = prediction[b, :, y, x].tolist(), target[b, :, y, x].tolist()
        l1.append(sum(abs(u - v) for u, v in zip(p, t, strict=True)))
        # what nyu_v2 files hold: right, away from the camera, up
        p, t = ([(v[0] + 1) * 127.5, (1 - v[2]) * 127.5, (v[1] + 1) * 127.5] for v in (p, t))
        raw.append(1 - sum(u * v for u, v in zip(p, t, strict=True)) / math.hypot(*p) / math.hypot(*t))
    assert len(l1) == 20
    task = spec("normals", 3)
    assert float(task_loss(prediction, target, task, "l1")) == pytest.approx(sum(l1) / 20, rel=1e-5)
    assert float(task_loss(prediction, target, task, "raw_cosine")) == pytest.approx(sum(raw) / 20, rel=1e-4)


@pytest.mark.parametrize("kind", ["edges", "saliency"])
def test_losses_of_maps_of_one_class(kind: str) -> None:
    logits, target = drawn(2, 1, 3, 4), (drawn(2, 1, 3, 4, seed=1) > 0.5).float()
    target[0, 0, 0] = 255
    pairs = [(x, y) for x, y in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True) if y < 255]
    right = [math.log1p(math.exp(-x if y else x)) for x, y in pairs]
    weights = [0.95 if y else 0.05 for _, y in pairs]
    errors = [abs(1 / (1 + math.exp(-x)) - y) for x, y in pairs]
    huber = [e * e / 2 if e < 0.2 else 0.2 * (e - 0.1) for e in errors]
    weighted = [weight * loss for weight, loss in zip(weights, right, strict=True)]
    for name, values in (("weighted_bce", weighted), ("huber", huber), ("l1", errors)):
        expected = sum(values) / len(values)
        assert float(task_loss(logits, target, spec(kind, 1), name)) == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in LOSSES.items() for name in names])
def test_every_loss_has_a_gradient_on_known_entries_only_and_is_exact_in_parts(kind: str, name: str) -> None:
    channels = {"depth": 1, "edges": 1, "saliency": 1}.get(kind, 3)
    classes = kind in ("segmentation", "classification")
    weights = (1.0, 2.0, 3.0) if classes else ()
    task = spec(kind, channels, loss=name, class_weights=weights)
    shape = (4, channels) + ((2, 3) if task.dense else ())
    prediction = drawn(*shape).requires_grad_()
    target = drawn(*shape, seed=1).sigmoid()
    if classes:
        target = (target[:, 0] * 3).long()
    elif kind in ("edges", "saliency", "multilabel"):
        target = target.round()
    target[0], target[3 if target.ndim == 1 else (3, ..., slice(1))] = task.ignore, task.ignore
    loss = task_loss(prediction, target, task)
    loss.backward()
    assert prediction.grad is not None
    assert not prediction.grad[0].any()
    assert prediction.grad[1].any()
    assert bool(prediction.grad.isfinite().all())
    parts = [loss_terms(prediction[cut], target[cut], task) for cut in (slice(0, 1), slice(1, 4))]
    sums = [[sum(float(one[part].detach()) for one in term) for part in (0, 1)] for term in zip(*parts, strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(total / count for total, count in sums) / len(sums), rel=1e-5)


def test_a_task_names_its_loss_and_an_unknown_one_is_refused() -> None:
    prediction, target = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 1.0)
    assert float(task_loss(prediction, target, spec("depth", 1, loss="mse"))) == 4
    assert float(task_loss(prediction, target, spec("depth", 1, loss="mse"), "l1")) == 2
    with pytest.raises(InputError, match="a depth task has no loss 'cosine'; known: l1, mse"):
        task_loss(prediction, target, spec("depth", 1, loss="cosine"))
