"""What the weights alone call constant, against what the layers really read on random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slimtask.compress.graph.constants import read_constants
from slimtask.compress.network.trace import named_tensors, record


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return layer


class Chain(nn.Module):
    """A convolution of 8 filters, 5 of them zero, something in between, and a reader of ``width`` channels."""

    def __init__(self, between: Callable[..., torch.Tensor], width: int = 8, **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.bn = nn.Conv2d(3, 8, 3), norm(8)
        self.between, self.reader = between, nn.Conv2d(width, 2, 1)
        for name, part in parts.items():
            setattr(self, name, part)
        self.first.weight.data[3:] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reader(self.between(self, self.bn(self.first(x))))


def squeeze_excite(m: Any, x: torch.Tensor) -> torch.Tensor:
    return F.relu(x) * m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))).sigmoid()


CASES: dict[str, tuple[Any, int, dict[str, nn.Module], int]] = {
    # what lies in between, channels the reader reads, further modules, constants the reader sees
    "nothing": (lambda m, x: x, 8, {}, 5),
    "relu": (lambda m, x: x.relu(), 8, {}, 5),
    "gelu, in place too": (lambda m, x: F.hardswish(F.gelu(x), inplace=True), 8, {}, 5),
    "prelu": (lambda m, x: m.act(x), 8, {"act": nn.PReLU(8)}, 5),
    "silu and scale": (lambda m, x: F.silu(x) * 2 + 1, 8, {}, 5),
    "max pooling": (lambda m, x: F.max_pool2d(x, 3, 2, 1), 8, {}, 5),
    "resizing": (lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), 8, {}, 5),
    "mean over space": (lambda m, x: x.mean((2, 3), keepdim=True), 8, {}, 5),
    "a sum of two constants": (lambda m, x: x + x.relu(), 8, {}, 5),
    "a sum with a live map": (lambda m, x: x + m.live(x), 8, {"live": nn.Conv2d(8, 8, 1)}, 0),
    "concatenation": (lambda m, x: torch.cat([x, x.relu()], 1), 16, {}, 10),
    "depthwise without padding": (lambda m, x: m.d(x), 8, {"d": nn.Conv2d(8, 8, 3, groups=8)}, 5),
}


@pytest.mark.parametrize("name", CASES)
def test_every_constant_is_what_the_reader_reads(name: str) -> None:
    between, width, parts, expected = CASES[name]
    model = Chain(between, width, **parts).eval()
    check(model, expected)


def check(model: nn.Module, expected: int | None) -> np.ndarray:
    """Compare the constants the reader of ``model`` is said to read with what it reads; return them."""
    tape = record(model, torch.zeros(1, 3, 16, 16))
    known = read_constants(tape, named_tensors(model))["reader.weight"]
    seen: list[torch.Tensor] = []
    model.double().reader.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(torch.randn(2, 3, 16, 16, dtype=torch.float64))
    flat = seen[0].movedim(1, 0).flatten(1)
    for channel, value in enumerate(known):
        if not np.isnan(value):
            assert torch.allclose(flat[channel], torch.full_like(flat[channel], value), atol=1e-6)
    if expected is not None:
        assert int((~np.isnan(known)).sum()) == expected
    return known


def test_zero_padding_blurs_a_constant_at_the_border_but_not_a_zero() -> None:
    deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model = Chain(lambda m, x: m.d(x.relu()), d=deep).eval()
    model.bn.bias.data = torch.where(torch.arange(8) % 2 == 0, 50.0, -50.0)
    known = check(model, None)
    assert np.isnan(known).tolist() == [True, True, True, False, True, False, True, False]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_zero_times_a_live_gate_is_zero(sign: float) -> None:
    model = Chain(squeeze_excite, down=nn.Conv2d(8, 2, 1), up=nn.Conv2d(2, 8, 1)).eval()
    model.bn.bias.data.fill_(50.0 * sign)
    check(model, 5 if sign < 0 else 0)


def test_average_pooling_that_counts_its_padding_keeps_only_zeros() -> None:
    for counts, expected in ((True, 0), (False, 5)):
        check(Chain(lambda m, x, c=counts: F.avg_pool2d(x, 3, 1, 1, count_include_pad=c)).eval(), expected)


def test_a_batchnorm_of_zero_gamma_emits_its_beta_whatever_comes() -> None:
    model = Chain(lambda m, x: x).eval()
    model.bn.weight.data[:2] = 0
    check(model, 7)


def test_writing_in_place_forgets_what_was_known_of_other_views() -> None:
    def between(m: Any, x: torch.Tensor) -> torch.Tensor:
        view = x.view(x.shape)
        x.mul_(m.live(x.clone()))
        return view

    check(Chain(between, live=nn.Conv2d(8, 8, 1)).eval(), 0)


def test_a_dead_value_head_emits_its_bias() -> None:
    """Attention is a weighted mean: over one constant it is the constant, whatever the weights are."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.qkv, self.reader = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 2)
            self.qkv.weight.data[20:] = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).flatten(2).transpose(1, 2)
            q, k, v = self.qkv(x).view(len(x), 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
            return self.reader(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model = Attend().eval()
    tape = record(model, torch.zeros(1, 3, 16, 16))
    known = read_constants(tape, named_tensors(model))["reader.weight"]
    assert np.allclose(known[4:], model.qkv.bias.detach()[20:])
    assert np.isnan(known[:4]).all()


def test_a_concatenation_of_nothing_is_no_constant() -> None:
    """What was found on an image, of which there was nothing, is put together: a network of detections on noise."""

    class Found(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.reader = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.stem.weight.data[1], self.stem.bias.data[1] = 0, 0

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.reader(self.stem(x))
            return y, torch.cat([y.new_zeros(0), y.new_zeros(0)])

    model = Found().eval()
    known = read_constants(record(model, torch.zeros(1, 3, 4, 4)), named_tensors(model))["reader.weight"]
    assert known[1] == 0
    assert np.isnan(known[[0, 2, 3]]).all()


def test_a_type_without_fractions_and_what_is_infinite() -> None:
    model = Chain(lambda m, x: x * 0 + x.abs().clamp(0.6, 0.7).to(torch.int32).float() + 1.5).eval()
    known = read_constants(record(model, torch.zeros(1, 3, 8, 8)), named_tensors(model))["reader.weight"]
    assert known[3:].tolist() == [1.5] * 5
    model = Chain(lambda m, x: x / 0.0).eval()
    assert np.isnan(read_constants(record(model, torch.zeros(1, 3, 8, 8)), named_tensors(model))["reader.weight"]).all()


def test_a_bare_matrix_reads_constants_and_maps_a_row_of_zeros_to_zeros() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.other = nn.Conv1d(3, 4, 1), nn.Linear(4, 2), nn.Linear(4, 2)
            self.along, self.across = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(4, 4))
            self.first.weight.data[2:], self.first.bias.data[2:] = 0, torch.tensor([0.0, 2.0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)[0]
            return self.last((y @ self.along).T) + self.other(y.T @ self.across)

    model = Bare().eval()
    known = read_constants(record(model, torch.zeros(1, 3, 6)), named_tensors(model))
    assert np.isnan(known["across"]).tolist() == [True, True, False, False]
    assert known["across"][2:].tolist() == [0, 2]
    assert np.isnan(known["along"]).all()
    assert np.isnan(known["last.weight"]).tolist() == [True, True, False, True]
    assert known["last.weight"][2] == 0
