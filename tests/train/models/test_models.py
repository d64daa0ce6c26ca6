"""Architectures against their published counts and the geometry the tasks ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slimtask.compress.score.cost import count_flops
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.models import MultiTaskNet, ResNetTrunk
from slimtask.train.models.heads import AttributeHead, DeepLabHead, SceneHead


def millions(module: torch.nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 11.18), ("resnet34", 21.28)])
def test_scenenet_trunks_have_the_published_size(name: str, size: float) -> None:
    assert millions(ResNetTrunk(name)) == size


def test_resnetd50_has_the_counts_of_less_is_more() -> None:
    convolutions = [p for p in ResNetTrunk("resnetd50").parameters() if p.ndim == 4]
    assert len(convolutions) == 55
    assert sum(p.shape[1] for p in convolutions) == 22_787
    assert sum(p.shape[0] for p in convolutions) == 26_752
    assert sum(p.numel() for p in convolutions) == 23_578_304


def test_heads_have_the_published_size() -> None:
    assert millions(SceneHead(512, 40)) == 23.24
    assert millions(DeepLabHead(2048, 1)) == 16.13
    assert millions(AttributeHead(2048, 1)) == 1.18


def test_scenenet_maps_321_pixels_to_41() -> None:
    trunk = ResNetTrunk("resnet18", width=0.125).eval()
    with torch.no_grad():
        assert trunk(torch.zeros(1, 3, 321, 321)).shape == (1, 64, 41, 41)
    assert list(trunk.blocks) == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


def test_scenenet_has_the_published_multiply_adds_at_321_pixels() -> None:
    with torch.device("meta"):
        trunk, head = ResNetTrunk("resnet34"), SceneHead(512, 40)
        image, features = torch.zeros(1, 3, 321, 321), torch.zeros(1, 512, 41, 41)
    assert round(count_flops(trunk, image) / 2e9, 1) == 37.1
    assert round(count_flops(head, features) / 2e9) == 39


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
