from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.errors import InputError
from slimtask.train.sparsity.layout import GroupLayout, Member, input_channel_layout, output_channel_layout


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False), nn.Linear(2, 2))


def test_input_channels_of_every_convolution_are_groups() -> None:
    layout = input_channel_layout(_net().named_parameters())
    assert [member.parameter for member in layout.members] == ["0.weight", "2.weight"]
    assert layout.group_sizes.tolist() == [4 * 9] * 3 + [2] * 4
    assert layout.names[0] == "0.weight:in0"
    assert layout.names[-1] == "2.weight:in3"
    assert len(layout) == 7


def test_output_channels_and_a_filter() -> None:
    layout = output_channel_layout(_net().named_parameters(), lambda name: name.startswith("2"))
    assert layout.group_sizes.tolist() == [4, 4]
    assert layout.members[0].axis == 0


def test_a_group_over_several_parameters_counts_all_its_elements() -> None:
    groups = torch.tensor([0, -1, 1])
    layout = GroupLayout(
        members=[Member(parameter=name, axis=0, groups=groups) for name in ("conv", "gamma")],
        shapes={"conv": (3, 5, 2, 2), "gamma": (3,)},
    )
    assert layout.group_sizes.tolist() == [21, 21]
    assert layout.names == ("group0", "group1")
    assert "2 groups" in repr(layout)


@pytest.mark.parametrize(
    ("axis", "groups", "shape", "names", "message"),
    [
        (1, [0, 1], (2,), None, "no axis 1"),
        (0, [0, 1, 2], (2, 3), None, "3 slices"),
        (0, [0, 2], (2, 3), None, "group 1 has no member"),
        (0, [0, 1], (2, 3), ("a",), "outside -1..0"),
        (0, [-2, 0], (2, 3), None, "outside"),
    ],
)
def test_contradictions_are_named(
    axis: int, groups: list[int], shape: tuple[int, ...], names: tuple[str, ...] | None, message: str
) -> None:
    member = Member(parameter="w", axis=axis, groups=torch.tensor(groups))
    with pytest.raises(InputError, match=message):
        GroupLayout(members=[member], shapes={"w": shape}, names=names)


def test_a_parameter_has_one_member_and_a_shape() -> None:
    member = Member(parameter="w", axis=0, groups=torch.tensor([0]))
    with pytest.raises(InputError, match="twice"):
        GroupLayout(members=[member, member], shapes={"w": (1,)})
    with pytest.raises(InputError, match="shape of parameter 'w'"):
        GroupLayout(members=[member], shapes={})


def test_nothing_to_penalise_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing can become sparse"):
        input_channel_layout(_net().named_parameters(), lambda _: False)
