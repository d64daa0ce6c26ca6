from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.bench.studies import optimizer_step
from slimtask.files import read_json
from slimtask.train.sparsity import ProximalAdamW, input_channel_layout


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace ResNet-50 by two convolutions, and give the threads back afterwards."""

    def stands() -> dict[str, optimizer_step.Stand]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
        layout = input_channel_layout(net.named_parameters())
        scales = {"2.weight": torch.linspace(0, 1, 8).view(1, -1, 1, 1)}
        return {
            optimizer_step.BASELINE: optimizer_step.Stand(net, partial(torch.optim.AdamW, lr=1e-3), {}),
            "proximal": optimizer_step.Stand(net, partial(ProximalAdamW, layout=layout, lr=1e-3), scales),
        }

    monkeypatch.setattr(optimizer_step, "stands", stands)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("small")
def test_command_writes_ratios_and_the_state_they_were_measured_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "step.json"
    optimizer_step.main(["--rounds", "8", "--settle", "60", "--threads", "1", "--json", str(target)])
    result = read_json(target, "result")
    baseline, ours = result["candidates"].values()
    assert baseline["ratio"]["median_of_pairs"] == 1.0
    assert baseline["groups"] == {}
    assert ours["ratio"]["low"] <= ours["ratio"]["of_medians"] <= ours["ratio"]["high"]
    assert ours["measurement"]["summary"]["n"] == 8
    assert ours["measurement"]["conditions"]["threads"] == 1
    assert ours["groups"]["count"] == 11
    assert 0 < ours["groups"]["zero"] < 0.6
    assert "proximal" in capsys.readouterr().out


def test_coupled_groups_are_those_of_the_residual_network() -> None:
    from torchvision.models import resnet50

    model = resnet50()
    layout = optimizer_step.coupled_layout(model.named_parameters())
    named = dict(model.named_parameters())
    assert {member.parameter for member in layout.members} == set(named) - {"fc.weight", "fc.bias"}
    streams = 256 + 512 + 1024 + 2048
    inner = 64 + sum(2 * width * blocks for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)))
    assert len(layout) == streams + inner
    assert int(layout.group_sizes.sum()) == sum(p.numel() for name, p in named.items() if not name.startswith("fc"))
    scales = optimizer_step.group_scales(layout, torch.Generator().manual_seed(0))
    assert all((named[name] * scale).shape == named[name].shape for name, scale in scales.items())
    stream = [scales[f"layer1.{block}.conv3.weight"].flatten() for block in range(3)]
    assert torch.equal(stream[0], stream[2])
    assert torch.equal(stream[0], scales["layer1.0.bn3.bias"])
