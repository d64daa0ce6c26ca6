"""Evaluation of whole sets: the batch size and the number of processes change nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.evaluate import Evaluation, evaluate
from slimtask.train.losses import multi_task_loss

CHANNELS = {"segmentation": 4, "depth": 1, "normals": 3, "edges": 1, "keypoints": 2, "multilabel": 3}
TASKS = tuple(TaskSpec(name=kind, kind=kind, channels=count, weight=0.5) for kind, count in CHANNELS.items())
SIZE = Preprocessing(height=6, width=5)


class Pictures:
    """Random images with random targets, a different share of them unknown in every image."""

    tasks = TASKS

    def __init__(self, count: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.samples = [self._sample(index, draw) for index in range(count)]

    def _sample(self, index: int, draw: torch.Generator) -> dict[str, Tensor]:
        sample = {"image": torch.rand(3, 6, 5, generator=draw)}
        for task in TASKS:
            shape = (task.channels, 6, 5) if task.dense else (task.channels,)
            target = torch.rand(shape, generator=draw) + 0.1
            if task.kind in ("edges", "multilabel"):
                target = target.round().clamp_max(1)
            if task.kind == "segmentation":
                target = torch.randint(0, 4, (6, 5), generator=draw)
            if task.dense:
                target[..., : index % 5, :] = task.ignore
            sample[task.name] = target
        return sample

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.samples[index]


class Network(nn.Module):
    """One convolution a task; image-level tasks are averaged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleDict({task.name: nn.Conv2d(3, task.channels, 3, padding=1) for task in TASKS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {task.name: self.heads[task.name](x) for task in TASKS}
        return {task.name: maps[task.name] if task.dense else maps[task.name].mean((2, 3)) for task in TASKS}


def figures(evaluation: Evaluation) -> dict[str, float]:
    """Return everything in an evaluation, flat."""
    flat = {f"{task}/{name}": value for task, scores in evaluation.metrics.items() for name, value in scores.items()}
    return flat | {f"loss/{name}": value for name, value in evaluation.losses.items()} | {"loss": evaluation.loss}


def test_the_batch_size_does_not_matter_and_the_loss_is_that_of_the_whole_set() -> None:
    model, pictures = Network(), Pictures(7)
    whole = figures(evaluate(model, pictures, SIZE, batch=7, extra="all"))
    assert model.training
    for batch in (1, 3, 32):
        assert figures(evaluate(model, pictures, SIZE, batch=batch, extra="all")) == pytest.approx(whole, rel=1e-5)
    images = torch.stack([sample["image"] for sample in pictures.samples])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SIZE.mean, SIZE.std))
    targets = {task.name: torch.stack([sample[task.name] for sample in pictures.samples]) for task in TASKS}
    total, losses = multi_task_loss(model((images - mean) / std), targets, TASKS)
    assert whole["loss"] == pytest.approx(total.item(), rel=1e-5)
    assert all(whole[f"loss/{name}"] == pytest.approx(loss.item(), rel=1e-5) for name, loss in losses.items())


def test_extra_metrics_go_to_the_tasks_that_have_them() -> None:
    found = evaluate(Network(), Pictures(2), SIZE, extra=("mae", "raw_mean_angle")).metrics
    assert "mae" in found["depth"]
    assert "mae" in found["edges"]
    assert "raw_mean_angle" in found["normals"]
    assert "mae" not in found["segmentation"]


def test_unknown_metrics_and_empty_sets_are_refused() -> None:
    with pytest.raises(InputError, match="none of the tasks has a metric 'mea'"):
        evaluate(Network(), Pictures(2), SIZE, extra=("mea",))
    with pytest.raises(InputError, match="no samples"):
        evaluate(Network(), Pictures(0), SIZE)


SHARED = """
import importlib.util, json, sys
import torch.distributed as dist
folder, here, rank = sys.argv[1:]
spec = importlib.util.spec_from_file_location("here", here)
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=2)
found = [here.figures(here.evaluate(here.Network(), here.Pictures(n), here.SIZE, batch=2, extra="all")) for n in (7, 1)]
json.dump(found, open(f"{folder}/{rank}.json", "w"))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_samples_and_both_return_the_whole(tmp_path: Path) -> None:
    runs = [
        subprocess.Popen([sys.executable, "-c", SHARED, str(tmp_path), __file__, rank], stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()[-3000:]
    for place, count in enumerate((7, 1)):
        alone = figures(evaluate(Network(), Pictures(count), SIZE, extra="all"))
        for rank in ("0", "1"):
            shared = json.loads((tmp_path / f"{rank}.json").read_text())[place]
            assert shared == pytest.approx(alone, rel=1e-5, nan_ok=True)
