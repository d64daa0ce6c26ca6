"""Checkpoints: a round trip loses nothing; every damaged kind is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from slimtask.checkpoint import Architecture, Checkpoint, holds_metadata, read_safetensors
from slimtask.compress.rebuilding import rebuild
from slimtask.errors import InputError
from slimtask.tasks import Preprocessing
from slimtask.train.models import MultiTaskNet

NetMaker = Callable[..., MultiTaskNet]


@pytest.fixture
def checkpoint(small_net: NetMaker) -> Checkpoint:
    model = small_net(trunk="resnet18")
    return Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=32, width=48),
        provenance={"seed": 0},
    )


def test_round_trip_rebuilds_the_same_network(checkpoint: Checkpoint, small_net: NetMaker, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors")
    assert (loaded.tasks, loaded.architecture, loaded.provenance) == (
        checkpoint.tasks,
        checkpoint.architecture,
        checkpoint.provenance,
    )
    x = torch.randn(2, 3, 32, 48)
    expected, got = small_net()(x), rebuild(loaded)(x)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_truncated_foreign_missing_and_empty_files_are_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    whole = tmp_path / "a.safetensors"
    checkpoint.save(whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for name, words in (
        ("cut", "not a whole safetensors file"),
        ("empty", "not a whole safetensors file"),
        ("foreign", "not one of slimtask's"),
        ("absent", "does not exist"),
    ):
        with pytest.raises(InputError, match=rf"{name}\.safetensors.*{words}"):
            Checkpoint.load(tmp_path / f"{name}.safetensors")


def test_nan_is_refused_on_both_ways(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    weights["trunk.stem.0.weight"][0, 0, 0, 0] = float("nan")
    broken = checkpoint.with_changes(weights=weights)
    with pytest.raises(InputError, match=r"NaN or infinity in 'trunk\.stem\.0\.weight'"):
        broken.save(tmp_path / "a.safetensors")
    checkpoint.save(tmp_path / "a.safetensors")
    _, metadata = read_safetensors(tmp_path / "a.safetensors", "checkpoint")
    save_file(weights, tmp_path / "b.safetensors", metadata={"slimtask": metadata["slimtask"]})
    with pytest.raises(InputError, match="NaN or infinity"):
        Checkpoint.load(tmp_path / "b.safetensors")


def test_a_flipped_byte_of_the_weights_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.safetensors")
    data = bytearray((tmp_path / "a.safetensors").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"checkpoint '.*a\.safetensors' is damaged: .* SHA-256"):
        Checkpoint.load(tmp_path / "a.safetensors")


def test_weights_of_another_network_do_not_load(checkpoint: Checkpoint) -> None:
    other = checkpoint.with_changes(architecture=Architecture(name="multitask-net", arguments={"width": 0.5}))
    with pytest.raises(InputError, match="does not fit the architecture"):
        rebuild(other)
    fewer = {name: tensor for name, tensor in checkpoint.weights.items() if "stem" not in name}
    with pytest.raises(InputError, match=r"not whole: it lacks 'trunk\.stem"):
        rebuild(checkpoint.with_changes(weights=fewer))


def test_unknown_architectures_and_arguments_are_named(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="'multitask-nt' is not registered; did you mean 'multitask-net'"):
        rebuild(checkpoint.with_changes(architecture=Architecture(name="multitask-nt", arguments={})))
    with pytest.raises(InputError, match="does not take these arguments"):
        rebuild(checkpoint.with_changes(architecture=Architecture(name="multitask-net", arguments={"depth": 3})))


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 0.25, "head_hidden": 2**40},
        {"width": 0.25, "head_hidden": -5},
        {"width": 0.25, "head_hidden": {"depth": 2**40}},
        {"width": 0.25, "head_hidden": {"depth": "16"}},
        {"width": 0.25, "head_hidden": {"dept": 16}},
        {"width": float("inf")},
    ],
)
def test_crafted_sizes_allocate_nothing(checkpoint: Checkpoint, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        rebuild(checkpoint.with_changes(architecture=Architecture(name="multitask-net", arguments=arguments)))


def test_a_plan_in_a_file_must_be_a_plan(checkpoint: Checkpoint) -> None:
    layer = {"module": "trunk.stem.0", "outputs_before": 16, "inputs_before": 3, "outputs": [0, 0]}
    with pytest.raises(InputError, match="must keep rising channels"):
        rebuild(checkpoint.with_changes(edits=({"kind": "plan", "layers": [layer], "groups": []},)))
    with pytest.raises(InputError, match="edit is not valid"):
        rebuild(checkpoint.with_changes(edits=({"kind": "plan", "layers": "all"},)))


def test_tied_weights_are_saved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = {**checkpoint.weights, "twin": checkpoint.weights["trunk.stem.0.weight"]}
    checkpoint.with_changes(weights=weights).save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors").weights
    assert torch.equal(loaded["twin"], loaded["trunk.stem.0.weight"])


def test_rebuilding_leaves_the_checkpoint_as_it_is(checkpoint: Checkpoint) -> None:
    before = checkpoint.weights["trunk.stem.0.weight"].clone()
    with torch.no_grad():
        next(rebuild(checkpoint).parameters()).zero_()
    assert torch.equal(checkpoint.weights["trunk.stem.0.weight"], before)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON header of a checkpoint file."""
    tensors, metadata = read_safetensors(path, "checkpoint")
    header = json.loads(metadata["slimtask"])
    change(header)
    save_file(tensors, path, metadata={"slimtask": json.dumps(header)})


