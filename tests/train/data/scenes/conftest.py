from __future__ import annotations

import pytest
import torch

from slimtask.train.data.scenes.camera import Camera
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.world import build_world


@pytest.fixture
def bare_world():
    """A function that makes a room of 4 x 3 x 6 m, seen from (0, 1.5, 2) along -z, with the given solids in it."""

    def build(*solids, lens=0.8):
        world = build_world(Draw(0, "test", [0]))
        count = len(solids)
        shape, centre, half, yaw = (torch.tensor([[solid[i] for solid in solids]]) for i in range(4))
        return world._replace(
            extent=torch.tensor([[2.0, 3.0, 3.0]]),
            shape=shape,
            centre=centre,
            half=half,
            yaw=yaw,
            label=torch.cat([torch.full((1, count), 6), world.label[:, -6:]], 1),
            material=torch.cat([torch.full((1, count), 8), world.material[:, -6:]], 1),
            camera=Camera(torch.tensor([[0.0, 1.5, 2.0]]), torch.eye(3)[None], torch.tensor([lens])),
        )

    return build
