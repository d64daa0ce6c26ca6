"""The checks: they hold on a sample of networks, and a result that is wrong in any way does not get past them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.bench.studies.fuzz import checks as fuzz_checks
from slimtask.bench.studies.fuzz.checks import check_network, kill_rows_
from slimtask.bench.studies.fuzz.networks import CLASSIC, Chain, network
from slimtask.bench.studies.fuzz.user import Findings, User, example_of, noise_of
from slimtask.compress.pruning import prune
from slimtask.compress.removal.remove import Compressed, remove_zeros
from slimtask.errors import CheckFailed, InputError

pytestmark = pytest.mark.filterwarnings("ignore:input's size at dim=1:UserWarning")
Change = Callable[[nn.Module, nn.Module], Any]


@pytest.mark.parametrize("seed", range(4))  # `make fuzz-compress` takes 1,000
def test_pruning_and_exact_removal_hold_on_random_networks(seed: int, tmp_path: Path) -> None:
    row = check_network(seed, tmp_path, onnx=False, only=[*CLASSIC])
    assert row["failures"] == []
    assert row["status"] == "pass"
    assert row["pruned"]["channels"] > 0


@pytest.mark.parametrize("seed", [0, 8])
def test_they_hold_on_chains(seed: int, tmp_path: Path) -> None:
    assert isinstance(network(seed), Chain)
    assert check_network(seed, tmp_path, onnx=False)["failures"] == []


def test_one_network_through_onnx_too(tmp_path: Path) -> None:
    row = check_network(2, tmp_path, only=["ConvBlock", "dict"])
    assert row["failures"] == []
    assert row["ONNX"] < 1e-4


def spoiled(change: Change, function: Callable[..., Compressed]) -> Callable[..., Compressed]:
    """Return ``function`` with ``change`` made afterwards to the user's network and the result."""

    def remove(model: nn.Module, example: Any, **keywords: Any) -> Compressed:
        done = function(model, example, **keywords)
        change(model, done.model)
        return done

    return remove


def first_conv(net: nn.Module) -> nn.Conv2d:
    return next(module for module in net.modules() if isinstance(module, nn.Conv2d))


def share(net: nn.Module, smaller: nn.Module) -> None:
    """Let the result's last bias be the user's own."""
    mine = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    its = [module for module in smaller.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    its.bias = mine.bias


def lean(net: nn.Module, smaller: nn.Module) -> None:
    """Let a hook of the result read a tensor of the user's."""
    theirs = first_conv(net).weight.detach()
    was = float(theirs.flatten()[0])
    first_conv(smaller).register_forward_hook(lambda module, args, output: output + (theirs.flatten()[0] - was))


def flat(net: nn.Module, smaller: nn.Module) -> None:
    """Let the result give a tensor where the user's network gives a dictionary."""
    forward = smaller.forward
    smaller.forward = lambda x, **keywords: forward(x, **keywords)["task0"]  # type: ignore[method-assign]


WRONG: dict[str, tuple[str, Change]] = {
    "a weight of the result": ("pruned outputs", lambda net, smaller: first_conv(smaller).weight.data[0].mul_(1.01)),
    "an output that is missing": ("pruned outputs", flat),
    "a weight of the user": ("damage", lambda net, smaller: first_conv(net).weight.data[0].mul_(1.01)),
    "a mode of the user": ("damage", lambda net, smaller: net.train(not net.training)),
    "an attribute of the user": ("damage", lambda net, smaller: setattr(net, "cache", torch.empty(1, device="meta"))),
    "memory of both": ("shares memory", share),
    "memory that a hook reads": ("shares memory", lean),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_pruning_is_found(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, change = WRONG[what]
    monkeypatch.setattr(fuzz_checks, "prune", spoiled(change, prune))
    row = check_network(6, tmp_path, onnx=False, only=["ConvBlock", "PoolHead", "dict"])
    assert row["status"] == "fail"
    assert check in [failure["check"] for failure in row["failures"]]


def test_a_wrong_removal_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = WRONG["a weight of the result"][1]
    monkeypatch.setattr(fuzz_checks, "remove_zeros", spoiled(change, remove_zeros))
    row = check_network(2, tmp_path, onnx=False, only=["ConvBlock"])
    assert "outputs without zeros" in [failure["check"] for failure in row["failures"]]


def test_a_removal_that_does_nothing_in_silence_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(model: nn.Module, example: Any) -> Compressed:
        empty = network(8)  # what has no zeros loses nothing
        return Compressed(model=model, plan=remove_zeros(empty, example).plan, certificate=certificate)

    certificate = remove_zeros(network(8), example_of(8)).certificate
    monkeypatch.setattr(fuzz_checks, "remove_zeros", nothing)
    row = check_network(8, tmp_path, onnx=False)
    assert "silent no-op" in [failure["check"] for failure in row["failures"]]
    assert "shares memory" in [failure["check"] for failure in row["failures"]]


def raising(error: Exception) -> Callable[..., Compressed]:
    def fail(model: nn.Module, example: Any, **keywords: Any) -> Compressed:
        first_conv(model).weight.data[0].mul_(1.01)
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "checks", "refused"),
    [
        (InputError("nothing can go."), [], True),
        (CheckFailed("it differs."), ["check failed"], False),
        (KeyError("x"), ["traceback"], False),
    ],
)
def test_what_is_raised_is_a_refusal_or_a_failure_and_damage_counts_in_each(
    error: Exception, checks: list[str], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_checks, "prune", raising(error))
    row = check_network(8, tmp_path, onnx=False)
    found = [failure["check"] for failure in row["failures"]]
    assert found == [*checks, "damage", "damage"]  # its value, and what it computes
    assert ("prune" in row["refusals"]) == refused
    assert {fate for _, fate in row["constructs"]} == {"refused" if refused else "failed"}


def test_where_a_statistic_runs_over_removed_channels_only_the_certificate_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = check_network(1, tmp_path, onnx=False, only=["ConvBlock"])
    assert row["certificate only"] == []
    monkeypatch.setattr(CLASSIC["ConvBlock"], "over_channels", True, raising=False)
    row = check_network(1, tmp_path, onnx=False, only=["ConvBlock"])
    assert set(row["certificate only"]) == {"ConvBlock"}


def test_an_exception_is_a_failure_with_its_place() -> None:
    found = Findings(0)
    assert found.run("check", lambda: example_of(0)[5]) is None
    assert found.failures[0]["check"] == "check"
    assert found.failures[0]["error"].startswith("IndexError at test_checks.py:")


def test_a_user_has_the_network_in_every_state() -> None:
    users = [User(seed) for seed in range(60)]
    assert {(user.mode, user.ran is None) for user in users} >= {("eval", True), ("train", False), ("mixed", True)}
    net = User(4, ["ConvBlock"]).network()
    modes = {module.training for module in net.modules()}
    assert modes == {True, False}


def test_inputs_are_noise_a_bright_image_and_another_size_if_it_is_taken() -> None:
    free, fixed = User(2, ["ConvBlock", "PoolHead"]).inputs(), User(2, ["FourierFilter", "PoolHead"]).inputs()
    assert [x.shape[-1] for x in free] == [24, 24, 32]
    assert [x.shape[-1] for x in fixed] == [24, 24]
    assert float(free[1].mean()) > 2
    assert torch.equal(free[0], noise_of(2))


def test_rows_are_killed_without_any_knowledge_of_groups() -> None:
    net = kill_rows_(network(8), 0)
    conv = first_conv(net)
    assert int((conv.weight.flatten(1) == 0).all(1).sum()) == len(conv.weight) // 2
