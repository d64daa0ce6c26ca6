"""Two processes on halves of a batch have the masks of one on the whole, and both have the same."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from slimtask.train.recipe import Recipe

# Runs alone and under torchrun: moves the masks twice, then decides on static ones by the saliencies, and saves all.
SCRIPT = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from slimtask.train import parallel
from slimtask.train.loop import Trainer
from slimtask.train.run import method_of
from slimtask.train.methods.masks.choose import choose_masks
from slimtask.train.methods.masks.config import MasksConfig
from slimtask.train.recipe import load_recipe
folder, name, batch = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
recipe = load_recipe(folder / "recipe.yaml", ["train.batch=" + batch])
trainer = Trainer(recipe, folder / name, method_of(recipe), resume=False)
method = trainer.method
static, _ = choose_masks(
    MasksConfig(sparsity=0.7), method.network, trainer.tasks, [method.batch(step) for step in range(2)],
    method.weighting, 0,
)
found = {f"static/{task}/{name}": mask for task, own in static.per_task.items() for name, mask in own.items()}
for _ in range(5):
    trainer._step()
assert method.report()["moves"] == 2
for key, mask in method.masks.shared.items():
    found["dynamic/" + key] = mask
    assert not bool(method.weights[key].detach()[~mask].any())
save_file({key: mask.contiguous().clone() for key, mask in found.items()}, folder / f"{name}{parallel.rank()}.st")
"""


@pytest.mark.slow
def test_two_processes_have_the_masks_of_one(
    torchrun: Callable[..., str], make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe({"when": "dynamic", "sparsity": 0.6, "interval": 2}, steps=8, optimizer="sgd", lr=1e-4)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    torchrun(SCRIPT, tmp_path, ".", "two", "2")
    monkeypatch.setattr(sys, "argv", ["script.py", str(tmp_path), "one", "4"])
    runpy.run_path(str(tmp_path / "script.py"))
    one, first, second = (load_file(tmp_path / f"{name}.st") for name in ("one0", "two0", "two1"))
    assert one.keys() == first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    differing = sum(int((one[name] != first[name]).sum()) for name in one)
    assert differing / sum(mask.numel() for mask in one.values()) < 2e-3  # scores that rounding alone tells apart
