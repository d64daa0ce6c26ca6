"""Scores with intervals: closed forms of a mean's, pairs that cancel, and outputs that have no score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.evaluate import evaluate
from slimtask.train.scores import Estimate, score

SIZE = Preprocessing(height=2, width=2, mean=(0, 0, 0), std=(1, 1, 1))
DEPTH = TaskSpec(name="depth", kind="keypoints", channels=1)
CLASSES = TaskSpec(name="classes", kind="segmentation", channels=3)
EDGES = TaskSpec(name="edges", kind="edges", channels=1)


class Pictures:
    """Images of one brightness, whose targets are zero, a map of classes and a map of edges."""

    tasks = (DEPTH, CLASSES, EDGES)

    def __init__(self, count: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.brightness = torch.rand(count, generator=draw)
        self.classes = torch.randint(0, 3, (count, 2, 2), generator=draw)

    def __len__(self) -> int:
        return len(self.brightness)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        classes = self.classes[index]
        return {
            "image": self.brightness[index].expand(3, 2, 2),
            "depth": torch.zeros(1, 2, 2),
            "classes": classes,
            "edges": (classes == 1).float()[None],
        }


class Brightness(nn.Module):
    """Gives the brightness times a factor as the depth, so that the error of an image is known."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"depth": self.factor * x[:, :1], "classes": x, "edges": x[:, :1] - 0.5}


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    pictures = Pictures(150)
    found = score(Brightness(), pictures, SIZE, tasks=[DEPTH], batch=64, resamples=1500).estimates()["depth"]["mae"]
    error = pictures.brightness.double()
    half = 1.96 * float(error.std(correction=0)) / math.sqrt(len(error))
    assert found.value == pytest.approx(float(error.mean()), rel=1e-6)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    assert (found.high + found.low) / 2 == pytest.approx(found.value, abs=0.1 * half)


def test_scores_are_those_of_an_evaluation_whatever_the_batch() -> None:
    network, pictures = Brightness(), Pictures(9)
    whole = evaluate(network, pictures, SIZE, extra="all").metrics
    for batch in (4, 9):
        found = score(network, pictures, SIZE, batch=batch, extra="all", resamples=20).estimates()
        for task, metrics in whole.items():
            assert {name: one.value for name, one in found[task].items()} == pytest.approx(metrics, nan_ok=True)
    assert network.training
    alone = score(network, Pictures(1), SIZE).estimates()["depth"]["mae"]
    assert math.isfinite(alone.value)
    assert math.isnan(alone.low)


def test_what_two_networks_share_cancels_in_their_difference() -> None:
    """One errs nine tenths as much as the other on every image: delta_m is 10 % in every resample."""
    pictures = Pictures(12)
    one, other = (score(Brightness(factor), pictures, SIZE, tasks=[DEPTH], resamples=50) for factor in (0.9, 1.0))
    delta = one.delta_m(other)
    assert (delta.low, delta.value, delta.high) == pytest.approx((10, 10, 10), abs=1e-3)
    alone = one.estimates()["depth"]["mae"]
    assert alone.high > 1.2 * alone.low
    with pytest.raises(InputError, match="on one split with one seed"):
        one.delta_m(score(Brightness(), pictures, SIZE, tasks=[DEPTH], resamples=50, seed=1))
    with pytest.raises(InputError, match="no task in common"):
        one.delta_m(score(Brightness(), pictures, SIZE, tasks=[CLASSES], resamples=50))


def test_classes_and_booleans_are_scored_as_what_they_were_decoded_from() -> None:
    pictures, logits = Pictures(8), torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(1))

    def scores(classes: Tensor, edges: Tensor) -> dict[str, dict[str, Estimate]]:
        tasks, given = [CLASSES, EDGES], {"classes": classes, "edges": edges}
        return score(lambda images: given, pictures, SIZE, tasks=tasks, batch=8, resamples=10).estimates()

    numbers, edges = scores(logits, torch.where(logits[:, :1] > 0, 99.0, -99.0)), logits[:, :1] > 0
    for classes in (logits.argmax(dim=1), logits.argmax(dim=1, keepdim=True).to(torch.uint8)):
        assert scores(classes, edges) == numbers
    with pytest.raises(InputError, match="class numbers from 0 to 7, but it has 3 classes"):
        scores(torch.tensor([0, 7]).expand(8, 2, 2), edges)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ({"depth": torch.zeros(4, 1, 1, 1)}, r"shape \[4, 1, 1, 1\] where its targets need \[4, 1, 2, 2\]"),
        ({"depth": torch.zeros(4, 1)}, "where its targets need"),
        ({"other": torch.zeros(4, 1, 2, 2)}, "gives no output 'depth', only other"),
        (
            {"depth": torch.tensor([0, 0, math.nan, 0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)},
            "NaN or infinity on image 2",
        ),
    ],
)
def test_outputs_that_have_no_score_are_refused(output: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        score(lambda images: output, Pictures(4), SIZE, tasks=[DEPTH])


def test_sets_and_metrics_that_give_none_are_refused() -> None:
    with pytest.raises(InputError, match="no samples"):
        score(Brightness(), Pictures(0), SIZE)
    with pytest.raises(InputError, match="none of the tasks has a metric 'mea'"):
        score(Brightness(), Pictures(2), SIZE, extra=("mea",))
