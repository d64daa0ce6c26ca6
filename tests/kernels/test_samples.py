from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from slimtask.kernels.device import Device
from slimtask.kernels.problem import Problem
from slimtask.kernels.samples import Sample, width_of

CPU = Device(backend="cpu", name="a CPU", threads=1)
SMALL = Problem(tasks=3, tokens=20, inputs=640, outputs=640, pattern="block", density=0.2, device=CPU)


def sample(**change: object) -> Sample:
    return Sample(problem=replace(SMALL, **change), seed=0)


@pytest.mark.parametrize("pattern", ["unstructured", "block", "vector", "in-channels", "out-channels"])
def test_samples_have_the_density_of_the_problem(pattern: str) -> None:
    (mask,) = sample(pattern=pattern).masks
    assert mask.shape == (3, 640, 640)
    assert mask.mean(axis=(1, 2)) == pytest.approx(0.2, abs=0.001)
    assert (mask[0] != mask[1]).any()


def test_masks_have_their_pattern() -> None:
    blocks = sample().masks[0].reshape(3, 10, 64, 10, 64)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    vectors = sample(pattern="vector").masks[0].reshape(3, 20, 32, 640)
    assert (vectors == vectors[:, :, :1]).all()
    assert (vectors[:, :, 0].sum(axis=2) == 128).all()
    outputs = sample(pattern="out-channels").masks[0]
    assert (outputs == outputs[:, :, :1]).all()
    assert not sample(pattern="rows").masks[0].any()
    assert sample(pattern="tensor").masks[0].all()


def test_hidden_units_and_heads_change_both_layers_at_the_same_units() -> None:
    first, second = sample(pattern="hidden-units", outputs=100).masks
    assert (first[:, :, 0] == second[:, 0]).all()
    assert (first.sum(axis=1) == 20).all()
    heads = sample(pattern="heads", inputs=256, outputs=768, density=0.25)
    assert width_of(heads.problem) == 64
    packed, projection = heads.masks
    assert (packed[:, :, 0].reshape(3, 3, 256) == projection[:, None, 0]).all()
    assert (projection[:, 0].reshape(3, 4, 64).all(axis=2).sum(axis=1) == 1).all()


def test_a_delta_too_sparse_for_one_unit_changes_one() -> None:
    assert (sample(density=1e-6).masks[0].sum(axis=(1, 2)) == 64 * 64).all()


def test_deltas_are_where_the_masks_are_and_merged_weights_hold_them() -> None:
    made = sample(pattern="unstructured", density=0.01)
    assert ((made.deltas[0] != 0) == made.masks[0]).all()
    difference = (made.stacked[0].weight - made.base[0].weight).numpy()
    assert np.allclose(difference, made.deltas[0], atol=1e-6)
    assert len(made.merged) == 3
    assert len(sample(base_included=True).merged) == 3


def test_inputs_differ_in_the_changed_rows_alone() -> None:
    made = sample(rows=0.25, base_included=True)
    assert made.index.shape == (2, 5)
    assert made.count.tolist() == [5, 5]
    assert torch.equal(made.inputs[0], made.x)
    for own, rows in zip(made.inputs[1:], made.index, strict=True):
        differing = (own != made.x).any(dim=1).nonzero()[:, 0]
        assert differing.tolist() == rows.tolist()
    assert torch.equal(sample().inputs[1], sample().x)


def test_samples_are_those_of_their_seed_and_dtype() -> None:
    assert torch.equal(sample().x, sample().x)
    assert not torch.equal(sample().x, Sample(problem=SMALL, seed=1).x)
    assert sample(dtype="bfloat16").x.dtype == torch.bfloat16
