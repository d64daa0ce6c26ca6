from __future__ import annotations

import pytest
import torch

from slimtask.train.data.scenes.classes import CLASSES, SIZES
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.furniture import BOX, CYLINDER, NOTHING, SPHERE, parts


@pytest.mark.parametrize("kind", sorted(SIZES), ids=lambda kind: CLASSES[kind])
def test_parts_fill_the_size_of_their_piece(kind):
    low, high = (torch.tensor(bound, dtype=torch.float64) for bound in SIZES[kind])
    size = low + (high - low) * torch.rand(50, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if CLASSES[kind] in ("lamp", "plant"):
        size[..., 2] = size[..., 0]  # round
    made = parts(torch.full((50, 4), kind), size, Draw(0, "test", range(50)))
    there = made[..., 0] != NOTHING
    assert there.sum(-1).min() >= 2
    centre, half = made[..., 1:4], made[..., 4:7]
    assert (half[there] > 0).all()
    top, bottom = (centre + half)[..., 1], (centre - half)[..., 1]
    assert (bottom[there] > -0.01).all()
    assert (top.masked_fill(~there, 0.0).amax(-1) <= size[..., 1] + 0.1).all()
    reach = (centre.abs() + half)[..., 0::2].masked_fill(~there[..., None], 0.0).amax(-2)
    # Knobs, table tops and leaves stick out a little; nothing leaves its place.
    assert (reach <= size[..., 0::2] / 2 + 0.12).all()
    assert made[..., 7].min() >= 0
    assert made[..., 7].max() <= 1


def test_round_solids_are_round():
    kinds = torch.tensor(sorted(SIZES)).expand(60, -1)
    made = parts(kinds, torch.ones(60, len(SIZES), 3, dtype=torch.float64), Draw(0, "test", range(60)))
    ball, tube = made[made[..., 0] == SPHERE], made[made[..., 0] == CYLINDER]
    assert torch.equal(ball[:, 4], ball[:, 5])
    assert torch.equal(ball[:, 4], ball[:, 6])
    assert torch.equal(tube[:, 4], tube[:, 6])
    assert (made[..., 0] == BOX).any()
