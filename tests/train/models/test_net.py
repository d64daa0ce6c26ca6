"""The multi-task network: the geometry and units that the tasks ask for, and only what is asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.models import MultiTaskNet


@pytest.mark.parametrize("head", ["light", "scene", "deeplab"])
def test_outputs_are_in_physical_units_at_input_resolution(
    head: str, small_net: Callable[..., MultiTaskNet], tasks: tuple[TaskSpec, ...]
) -> None:
    model = small_net(head=head, image_head="attribute")
    with torch.no_grad():
        out = model(torch.randn(2, 3, 40, 56))
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        task.name: (2, task.channels, 40, 56) if task.dense else (2, task.channels) for task in tasks
    }
    assert (out["depth"] > 0).all()
    torch.testing.assert_close(out["normals"].norm(dim=1), torch.ones(2, 40, 56))


def test_only_the_heads_asked_for_are_computed(small_net: Callable[..., MultiTaskNet]) -> None:
    model, calls = small_net(), []
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: calls.append(name))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        some, everything = model(x, tasks=["edges", "depth"]), model(x)
    assert calls[:2] == ["depth", "edges"]
    assert torch.equal(some["edges"], everything["edges"])
    with pytest.raises(InputError, match="did you mean 'edges'"):
        model(x, tasks=["edge"])


def test_unknown_parts_are_named(small_net: Callable[..., MultiTaskNet]) -> None:
    with pytest.raises(InputError, match="unknown trunk 'resnet19'; did you mean 'resnet18'"):
        small_net(trunk="resnet19")
    with pytest.raises(InputError, match="unknown head 'deplab' for a dense task; did you mean 'deeplab'"):
        small_net(head="deplab")
