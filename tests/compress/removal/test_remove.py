"""Exact removal: the network without its dead channels computes what the one with them does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimtask.compress.api.models import compress
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.cost import count_parameters
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet
from tests.compress.difference import difference

Kill = Callable[..., None]
EXAMPLE = torch.zeros(1, 3, 64, 64)


@pytest.mark.parametrize(
    ("trunk", "head", "what"),
    [
        ("resnet18", "light", "filter"),
        ("resnet18", "light", "gamma"),
        ("resnet18", "scene", "beta"),
        ("resnetd50", "deeplab", "filter"),
    ],
)
def test_dead_filters_of_every_kind_go_exactly(
    what: str, trunk: str, head: str, small_net: Callable[..., MultiTaskNet], kill: Kill
) -> None:
    model = small_net(trunk=trunk, head=head)
    kill(model, what)
    done = remove_zeros(model, EXAMPLE)
    assert done.certificate
    assert done.certificate.max_rel_error <= 1e-5
    assert len(done.certificate.sizes) == 2
    assert count_parameters(done.model.trunk) < 0.25 * count_parameters(model.trunk)
    assert difference(model, done.model, (72, 56)) < 1e-5


@pytest.mark.parametrize(("name", "what"), [("resnet18", "filter"), ("vgg11_bn", "filter"), ("mobilenet_v2", "beta")])
def test_networks_that_are_not_ours_too(name: str, what: str, kill: Kill) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=7, **({"width_mult": 0.5} if "mobile" in name else {}))
    if name == "vgg11_bn":  # the published classifier alone is 120 million parameters
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(2), nn.Linear(512 * 4, 7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean), nn.init.normal_(module.bias)
    kill(model.eval(), what)
    done = remove_zeros(model, EXAMPLE)
    assert count_parameters(done.model) < 0.6 * count_parameters(model)
    assert difference(model, done.model, (64, 64)) < 1e-5


def test_outputs_are_never_cut_and_fixed_groups_are_named(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()
    for head in ("segmentation", "edges"):
        model.heads[head].layers[-1].weight.data.zero_()
        model.heads[head].layers[-1].bias.data.zero_()
    model.trunk.layer1[0].residual[3].weight.data[:, :10] = 0
    done = remove_zeros(model, EXAMPLE)
    assert done.model.heads["segmentation"].layers[-1].out_channels == 5
    refused = {refusal.group: refusal.reason for refusal in done.certificate.refused}
    assert "network's output 'segmentation'" in refused["heads.segmentation.layers.3"]


def test_a_dense_network_is_a_loud_error_with_the_coverage(small_net: Callable[..., MultiTaskNet]) -> None:
    with pytest.raises(InputError, match=r"nothing can be removed: none of the \d+ channels"):
        compress(small_net(), EXAMPLE)


class Mixing(nn.Module):
    """Two readers behind an operation over all channels, of which the second is the one to watch."""

    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = mix
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.three, self.out = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        for layer in (self.one, self.two):
            layer.weight.data[:5] = 0
            layer.bias.data[:5] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.three(self.mix(self.two(self.one(x).relu()))))


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (lambda x: x.softmax(dim=1), "'softmax' in 'the network' is taken over all of them, dead or not"),
        (lambda x: x / (2 + x.mean(dim=1, keepdim=True).abs()), "'mean' in 'the network' is taken over all of them"),
        (nn.GroupNorm(1, 8), "the normalisation 'mix' takes its mean over them"),
        (lambda x: x.sort(dim=1).values, "'sort' orders them"),
    ],
)
def test_an_operation_that_mixes_channels_is_refused_by_name(
    mix: Callable[[torch.Tensor], torch.Tensor], reason: str
) -> None:
    """A zero channel still counts in a softmax or a mean over channels: nothing there may go, all else may."""
    model = Mixing(mix).eval()
    done = remove_zeros(model, EXAMPLE)
    assert (done.model.one.out_channels, done.model.two.out_channels) == (3, 8)
    assert any(refusal.group == "two" and reason in refusal.reason for refusal in done.certificate.refused)
    assert difference(model, done.model, (64, 64)) < 1e-5


class Awkward(nn.Module):
    """Constructs that the dependency graph misreads, around a convolution with dead channels that could go."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(2 if kind == "shuffle" else 8, 4, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.shuffle = nn.PixelShuffle(2)
        self.stem.weight.data[:4] = 0
        self.a.weight.data[:4] = 0
        self.b.weight.data[:, :1] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x).relu()
        z = self.a(y)
        if self.kind == "scale":
            z = z * self.scale
        elif self.kind == "input":
            z = z + x.mean(dim=1, keepdim=True).expand(-1, 8, -1, -1)
        elif self.kind == "view":
            z = z.view(z.shape[0], 8, -1).view(*z.shape)
        elif self.kind == "shuffle":
            z = self.shuffle(z)
        return self.b(z)


@pytest.mark.parametrize("kind", ["scale", "input", "view", "shuffle"])
def test_what_the_trace_misreads_is_refused_or_exact_never_a_crash(kind: str) -> None:
    model = Awkward(kind).eval()
    done = remove_zeros(model, EXAMPLE)
    assert done.certificate
    assert done.model.stem.out_channels <= 5  # what is understood still goes
    assert difference(model, done.model, (64, 64)) < 1e-5


def test_a_cut_network_that_fails_without_a_word_is_refused_too() -> None:
    class Picky(Mixing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.one(x)
            if features.numel() != 8 * features[:, 0].numel():  # its shape would be told as the dense one
                raise ValueError
            return self.out(self.three(self.two(features.relu())))

    done = remove_zeros(Picky(nn.Identity()).eval(), EXAMPLE)
    assert done.model.one.out_channels == 8
    assert done.model.two.out_channels == 3
    assert any("ValueError" in refusal.reason for refusal in done.certificate.refused if refusal.group == "one")


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(2, 4),
    residual=st.booleans(),
    norm=st.booleans(),
    padding=st.sampled_from(["zeros", "reflect", "none"]),
    act=st.sampled_from([nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid]),
)
def test_generated_networks(
    seed: int, depth: int, residual: bool, norm: bool, padding: str, act: type[nn.Module]
) -> None:
    class Generated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 12, 3, padding=1)
            pad = {"padding": 0 if padding == "none" else 1}
            mode = {"padding_mode": "zeros" if padding == "none" else padding}
            self.layers = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(12, 12, 1 if padding == "none" else 3, **pad, **mode),
                    nn.BatchNorm2d(12) if norm else nn.Identity(),
                    act(),
                )
                for _ in range(depth)
            )
            self.head = nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for layer in self.layers:
                x = x + layer(x) if residual else layer(x)
            return self.head(x.mean(dim=(2, 3)))

    torch.manual_seed(seed)
    model = Generated().eval()
    dead = torch.rand(12) < 0.6
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean), nn.init.normal_(module.bias)
        if isinstance(module, nn.Conv2d):
            module.weight.data[dead] = 0
    done = remove_zeros(model, torch.zeros(1, 3, 24, 24))
    assert done.certificate
    if int(dead.sum()) > 2:  # at most one carrier for each reader of a layer stays
        assert done.model.layers[-1][0].out_channels < 12 or padding == "zeros" or residual
        assert count_parameters(done.model) < count_parameters(model)
    assert difference(model, done.model, (24, 32)) < 1e-5
