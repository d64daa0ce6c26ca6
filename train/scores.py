"""Scores of any network on a split, with intervals over its images: a bootstrap, paired where two are compared.

An interval is the percentile interval of the bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
section 13.3): images are drawn with replacement, as many as there are, and every metric is computed anew from what the
drawn ones add up to. It says how far a score would move with other images of the kind, and nothing about other seeds of
the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.network.modes import evaluating
from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.batches import in_order
from slimtask.train.data.protocol import MultiTaskDataset
from slimtask.train.logits import as_numbers
from slimtask.train.metrics import Extra, check_metrics, delta_m, of_kind
from slimtask.train.metrics.resampled import ResampledMetrics, draw_images

Outputs = Callable[[Tensor], Mapping[str, Tensor]]
"""Images float32 [batch, 3, height, width] to the outputs of the tasks by name, as a network gives them."""
Progress = Callable[[int, int, str], None]
LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score and the interval that holds 95 % of its resamples; NaN for what there is not (of one image, an interval).

    Resamples in which nothing counted are left out.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Float[Tensor, " draws"]) -> Estimate:
        """Return the estimate of a score, which comes first in ``values``, with its resamples behind it."""
        value, drawn = float(values[0]), values[1:][values[1:].isfinite()]
        if not math.isfinite(value) or not len(drawn):
            return cls(value=value, low=math.nan, high=math.nan)
        tail = (1 - LEVEL) / 2
        low, high = torch.quantile(drawn, drawn.new_tensor([tail, 1 - tail])).tolist()
        return cls(value=value, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class SplitScores:
    """Every metric of every task on a split, by name: [1 + resamples], that of the images as they are first."""

    tasks: tuple[TaskSpec, ...]
    images: int
    resamples: int
    seed: int
    values: dict[str, dict[str, Float[Tensor, " draws"]]]

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Return the Estimate of every metric of every task."""
        return {
            task: {name: Estimate.of(values) for name, values in metrics.items()}
            for task, metrics in self.values.items()
        }

    def delta_m(self, baseline: SplitScores) -> Estimate:
        """Return the relative multi-task score against ``baseline`` [per cent], over the tasks that both have, paired.

        Each resample holds the same images for both, so what makes images hard or easy for either cancels. Raises
        InputError if the two were not drawn alike, or share no task.
        """
        ours, theirs = ((one.images, one.resamples, one.seed) for one in (self, baseline))
        if ours != theirs:
            raise InputError(
                f"scores of {ours} (images, resamples, seed) cannot be paired with those of {theirs}; score both "
                "networks on one split with one seed."
            )
        shared = [task for task in self.tasks if task.name in baseline.values]
        if not shared:
            raise InputError("the two networks have no task in common, so there is nothing to compare.")
        values = [delta_m(self._row(draw), baseline._row(draw), shared) for draw in range(1 + self.resamples)]
        return Estimate.of(torch.tensor(values, dtype=torch.float64))

    def _row(self, draw: int) -> dict[str, dict[str, float]]:
        """Return the primary metrics of one resample, of all images for 0."""
        return {task.name: {task.metric: float(self.values[task.name][task.metric][draw])} for task in self.tasks}


def score(
    network: nn.Module | Outputs,
    dataset: MultiTaskDataset,
    preprocessing: Preprocessing,
    *,
    tasks: Sequence[TaskSpec] | None = None,
    batch: int = 32,
    extra: Extra = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> SplitScores:
    """Return the scores of ``network`` on every image of ``dataset``: a module, run in eval mode, or any function.

    ``tasks`` are those to score (None: all that the data set has); ``extra`` names metrics beyond the usual ones
    (docs/metrics.md), or is "all". ``resamples`` of the images, drawn by ``seed``, give the intervals. The batch size
    changes nothing. ``progress(done, images, text)`` is called after every batch. Raises InputError for an empty data
    set, a metric that no task has, and outputs that are missing, not finite, or not of their target's size.

    Example::

        scores = score(rebuild(checkpoint), open_dataset(recipe.data, "val"), checkpoint.preprocessing)
        print(scores.estimates()["depth"]["abs_rel"])  # Estimate(value=0.081, low=0.074, high=0.089)
        print(scores.delta_m(score(dense, ...)))       # in per cent
    """
    images = len(dataset)
    if images == 0:
        raise InputError("there are no samples to score the network on; give at least one.")
    tasks = dataset.tasks if tasks is None else tuple(tasks)
    check_metrics(tasks, extra)
    # one image has no spread, and its resamples would all be itself
    drawn = draw_images(images, resamples if images > 1 else 0, seed)
    counts = torch.cat([torch.ones(1, images, dtype=torch.uint8), drawn])
    meters = {task.name: ResampledMetrics(task, counts, of_kind(extra, task)) for task in tasks}
    done = 0
    with _outputs_of(network) as outputs:
        for inputs, targets in in_order(dataset, preprocessing, batch):
            predictions = outputs(inputs)
            for task in tasks:
                meters[task.name].update(_checked(predictions, task, targets[task.name], done), targets[task.name])
            done += len(inputs)
            if progress is not None:
                progress(done, images, "")
    return SplitScores(
        tasks=tuple(tasks),
        images=images,
        resamples=len(drawn),
        seed=seed,
        values={name: meter.compute() for name, meter in meters.items()},
    )


@contextmanager
def _outputs_of(network: nn.Module | Outputs) -> Iterator[Outputs]:
    """Give the function from images to outputs, a module in eval mode on its own device."""
    if not isinstance(network, nn.Module):
        yield network
        return
    device = next(network.parameters()).device
    with evaluating(network) as runs, torch.no_grad():
        yield lambda images: runs(images.to(device, memory_format=torch.channels_last))


def _checked(outputs: Mapping[str, Tensor], task: TaskSpec, target: Tensor, first: int) -> Tensor:
    """Return the output of ``task`` as numbers in its layout; ``first`` is the number of the batch's first image."""
    if task.name not in outputs:
        raise InputError(f"the network gives no output '{task.name}', only {', '.join(outputs)}; leave the task out.")
    output = as_numbers(outputs[task.name].detach(), task)
    expected = (len(target), task.channels, *(target.shape[-2:] if task.dense else ()))
    if output.shape != expected:
        raise InputError(
            f"task '{task.name}' gives an output of shape {list(output.shape)} where its targets need {list(expected)};"
            " give the recipe of its data, or let the network return maps of its input's size."
        )
    finite = output.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        image = first + int(finite.int().argmin())
        raise InputError(
            f"task '{task.name}' gives NaN or infinity on image {image} of the split, so it has no score; mend the "
            "network, or leave the task out."
        )
    return output
