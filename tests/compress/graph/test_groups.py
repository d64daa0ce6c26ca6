"""Coupled channels of every construct, against what a reader of the code would write down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.removal.remove import remove_channels
from slimtask.errors import InputError

IMAGE = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    """Modules by name and a forward pass over them; the last one is the output."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def by_name(model: nn.Module, example: Any = IMAGE) -> dict[str, Group]:
    return {group.name: group for group in find_groups(model, example)}


def sides(group: Group) -> dict[str, set[str]]:
    return {
        "out": {member.parameter or member.module for member in group.producers},
        "in": {member.module for member in group.consumers},
    }


def conv(inputs: int, outputs: int, size: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, **options)


def test_a_residual_sum_couples_its_writers() -> None:
    net = Net(lambda m, x: m.out(m.a(x) + m.b(m.a(x))), a=conv(3, 8), b=conv(8, 8), out=conv(8, 2))
    groups = by_name(net)
    assert sides(groups["a"]) == {"out": {"a", "b"}, "in": {"b", "out"}}
    assert groups["out"].refused is not None
    assert "output" in groups["out"].refused


def test_a_concatenation_keeps_its_parts_apart() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.out(m.norm(torch.cat([m.a(x), m.b(x)], 1)).relu())

    groups = by_name(Net(forward, a=conv(3, 4), b=conv(3, 6), norm=nn.BatchNorm2d(10), out=conv(10, 2)))
    assert (groups["a"].channels, groups["b"].channels) == (4, 6)
    reader = next(member for member in groups["b"].members if member.module == "out")
    assert reader.local.tolist() == list(range(4, 10))


def test_a_flattened_map_gives_each_channel_all_its_columns() -> None:
    net = Net(lambda m, x: m.out(m.a(x).flatten(1)), a=conv(3, 4), out=nn.Linear(4 * 256, 2))
    reader = by_name(net)["a"].consumers[0]
    assert reader.local[reader.channel == 2].tolist() == list(range(512, 768))


def test_squeeze_and_excite_goes_along() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.out(y * m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))).sigmoid())

    groups = by_name(Net(forward, a=conv(3, 8), down=conv(8, 2), up=conv(2, 8), out=conv(8, 2)))
    assert sides(groups["a"]) == {"out": {"a", "up"}, "in": {"down", "out"}}
    assert groups["down"].channels == 2


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_convolution_passes_channels_through(multiplier: int) -> None:
    deep = conv(8, 8 * multiplier, 3, groups=8, padding=1)
    net = Net(lambda m, x: m.out(m.deep(m.a(x))), a=conv(3, 8), deep=deep, out=conv(8 * multiplier, 2))
    group = by_name(net)["a"]
    assert group.channels == 8
    assert {len(member.local) for member in group.members if member.module == "out"} == {8 * multiplier}


def test_a_grouped_convolution_goes_by_whole_groups() -> None:
    net = Net(lambda m, x: m.out(m.g(m.a(x))), a=conv(3, 12), g=conv(12, 8, 3, groups=4), out=conv(8, 2))
    group = by_name(net)["a"]
    assert group.channels == 4
    entries = {m.module: m.local[m.channel == 1].tolist() for m in group.members}
    assert entries == {"a": [3, 4, 5], "g": [2, 3], "out": [2, 3]}


def test_a_transposed_convolution_is_read_along_its_first_axis() -> None:
    net = Net(lambda m, x: m.out(m.up(m.a(x))), a=conv(3, 6), up=nn.ConvTranspose2d(6, 4, 2, 2), out=conv(4, 2))
    groups = by_name(net)
    assert (groups["a"].channels, groups["up"].channels) == (6, 4)


def test_gates_of_two_halves_are_tied_half_to_half() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        one, two = m.a(x).chunk(2, dim=1)
        return m.out(one * two.sigmoid())

    group = by_name(Net(forward, a=conv(3, 8), out=conv(4, 2)))["a"]
    assert group.channels == 4
    writer = group.producers[0]
    assert writer.local[writer.channel == 1].tolist() == [1, 5]


