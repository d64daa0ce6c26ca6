"""Training under masks: zeros stay zero with every optimiser, stopped runs resume bit-equal, files fit the verbs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slimtask.checkpoint import Checkpoint
from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.train.loop import Trainer
from slimtask.train.methods.base import Method
from slimtask.train.methods.masks.dynamic import DynamicMasks
from slimtask.train.methods.masks.training import MaskedTraining
from slimtask.train.recipe import Recipe
from slimtask.train.run import method_of, train

DYNAMIC = {"when": "dynamic", "sparsity": 0.8, "interval": 2, "end": 0.75}
Make = Callable[..., Recipe]


def assert_zeros(method: MaskedTraining) -> None:
    """Check weights, gradients and moments under the masks, and that everything else moves."""
    for name, keep in method.masks.union().items():
        weight = method.weights[name]
        assert weight.grad is not None
        state = [value for value in method.optimizer.state[weight].values() if value is not None]
        tensors = [value for value in state if value.shape == weight.shape]
        assert tensors
        for tensor in (weight.detach(), weight.grad, *tensors):
            assert not bool(tensor[~keep].any()), name
        assert bool(weight.detach()[keep].all()) or not bool(keep.any())


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("masks", [{"sparsity": 0.9}, DYNAMIC], ids=["static", "dynamic"])
def test_masked_weights_gradients_and_moments_are_zero_after_every_step(
    masks: dict[str, Any], optimizer: str, make_recipe: Make, tmp_path: Path
) -> None:
    chosen = make_recipe(masks, optimizer=optimizer, weight_decay=0.1)
    trainer = Trainer(chosen, tmp_path / "run", method_of(chosen), resume=False)
    method = trainer.method
    assert isinstance(method, MaskedTraining)
    for _ in range(6):
        trainer._step()
        assert_zeros(method)


def test_masks_go_on_the_network_as_it_was_initialised(make_recipe: Make, tmp_path: Path) -> None:
    dense = Trainer(make_recipe(None), tmp_path / "dense", Method, resume=False)
    sparse = Trainer(make_recipe({"sparsity": 0.9}), tmp_path / "sparse", MaskedTraining, resume=False)
    assert isinstance(sparse.method, MaskedTraining)
    union = sparse.method.masks.union()
    for name, tensor in dense.network.state_dict().items():
        expected = tensor * union[name] if name in union else tensor
        assert torch.equal(sparse.network.state_dict()[name], expected), name


@pytest.mark.parametrize("masks", [{"sparsity": 0.9}, {**DYNAMIC, "faithful": True}], ids=["static", "dynamic"])
def test_a_stopped_run_resumes_to_bit_equal_weights_and_masks(
    masks: dict[str, Any], make_recipe: Make, tmp_path: Path
) -> None:
    """Stops between two moves of the masks; the next one has to see the same batch, moments and stale weights."""
    chosen = make_recipe(masks)
    whole = train(chosen, tmp_path / "whole")

    def interrupt(step: int, steps: int, text: str) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "cut", progress=interrupt)
    resumed = train(chosen, tmp_path / "cut", resume=True)
    assert (tmp_path / "whole" / "masks.safetensors").read_bytes() == (
        tmp_path / "cut" / "masks.safetensors"
    ).read_bytes()
    one, two = (Checkpoint.load(result.checkpoint) for result in (whole, resumed))
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert one.provenance["masks"] == two.provenance["masks"]
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_the_files_of_a_run_fit_each_other(make_recipe: Make, tmp_path: Path) -> None:
    result = train(make_recipe({"sparsity": 0.9}, steps=2), tmp_path / "run")
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    checkpoint = Checkpoint.load(result.checkpoint)
    zero = sum(int((checkpoint.weights[name] == 0).sum()) for name in masks.union())
    assert zero / sum(mask.numel() for mask in masks.union().values()) == pytest.approx(
        result.sparsity["overall_sparsity"]
    )
    assert masks.tasks == ("segmentation", "depth")
    facts = checkpoint.provenance["masks"]
    assert facts["iou"] == pytest.approx(masks.total_iou())
    assert facts["densities"] == pytest.approx(masks.density())


def test_trained_weights_are_masked_and_trained_on(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"masks\.when pretrained needs trained weights; give train\.init"):
        train(make_recipe({"when": "pretrained"}), tmp_path / "none")
    dense = train(make_recipe(None, steps=2), tmp_path / "dense")
    chosen = make_recipe({"when": "pretrained", "sparsity": 0.5}, init=str(dense.checkpoint), steps=2)
    trainer = Trainer(chosen, tmp_path / "run", method_of(chosen), resume=False)
    assert isinstance(trainer.method, MaskedTraining)
    weights = Checkpoint.load(dense.checkpoint).weights
    for name, mask in trainer.method.masks.union().items():
        assert torch.equal(trainer.network.get_parameter(name), weights[name] * mask)
        if not name.startswith("heads."):
            assert float(weights[name][mask].abs().min()) >= float(weights[name][~mask].abs().max())


def test_what_would_be_no_run_is_refused(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the masks leave no weight of the head of 'depth'"):
        train(make_recipe({"method": "magnitude", "sparsity": 0.998}), tmp_path / "empty")
    trainer = Trainer(make_recipe({}), tmp_path / "run", MaskedTraining, resume=False)
    with pytest.raises(InputError, match="cannot take over the dense run"):
        trainer.method.check_fork(Path("fork.safetensors"), 1)


@pytest.mark.parametrize("masks", [{}, {"method": "magnitude"}, {"when": "dynamic"}], ids=str)
def test_layers_without_a_weight_are_named_once(masks: dict[str, Any], make_recipe: Make, tmp_path: Path) -> None:
    chosen = make_recipe({"sparsity": 0.99999, "scope": "trunk", "batches": 1, **masks}, steps=2)
    with pytest.warns(UserWarning, match=r"masks\.sparsity 0\.99999 leaves") as seen:
        train(chosen, tmp_path / "run")
    assert len(seen) == 1
    message, kept = str(seen[0].message), Masks.load(tmp_path / "run" / "masks.safetensors").union()
    empty = [name.removesuffix(".weight") for name, mask in kept.items() if not mask.any()]
    left = sum(int(mask.sum()) for mask in kept.values())
    assert f" leaves {left} of " in message
    assert f"none in {len(empty)} of {len(kept)} layers" in message
    assert message.count("trunk.") == 5
    assert empty[4] in message
    assert f"and {len(empty) - 5} more" in message


def test_the_recipe_chooses_the_class(make_recipe: Make) -> None:
    for masks, kind in (({}, MaskedTraining), (DYNAMIC, DynamicMasks)):
        assert method_of(make_recipe(masks)) is kind
