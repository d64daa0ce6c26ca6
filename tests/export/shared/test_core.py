"""The two residual branches against torch's own layers, of one task and of several stacked ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slimtask.export.shared.core import AttentionCore, Core, Layers, MlpCore, Tensors, linear, normalise, run
from slimtask.kernels.units import Layer

WIDTH, HEAD, HIDDEN, EPS = 12, 4, 20, 1e-6


def torchs(kind: str) -> tuple[nn.LayerNorm, nn.Module, Layers, Core]:
    norm = nn.LayerNorm(WIDTH, eps=EPS).double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    if kind == "mlp":
        inner: nn.Module = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH)).double()
        first, second = inner[0], inner[2]
        layers = (first.weight, first.bias), (second.weight, second.bias)
    else:
        inner = nn.MultiheadAttention(WIDTH, WIDTH // HEAD, batch_first=True).double()
        nn.init.normal_(inner.in_proj_bias), nn.init.normal_(inner.out_proj.bias)
        layers = (inner.in_proj_weight, inner.in_proj_bias), (inner.out_proj.weight, inner.out_proj.bias)
    core: Core = MlpCore() if kind == "mlp" else AttentionCore(HEAD)
    return norm, inner, Layers(Layer(norm.weight, norm.bias), *(Layer(*each) for each in layers)), core


def applied(inner: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = inner(x, x, x, need_weights=False)[0] if isinstance(inner, nn.MultiheadAttention) else inner(x)
    return made


@pytest.mark.parametrize("kind", ["mlp", "attention"])
@torch.no_grad()
def test_a_branch_is_that_of_torch_alone_and_stacked(kind: str) -> None:
    torch.manual_seed(0)
    tasks = [torchs(kind) for _ in range(3)]
    x = torch.randn(3, 2, 7, WIDTH).double()
    wanted = torch.stack([applied(inner, norm(own)) for (norm, inner, _, _), own in zip(tasks, x, strict=True)])
    alone = torch.stack([run(own, layers, core, EPS) for (*_, layers, core), own in zip(tasks, x, strict=True)])
    torch.testing.assert_close(alone, wanted)
    parts = zip(*(layers for *_, layers, _ in tasks), strict=True)
    stacked = Layers(*(Layer(*(torch.stack(leaf) for leaf in zip(*part, strict=True))) for part in parts))
    torch.testing.assert_close(run(x, stacked, tasks[0][3], EPS), wanted)


@pytest.mark.parametrize("kind", ["mlp", "attention"])
@torch.no_grad()
def test_units_are_what_rows_and_columns_say(kind: str) -> None:
    """Zero columns of a unit in the second layer leave out the very unit that ``pick`` leaves out of the first."""
    torch.manual_seed(1)
    *_, layers, core = torchs(kind)
    count = core.count(layers.first)
    assert count == (HIDDEN if kind == "mlp" else WIDTH // HEAD)
    kept, gone = torch.tensor([0, 2]), [unit for unit in range(count) if unit not in (0, 2)]
    first = linear(torch.randn(2, 5, WIDTH).double(), layers.first)
    masked = layers.second.weight.clone()
    masked[:, core.columns(torch.tensor(gone))] = 0
    whole = core.middle(first) @ masked.T
    part = core.middle(core.pick(first, kept)) @ layers.second.weight[:, core.columns(kept)].T
    torch.testing.assert_close(part, whole)
    rows = core.rows(kept, count)
    torch.testing.assert_close(core.pick(first, kept), first[..., rows])


@torch.no_grad()
def test_what_sees_the_sites_replaces_their_values() -> None:
    *_, layers, core = torchs("mlp")
    x, seen = torch.randn(1, 3, WIDTH).double(), []

    def at(site: str, value: Tensor) -> Tensor:
        seen.append(site)
        return torch.zeros_like(value) if site == "act" else value

    torch.testing.assert_close(run(x, layers, core, EPS, at), layers.second.bias.expand(1, 3, WIDTH))
    assert seen == ["norm2", "fc1", "act", "fc2"]
    assert normalise(x, layers.norm, EPS).shape == x.shape


def test_tensors_are_found_by_name_and_are_nobodys() -> None:
    weight = torch.ones(2, 2)
    held = Tensors({"norm.weight": weight, "norm.bias": torch.zeros(2)})
    weight.zero_()
    assert held["norm.weight"].all()
    assert "norm.weight" in held
    assert "first.weight" not in held
    assert held.double().layer("norm").weight.dtype == torch.float64
