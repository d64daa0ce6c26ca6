from __future__ import annotations

import torch

from slimtask.train.data.scenes.classes import AROUND_ANCHOR, FURNITURE, ROOMS
from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.layout import footprint, lay_out, quarter, rotation, turn

COUNT = 400


def test_yaws_turn_like_angles():
    t = torch.linspace(-1.0, 1.0, 11, dtype=torch.float64)
    angle = 2.0 * t.atan()
    torch.testing.assert_close(rotation(t), torch.stack([angle.cos(), angle.sin()], -1))
    torch.testing.assert_close(
        turn(rotation(t), quarter(torch.tensor(1))), torch.stack([-angle.sin(), angle.cos()], -1)
    )


def test_rooms_are_balanced_and_their_anchor_is_always_there():
    layout = lay_out(Draw(0, "train", range(COUNT)))
    counts = torch.bincount(layout.room, minlength=len(ROOMS))
    assert counts.min() > COUNT / len(ROOMS) * 0.7
    assert layout.there[:, 0].all()
    anchors = torch.tensor([places[0][0] for places in FURNITURE])
    assert torch.equal(layout.kind[:, 0], anchors[layout.room])


def test_furniture_stays_in_the_room():
    layout = lay_out(Draw(0, "train", range(COUNT)))
    outside = layout.position.abs() + layout.reach - layout.extent[:, None, 0::2]
    assert outside[layout.there].max() <= 0.0


def test_furniture_does_not_overlap_except_chairs_under_their_table():
    layout = lay_out(Draw(0, "train", range(COUNT)))
    around = torch.tensor([[place[1] == AROUND_ANCHOR for place in places] for places in FURNITURE])[layout.room]
    for i in range(layout.kind.shape[1]):
        for j in range(i):
            gap = (layout.position[:, i] - layout.position[:, j]).abs() - layout.reach[:, i] - layout.reach[:, j]
            both = layout.there[:, i] & layout.there[:, j]
            if j == 0:
                both &= ~around[:, i]
            assert (gap.amax(-1)[both] > 0.0).all()


def test_most_furniture_finds_its_place():
    layout = lay_out(Draw(0, "train", range(COUNT)))
    wanted = torch.tensor([[place[2] for place in places] for places in FURNITURE])[layout.room].sum()
    assert layout.there.sum() > 0.75 * wanted


def test_footprint_bounds_the_turned_corners():
    size, yaw = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64), rotation(torch.tensor(0.3, dtype=torch.float64))
    c, s = yaw
    corners = torch.tensor([[x, z] for x in (-1.0, 1.0) for z in (-0.5, 0.5)], dtype=torch.float64)
    turned = torch.stack([corners[:, 0] * c + corners[:, 1] * s, corners[:, 1] * c - corners[:, 0] * s], -1)
    torch.testing.assert_close(footprint(size, yaw), turned.amax(0))
