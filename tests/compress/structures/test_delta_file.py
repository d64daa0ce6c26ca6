"""Delta files: every bit comes back, and damage of any kind is one sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import OutChannels
from slimtask.errors import InputError
from tests.compress.structures.deltas import base_model, make_delta


def test_a_file_gives_back_every_bit(tmp_path: Path) -> None:
    model = base_model()
    delta, dense = make_delta(model, Execution(feed="own", rows=0.5, thresholds={"a.fc1": 0.1}))
    delta.save(tmp_path / "d.safetensors")
    read = Delta.load(tmp_path / "d.safetensors")
    assert (read.task, read.base, read.execution) == (delta.task, delta.base, delta.execution)
    assert list(read.changes) == list(delta.changes)
    for name, change in read.changes.items():
        assert change.pattern == delta.changes[name].pattern
        assert torch.equal(change.dense(), dense[name])
    read.check(model)
    stored = sum(len(change.values) + len(change.kept) for change in delta.changes.values())
    assert (tmp_path / "d.safetensors").stat().st_size < 4 * stored + 3000  # nothing dense in it


def test_an_empty_change_is_kept(tmp_path: Path) -> None:
    model = base_model()
    change = Change.of(OutChannels(), torch.zeros(8, 6), torch.zeros(8, 6, dtype=torch.bool))
    delta = Delta(task="depth", base=digest(model, ["0.weight"]), changes={"0.weight": change})
    delta.save(tmp_path / "d.safetensors")
    assert Delta.load(tmp_path / "d.safetensors").density == 0
    assert torch.equal(delta.merged(model)[0].weight, model[0].weight)


def rewrite(path: Path, tensors: dict[str, torch.Tensor], **header: object) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["slimtask-delta"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(held | tensors, path, metadata={"slimtask-delta": json.dumps(metadata | header)})


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"0.kept": torch.tensor([2, 9], dtype=torch.int32)}, {}, "rising numbers below 8"),
        ({"0.kept": torch.tensor([5, 2], dtype=torch.int32)}, {}, "rising numbers below 8"),
        ({"0.kept": torch.tensor([-1, 2], dtype=torch.int32)}, {}, "rising numbers below 8"),
        ({"0.kept": torch.tensor([2.0, 5.0])}, {}, "no list of indices"),
        ({"0.values": torch.zeros(11)}, {}, "has 11 values, its 2 units need 12"),
        ({"0.values": torch.full((12,), float("inf"))}, {}, "NaN or infinity"),
        ({"9.values": torch.zeros(1)}, {}, "not those that its metadata lists"),
        ({}, {"schema_version": 2}, "damaged metadata"),
        ({}, {"base": "no digest"}, "damaged metadata"),
        ({}, {"execution": {"feed": "other"}}, "execution|feed"),
        ({}, {"entries": []}, "not those that its metadata lists"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, tensors: dict, header: dict, message: str) -> None:
    path = tmp_path / "d.safetensors"
    make_delta(base_model())[0].save(path)
    rewrite(path, tensors, **header)
    with pytest.raises(InputError, match=message) as raised:
        Delta.load(path)
    assert "d.safetensors" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    make_delta(base_model())[0].save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"delta file '.*d\.safetensors' is damaged: .* SHA-256"):
        Delta.load(path)


def test_a_truncated_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    make_delta(base_model())[0].save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        Delta.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not one of a delta"):
        Delta.load(path)
    huge = {"entries": [{"parameter": "0.weight", "pattern": {"kind": "unstructured"}, "shape": [2**20, 2**20]}]}
    make_delta(base_model())[0].save(path)
    rewrite(path, {}, **huge)
    with pytest.raises(InputError, match="more than"):
        Delta.load(path)
