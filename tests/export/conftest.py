"""A tiny multi-task network with every awkward part: BatchNorm, upsampling, normalised normals, a label head."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.export.exporter import export_bundle
from slimtask.tasks import Preprocessing, TaskSpec

HEIGHT, WIDTH = 32, 48
TASKS = (
    TaskSpec(name="semantic", kind="segmentation", channels=5),
    TaskSpec(name="depth", kind="depth", channels=1),
    TaskSpec(name="normals", kind="normals", channels=3),
    TaskSpec(name="attributes", kind="multilabel", channels=4),
)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class TinyNet(nn.Module):
    """Trunk of two strided blocks; a 1x1 convolution per dense task, a linear layer for the labels."""

    def __init__(self, tasks: tuple[TaskSpec, ...] = TASKS) -> None:
        super().__init__()
        self.tasks = tasks
        self.trunk = nn.Sequential(block(3, 16), block(16, 32))
        self.heads = nn.ModuleDict(
            {t.name: nn.Conv2d(32, t.channels, 1) if t.dense else nn.Linear(32, t.channels) for t in tasks}
        )

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        features = self.trunk(x)
        chosen = [t for t in self.tasks if tasks is None or t.name in tasks]
        return {t.name: self.head(t, features, x) for t in chosen}

    def head(self, task: TaskSpec, features: Tensor, x: Tensor) -> Tensor:
        if not task.dense:
            return self.heads[task.name](features.mean((2, 3)))
        output = F.interpolate(self.heads[task.name](features), size=x.shape[-2:], mode="bilinear")
        if task.kind == "depth":
            return F.softplus(output)
        # the shift keeps directions well-conditioned, as those of a trained network are
        return F.normalize(output + 1, dim=1) if task.kind == "normals" else output


def tiny_net(seed: int = 0) -> TinyNet:
    """Return a TinyNet whose BatchNorm statistics are far from the identity, so that folding them matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TinyNet()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.5)
                module.running_mean.normal_(std=0.5)
                module.running_var.uniform_(0.3, 2)
        return model.eval()


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return Preprocessing(height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="session")
def net() -> TinyNet:
    return tiny_net()


@pytest.fixture
def make_net() -> Callable[[], TinyNet]:
    return tiny_net


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, net: TinyNet, preprocessing: Preprocessing) -> Path:
    """A bundle of both paths with TensorRT-RTX engines; read-only: copy it (``bundle_dir``) to change it."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    out = tmp_path_factory.mktemp("bundles") / "fp32"
    provenance = {"checkpoint": "0" * 64}
    export_bundle(net, out, preprocessing=preprocessing, to=("onnx", "tensorrt-rtx"), provenance=provenance)
    return out


@pytest.fixture
def bundle_dir(tmp_path: Path, exported: Path) -> Path:
    """A copy of the exported bundle that the test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))
