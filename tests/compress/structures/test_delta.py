"""The Delta noun: exact merging, sizes counted by hand, files that are whole or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import HiddenUnits, OutChannels, Unstructured
from slimtask.errors import InputError


def base_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))


def make_delta(model: nn.Module, execution: Execution | None = None) -> tuple[Delta, dict[str, torch.Tensor]]:
    """Return a delta of two hidden units and a few bias entries, and its dense form made by hand."""
    torch.manual_seed(1)
    dense = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    dense["0.weight"][[2, 5]] = torch.randn(2, 6)
    dense["0.bias"][[2, 5]] = torch.randn(2)
    dense["2.weight"][:, [2, 5]] = torch.randn(6, 2)
    dense["2.bias"][[0, 1, 4]] = torch.randn(3)
    patterns = {
        "0.weight": HiddenUnits(of="mlp", side="out"),
        "0.bias": HiddenUnits(of="mlp", side="out"),
        "2.weight": HiddenUnits(of="mlp", side="in"),
        "2.bias": Unstructured(),
    }
    changes = {name: Change.of(patterns[name], dense[name], dense[name] != 0) for name in dense}
    made = Delta(task="depth", base=digest(model, changes), changes=changes, execution=execution or Execution())
    return made, dense


def test_merging_adds_the_delta_and_nothing_else() -> None:
    model = base_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    delta, dense = make_delta(model)
    merged = dict(delta.merged(model).named_parameters())
    for name, p in model.named_parameters():
        assert torch.equal(merged[name], before[name] + dense[name])
        assert torch.equal(p, before[name])


def test_density_and_size_are_counted_by_hand() -> None:
    delta, _ = make_delta(base_model())
    values, total = 12 + 2 + 12 + 3, 48 + 8 + 48 + 6
    assert delta.density == values / total
    assert delta.densities()["2.bias"] == 0.5
    size = delta.size()
    assert (size.values_bytes, size.index_bytes, size.dense_bytes) == (4 * values, 4 * (2 + 3), 4 * total)
    assert size.ratio == (values + 5) / total


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


def test_what_does_not_fit_is_refused() -> None:
    model = base_model()
    delta, _ = make_delta(model)
    other = base_model()
    other[0].weight.data[0, 0] += 1
    with pytest.raises(InputError, match="other base weights"):
        delta.merged(other)
    with pytest.raises(InputError, match=r"'0.weight' is \[3, 6\], the delta \[8, 6\]"):
        delta.check(nn.Sequential(nn.Linear(6, 3)))
    with pytest.raises(InputError, match=r"no parameter '0\.weight'"):
        delta.check(nn.Sequential(nn.GELU()))
    with pytest.raises(InputError, match="reuses the base task's activations"):
        make_delta(model, Execution(feed="base"))[0].merged(model)
    with pytest.raises(InputError, match="does not have the pattern 'out-channels'"):
        Change.of(OutChannels(), torch.ones(2, 2), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(InputError, match="holds NaN"):
        Change.of(Unstructured(), torch.tensor([float("nan")]), torch.tensor([True]))


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
