"""Two processes on halves of a batch have the gradients of one on the whole: the same gates, penalties as sums."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from slimtask.train.data.config import open_dataset
from slimtask.train.methods.delta.run import stage_recipes
from slimtask.train.recipe import Recipe
from slimtask.train.run import train

# Runs alone and under torchrun: the gradients of one step of the gates, and of one of the activation penalty.
SCRIPT = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from slimtask.train import parallel
from slimtask.train.loop import Trainer
from slimtask.train.run import method_of
from slimtask.train.recipe import load_recipe
folder, name, batch = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
found = {}
for step in ("gates", "activations"):
    recipe = load_recipe(folder / f"{step}.yaml", ["train.batch=" + batch])
    trainer = Trainer(recipe, folder / name / step, method_of(recipe), resume=False)
    trainer.method.before(1, 0.001)
    trainer.network.train()
    trainer._backward(0)
    found |= {f"{step}/{n}": p.grad for n, p in trainer.network.named_parameters() if p.grad is not None}
thresholds = trainer.method.finish(folder / name).facts["delta"]["thresholds"]
found |= {f"thresholds/{site}": torch.tensor(value) for site, value in thresholds.items()}
save_file({key: value.contiguous().clone() for key, value in found.items()}, folder / f"{name}{parallel.rank()}.st")
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(
    torchrun: Callable[..., str], recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recipe(
        data={"tasks": ["segmentation", "depth"], "flip": 0.0, "colour": 0.0},
        delta={"activations": {"strength": 1e-3, "keep": 0.2}},
        train={"steps": 4},
    )
    train(whole, tmp_path / "run")
    tasks = open_dataset(whole.data, "train").tasks
    stages = dict(stage_recipes(whole, tmp_path / "run", tasks))
    for step in ("gates", "activations"):
        content = yaml.safe_dump(stages[f"depth-{step}"].model_dump(mode="json"))
        (tmp_path / f"{step}.yaml").write_text(content)
    torchrun(SCRIPT, tmp_path, ".", "two", "2")
    monkeypatch.setattr(sys, "argv", ["script.py", str(tmp_path), "one", "4"])
    runpy.run_path(str(tmp_path / "script.py"))
    one, first, second = (load_file(tmp_path / f"{name}.st") for name in ("one0", "two0", "two1"))
    assert one.keys() == first.keys() == second.keys()
    assert any("alphas" in name for name in one)
    assert any("activations/trunk.deltas" in name for name in one)
    assert any(name.startswith("thresholds/") for name in one)
    for name, gradient in one.items():
        assert torch.equal(first[name], second[name])
        if name.startswith("thresholds/"):
            continue  # of the first process's images, which are half of those that one process has
        torch.testing.assert_close(first[name], gradient, rtol=1e-3, atol=1e-5)
