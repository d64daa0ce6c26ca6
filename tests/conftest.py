"""Fixtures shared by the suite: small networks, killed channels, the optional real images."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.tasks import TaskSpec
from slimtask.train.models import MultiTaskNet, multitask_net

TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=5),
    TaskSpec(name="depth", kind="depth", channels=1),
    TaskSpec(name="normals", kind="normals", channels=3),
    TaskSpec(name="edges", kind="edges", channels=1),
    TaskSpec(name="presence", kind="multilabel", channels=4),
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The networks here are too small for more, and idle threads that spin would starve whatever else runs.

    Set before every test: numbers of another number of threads differ in the last bit.
    """
    torch.set_num_threads(1)


@pytest.fixture
def tasks() -> tuple[TaskSpec, ...]:
    return TASKS


@pytest.fixture(scope="session")
def small_net() -> Callable[..., MultiTaskNet]:
    """Return a maker of seeded narrow multi-task networks with random BatchNorm statistics, in eval mode."""

    def make(seed: int = 0, **arguments: object) -> MultiTaskNet:
        torch.manual_seed(seed)
        model = multitask_net(tasks=TASKS, **{"width": 0.25, "head_hidden": 16, **arguments})
        return randomise_batchnorm(model).eval()

    return make


def randomise_batchnorm(model: nn.Module) -> nn.Module:
    """Give every BatchNorm random statistics, gamma and beta, as a trained network has."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


@pytest.fixture
def kill() -> Callable[[nn.Module, str, str], None]:
    """Return a function that zeroes two thirds of every filter bank under a prefix.

    ``what`` is "filter" (convolution only), "gamma" (and BatchNorm's gamma) or "beta" (and its beta).
    """

    def zero(model: nn.Module, what: str, prefix: str = "") -> None:
        last = None
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                last = module
            if isinstance(module, nn.BatchNorm2d) and last is not None and name.startswith(prefix):
                dead = torch.arange(module.num_features) % 3 != 0
                last.weight.data[dead] = 0
                if what in ("gamma", "beta"):
                    module.weight.data[dead] = 0
                if what == "beta":
                    module.bias.data[dead] = 0

    return zero


@pytest.fixture
def real_data() -> Path:
    """Return the folder with the real images, or skip."""
    folder = Path(os.environ.get("SLIMTASK_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at '{folder}'; set SLIMTASK_DATA to their folder")
    return folder


@pytest.fixture
def other_device() -> Iterator[torch.device]:
    """Give a device beside the CPU that refuses CPU tensors, as a GPU does."""
    spec = importlib.util.spec_from_file_location("other_device", Path(__file__).with_name("other_device.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.other_device() as device:
        yield device


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
