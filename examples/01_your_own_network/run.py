"""Compress, export and run a network that slimtask has never seen."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimtask import Preprocessing, TaskSpec
from slimtask.compress import Zeros, compress
from slimtask.export import Runner, export_bundle


class MyNetwork(nn.Module):
    """A shared trunk with two heads; only the heads asked for are computed."""

    tasks = (
        TaskSpec(name="parts", kind="segmentation", channels=4, classes=("none", "head", "body", "tail")),
        TaskSpec(name="animal", kind="classification", channels=3),
    )

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.parts, self.animal = nn.Conv2d(32, 4, 3, padding=1), nn.Linear(32, 3)

    def forward(self, x: Tensor, tasks: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """Return the outputs of ``tasks`` (all for None)."""
        features = self.trunk(x)
        heads = {"parts": lambda: self.parts(features), "animal": lambda: self.animal(features.mean(dim=(2, 3)))}
        return {name: heads[name]() for name in tasks or heads}


def main(out: Path) -> None:
    """Zero 20 of 32 filters, remove what is dead, export, run the graph of one task."""
    torch.manual_seed(0)
    model = MyNetwork().eval()
    model.trunk[0].weight.data[:20] = 0  # BatchNorm still makes a constant of them
    nn.init.normal_(model.trunk[1].bias)

    done = compress(model, torch.zeros(1, 3, 48, 64), Zeros(align=4))
    print(done.plan)
    print(f"certificate: {done.certificate.holds}, relative difference {done.certificate.max_rel_error:.1e}")

    export_bundle(done.model, out, preprocessing=Preprocessing(height=48, width=64))
    with Runner.open(out, tasks=["animal"]) as runner:
        image = np.zeros((48, 64, 3), dtype=np.uint8)
        print(runner.choice, runner.decode(runner.run(image))["animal"].round(3))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-bundle"))
