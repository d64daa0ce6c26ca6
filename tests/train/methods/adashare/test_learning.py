"""How the optimisers of a policy are set up."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimtask.train.loop import Trainer
from slimtask.train.methods.adashare.learning import PolicyLearning
from slimtask.train.recipe import load_recipe, parse_recipe


def test_the_weights_phases_have_the_rates_of_the_parts_too(tmp_path: Path) -> None:
    """The published rates for Cityscapes: 1e-3 in the trunk and 1e-4 in the heads, of Adam and of SGD."""
    published = load_recipe("cityscapes/adashare")
    assert published.policy is not None
    train = {"steps": 10, "batch": 2, **published.train.model_dump(include={"lr", "rates", "optimizer"})}
    data = {"name": "scenes", "height": 32, "width": 32, "train": 4, "val": 2, "test": 2, "tasks": ["depth"]}
    policy = {"weights_lr": published.policy.weights_lr}
    chosen = parse_recipe({"data": data, "model": {"width": 0.125, "head_hidden": 8}, "train": train, "policy": policy})
    method = Trainer(chosen, tmp_path / "run", PolicyLearning, resume=False).method
    assert isinstance(method, PolicyLearning)
    method.before(0, published.train.lr)
    names = {id(p): name for name, p in method.network.model.named_parameters()}
    for optimizer in method.optimizers[:2]:
        rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert rates.keys() == set(names.values())
        for name, rate in rates.items():
            assert rate == pytest.approx(1e-3 if name.startswith("trunk.") else 1e-4)