class Attention(nn.Module):
    """Packed attention as most vision transformers write it, 3 heads of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 10, 4, stride=4), nn.LayerNorm(10)
        self.qkv, self.proj, self.out = nn.Linear(10, 36), nn.Linear(12, 10), nn.Linear(10, 2)
        self.token, self.scale = nn.Parameter(torch.zeros(1, 16, 10)), nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.token
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), 16, 3, -1, 4).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.out((x + self.scale * self.proj(y)).mean(1))


def test_attention_goes_by_heads_and_its_stream_by_channels() -> None:
    groups = by_name(Attention())
    heads = groups["qkv"]
    assert heads.channels == 3
    writer = next(member for member in heads.members if member.module == "qkv")
    assert writer.local[writer.channel == 1].tolist() == [*range(4, 8), *range(16, 20), *range(28, 32)]
    stream = groups["stem"]
    assert (stream.channels, stream.normalised) == (10, "norm")
    assert {"token", "scale"} <= sides(stream)["out"]


Map = Callable[[torch.Tensor], torch.Tensor]
BACK = torch.arange(8).flip(0)
FIXED: dict[str, tuple[Map, str]] = {
    "sort": (lambda x: x.sort(dim=1).values, "'sort' orders them"),
    "topk": (lambda x: x.topk(8, dim=1).values, "'topk' orders them"),
    "argmax": (lambda x: x + x.argmax(1, keepdim=True), "their numbers are used"),
    "roll": (lambda x: x.roll(1, 1), "'roll' runs over them"),
    "flip": (lambda x: x.flip(1), "'flip' runs over them"),
    "index": (lambda x: x[:, BACK], "'index' runs over them"),
    "gather": (lambda x: x.gather(1, BACK.view(1, 8, 1, 1).expand_as(x)), "'gather' takes them by number"),
    "unbind": (lambda x: torch.stack(x.unbind(1)[::-1], 1), "they are taken one by one"),
    "transform": (lambda x: torch.fft.fft(x, dim=1).real, "a Fourier transform runs over them"),
    "window": (lambda x: F.max_pool3d(x.unsqueeze(1), (3, 1, 1), 1, (1, 0, 0)).squeeze(1), "runs over them"),
    "convolution": (lambda x: F.conv1d(x.flatten(2).mT, torch.ones(256, 256, 1)).mT.reshape(x.shape), "runs over them"),
    "distances": (lambda x: x * torch.cdist(x.flatten(2), x.flatten(2))[:, :, :1, None], "'cdist_forward' mixes"),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_shrink_is_refused_by_name(name: str) -> None:
    mix, why = FIXED[name]
    net = Net(lambda m, x: m.out(mix(m.a(x))), a=conv(3, 8), out=conv(8, 2))
    refused = [group.refused for group in find_groups(net, IMAGE) if group.name.startswith("a")]
    assert refused
    assert all(reason is not None and why in reason for reason in refused)


ONE_BY_ONE, PAIRED, TURNED = [*range(8)], [0, 4, 1, 5, 2, 6, 3, 7], [3, 4, 5, 6, 7, 0, 1, 2]
BY_NUMBER = torch.arange(0.0, 8, 2).view(1, 4, 1, 1)
# what the code does with eight channels, which of them its results are of, and what it must do with those that stay
SHRINKING: dict[str, tuple[Map, list[int], Map]] = {
    "softmax": (lambda x: x.softmax(1), ONE_BY_ONE, lambda y: y.softmax(1)),
    "mean": (lambda x: x - x.mean(1, keepdim=True), ONE_BY_ONE, lambda y: y - y.mean(1, keepdim=True)),
    "sum so far": (lambda x: x.cumsum(1), ONE_BY_ONE, lambda y: y.cumsum(1)),
    "ones": (lambda x: x + torch.ones(1, 8, 1, 1), ONE_BY_ONE, lambda y: y + 1),
    "numbers": (lambda x: x + torch.arange(8.0).view(1, 8, 1, 1), ONE_BY_ONE, lambda y: y + BY_NUMBER),
    "count": (lambda x: x + 8 / x.shape[1], ONE_BY_ONE, lambda y: y + 1),
    "shuffle": (lambda x: x.view(-1, 2, 4, 16, 16).transpose(1, 2).reshape(-1, 8, 16, 16), PAIRED, lambda y: y),
    "split": (lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), TURNED, lambda y: y),
    "slices": (lambda x: torch.cat([x[:, 3:], x[:, :3]], 1), TURNED, lambda y: y),
}


@pytest.mark.parametrize("name", SHRINKING)
def test_what_runs_over_channels_or_moves_them_is_left_with_those_that_stay(name: str) -> None:
    torch.manual_seed(0)
    mix, order, left = SHRINKING[name]
    net = Net(lambda m, x: m.out(mix(m.a(x))), a=conv(3, 8), out=conv(8, 2)).eval()
    groups = find_groups(net, IMAGE)
    keep = [torch.arange(group.channels) % (2 if group.name == "a" else 1) == 0 for group in groups]
    small = remove_channels(net, IMAGE, groups, keep).model
    writer = next(group for group in groups if group.name == "a").producers[0]
    stay = writer.local[torch.tensor([number % 2 == 0 for number in writer.channel.tolist()])].tolist()
    places = [place for place, channel in enumerate(order) if channel in stay]
    x = torch.randn(2, 3, 16, 16)
    assert len(stay) == small.a.out_channels == 4
    with torch.no_grad():
        kept = left(net.a(x)[:, [order[place] for place in places]])
        torch.testing.assert_close(small(x), F.conv2d(kept, net.out.weight[:, places], net.out.bias))


def test_parts_for_training_only_are_cut_along() -> None:
    def forward(m: Any, x: torch.Tensor) -> Any:
        y = m.norm(m.a(x))
        return (m.out(y), m.aux(y)) if m.training else m.out(y)

    parts = {"a": conv(3, 8), "norm": nn.BatchNorm2d(8), "out": conv(8, 2), "aux": conv(8, 5)}
    assert sides(by_name(Net(forward, **parts).eval())["a"])["in"] == {"out", "aux"}


def test_several_inputs_and_outputs_of_any_form() -> None:
    def forward(m: Any, left: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
        y = m.a(left) + m.a(right)
        return {"one": m.one(y), "rest": (m.two(y),)}

    net = Net(forward, a=conv(3, 8), one=conv(8, 2), two=conv(8, 3))
    for example in ((IMAGE, IMAGE), {"left": IMAGE, "right": IMAGE}):
        groups = by_name(net, example)
        assert groups["two"].refused == "they are channels of the network's output 'rest.0'"
        assert groups["a"].refused is None


def test_a_network_without_layers_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing to remove"):
        find_groups(nn.ReLU(), IMAGE)
