"""The paths that users wait for: analysis, removal, the proximal step, packing, and a call of the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from slimtask import Preprocessing, TaskSpec
from slimtask.compress import Budget, Prune, TaskOutputs, Zeros, compress, find_groups
from slimtask.export import Runner, export_bundle
from slimtask.kernels.layouts import pack
from slimtask.train.sparsity import ProximalAdamW, input_channel_layout

pytestmark = pytest.mark.regress
IMAGE = torch.zeros(1, 3, 224, 224)


@pytest.mark.parametrize("name", ["resnet50", "swin_t"])
def test_analysis(guard: Any, benchmark: Any, name: str) -> None:
    model = models.get_model(name, weights=None).eval()
    guard.check(f"find_groups {name}", benchmark, lambda: find_groups(model, IMAGE), rounds=5)


def test_removal_by_budget(guard: Any, benchmark: Any) -> None:
    model, image = models.resnet18(weights=None).eval(), torch.zeros(1, 3, 64, 64)
    guard.check(
        "prune resnet18 to half its FLOPs",
        benchmark,
        lambda: compress(model, image, Prune(Budget(flops=0.5))),
        rounds=3,
    )


def test_exact_removal(guard: Any, benchmark: Any) -> None:
    model, image = models.resnet18(weights=None).eval(), torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::3], module.bias[::3] = 0, 0
    guard.check("remove a third of resnet18", benchmark, lambda: compress(model, image, Zeros(align=1)), rounds=3)


def test_proximal_step(guard: Any, benchmark: Any) -> None:
    named = list(models.resnet18(weights=None).named_parameters())
    optimizer = ProximalAdamW(named, input_channel_layout(named), strength=1e-4)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    guard.check("step of ProximalAdamW on resnet18", benchmark, optimizer.step, rounds=20)


def test_packing(guard: Any, benchmark: Any) -> None:
    random = np.random.default_rng(0)
    delta = random.standard_normal((3, 768, 768), np.float32) * (random.random((3, 768, 768)) < 0.1)
    guard.check("pack a tenth of 768 x 768 as csr", benchmark, lambda: pack("csr", delta), rounds=10)


def test_runtime_call(guard: Any, benchmark: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1)).eval()
    tasks = (TaskSpec(name="depth", kind="depth", channels=1),)
    export_bundle(TaskOutputs(net, tasks), tmp_path / "bundle", preprocessing=Preprocessing(height=64, width=64))
    image = np.zeros((64, 64, 3), np.uint8)
    with Runner.open(tmp_path / "bundle", threads=1) as runner:
        guard.check("run of a two-layer bundle", benchmark, lambda: runner.run(image), rounds=50)
