"""Convolutions, products and attention, cut by half: the narrow network with the same weights computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from slimtask.compress.graph.analysis import find_groups
from tests.compress.halves import Make, check_half, conv, net, side_by_side

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WIDTH = 4  # of a head


def _tokens(s: Any, x: Tensor) -> Any:
    return s.p(x).flatten(2).transpose(1, 2)


def _attention(s: Any, x: Tensor) -> Any:
    x = _tokens(s, x)
    B, N, C = x.shape
    q, k, v = s.qkv(s.n(x)).reshape(B, N, 3, s.heads, C // s.heads).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.mT * WIDTH**-0.5, -1)
    return s.b(x + s.o((weights @ v).transpose(1, 2).reshape(B, N, C)))


def _attention_by_attributes(s: Any, x: Tensor) -> Any:
    x = _tokens(s, x)
    B, N, _ = x.shape
    q, k, v = s.qkv(s.n(x)).reshape(B, N, 3, s.heads, WIDTH).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, s.heads * WIDTH)
    return s.b(x + s.o(y))


def _attention_inferred(s: Any, x: Tensor) -> Any:
    x = _tokens(s, x)
    B, N, _ = x.shape
    q, k, v = s.qkv(s.n(x)).reshape(B, N, 3, -1, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
    return s.b(x + s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, -1)))


def _attention_by_chunks(s: Any, x: Tensor) -> Any:
    x = _tokens(s, x)
    B, N, C = x.shape
    q, k, v = (t.view(B, N, s.heads, WIDTH).transpose(1, 2) for t in s.qkv(s.n(x)).chunk(3, -1))
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(0.5).softmax(-1)
    return s.b(x + s.o(torch.einsum("bhij,bhjd->bhid", weights, v).transpose(1, 2).contiguous().view(B, N, C)))


def _attending(run: Any) -> Make:
    def make(k: int) -> nn.Module:
        d = 8 * k
        parts = {"p": nn.Conv2d(3, d, 2, 2), "n": nn.LayerNorm(d), "qkv": nn.Linear(d, 3 * d), "o": nn.Linear(d, d)}
        return net(run, **parts, b=nn.Linear(d, 2), heads=2 * k)

    return make


ATTENTION: Mapping[str, Make] = {
    "shape of the input": _attending(_attention),
    "attributes": _attending(_attention_by_attributes),
    "inferred": _attending(_attention_inferred),
    "chunks and einsum": _attending(_attention_by_chunks),
}


def _turned(s: Any, x: Tensor) -> Any:
    a, b = x[..., : WIDTH // 2], x[..., WIDTH // 2 :]
    return x * s.cos + torch.cat((-b, a), -1) * s.sin


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, WIDTH)).transpose(1, 2)


def _rotary(s: Any, x: Tensor) -> Any:
    x = _tokens(s, x)
    q, k, v = _turned(s, _heads(s.q(x))), _turned(s, _heads(s.k(x))), _heads(s.v(x))
    return s.b(x + s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def _grouped_queries(s: Any, x: Tensor) -> Any:
    x = _tokens(s, x)
    q, k, v = _heads(s.q(x)), _heads(s.k(x)), _heads(s.v(x))
    k, v = k.repeat_interleave(s.times, 1), v.repeat_interleave(s.times, dim=1)
    return s.b(x + s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def _parts_of_heads(s: Any, x: Tensor) -> Any:
    x = _tokens(s, x)
    q, k, v = s.qkv(x).unflatten(-1, (-1, 4 * WIDTH)).split([WIDTH, WIDTH, 2 * WIDTH], -1)
    y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return s.b(x + s.o(y.transpose(1, 2).flatten(2)))


def _one_head(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    q, k, v = (c(y).flatten(2) for c in (s.q, s.k, s.v))
    return s.b((v @ (q.mT @ k).softmax(-1).mT).view_as(y) + y)


def _non_local(s: Any, x: Tensor) -> Any:
    y = s.a(x)
    B, C, H, W = y.shape
    q, k, v = s.q(y).view(B, -1, H * W), s.k(y).view(B, -1, H * W), s.v(y).view(B, -1, H * W)
    scores = torch.bmm(q.permute(0, 2, 1), k) / (H * W)
    return s.b(y + torch.bmm(v, scores.permute(0, 2, 1)).view(B, C, H, W))


def _table(length: int = 16) -> Tensor:
    return torch.rand(length, WIDTH)


MORE: Mapping[str, Make] = {
    "rotary": lambda k: net(
        _rotary, p=nn.Conv2d(3, 8 * k, 2, 2), q=nn.Linear(8 * k, 8 * k), k=nn.Linear(8 * k, 8 * k), cos=_table(),
        v=nn.Linear(8 * k, 8 * k), o=nn.Linear(8 * k, 8 * k), b=nn.Linear(8 * k, 2), sin=_table(),
    ),
    "grouped queries": lambda k: net(
        _grouped_queries, p=nn.Conv2d(3, 8 * k, 2, 2), q=nn.Linear(8 * k, 8 * k), k=nn.Linear(8 * k, 4 * k),
        v=nn.Linear(8 * k, 4 * k), o=nn.Linear(8 * k, 8 * k), b=nn.Linear(8 * k, 2), times=2,
    ),
    "one key for four queries": lambda k: net(
        _grouped_queries, p=nn.Conv2d(3, 8 * k, 2, 2), q=nn.Linear(8 * k, 16 * k), k=nn.Linear(8 * k, 4 * k),
        v=nn.Linear(8 * k, 4 * k), o=nn.Linear(16 * k, 8 * k), b=nn.Linear(8 * k, 2), times=4,
    ),
    "parts of heads": lambda k: net(
        _parts_of_heads, p=nn.Conv2d(3, 8 * k, 2, 2), qkv=nn.Linear(8 * k, 32 * k), o=nn.Linear(16 * k, 8 * k),
        b=nn.Linear(8 * k, 2),
    ),
    "one head": lambda k: net(
        _one_head, a=conv(3, 4 * k), q=conv(4 * k, 4 * k, 1), k=conv(4 * k, 4 * k, 1), v=conv(4 * k, 4 * k, 1),
        b=conv(4 * k, 2),
    ),
    "non-local block": lambda k: net(
        _non_local, a=conv(3, 4 * k), q=conv(4 * k, 2 * k, 1), k=conv(4 * k, 2 * k, 1), v=conv(4 * k, 4 * k, 1),
        b=conv(4 * k, 2),
    ),
}  # fmt: skip


def _standardised(s: Any, x: Tensor) -> Any:
    flat = s.a.weight.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)
    return s.b(s.n(F.conv2d(x, flat.view_as(s.a.weight), s.a.bias, padding=1)).relu())


def _standardised_by_batch_norm(s: Any, x: Tensor) -> Any:
    flat = s.a.weight.reshape(1, len(s.a.weight), -1)
    weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(s.a.weight)
    return s.b(F.conv2d(x, weight, s.a.bias, padding=1).relu())


def _deformable(into: int, out: int) -> nn.Module:
    from torchvision.ops import DeformConv2d

    return DeformConv2d(into, out, 3, padding=1)


CONVOLUTIONS: Mapping[str, Make] = {
    "weight norm": lambda k: net(
        lambda s, x: s.b(s.a(x).relu()), a=weight_norm(conv(3, 4 * k)), b=conv(4 * k, 2)
    ),
    "standardised": lambda k: net(_standardised, a=conv(3, 4 * k), n=nn.BatchNorm2d(4 * k), b=conv(4 * k, 2)),
    "standardised by batch norm": lambda k: net(_standardised_by_batch_norm, a=conv(3, 4 * k), b=conv(4 * k, 2)),
    "deformable": lambda k: net(
        lambda s, x: s.b(s.d(y := s.a(x), s.o(y)).relu()),
        a=conv(3, 4 * k), o=conv(4 * k, 18), d=_deformable(4 * k, 4 * k), b=conv(4 * k, 2),
    ),
    "deformable with a mask": lambda k: net(
        lambda s, x: s.b(s.d(y := s.a(x), s.o(y), s.m(y).sigmoid())),
        a=conv(3, 4 * k), o=conv(4 * k, 18), m=conv(4 * k, 9), d=_deformable(4 * k, 6 * k), b=conv(6 * k, 2),
    ),
    "groups": lambda k: net(
        lambda s, x: s.b(s.c(s.a(x))), a=conv(3, 8 * k), c=conv(8 * k, 16 * k, groups=2 * k), b=conv(16 * k, 2)
    ),
    "groups by hand": lambda k: net(
        lambda s, x: s.b(F.conv2d(s.a(x), s.w, None, 1, 1, 1, s.groups)),
        a=conv(3, 8 * k), w=torch.randn(8 * k, 4, 3, 3), b=conv(8 * k, 2), groups=2 * k,
    ),
    "transposed": lambda k: net(
        lambda s, x: s.b(s.c(s.a(x))), a=conv(3, 4 * k), c=nn.ConvTranspose2d(4 * k, 6 * k, 2, 2), b=conv(6 * k, 2)
    ),
    "depthwise transposed": lambda k: net(
        lambda s, x: s.b(s.c(s.a(x))),
        a=conv(3, 4 * k), c=nn.ConvTranspose2d(4 * k, 4 * k, 2, 2, groups=4 * k), b=conv(4 * k, 2),
    ),
}  # fmt: skip


PINNED = (
    "they say where a deformable convolution reads",
    "they are selected by number",
    "they are looked up by number",
)


def _twice(k: int) -> nn.Module:
    c = conv(4 * k, 4 * k)
    both = nn.ModuleList([c, c])
    return net(lambda s, x: s.b(s.both[1](s.both[0](s.a(x)).relu())), a=conv(3, 4 * k), both=both, b=conv(4 * k, 2))


def _tied(k: int) -> nn.Module:
    made = net(
        lambda s, x: s.b(s.a(x)) + s.d(s.c(2 * x)),
        a=conv(3, 4 * k),
        c=conv(3, 4 * k),
        b=conv(4 * k, 2),
        d=conv(4 * k, 2),
    )
    for one, other in ((made.a, made.c), (made.b, made.d)):
        assert isinstance(one, nn.Conv2d)
        assert isinstance(other, nn.Conv2d)
        other.weight, other.bias = one.weight, one.bias
    return made


SHARED: Mapping[str, Make] = {
    "module under two names": _twice,
    "module for two sources": lambda k: net(
        lambda s, x: s.b(s.c(s.a(x)) - s.c(s.d(x)).relu()),
        a=conv(3, 4 * k), d=conv(3, 4 * k), c=conv(4 * k, 4 * k), b=conv(4 * k, 2),
    ),
    "tied parameters": _tied,
    "gate first": lambda k: net(
        lambda s, x: s.b(torch.sigmoid(s.g(x)) * s.a(x)), a=conv(3, 4 * k), g=conv(3, 1), b=conv(4 * k, 2)
    ),
    "scalar first": lambda k: net(
        lambda s, x: s.b(s.w[0] * s.a(x) + s.w.softmax(0)[1] * s.c(x)),
        a=conv(3, 4 * k), c=conv(3, 4 * k), w=torch.rand(2), b=conv(4 * k, 2),
    ),
    "einsum": lambda k: net(
        lambda s, x: s.b(torch.einsum("bchw,oc->bhwo", s.a(x), s.w)), a=conv(3, 4 * k), w=torch.randn(6 * k, 4 * k),
        b=nn.Linear(6 * k, 2),
    ),
    "einsum that turns": lambda k: net(
        lambda s, x: s.b(torch.einsum("bchw->bhwc", s.a(x))), a=conv(3, 4 * k), b=nn.Linear(4 * k, 2)
    ),
    "dot of two": lambda k: net(
        lambda s, x: torch.einsum("qc,bchw->bqhw", s.e(s.q), s.a(s.c(x))),
        c=conv(3, 4 * k), a=conv(4 * k, 6 * k), q=torch.randn(5, 3), e=nn.Linear(3, 6 * k),
    ),
    "product and sum": lambda k: net(
        lambda s, x: s.b(s.c(y := s.a(x)) * (y * s.d(x)).sum(1, keepdim=True)),
        a=conv(3, 4 * k), d=conv(3, 4 * k), c=conv(4 * k, 2 * k), b=conv(2 * k, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("cases", [ATTENTION, MORE], ids=["spellings", "kinds"])
def test_half_of_the_heads_is_the_narrow_attention(cases: Mapping[str, Make]) -> None:
    check_half(side_by_side(cases), X, over_channels=True)


@pytest.mark.parametrize("cases", [CONVOLUTIONS, SHARED], ids=["convolutions", "shared"])
def test_half_of_the_wide_network_is_the_narrow_one(cases: Mapping[str, Make]) -> None:
    check_half(side_by_side(cases), X, over_channels=cases is SHARED, stays=PINNED)


@pytest.mark.xfail(strict=True, reason="refused: nothing is seen to read the layer's outputs")
def test_a_weight_that_is_used_in_two_directions_loses_the_same_rows_and_columns() -> None:
    def make(k: int) -> nn.Module:
        return net(
            lambda s, x: s.b(F.linear(s.c(_tokens(s, x)).relu(), s.c.weight.T)),
            p=nn.Conv2d(3, 8 * k, 2, 2), c=nn.Linear(8 * k, 6 * k), b=nn.Linear(8 * k, 2),
        )  # fmt: skip

    check_half(make, X, over_channels=True)


def _speaking(k: int) -> nn.Module:
    made = net(
        lambda s, i: s.h(s.n(s.e(i) + s.c(s.e(i)).relu())),
        e=nn.Embedding(11, 8 * k), c=nn.Linear(8 * k, 8 * k), n=nn.LayerNorm(8 * k), h=nn.Linear(8 * k, 11, bias=False),
    )  # fmt: skip
    assert isinstance(made.h, nn.Linear)
    assert isinstance(made.e, nn.Embedding)
    made.h.weight = made.e.weight
    return made


def test_an_embedding_and_the_head_that_shares_its_table_lose_the_same_columns() -> None:
    done = check_half(_speaking, torch.tensor([[1, 4, 10], [0, 3, 3]]), over_channels=True, stays=PINNED)
    tensors = dict(done.model.named_parameters(remove_duplicate=False))
    assert tensors["h.weight"] is tensors["e.weight"]
    assert tensors["e.weight"].shape == (11, 8)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_cell_keeps_its_state_and_reads_half_of_the_channels(kind: type) -> None:
    def make(k: int) -> nn.Module:
        return net(
            lambda s, x: s.b(s.r(s.a(x).mean(2).transpose(1, 2))[0]),
            a=conv(3, 4 * k), r=kind(4 * k, 5, batch_first=True), b=nn.Linear(5, 2),
        )  # fmt: skip

    groups = {group.name: group.refused for group in find_groups(make(2), X)}
    done = check_half(
        make, X, over_channels=True, stays={why for name, why in groups.items() if why is not None and name != "a"}
    )
    assert dict(done.model.named_parameters())["r.weight_hh_l0"].shape[1] == 5


def test_heads_of_which_one_table_holds_the_number_are_named() -> None:
    def run(s: Any, x: Tensor) -> Any:
        x = _tokens(s, x)
        q, k, v = (_heads(t) for t in s.qkv(x).chunk(3, -1))
        return s.b(s.o(((q @ k.mT + x.new_ones(2, 16, 16)).softmax(-1) @ v).transpose(1, 2).flatten(2)))

    made = net(run, p=nn.Conv2d(3, 8, 2, 2), qkv=nn.Linear(8, 24), o=nn.Linear(8, 8), b=nn.Linear(8, 2))
    groups = {group.name: group for group in find_groups(made, X)}
    assert groups["qkv"].refused is None  # a table made anew shrinks with them
    assert groups["qkv"].channels == 2
