"""`compress --align auto` for zeros, channels and parameters, from the command line to the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.bench import faster as speed_up
from slimtask.bench.layers import meter
from slimtask.bench.layers import table as latency_table
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.cli.network import Network
from slimtask.cli.staircase import compress_by_table
from slimtask.compress.rebuilding import rebuild
from slimtask.errors import InputError
from slimtask.tasks import Preprocessing
from slimtask.train.models import MultiTaskNet

CONDITIONS = Conditions(
    backend="fake", backend_version="0", device="none", precision="fp32", threads=1, batch=1, shape=(3, 32, 32),
    run_id="one",
)  # fmt: skip
EXAMPLE = torch.zeros(1, 3, 32, 32)


@pytest.fixture(autouse=True)
def _made_up_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole blocks of 16 channels cost, the exporter writes nothing, the smaller graph takes half the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def blocks(shape: object, inputs: int, outputs: int, **_: object) -> float:
        return 0.01 * -(-inputs // 16) * -(-outputs // 16)

    def export(network: nn.Module, example: torch.Tensor, path: Path) -> Path:
        path.write_bytes(b"0" * sum(parameter.numel() for parameter in network.parameters()))
        return path

    monkeypatch.setattr(latency_table, "time_layer", blocks)
    monkeypatch.setattr(meter, "export", export)
    monkeypatch.setattr(speed_up, "measure_graphs", by_size(1e-4))


def by_size(milliseconds: float) -> Callable[[dict[str, Path], int], dict[str, Measurement]]:
    """Return a clock by which a graph takes ``milliseconds`` a byte, below 0 the less the larger it is."""

    def timed(graphs: dict[str, Path], threads: int) -> dict[str, Measurement]:
        sizes = {name: path.stat().st_size for name, path in graphs.items()}
        ms = {name: size * milliseconds if milliseconds > 0 else -milliseconds / size for name, size in sizes.items()}
        return {name: Measurement(samples_ms=(value,) * 5, conditions=CONDITIONS) for name, value in ms.items()}

    return timed


@pytest.fixture
def net(small_net: Callable[..., MultiTaskNet], kill: Callable[..., None], tmp_path: Path) -> MultiTaskNet:
    """A network with dead channels, and its checkpoint net.safetensors."""
    model = small_net()
    kill(model, "filter", "trunk")
    Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=32, width=32),
    ).save(tmp_path / "net.safetensors")
    return model


@pytest.mark.parametrize(("option", "of"), [("--keep", "channels"), ("--params", "params")])
def test_a_budget_is_met_with_counts_worth_having(
    option: str, of: str, slimtask: Callable[..., int], net: MultiTaskNet
) -> None:
    words = ["compress", "net.safetensors", "--out", "small.safetensors", "--json", "small.json", "--align", "auto"]
    assert slimtask(*words, option, "0.6") == 0
    result = json.loads(Path("small.json").read_text())
    groups = result["plan"]["groups"]
    assert all(group["after"] % 16 == 0 or group["after"] == group["before"] for group in groups)
    if of == "params":
        assert result["after"]["params"] <= 0.6 * result["before"]["params"]
    else:
        assert sum(group["after"] for group in groups) <= 0.6 * sum(group["before"] for group in groups)
    assert result["certificate"]["holds"]
    assert result["latency"]["measured_ms"] < result["latency"]["dense_ms"]
    smaller = Checkpoint.load("small.safetensors")
    assert smaller.provenance["compressed"][-1]["align"] == "auto"
    assert sum(p.numel() for p in rebuild(smaller).parameters()) == result["after"]["params"]


def test_zeros_go_down_to_a_count_worth_having(slimtask: Callable[..., int], net: MultiTaskNet) -> None:
    words = ["compress", "net.safetensors", "--out", "small.safetensors", "--json", "small.json", "--align", "auto"]
    assert slimtask(*words, "--zeros") == 0
    groups = json.loads(Path("small.json").read_text())["plan"]["groups"]
    assert any(group["after"] < group["before"] for group in groups)
    assert all(group["after"] % 16 == 0 or group["after"] in (group["before"], 1) for group in groups)
    x = torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        one, two = net.double()(x), rebuild(Checkpoint.load("small.safetensors")).double()(x)
    assert all(float((one[name] - two[name]).abs().max() / one[name].abs().max()) < 1e-5 for name in one)


def test_slower_than_dense_is_a_failed_check(
    slimtask: Callable[..., int],
    net: MultiTaskNet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(speed_up, "measure_graphs", by_size(-1e4))
    words = ["compress", "net.safetensors", "--out", "small.safetensors", "--align", "auto"]
    assert slimtask(*words, "--keep", "0.6") == 1
    assert "keep the dense one" in capsys.readouterr().err
    assert not Path("small.safetensors").exists()


def test_several_inputs_and_no_budget_are_one_sentence(
    slimtask: Callable[..., int], net: MultiTaskNet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slimtask("compress", "net.safetensors", "--out", "x.safetensors", "--align", "auto", "--params", "-1") == 2
    assert "--params -1 is no budget" in capsys.readouterr().err
    two = Checkpoint(
        weights={},
        architecture=Architecture(name="mine:Two", arguments={}),
        tasks=(),
        preprocessing=None,
        inputs=((1, 3, 8, 8), (1, 3, 8, 8)),
    )
    with pytest.raises(InputError, match="a network of one input; this one has several, give a number"):
        compress_by_table(Network(checkpoint=two, factory=nn.Identity), {})
