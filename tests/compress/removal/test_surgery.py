"""Channels cut by score: the result against the network run by hand, and what the code does not survive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.network.probes import certificate_inputs
from slimtask.compress.proof.certify import certify
from slimtask.compress.removal.plan import Plan
from slimtask.compress.removal.remove import Compressed, remove_channels

IMAGE = torch.zeros(1, 3, 16, 16)


class Transformer(nn.Module):
    """Patches, a class token, positions, nn.MultiheadAttention, LayerNorm, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.last = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 5)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12))
        self.scale = nn.Parameter(torch.randn(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        y = self.norm(x)
        x = x + self.scale * self.attention(y, y, y, need_weights=False)[0]
        return self.head(self.last(x + self.down(F.gelu(self.up(x))))[:, 0])


def halve(model: nn.Module, example: Any = IMAGE, names: tuple[str, ...] = ()) -> Compressed:
    """Remove every second channel of every group that may go, or of the named ones."""
    groups = find_groups(model, example)
    keep = []
    for group in groups:
        stays = torch.ones(group.channels, dtype=torch.bool)
        if group.refused is None and group.channels > 1 and (not names or group.name in names):
            stays[1::2] = False
        keep.append(stays)
    return remove_channels(model, example, groups, keep)


def test_a_transformer_loses_stream_heads_and_hidden_units_exactly() -> None:
    model = Transformer().eval()
    done = halve(model)
    small = done.model
    assert done.certificate
    assert done.certificate.max_rel_error < 1e-5
    assert small.token.shape == (1, 1, 6)
    assert small.place.shape == (1, 17, 6)
    assert small.attention.in_proj_weight.shape == (3 * 2 * 4, 6)  # two of three heads, half the stream
    assert small.attention.num_heads == 2
    assert (small.up.in_features, small.up.out_features, small.norm.normalized_shape) == (6, 10, (6,))
    assert model.attention.in_proj_weight.shape == (36, 12)


def test_a_layernorm_without_some_channels_is_the_norm_of_the_others() -> None:
    """By hand: a stem, a LayerNorm over channels, a reader; the removed channels take no part in mean and variance."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Swap(), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    small = halve(model).model
    x = torch.randn(2, 3, 16, 16)
    patches = model[2](model[1](model[0](x)))[..., ::2]
    expected = F.linear(F.layer_norm(patches, (4,)), model[4].weight[:, ::2], model[4].bias)
    assert torch.allclose(small(x), expected, atol=1e-6)


class Swap(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


CONSTRUCTS: dict[str, Callable[[], nn.Module]] = {
    "grouped": lambda: nn.Conv2d(8, 8, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "transposed": lambda: nn.ConvTranspose2d(8, 8, 2, 2),
    "depthwise transposed": lambda: nn.ConvTranspose2d(8, 8, 2, 2, groups=8),
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "norm per channel": lambda: nn.GroupNorm(8, 8),
    "prelu": lambda: nn.PReLU(8),
    "reflecting": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_a_construct_between_two_layers(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), CONSTRUCTS[name](), nn.Conv2d(8, 2, 1)).eval()
    done = halve(model)
    assert done.certificate
    assert done.model[0].out_channels == 4
    fresh = nn.Sequential(nn.Conv2d(3, 8, 3), CONSTRUCTS[name](), nn.Conv2d(8, 2, 1)).eval()
    Plan.model_validate_json(done.plan.model_dump_json()).apply_(fresh)
    fresh.load_state_dict(done.model.state_dict())
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(fresh(x), done.model(x))


class Written(nn.Module):
    """Its second layer's width is written in the code, in a way that can be told otherwise or in one that cannot."""

    def __init__(self, stubborn: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.stubborn = stubborn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.a(x))
        if self.stubborn and y.numel() != len(x) * 8 * x[0, 0].numel():
            raise ValueError("not 8 channels")
        return self.out(y.view(len(x), 8, *x.shape[2:]))


def test_a_width_written_in_the_code_is_told() -> None:
    torch.manual_seed(0)
    model = Written()
    small = halve(model).model
    x = torch.randn(2, 3, 16, 16)
    assert (small.a.out_channels, small.b.out_channels, small.out.in_channels) == (4, 4, 4)
    with torch.no_grad():
        y = F.conv2d(model.a(x)[:, ::2], model.b.weight[::2, ::2], model.b.bias[::2])
        torch.testing.assert_close(small(x), F.conv2d(y, model.out.weight[:, ::2], model.out.bias))


def test_code_that_no_answer_helps_is_named_and_the_rest_still_goes() -> None:
    done = halve(Written(stubborn=True))
    assert (done.model.a.out_channels, done.model.b.out_channels) == (4, 8)
    (refusal,) = [r for r in done.certificate.refused if r.group == "b"]
    assert "does not run without them: not 8 channels" in refusal.reason


def test_the_certificate_notices_a_wrong_cut() -> None:
    model = Transformer().eval()
    done = halve(model, names=("up",))
    done.model.down.weight.data[:, 0] *= 1.01
    expected = halve(model, names=("up",)).model
    assert not certify(expected, done.model, certificate_inputs(model, IMAGE))


def test_the_result_shares_no_memory_with_the_network() -> None:
    model = Written()
    small = halve(model).model
    before = model.out.weight.clone()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(model.out.weight, before)
    assert small.out.weight.requires_grad


def test_an_encoder_layer_runs_in_evaluation_once_heads_are_cut() -> None:
    """PyTorch's fused path takes the number of heads for granted; the twin must keep it away."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)
    )
    done = halve(model.eval(), torch.randn(2, 5, 8))
    assert done.model[1].layers[0].self_attn.num_heads == 2
    with torch.no_grad():
        assert done.model(torch.randn(2, 5, 8)).shape == (2, 5, 3)


def test_a_grouped_transposed_convolution_with_other_widths_stays_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 8, 2, 2, groups=2), nn.Conv2d(8, 4, 3)).eval()
    groups = find_groups(model, IMAGE)
    assert all(group.refused for group in groups)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_over_all_channels_is_that_of_the_ones_that_stay(affine: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8, affine=affine), nn.Conv2d(8, 2, 1)).eval()
    small = halve(model).model
    assert (small[0].out_channels, small[2].in_channels) == (4, 4)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        stays = F.group_norm(model[0](x)[:, ::2], 1)
        torch.testing.assert_close(small(x), F.conv2d(stays, model[2].weight[:, ::2], model[2].bias))
