"""Every call that tells or takes a size, in code that repeats the number of channels: half of it is the narrow one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.compress.halves import Make, Run, check_half, conv, net, side_by_side

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def pairs(view: Run) -> Make:
    """Return a network whose 16 k channels are viewed as 8 k pairs, by number, and summed up."""
    return lambda k: net(lambda s, x: s.b(view(s, s.a(x)).sum(2)), a=conv(3, 16 * k), b=conv(8 * k, 2), n=8 * k)


VIEWS: Mapping[str, Make] = {
    "view": pairs(lambda s, y: y.view(len(y), s.n, 2, 8, 8)),
    "view of a tuple": pairs(lambda s, y: y.view((len(y), s.n, 2, 8, 8))),
    "view of a size": pairs(lambda s, y: y.view(torch.Size([len(y), s.n, 2, 8, 8]))),
    "view by name": pairs(lambda s, y: y.view(size=(len(y), s.n, 2, 8, 8))),
    "view with the rest inferred": pairs(lambda s, y: y.view(-1, s.n, 2, 8, 8)),
    "view with the channels inferred": pairs(lambda s, y: y.view(len(y), -1, 2, 8, 8)),
    "reshape": pairs(lambda s, y: y.reshape(len(y), s.n, 2, *y.shape[2:])),
    "reshape of a list": pairs(lambda s, y: y.reshape([y.size(0), s.n, 2, y.size(2), y.size(-1)])),
    "reshape as a function": pairs(lambda s, y: torch.reshape(y, (len(y), s.n, 2, 8, 8))),
    "unflatten": pairs(lambda s, y: y.unflatten(1, (s.n, 2))),
    "unflatten with the rest inferred": pairs(lambda s, y: y.unflatten(-3, (s.n, -1))),
    "unflatten as a function": pairs(lambda s, y: torch.unflatten(y, 1, (s.n, 2))),
    "from the shape": pairs(lambda s, y: y.view(y.shape[0], y.shape[1] // 2, 2, y.shape[2], y.shape[3])),
    "from the size": pairs(lambda s, y: y.view(y.size(0), y.size(dim=1) // 2, 2, *y.size()[2:])),
    "checked": pairs(lambda s, y: _checked(s, y).view(len(y), s.n, 2, 8, 8)),
}


def _checked(s: Any, y: Tensor) -> Tensor:
    assert y.shape == (len(y), 2 * s.n, 8, 8), y.shape
    assert y.size(1) == 2 * s.n == y.size()[1]
    torch._assert(y.shape[-3] == 2 * s.n, "width")
    return y


def parts(run: Run) -> Make:
    """Return a network of 8 k channels of which ``run`` makes two parts of 4 k, added up."""

    def code(s: Any, x: Tensor) -> Any:
        p, q = run(s, s.a(x))
        return s.b(p + q.sigmoid())

    return lambda k: net(code, a=conv(3, 8 * k), b=conv(4 * k, 2), n=4 * k)


PARTS: Mapping[str, Make] = {
    "split": parts(lambda s, y: y.split(s.n, 1)),
    "split by name": parts(lambda s, y: y.split(split_size=s.n, dim=-3)),
    "split in sizes": parts(lambda s, y: torch.split(y, [s.n, s.n], dim=1)),
    "split as a function": parts(lambda s, y: torch.split(y, s.n, dim=1)),
    "chunk": parts(lambda s, y: y.chunk(2, dim=1)),
    "cut in two": parts(lambda s, y: y.tensor_split(2, dim=1)),
    "cut at a place": parts(lambda s, y: torch.tensor_split(y, (s.n,), dim=1)),
    "slices": parts(lambda s, y: (y[:, : s.n], y[:, s.n :])),
    "slices behind an ellipsis": parts(lambda s, y: (y[..., : s.n, :, :], y[..., s.n : 2 * s.n, :, :])),
    "slices from the end": parts(lambda s, y: (y[:, : -s.n], y[:, -s.n :])),
    "slices with a step": parts(lambda s, y: (y[:, ::2], y[:, 1::2])),
    "slices beside a new axis": parts(lambda s, y: (y[:, None, : s.n, ..., None][:, 0, ..., 0], y[:, s.n :])),
    "slices beside numbers": parts(lambda s, y: (y[:, : s.n, 3, 1, None, None], y[:, s.n :, -1:])),
    "slices beside a tensor": parts(lambda s, y: (y[:, : s.n, torch.tensor([2])], y[:, s.n :])),
    "narrow": parts(lambda s, y: (y.narrow(1, 0, s.n), torch.narrow(y, -3, s.n, s.n))),
    "narrow by name": parts(lambda s, y: (y.narrow(dim=1, start=0, length=s.n), y[:, s.n :])),
}


def _written(s: Any, x: Tensor) -> Any:
    y, made = s.a(x), torch.zeros(len(x), 2 * s.n, 8, 8, dtype=x.dtype)
    made[:, : s.n] = y
    made[:, s.n :] = y.relu()
    return s.b(made)


def filled(run: Run) -> Make:
    """Return a network of 4 k channels with something added that is made anew."""
    return lambda k: net(lambda s, x: s.b(s.a(x) + run(s, x)), a=conv(3, 4 * k), b=conv(4 * k, 2), n=4 * k)


MADE: Mapping[str, Make] = {
    "zeros": filled(lambda s, x: torch.zeros(1, s.n, 1, 1, dtype=x.dtype)),
    "ones": filled(lambda s, x: torch.ones((s.n, 8, 8), dtype=x.dtype)),
    "full": filled(lambda s, x: torch.full((s.n, 1, 1), 0.5, dtype=x.dtype)),
    "new zeros": filled(lambda s, x: x.new_zeros(1, s.n, 8, 1)),
    "new ones": filled(lambda s, x: x.new_ones((len(x), s.n, 1, 1))),
    "new full": filled(lambda s, x: x.new_full([s.n, 1, 1], 2.0)),
    "expanded": filled(lambda s, x: x.mean((1, 2, 3))[:, None, None, None].expand(-1, s.n, -1, 8)),
    "expanded by name": filled(lambda s, x: x[:, :1].expand(size=(len(x), s.n, 8, 8))),
    "broadcast": filled(lambda s, x: torch.broadcast_to(x[:, :1], (len(x), s.n, 8, 8))),
    "written": lambda k: net(_written, a=conv(3, 4 * k), b=conv(8 * k, 2), n=4 * k),
    "padded": lambda k: net(
        lambda s, x: s.b(s.c(x) + F.pad(s.a(x), (0, 0, 0, 0, s.n, 0), "constant", 0.5)),
        a=conv(3, 4 * k), c=conv(3, 6 * k), b=conv(6 * k, 2), n=2 * k,
    ),
    "layer norm": lambda k: net(
        lambda s, x: s.b(F.layer_norm(s.p(x).flatten(2).mT, (s.n,), s.w, bias=s.v)),
        p=nn.Conv2d(3, 8 * k, 2, 2), w=torch.rand(8 * k), v=torch.rand(8 * k), b=nn.Linear(8 * k, 2), n=8 * k,
    ),
    "layer norm by name": lambda k: net(
        lambda s, x: s.b(F.layer_norm(s.p(x).flatten(2).mT, normalized_shape=[s.n], weight=s.w)),
        p=nn.Conv2d(3, 8 * k, 2, 2), w=torch.rand(8 * k), b=nn.Linear(8 * k, 2), n=8 * k,
    ),
    "rms norm": lambda k: net(
        lambda s, x: s.b(F.rms_norm(s.p(x).flatten(2).mT, (s.n,), s.w, 1e-5)),
        p=nn.Conv2d(3, 8 * k, 2, 2), w=torch.rand(8 * k), b=nn.Linear(8 * k, 2), n=8 * k,
    ),
    "grouped convolution": lambda k: net(
        lambda s, x: s.b(F.conv2d(s.a(x), s.w, padding=1, groups=s.n)),
        a=conv(3, 4 * k), w=torch.randn(4 * k, 1, 3, 3), b=conv(4 * k, 2), n=4 * k,
    ),
    "grouped convolution over time": lambda k: net(
        lambda s, x: s.b(F.conv1d(s.a(x).flatten(2), s.w, None, 1, 1, 1, s.n)[..., None]),
        a=conv(3, 4 * k), w=torch.randn(8 * k, 2, 3), b=conv(8 * k, 2, 1), n=2 * k,
    ),
}  # fmt: skip


@pytest.mark.parametrize("cases", [VIEWS, PARTS], ids=["views", "parts"])
def test_half_of_the_wide_network_is_the_narrow_one(cases: Mapping[str, Make]) -> None:
    check_half(side_by_side(cases), X)


def test_half_of_what_is_made_anew_is_what_the_narrow_network_makes() -> None:
    check_half(side_by_side(MADE), X, over_channels=True)
