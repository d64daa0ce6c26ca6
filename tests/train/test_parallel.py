"""Two processes on halves of a batch compute what one computes on the whole: losses, gradients, BatchNorm, weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from slimtask.checkpoint import Checkpoint
from slimtask.train import parallel
from slimtask.train.history import read_history
from slimtask.train.recipe import load_recipe
from slimtask.train.run import train

RECIPE = {
    "name": "tiny",
    "data": {
        "name": "scenes", "height": 32, "width": 48, "train": 24, "val": 6, "test": 5, "scale": [1.0, 1.5],
        "tasks": ["segmentation", "depth", "normals", "objects"],
    },
    "model": {"width": 0.125, "head_hidden": 8},
    "train": {"steps": 6, "batch": 4, "lr": 0.003, "eval_every": 3, "weighting": "uncertainty", "clip_norm": None},
}  # fmt: skip


TRAIN = """
import sys
from slimtask.cli.app import main
folder = sys.argv[1]
sys.argv = ["slimtask", "train", folder + "/recipe.yaml", "--set", "train.batch=2", "--out", folder + "/two"]
main()
"""


def test_two_processes_train_like_one_with_the_double_batch(torchrun: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    said = torchrun(TRAIN, tmp_path, ".")
    assert said.count("checkpoint: ") == 1  # the first process speaks for both
    train(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "one")
    one, two = (read_history(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if name != "kind" and value is not None:
                assert b[name] == pytest.approx(value, rel=2e-2 if a["kind"] == "val" else 2e-3), name
    weights = [Checkpoint.load(tmp_path / name / "checkpoint.safetensors").weights for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0.05, atol=0.01, msg=name)


EXACT = """
import json, sys, torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from slimtask.train import parallel
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
x, valid = torch.randn(6, 3, 5, 5).double(), torch.rand(6, 2, 3, 3) < 0.5
half = slice(3 * parallel.rank(), 3 * parallel.rank() + 3)
parallel.share_batchnorm_(model)
network = DistributedDataParallel(model)  # kept: its hooks average the gradients
out = network(x[half])
loss = (out.square() * valid[half]).sum() / parallel.shared_count(valid[half].sum())
loss.backward()
mean = parallel.averaged({"loss": loss.detach()})["loss"]
found = {name: p.grad.tolist() for name, p in model.named_parameters()}
found |= {name: b.tolist() for name, b in model.named_buffers()} | {"loss": float(mean)}
found["anywhere"] = [parallel.anywhere(parallel.rank() == 1), parallel.anywhere(False)]
if parallel.rank() == 0:
    json.dump(found, open(sys.argv[1] + "/found.json", "w"))
del network, out, loss
parallel.leave()
"""


def test_loss_gradients_and_statistics_are_those_of_the_global_batch(
    torchrun: Callable[..., str], tmp_path: Path
) -> None:
    torchrun(EXACT, tmp_path, ".")
    found = json.loads((tmp_path / "found.json").read_text())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
    x, valid = torch.randn(6, 3, 5, 5).double(), torch.rand(6, 2, 3, 3) < 0.5
    loss = (model(x).square() * valid).sum() / valid.sum()
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(torch.tensor(found[name]), parameter.grad.float(), rtol=1e-4, atol=1e-5, msg=name)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(torch.tensor(found[name], dtype=torch.float32), buffer.float(), msg=name)
    assert found["anywhere"] == [True, False]


def test_one_process_is_left_alone() -> None:
    value = torch.tensor(3.0)
    assert parallel.processes() == 1
    assert float(parallel.shared_count(value)) == 3.0
    assert float(parallel.shared_count(torch.tensor(0.0))) == 1.0
    plain, shared = nn.BatchNorm2d(3), parallel.share_batchnorm_(nn.BatchNorm2d(3))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(plain(x), shared(x))
    assert parallel.anywhere(flag=True)
