"""Step 1: the density comes down along its curve, the base stays, and what is fixed is what is handed on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from slimtask.checkpoint import Checkpoint
from slimtask.compress.edits.deltas import deltas_of
from slimtask.compress.rebuilding import rebuild
from slimtask.errors import InputError
from slimtask.train.loop import Trainer
from slimtask.train.methods.base import Method
from slimtask.train.methods.delta.run import stage_recipes
from slimtask.train.recipe import Recipe
from slimtask.train.run import method_of, train


@pytest.fixture
def gates_recipe(recipe: Callable[..., Recipe], tmp_path: Path) -> Recipe:
    """Return the recipe of the gates of depth, 30 steps, on an untrained base."""
    base = recipe(data={"tasks": ["segmentation"]}, train={"steps": 1, "eval_every": 1})
    base = base.model_copy(update={"delta": None})
    saved = train(base, tmp_path / "base").checkpoint
    whole = recipe(
        data={"tasks": ["segmentation", "depth"]},
        train={"steps": 30, "eval_every": 30},
        delta={"base_checkpoint": str(saved), "gates": {"kind": "units", "density": 0.1, "ramp": 0.8, "lr": 1.0}},
    )
    tasks = Trainer(whole.model_copy(update={"delta": None}), tmp_path / "x", Method, resume=False).tasks
    return dict(stage_recipes(whole, tmp_path, tasks))["depth-gates"]


def test_the_density_follows_its_curve_and_what_stays_keeps_its_weights(gates_recipe: Recipe, tmp_path: Path) -> None:
    """Fixed are the units' weights as their median gates made them; then the values alone go on."""
    trainer = Trainer(gates_recipe, tmp_path / "run", method_of(gates_recipe), resume=False)
    method: Any = trainer.method
    trunk = method.network.trunk
    base = {name: p.clone() for name, p in trunk.named_parameters() if not name.startswith("gated.")}
    entries = sum(p.numel() for p in base.values())
    expected = []
    for _ in range(24):
        assert not method.settled
        expected.append(method.density)
        trainer._step()
    assert all(later <= earlier + 0.05 for earlier, later in pairwise(expected))
    assert 0.5 * 0.1 ** (16 / 24) < expected[16] < 1.6 * 0.1 ** (16 / 24)  # the curve is geometric
    trunk.eval()
    before = {name: w.detach().clone() for name, w in trunk.weights_of("depth").items()}
    method.before(24, 1e-3)
    assert method.settled
    assert method.density <= 0.1
    for name, weight in trunk.weights_of("depth").items():
        mask = method.gated.mask(name)
        torch.testing.assert_close(weight[mask], before[name][mask])
        assert torch.equal(weight[~mask], base[name][~mask])
    trainer.run(lambda step, steps, text: None)
    own = dict(trunk.named_parameters())
    assert all(torch.equal(own[name], base[name]) for name in base)
    learned = rebuild(Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors"))
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(learned(x)["depth"], trainer.network.eval()(x)["depth"])
    delta = deltas_of(learned)["depth"]
    assert all(torch.equal(c.mask(), method.gated.mask(n.removeprefix("trunk."))) for n, c in delta.changes.items())
    assert sum(len(change.values) for change in delta.changes.values()) / entries == method.density


def test_another_base_is_refused(gates_recipe: Recipe, tmp_path: Path) -> None:
    other = gates_recipe.model_copy(update={"model": gates_recipe.model.model_copy(update={"width": 0.5})})
    with pytest.raises(InputError, match="holds another trunk"):
        Trainer(other, tmp_path / "run", method_of(other), resume=False)