def test_files_from_before_inputs_still_load(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.safetensors")
    rewritten(tmp_path / "a.safetensors", lambda header: header.pop("inputs"))
    loaded = Checkpoint.load(tmp_path / "a.safetensors")
    assert loaded.inputs == ()
    assert loaded.example().shape == (1, 3, 32, 48)


@pytest.mark.parametrize("shape", [[], [0], [-1, 3], [1] * 9, [2**20, 2**20], [1.5], ["a"]])
def test_crafted_inputs_are_refused(checkpoint: Checkpoint, tmp_path: Path, shape: list[object]) -> None:
    checkpoint.save(tmp_path / "a.safetensors")
    rewritten(tmp_path / "a.safetensors", lambda header: header.update(inputs=[shape]))
    with pytest.raises(InputError, match="damaged metadata"):
        Checkpoint.load(tmp_path / "a.safetensors")


def test_an_input_that_nothing_tells_is_an_error(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="does not say which input"):
        checkpoint.with_changes(preprocessing=None).example()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": [[1, 3, 2048, 2048]] * 3}, "more than 33,554,432 elements together"),
        ({"inputs": [[1, 8]], "also": [[[1, 2**13, 2**11]]] * 3}, "elements together"),
        ({"preprocessing": {"height": 4096, "width": 4096}}, "more than 8,388,608 pixels"),
        ({"provenance": {"a": json.loads("[" * 150 + "]" * 150)}}, "nested more than 100 deep"),
        ({"provenance": {"a": 10**4000}}, "more than 64 bits"),
        ({"provenance": {"a": "\ud800"}}, "no Unicode"),
        ({"tasks": [{"name": "a", "kind": ["depth"], "channels": 1}]}, "tasks.0.kind"),
    ],
)
def test_metadata_that_would_cost_or_break_something_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    checkpoint.save(tmp_path / "a.safetensors")
    rewritten(tmp_path / "a.safetensors", lambda header: header.update(change))
    with pytest.raises(InputError, match=words):
        Checkpoint.load(tmp_path / "a.safetensors")


def test_a_pipe_or_a_huge_file_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**43)
    for name, words in (("pipe", "a pipe or device"), ("huge", "more than the"), (".", "a folder")):
        with pytest.raises(InputError, match=words):
            Checkpoint.load(tmp_path / name)
        assert not holds_metadata(tmp_path / name, "slimtask")
