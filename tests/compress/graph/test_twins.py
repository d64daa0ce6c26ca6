"""Twins compute what the modules they replace compute, and lose heads as the masked module does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from slimtask.compress.graph.twins import become_twin_, become_twins_, has_twin
from slimtask.compress.pruning import prune
from slimtask.compress.score.budget import Budget


def perturbed(module: nn.Module, seed: int = 0) -> Any:
    """Give every parameter random values: zero biases and tables would hide a mistake."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("masks", ["none", "attention", "padding"])
def test_multihead_attention(batch_first: bool, weights: bool, masks: str) -> None:
    module = perturbed(nn.MultiheadAttention(12, 3, batch_first=batch_first))
    x, y = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    x, y = (x, y) if batch_first else (x.transpose(0, 1), y.transpose(0, 1))
    options: dict[str, Any] = {"need_weights": weights}
    if masks == "attention":
        options["attn_mask"] = torch.rand(5, 7) > 0.7
    elif masks == "padding":
        options["key_padding_mask"] = torch.arange(7).expand(2, 7) > 4
    expected, expected_weights = module(x, y, y, **options)
    become_twin_(module)
    got, got_weights = module(x, y, y, **options)
    assert torch.allclose(got, expected, atol=1e-6)
    assert (got_weights is None) == (expected_weights is None)
    if weights:
        assert torch.allclose(got_weights, expected_weights, atol=1e-6)


def test_causal_self_attention() -> None:
    module = perturbed(nn.MultiheadAttention(12, 3, batch_first=True))
    x = torch.randn(2, 5, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    expected, _ = module(x, x, x, attn_mask=mask, need_weights=False)
    become_twin_(module)
    assert torch.allclose(module(x, x, x, is_causal=True, need_weights=False)[0], expected, atol=1e-6)


def window_attention(kind: str) -> tuple[nn.Module, torch.Tensor]:
    from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
    from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
    from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

    if kind == "maxvit":
        return RelativePositionalMultiHeadAttention(12, 4, 16), torch.randn(2, 5, 16, 12)
    if kind == "3d":
        return ShiftedWindowAttention3d(12, [2, 4, 4], [1, 2, 2], 3), torch.randn(2, 3, 9, 8, 12)
    cls = ShiftedWindowAttentionV2 if kind == "v2" else ShiftedWindowAttention
    shift = [0, 0] if kind == "unshifted" else [2, 2]
    return cls([12][0], [4, 4], shift, 3), torch.randn(2, 10, 8, 12)


@pytest.mark.parametrize("kind", ["v1", "v2", "unshifted", "3d", "maxvit"])
def test_window_attention(kind: str) -> None:
    module, x = window_attention(kind)
    perturbed(module)
    expected = module(x)
    become_twins_(module)
    assert type(module).__name__.startswith("Twin")
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_a_window_larger_than_the_map_is_not_shifted() -> None:
    module, _ = window_attention("v1")
    x = torch.randn(1, 3, 4, 12)
    expected = perturbed(module)(x)
    become_twin_(module)
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_only_attention_that_is_known_has_a_twin() -> None:
    assert not has_twin(nn.Linear(3, 3))
    assert not has_twin(nn.MultiheadAttention(12, 3, add_bias_kv=True))
    module = nn.MultiheadAttention(12, 3)
    become_twin_(module)
    become_twin_(module)
    assert has_twin(module)
    assert module.head_dim == 4


@pytest.mark.parametrize("asked", ["itself", "another map", "two other maps"])
def test_the_width_of_attention_between_maps_goes_exactly(asked: str) -> None:
    """PyTorch projects query, key and value by one product, by two or by three; the twin does it otherwise."""

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.ModuleList(nn.Linear(6, 16) for _ in range(3))
            self.attend, self.norm = nn.MultiheadAttention(16, 4, batch_first=True), nn.LayerNorm(16)
            self.out = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (one(x) for one in self.maps)
            key, value = {"itself": (q, q), "another map": (k, k), "two other maps": (k, v)}[asked]
            return self.out(self.norm(q + k + v + self.attend(q, key, value, need_weights=False)[0]))

    net = perturbed(Between())
    done = prune(net, torch.zeros(2, 7, 6), budget=Budget(keep=0.5), scope="layer")
    assert not [refusal for refusal in done.certificate.refused if refusal.group != "out"]
    assert done.model.get_submodule("out").in_features == 8
