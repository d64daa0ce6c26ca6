"""The fuzzer: its networks repeat, hold on a sample, and a removal that is wrong does not get past it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.bench import fuzz_checks, fuzz_compress
from slimtask.bench.fuzz_checks import Findings, check_network, example_of, noise_of, readers_ignore
from slimtask.bench.fuzz_networks import Chain, network
from slimtask.bench.kill import kill_, kill_half_
from slimtask.bench.onnx_check import largest_rel_error
from slimtask.compress.groups import find_groups
from slimtask.compress.inputs import named_outputs
from slimtask.compress.remove import Compressed, remove_zeros

pytestmark = pytest.mark.filterwarnings("ignore:input's size at dim=1:UserWarning")


@pytest.mark.parametrize("seed", range(20))
def test_pruning_and_exact_removal_hold_on_random_networks(seed: int, tmp_path: Path) -> None:
    row = check_network(seed, tmp_path, onnx=False)
    assert row["failures"] == []
    assert row["groups"] > 0


def test_one_network_through_onnx_too(tmp_path: Path) -> None:
    assert check_network(2, tmp_path)["failures"] == []


def test_a_seed_is_always_the_same_network() -> None:
    for seed in (0, 3, 7):
        one, two = network(seed), network(seed)
        with torch.no_grad():
            a, b = named_outputs(one(noise_of(seed))), named_outputs(two(noise_of(seed)))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert str(network(3)) != str(network(7))


def spoiled(change: Callable[[nn.Module], None]) -> Callable[..., Compressed]:
    """Return a remove_zeros whose result is changed afterwards: a removal that is wrong although certified."""

    def remove(model: nn.Module, example: Any) -> Compressed:
        done = remove_zeros(model, example)
        change(done.model)
        return done

    return remove


def test_a_wrong_removal_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(model: nn.Module) -> None:
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.weight.data[0] *= 1.01

    monkeypatch.setattr(fuzz_checks, "remove_zeros", spoiled(change))
    row = check_network(2, tmp_path, onnx=False)
    assert row["status"] == "fail"
    assert "outputs without zeros" in [failure["check"] for failure in row["failures"]]


def test_a_removal_that_does_nothing_in_silence_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(model: nn.Module, example: Any) -> Compressed:
        empty = network(8)  # what has no zeros loses nothing
        return Compressed(model=model, plan=remove_zeros(empty, example).plan, certificate=certificate)

    certificate = remove_zeros(network(8), example_of(8)).certificate
    monkeypatch.setattr(fuzz_checks, "remove_zeros", nothing)
    row = check_network(8, tmp_path, onnx=False)
    assert isinstance(network(8), Chain)
    assert "silent no-op" in [failure["check"] for failure in row["failures"]]


def test_an_exception_is_a_failure_with_its_place() -> None:
    found = Findings(0)
    assert found.run("check", lambda: example_of(0)[5]) is None
    assert found.failures[0]["check"] == "check"
    assert found.failures[0]["error"].startswith("IndexError at test_fuzz_compress.py:")


def test_readers_that_ignore_channels_compute_what_zero_inputs_do() -> None:
    """In a chain the truth is known otherwise: the activations themselves set to zero by a hook."""
    net = network(8)
    groups = find_groups(net, example_of(8))
    group = groups[0]
    stays = torch.arange(group.channels) % 2 == 0
    hooked = copy.deepcopy(net)
    assert isinstance(hooked, nn.Sequential)
    hooked[2].register_forward_hook(lambda module, args, output: output * stays[:, None, None])
    with torch.no_grad():
        truth, got = hooked(noise_of(8)), readers_ignore(net, [(group, stays)])(noise_of(8))
    assert largest_rel_error({"": truth}, {"": got}) < 1e-6
    assert largest_rel_error({"": truth}, {"": net(noise_of(8)).detach()}) > 1e-3


@pytest.mark.parametrize("kind", ["filter", "gamma", "beta", "readers"])
def test_killing_zeroes_what_its_kind_says(kind: str) -> None:
    net = network(8)
    assert isinstance(net, nn.Sequential)
    group = find_groups(net, example_of(8))[0]
    dead = torch.arange(group.channels) < 3
    kill_(net, group, dead, kind)  # type: ignore[arg-type]
    conv, norm, reader = net[0], net[1], net[3]
    assert bool((conv.weight[:3] == 0).all()) == (kind != "readers")
    assert bool((norm.weight[:3] == 0).all()) == (kind in ("gamma", "beta"))
    assert bool((norm.bias[:3] == 0).all()) == (kind == "beta")
    assert bool((reader.weight[:, :3] == 0).all()) == (kind == "readers")
    assert bool((conv.weight[3:] != 0).any())


def test_half_of_every_open_group_is_killed() -> None:
    net = network(8)
    groups = find_groups(net, example_of(8))
    killed = kill_half_(net, groups, seed=0)
    assert [int(one.channels.sum()) for one in killed] == [g.channels // 2 for g in groups if g.refused is None]


def test_the_command_writes_rows_and_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(module: str, arguments: list[str], log: Path, timeout_seconds: float) -> str:
        """Check three networks and die on the fourth."""
        ran.append(arguments)
        first, count = int(arguments[0]), int(arguments[1])
        rows = [{"seed": s, "status": "pass", "failures": [], "seconds": 1.0} for s in range(first, first + count)]
        Path(arguments[2]).write_text("".join(json.dumps(row) + "\n" for row in rows if row["seed"] != 13))
        return "killed by signal 11" if first <= 13 < first + count else ""

    monkeypatch.setattr(fuzz_compress, "run_module", run)
    status = fuzz_compress.main(["--networks", "14", "--jobs", "1", "--json", str(tmp_path / "fuzz.json")])
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert status == 1
    assert [row["seed"] for row in result["networks"]] == list(range(14))
    assert result["summary"]["failed_seeds"] == [13]
    assert "killed by signal 11" in result["networks"][13]["failures"][0]["error"]
    assert json.loads(capsys.readouterr().out)["summary"]["networks"] == 14
