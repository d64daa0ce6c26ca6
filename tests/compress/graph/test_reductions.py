"""What runs over channels sees those that stay: the narrow network's norms, means and softmaxes are the cut one's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.removal.remove import remove_channels
from tests.compress.halves import Make, Run, check_half, conv, net, side_by_side

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _tokens(s: Any, x: Tensor) -> Any:
    return s.p(x).flatten(2).transpose(1, 2)


def between(run: Run, **more: Any) -> Make:
    """Return a construct between two convolutions; ``more`` are functions of k."""
    return lambda k: net(run, a=conv(3, 8 * k), b=conv(8 * k, 2), **{name: part(k) for name, part in more.items()})


def _vector(k: int) -> Tensor:
    return torch.rand(8 * k) + 0.5


def _by_hand(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    u = y.mean(1, keepdim=True)
    v = (y - u).pow(2).mean(1, keepdim=True)
    return s.b(s.w[:, None, None] * (y - u) / torch.sqrt(v + 1e-6) + s.v[:, None, None])


def _by_variance(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    return s.b((y - y.mean(1, True)) / (y.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() * s.w.view(1, -1, 1, 1))


def _in_last_place(s: Any, x: Tensor) -> Any:
    y = F.layer_norm(s.a(x).permute(0, 2, 3, 1), s.w.shape, s.w, s.v, 1e-6)
    return s.b(y.permute(0, 3, 1, 2))


def _root_mean_square(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    return s.b(y * torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-6) * s.w[:, None, None])


NORMS: Mapping[str, Make] = {
    "group norm": between(lambda s, x: s.b(s.n(s.a(x)).relu()), n=lambda k: nn.GroupNorm(4 * k, 8 * k)),
    "group norm of pairs": between(lambda s, x: s.b(s.n(s.a(x))), n=lambda k: nn.GroupNorm(2 * k, 8 * k)),
    "one group": between(lambda s, x: s.b(s.n(s.a(x))), n=lambda k: nn.GroupNorm(1, 8 * k)),
    "layer norm": lambda k: net(
        lambda s, x: s.b(s.n(_tokens(s, x))), p=nn.Conv2d(3, 8 * k, 2, 2), n=nn.LayerNorm(8 * k), b=nn.Linear(8 * k, 2)
    ),
    "rms norm": lambda k: net(
        lambda s, x: s.b(s.n(_tokens(s, x))), p=nn.Conv2d(3, 8 * k, 2, 2), n=nn.RMSNorm(8 * k), b=nn.Linear(8 * k, 2)
    ),
    "rms norm by hand": between(_root_mean_square, w=_vector),
    "by hand": between(_by_hand, w=_vector, v=_vector),
    "by variance": between(_by_variance, w=_vector),
    "in the last place": between(_in_last_place, w=_vector, v=_vector),
    "instance norm": between(lambda s, x: s.b(s.n(s.a(x))), n=lambda k: nn.InstanceNorm2d(8 * k)),
    "instance norm by call": between(lambda s, x: s.b(F.instance_norm(s.a(x)).relu())),
    "batch norm": between(lambda s, x: s.b(s.n(s.a(x)).relu()), n=lambda k: nn.BatchNorm2d(8 * k)),
}


def _response(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    n = y.norm(dim=(2, 3), keepdim=True)
    return s.b(y + s.w.view(1, -1, 1, 1) * y * (n / (n.mean(1, keepdim=True) + 1e-6)))


def _response_last(s: Any, x: Tensor) -> Any:
    y = s.a(x).permute(0, 2, 3, 1)
    n = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
    return s.b((s.w * (y * (n / (n.mean(dim=-1, keepdim=True) + 1e-6))) + s.v + y).permute(0, 3, 1, 2))


def _attended(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    m = torch.cat([y.mean(1, True), y.amax(1, True)], 1)
    return s.b(y * s.c(m).sigmoid())


def _attended_by_max(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    m = torch.cat([torch.mean(y, dim=1, keepdim=True), torch.max(y, dim=1, keepdim=True)[0]], dim=1)
    return s.b(y * s.c(m).sigmoid())


OVER_CHANNELS: Mapping[str, Make] = {
    "response": between(_response, w=_vector),
    "response in the last place": between(_response_last, w=_vector, v=_vector),
    "attended": between(_attended, c=lambda k: conv(2, 1, 7)),
    "attended by max": between(_attended_by_max, c=lambda k: conv(2, 1, 5)),
    "unit length": between(lambda s, x: s.b(F.normalize(s.a(x), dim=1))),
    "unit length by hand": between(lambda s, x: s.b((y := s.a(x)) / (y.pow(2).sum(1, keepdim=True).sqrt() + 1e-6))),
    "softmax": between(lambda s, x: s.b(s.a(x).softmax(1))),
    "log softmax": between(lambda s, x: s.b(F.log_softmax(s.a(x), 1))),
    "log of sums": between(lambda s, x: s.b((y := s.a(x)) - y.logsumexp(1, keepdim=True))),
    "deviation": between(lambda s, x: s.b((y := s.a(x)) / y.std(dim=1, keepdim=True))),
    "mean of everything": between(lambda s, x: s.b((y := s.a(x)) * y.mean((1, 2, 3), keepdim=True))),
    "largest": between(lambda s, x: s.b((y := s.a(x)) - y.amin(1, True)) + y.amax(1, True)),
}


@pytest.mark.parametrize("cases", [NORMS, OVER_CHANNELS], ids=["norms", "over channels"])
def test_half_of_the_wide_network_is_the_narrow_one(cases: Mapping[str, Make]) -> None:
    check_half(side_by_side(cases), X, over_channels=True)


def test_a_reduction_within_units_keeps_them_whole() -> None:
    """Maxout of pairs, softmax of pairs: what is taken over the two is not changed by other pairs."""
    pairs: Mapping[str, Make] = {
        "maxout": lambda k: net(
            lambda s, x: s.b(s.a(x).unflatten(1, (-1, 2)).amax(2)), a=conv(3, 8 * k), b=conv(4 * k, 2)
        ),
        "softmax": lambda k: net(
            lambda s, x: s.b(s.a(x).unflatten(1, (-1, 2)).softmax(2).flatten(1, 2)), a=conv(3, 8 * k), b=conv(8 * k, 2)
        ),
    }
    check_half(side_by_side(pairs), X)


@pytest.mark.parametrize("groups", [2, 4])
def test_a_group_norm_goes_by_whole_groups_and_the_others_do_not_notice(groups: int) -> None:
    torch.manual_seed(1)
    dense = nn.Sequential(conv(3, 8), nn.GroupNorm(groups, 8), nn.SiLU(), conv(8, 2)).eval()
    found = find_groups(dense, X)
    (index,) = (i for i, group in enumerate(found) if group.refused is None)
    assert found[index].channels == groups
    keep = [torch.ones(group.channels, dtype=torch.bool) for group in found]
    keep[index][0] = False  # the first whole group
    done = remove_channels(dense, X, found, keep)
    with torch.no_grad():
        size = 8 // groups
        y = dense[2](dense[1](dense[0](X)))
        expected = F.conv2d(y[:, size:], dense[3].weight[:, size:], dense[3].bias, padding=1)
        assert_close(done.model(X), expected, rtol=1e-5, atol=1e-5)
    norm = done.model[1]
    assert (norm.num_groups, norm.num_channels) == (groups - 1, 8 - size)


def test_a_layer_norm_is_taken_over_the_channels_that_stay() -> None:
    torch.manual_seed(1)
    dense = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)).eval()
    found = find_groups(dense, torch.zeros(4, 3))
    stays = torch.tensor([1, 0, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    done = remove_channels(
        dense, torch.zeros(4, 3), found, [stays if g.refused is None else ~stays[:2] | True for g in found]
    )
    x = torch.randn(5, 3, dtype=torch.float64)
    dense.double(), done.model.double()
    with torch.no_grad():
        y = dense[0](x)[:, stays]
        y = (y - y.mean(1, keepdim=True)) / (y.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        y = y * dense[1].weight[stays] + dense[1].bias[stays]
        assert_close(done.model(x), y @ dense[2].weight[:, stays].T + dense[2].bias, rtol=1e-10, atol=1e-10)


PINNED: Mapping[str, tuple[Run, str]] = {
    "argmax": (lambda s, x: s.b((y := s.a(x)) * y.argmax(1, keepdim=True)), "their numbers are used"),
    "number of the largest": (lambda s, x: s.b((y := s.a(x)) + y.max(1, keepdim=True)[1]), "their numbers are used"),
    "sorted": (lambda s, x: s.b(s.a(x).sort(1)[0]), "'sort' orders them"),
    "best of them": (lambda s, x: s.b(s.a(x).topk(8, 1)[0]), "'topk' orders them"),
    "norm over channels and places": (
        lambda s, x: s.b(F.layer_norm(s.a(x), (8, 8, 8))),
        "a normalisation runs over them and other axes at once",
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_uses_the_number_of_a_channel_is_pinned_with_its_reason(name: str) -> None:
    run, reason = PINNED[name]
    groups = find_groups(net(run, a=conv(3, 8), b=conv(8, 2)), X)
    assert {group.refused for group in groups if group.name == "a"} == {reason}
