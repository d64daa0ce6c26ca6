"""Two processes on halves of a batch learn the weights and logits of one on the whole, and finish all stages."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from slimtask.compress.structures.policy import Policy

RECIPE = {
    "data": {"name": "scenes", "height": 32, "width": 32, "train": 10, "val": 4, "test": 4,
             "tasks": ["depth", "objects"]},
    "model": {"width": 0.125, "head_hidden": 8},
    "train": {"steps": 2, "lr": 0.003},
    "policy": {"warmup": 0, "samples": 1, "policy_lr": 0.01},
}  # fmt: skip
# Runs alone and under torchrun: one step of weights, one of the policy, whose results it saves; then the whole method.
SCRIPT = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from slimtask.train import parallel
from slimtask.train.loop import Trainer
from slimtask.train.methods.adashare.learning import PolicyLearning
from slimtask.train.run import train
from slimtask.train.recipe import load_recipe
folder, name, batch = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
recipe = load_recipe(folder / "recipe.yaml", ["train.batch=" + batch])
trainer = Trainer(recipe, folder / name, PolicyLearning, resume=False)
found = {}
for step, phase in enumerate(("weights", "policy")):
    assert trainer.method.schedule.phase(step) == phase
    trainer._step()
    found |= {f"{phase}/{key}": tensor.clone().contiguous() for key, tensor in trainer.network.state_dict().items()}
save_file(found, folder / f"{name}{parallel.rank()}.st")
if parallel.processes() > 1:
    train(recipe, folder / "all")
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    torchrun: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    torchrun(SCRIPT, tmp_path, ".", "two", "2")
    monkeypatch.setattr(sys, "argv", ["script.py", str(tmp_path), "one", "4"])
    runpy.run_path(str(tmp_path / "script.py"))
    one, first, second = (load_file(tmp_path / f"{name}.st") for name in ("one0", "two0", "two1"))
    assert not torch.equal(one["weights/logits"], one["policy/logits"])
    for key, expected in one.items():
        torch.testing.assert_close(first[key], expected, rtol=1e-4, atol=1e-5, msg=key)
        assert torch.equal(first[key], second[key]), key
    assert set(Policy.load(tmp_path / "all" / "policy.json").tasks) == {"depth", "objects"}
    assert (tmp_path / "all" / "checkpoint.safetensors").exists()
