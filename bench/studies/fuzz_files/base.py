"""The files that a user has, small and whole: what the fuzzer breaks copies of."""

from __future__ import annotations

from pathlib import Path

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.depth, self.kinds = nn.Conv2d(8, 1, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.body(x).relu()
        return {"depth": self.depth(x), "kinds": self.kinds(x.mean((2, 3)))}
"""  # noqa: E501
TASKS = """tasks:
- {name: depth, kind: depth, channels: 1}
- {name: kinds, kind: classification, channels: 4}
mean: [0.5, 0.5, 0.5]
std: [0.25, 0.25, 0.25]
order: rgb
"""
RECIPE = """name: tiny
data: {name: scenes, height: 32, width: 32, train: 4, val: 2, test: 2, tasks: [depth, edges], cache: true}
model: {width: 0.125, head_hidden: 8}
train: {steps: 2, batch: 2, eval_every: 1}
"""
WORDS = ("--model", "fuzzed_network:Net", "--weights", "w.pt", "--tasks", "tasks.yaml", "--input", "1x3x24x32")


def make(folder: Path) -> None:
    """Write a network's module, weights and tasks, a recipe, an image, a checkpoint, an ONNX file and a bundle."""
    import numpy as np
    import torch
    from PIL import Image

    from slimtask.bench.studies.fuzz_files.run import run_words

    (folder / "fuzzed_network.py").write_text(NETWORK, "utf-8")
    (folder / "tasks.yaml").write_text(TASKS, "utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(compile(NETWORK, "fuzzed_network", "exec"), scope)
    net = scope["Net"]().eval()
    torch.save({"state_dict": net.state_dict()}, folder / "w.pt")
    torch.onnx.export(
        net, (torch.zeros(1, 3, 24, 32),), folder / "net.onnx", dynamo=True, verbose=False, external_data=False
    )
    compress = ("compress", *WORDS, "--keep", "0.5", "--align", "1", "--out", "net.safetensors")
    export = ("export", *WORDS, "--out", "bundle")
    for words in (compress, export):
        done = run_words(words, folder)
        if done.status != 0:
            raise RuntimeError(f"the base of the fuzzer cannot be made: {' '.join(words)}: {done.error}")
