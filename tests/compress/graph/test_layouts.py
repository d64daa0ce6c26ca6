"""What lays out data anew, cut by half: the narrow network with the same weights computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.compress.graph.analysis import find_groups
from tests.compress.halves import Make, check_half, conv, net, side_by_side

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _shuffled_by_hand(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    B, C, H, W = y.shape
    return s.b(y.view(B, 2, C // 2, H, W).transpose(1, 2).contiguous().view(B, -1, H, W))


def _space_to_depth(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    B, C, H, W = y.shape
    y = y.view(B, C, H // 2, 2, W // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return s.b(y.reshape(B, C * 4, H // 2, W // 2))


SHUFFLES: Mapping[str, Make] = {
    "channel shuffle": lambda k: net(
        lambda s, x: s.b(s.u(s.a(x))), a=conv(3, 8 * k), u=nn.ChannelShuffle(2), b=conv(8 * k, 2)
    ),
    "channel shuffle of four": lambda k: net(
        lambda s, x: s.b(F.channel_shuffle(s.a(x), 4)), a=conv(3, 8 * k), b=conv(8 * k, 2)
    ),
    "shuffle by hand": lambda k: net(_shuffled_by_hand, a=conv(3, 8 * k), b=conv(8 * k, 2)),
    "pixel shuffle": lambda k: net(
        lambda s, x: s.b(s.u(s.a(x))), a=conv(3, 8 * k), u=nn.PixelShuffle(2), b=conv(2 * k, 2)
    ),
    "pixel shuffle by three": lambda k: net(
        lambda s, x: s.b(F.pixel_shuffle(s.a(x), 3)), a=conv(3, 18 * k), b=conv(2 * k, 2)
    ),
    "pixel unshuffle": lambda k: net(
        lambda s, x: s.b(s.u(s.a(x))), a=conv(3, 4 * k), u=nn.PixelUnshuffle(2), b=conv(16 * k, 2)
    ),
    "space to depth": lambda k: net(_space_to_depth, a=conv(3, 4 * k), b=conv(16 * k, 2)),
}


def _two_halves(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    h = y.shape[1] // 2
    return s.b(y[:, :h] * y[:, h:].sigmoid())


def _chunks(s: Any, x: Tensor) -> Any:
    y = list(s.a(x).chunk(2, 1))
    y.append(s.c(y[-1]))
    return s.b(torch.cat(y, 1))


def _split(s: Any, x: Tensor) -> Any:
    p, q = torch.split(s.a(x), s.n, 1)
    return s.b(torch.cat([p, s.c(q)], 1))


def _split_sizes(s: Any, x: Tensor) -> Any:
    p, q = torch.split(s.a(x), (3 * s.n, s.n), dim=1)
    return s.b(torch.cat([p, s.c(q)], 1))


SPLITS: Mapping[str, Make] = {
    "gated by the other half": lambda k: net(lambda s, x: s.b(F.glu(s.a(x), 1)), a=conv(3, 8 * k), b=conv(4 * k, 2)),
    "gated tokens": lambda k: net(
        lambda s, x: s.b(F.glu(s.a(x).flatten(2).mT)), a=conv(3, 8 * k), b=nn.Linear(4 * k, 2)
    ),
    "halves by slices": lambda k: net(_two_halves, a=conv(3, 8 * k), b=conv(4 * k, 2)),
    "halves by number": lambda k: net(
        lambda s, x: s.b((y := s.a(x))[:, : s.n] + y[:, s.n :].cos()), a=conv(3, 8 * k), b=conv(4 * k, 2), n=4 * k
    ),
    "every other": lambda k: net(
        lambda s, x: s.b((y := s.a(x))[:, ::2] * y[:, 1::2].relu()), a=conv(3, 8 * k), b=conv(4 * k, 2)
    ),
    "chunk": lambda k: net(_chunks, a=conv(3, 8 * k), c=conv(4 * k, 4 * k), b=conv(12 * k, 2)),
    "chunk in four": lambda k: net(
        lambda s, x: s.b(torch.stack(s.a(x).chunk(4, dim=1), 1).amax(1)), a=conv(3, 8 * k), b=conv(2 * k, 2)
    ),
    "split": lambda k: net(_split, a=conv(3, 8 * k), c=conv(4 * k, 4 * k), b=conv(8 * k, 2), n=4 * k),
    "split by sizes": lambda k: net(
        _split_sizes, a=conv(3, 16 * k), c=conv(4 * k, 4 * k, groups=4 * k), b=conv(16 * k, 2), n=4 * k
    ),
    "cut at places": lambda k: net(
        lambda s, x: s.b(torch.cat(s.a(x).tensor_split((s.n, 3 * s.n), 1), 1)),
        a=conv(3, 8 * k),
        b=conv(8 * k, 2),
        n=2 * k,
    ),
}


def _assigned(s: Any, x: Tensor) -> Any:
    a, c = s.a(x), s.c(x)
    made = a.new_zeros(a.shape[0], 2 * s.n, *a.shape[2:])
    made[:, : s.n], made[:, s.n :] = a, c
    return s.b(made)


def _added(s: Any, x: Tensor) -> Any:
    made = torch.ones(x.shape[0], 2 * s.n, 8, 8, dtype=x.dtype)
    made[:, s.n :] += s.a(x)
    return s.b(made + s.c(x))


def _patches(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    B, C, H, W = y.shape
    return s.b(F.unfold(y, 3, padding=1).view(B, C, 9, H, W).amax(2))


def _folded(s: Any, x: Tensor) -> Any:
    return s.b(F.fold(F.unfold(s.a(x), 2, stride=2).cos(), (8, 8), 2, stride=2))


def _best(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    index = s.c(y).flatten(2).topk(5).indices
    wide = index.expand(-1, s.n, -1) if hasattr(s, "n") else index.expand(-1, y.shape[1], -1)
    return s.b(y.flatten(2).gather(2, wide).transpose(1, 2))


NEW: Mapping[str, Make] = {
    "slices assigned": lambda k: net(_assigned, a=conv(3, 4 * k), c=conv(3, 4 * k), b=conv(8 * k, 2), n=4 * k),
    "slices added to": lambda k: net(_added, a=conv(3, 4 * k), c=conv(3, 8 * k), b=conv(8 * k, 2), n=4 * k),
    "channels padded": lambda k: net(
        lambda s, x: s.b(F.pad(s.a(x), (0, 0, 0, 0, 0, s.n)) + s.c(x)),
        a=conv(3, 4 * k), c=conv(3, 6 * k), b=conv(6 * k, 2), n=2 * k,
    ),
    "zeros beside": lambda k: net(
        lambda s, x: s.b(torch.cat([y := s.a(x), torch.zeros_like(y)], 1) + s.c(x)),
        a=conv(3, 4 * k), c=conv(3, 8 * k), b=conv(8 * k, 2),
    ),
    "patches": lambda k: net(_patches, a=conv(3, 4 * k), b=conv(4 * k, 2)),
    "patches folded": lambda k: net(_folded, a=conv(3, 4 * k), b=conv(4 * k, 2)),
    "gathered pixels": lambda k: net(_best, a=conv(3, 4 * k), c=conv(4 * k, 1), b=nn.Linear(4 * k, 2)),
    "gathered by number": lambda k: net(_best, a=conv(3, 4 * k), c=conv(4 * k, 1), b=nn.Linear(4 * k, 2), n=4 * k),
}  # fmt: skip


def _global_filter(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    return s.b(torch.fft.irfft2(torch.fft.rfft2(y) * torch.view_as_complex(s.w), s=y.shape[-2:]))


def _spectrum(s: Any, x: Tensor) -> Any:
    y = torch.view_as_real(torch.fft.fft(s.a(x), dim=-1))
    return s.b(y[..., 0] - y[..., 1])


def _boxes(s: Any, x: Tensor) -> Any:
    from torchvision.ops import roi_align

    boxes = [torch.tensor([[1.0, 1.0, 6.0, 7.0]], dtype=x.dtype)] * len(x)
    return s.b(s.r(roi_align(s.a(x), boxes, 3, sampling_ratio=2)))


def _over_tasks(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    B, C, H, W = y.shape
    v = y.view(B, C // 2, 2, H, W)
    return s.b((v.softmax(2) * v).sum(2))


def _selective_kernel(s: Any, x: Tensor) -> Any:
    u = torch.stack([s.a(x), s.c(x)], 1)
    z = s.g(s.f(u.sum(1).mean((2, 3), keepdim=True)).relu()).view(len(x), 2, s.n, 1, 1)
    return s.b((u * z.softmax(1)).sum(1))


REST: Mapping[str, Make] = {
    "global filter": lambda k: net(_global_filter, a=conv(3, 4 * k), b=conv(4 * k, 2), w=torch.randn(4 * k, 8, 5, 2)),
    "spectrum": lambda k: net(_spectrum, a=conv(3, 4 * k), b=conv(4 * k, 2)),
    "boxes flattened": lambda k: net(_boxes, a=conv(3, 4 * k), r=nn.Flatten(1), b=nn.Linear(36 * k, 2)),
    "boxes": lambda k: net(_boxes, a=conv(3, 4 * k), r=nn.ReLU(), b=conv(4 * k, 2)),
    "softmax over tasks": lambda k: net(_over_tasks, a=conv(3, 8 * k), b=conv(4 * k, 2)),
    "selective kernel": lambda k: net(
        _selective_kernel, a=conv(3, 4 * k), c=conv(3, 4 * k), f=conv(4 * k, 2 * k, 1), g=conv(2 * k, 8 * k, 1),
        b=conv(4 * k, 2), n=4 * k,
    ),
    "repeated in a row": lambda k: net(
        lambda s, x: s.b(s.a(x).repeat_interleave(2, 1) * s.c(x)), a=conv(3, 4 * k), c=conv(3, 8 * k), b=conv(8 * k, 2)
    ),
    "fixed view": lambda k: net(
        lambda s, x: s.b(s.a(x).view(x.shape[0], s.n, -1).mean(2)), a=conv(3, 4 * k), b=nn.Linear(4 * k, 2), n=4 * k
    ),
}  # fmt: skip


@pytest.mark.parametrize("cases", [SHUFFLES, SPLITS, NEW, REST], ids=["shuffles", "splits", "new", "rest"])
def test_half_of_the_wide_network_is_the_narrow_one(cases: Mapping[str, Make]) -> None:
    check_half(side_by_side(cases), X)


PINNED: Mapping[str, tuple[Any, str]] = {
    "rolled": (lambda s, x: s.b((y := s.a(x)) + y.roll(1, 1)), "'roll' runs over them"),
    "turned round": (lambda s, x: s.b(s.a(x).flip(1)), "'flip' runs over them"),
    "taken one by one": (lambda s, x: s.b(torch.stack(s.a(x).unbind(1), 1)), "they are taken one by one"),
    "gathered": (lambda s, x: s.b((y := s.a(x)).gather(1, y.argsort(1))), "'sort' orders them"),
    "transformed": (lambda s, x: s.b(torch.fft.fft(s.a(x), dim=1).real), "a Fourier transform runs over them"),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_depends_on_the_number_of_a_channel_is_pinned_with_its_reason(name: str) -> None:
    run, reason = PINNED[name]
    groups = find_groups(net(run, a=conv(3, 4), b=conv(4, 2)), X)
    assert {group.refused for group in groups if group.name == "a"} == {reason}


def test_only_the_channel_that_is_picked_by_its_number_stays() -> None:
    groups = find_groups(net(lambda s, x: s.b((y := s.a(x)) * y[:, 3, None]), a=conv(3, 8), b=conv(8, 2)), X)
    assert [group.channels for group in groups if group.refused is None] == [7]
    assert {group.refused for group in groups if group.channels == 1} == {"they are selected by number"}
