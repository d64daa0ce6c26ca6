"""The transformer trunk against torchvision's, its sites, its sizes, and what can be removed from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, vit_b_16

from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.pruning import prune
from slimtask.compress.score.budget import Budget
from slimtask.errors import InputError
from slimtask.export.onnx import export_onnx
from slimtask.tasks import TaskSpec
from slimtask.train.models import MultiTaskNet, ViTTrunk, multitask_net
from slimtask.train.models.vit import sincos_embedding

DENSE = TaskSpec(name="depth", kind="depth", channels=1)
IMAGE = TaskSpec(name="room", kind="classification", channels=4)


def tiny(seed: int = 0, **arguments: object) -> MultiTaskNet:
    torch.manual_seed(seed)
    chosen = {"trunk": "vit_tiny", "width": 0.5, "head": "convnext", "head_hidden": 128, **arguments}
    return multitask_net(tasks=(DENSE, IMAGE), **chosen).eval()


def test_it_computes_what_torchvision_computes_with_its_weights() -> None:
    torch.manual_seed(0)
    theirs = VisionTransformer(96, 8, num_layers=6, num_heads=4, hidden_dim=128, mlp_dim=512).eval()
    ours = ViTTrunk("vit_tiny").eval()
    ours.encoder.grid = (12, 12)
    ours.encoder.pos_embedding = nn.Parameter(torch.empty(1, 145, 128))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    weights = {name: p for name, p in theirs.state_dict().items() if not name.startswith("heads.")}
    ours.load_state_dict(weights)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        tokens = theirs._process_input(x)
        expected = theirs.encoder(torch.cat([theirs.class_token.expand(2, -1, -1), tokens], dim=1))[:, 1:]
        got = ours(x)
    assert got.shape == (2, 128, 12, 12)
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)


def test_the_base_model_takes_torchvisions_names_and_shapes() -> None:
    with torch.device("meta"):
        ours, theirs = ViTTrunk("vit_b_16").state_dict(), vit_b_16().state_dict()
    expected = {name: p.shape for name, p in theirs.items() if not name.startswith("heads.")}
    assert {name: p.shape for name, p in ours.items()} == expected


def test_the_sites_are_passed_in_order_and_can_be_replaced() -> None:
    trunk, seen = tiny().trunk, []

    def look(site: str, value: torch.Tensor) -> torch.Tensor:
        seen.append(site)
        return value

    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        plain, looked = trunk(x), trunk(x, at=look)
        muted = trunk(x, at=lambda site, value: value * 0 if site.endswith(("proj", "fc2")) else value)
    assert torch.equal(plain, looked)
    order = ["attention", "norm1", "qkv", "proj", "mlp", "norm2", "fc1", "act", "fc2"]
    assert seen == [f"encoder_layer_{i}.{site}" for i in range(6) for site in order]
    with torch.no_grad():  # without its branches the trunk is embedding and final norm
        grid = trunk.conv_proj(x) + trunk.encoder.positions(4, 4)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        expected = trunk.encoder.ln(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(muted, expected)


def test_any_size_of_whole_patches_and_no_other() -> None:
    model = tiny()
    with torch.no_grad():
        out = model(torch.randn(2, 3, 40, 72))
    assert out["depth"].shape == (2, 1, 40, 72)
    assert out["room"].shape == (2, 4)
    with pytest.raises(InputError, match="multiples of 8 pixels, not 40 x 70"):
        model(torch.randn(1, 3, 40, 70))
    with pytest.raises(InputError, match="unknown trunk 'vit_tinny'; did you mean 'vit_tiny'"):
        tiny(trunk="vit_tinny")


def test_the_embedding_tells_places_apart_and_resizes_smoothly() -> None:
    grid = sincos_embedding(4, 6, 32)[0]
    assert grid.shape == (25, 32)
    assert (grid[0] == 0).all()
    assert torch.pdist(grid[1:]).min() > 0.1
    # row 2, column 3: halves for column and row, each sines then cosines, frequencies 1 .. 10000^-(7/8)
    frequencies = 10_000.0 ** (-torch.arange(8) / 8)
    expected = torch.cat([(3 * frequencies).sin(), (3 * frequencies).cos(), (2 * frequencies).sin()])
    torch.testing.assert_close(grid[1 + 2 * 6 + 3][:24], expected)


def test_heads_and_hidden_units_can_be_removed() -> None:
    model, example = tiny(), torch.randn(1, 3, 32, 32)
    groups = {group.name: group for group in find_groups(model, example)}
    free = {name for name, group in groups.items() if group.refused is None}
    for i in range(6):
        assert {f"trunk.encoder.layers.encoder_layer_{i}.mlp.0"} <= free
        assert groups[f"trunk.encoder.layers.encoder_layer_{i}.mlp.0"].channels == 256
    attention = [groups[name] for name in free if "self_attention" in name]
    assert len(attention) >= 6
    assert {"heads.depth.blocks.0.expand", "heads.depth.blocks.1.expand"} <= free
    before = sum(p.numel() for p in model.parameters())
    smaller = prune(model, example, budget=Budget(keep=0.5)).model
    after = sum(p.numel() for p in smaller.parameters())
    assert after < 0.6 * before
    with torch.no_grad():
        assert smaller(example)["depth"].shape == (1, 1, 32, 32)


def test_it_exports_to_onnx(tmp_path: Path) -> None:
    import onnxruntime

    model, example = tiny(), torch.randn(1, 3, 32, 48)
    path = export_onnx(model, None, example, tmp_path / "vit.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(["depth", "room"], {"image": example.numpy()})
    with torch.no_grad():
        expected = model(example)
    for name, output in zip(("depth", "room"), got, strict=True):
        torch.testing.assert_close(torch.from_numpy(output), expected[name], rtol=1e-4, atol=1e-5)
