"""Masks files: one bit an entry, and damage of any kind is one sentence that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError

A = torch.tensor([[True, True, False], [False, True, False]])


B = torch.tensor([[True, False, True], [False, True, False]])


HEAD = torch.tensor([True, False])


MASKS = Masks(per_task={"a": {"trunk": A, "head_a": HEAD}, "b": {"trunk": B}})


def test_a_file_brings_back_the_same_masks_in_one_bit_an_entry(tmp_path: Path) -> None:
    big = torch.rand(100, 83, generator=torch.Generator().manual_seed(0)) < 0.3
    masks = Masks(shared={"w": big, "scalar": torch.tensor(True)}, per_task={"a": {"v": A}, "b": {"v": B}, "c": {}})
    masks.save(tmp_path / "m.safetensors")
    again = Masks.load(tmp_path / "m.safetensors")
    assert again.tasks == ("a", "b", "c")
    assert torch.equal(again.shared["w"], big)
    assert again.shared["scalar"].shape == ()
    assert torch.equal(again.per_task["b"]["v"], B)
    assert (tmp_path / "m.safetensors").stat().st_size < big.numel() / 8 + 1500
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def damage(path: Path, change: Callable[[dict, dict], None]) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["slimtask-masks"])
    change(tensors, header)
    save_file(tensors, path, metadata={"slimtask-masks": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: h["entries"]["0"].update(shape=[10**6, 10**6]), "its shape .* needs 125000000000"),
        (lambda t, h: h["entries"]["0"].update(shape=[-2, 3]), "damaged metadata"),
        (lambda t, h: h.update(schema_version=2), "damaged metadata .schema_version"),
        (lambda t, h: t.pop("0"), "not those that its metadata lists"),
        (lambda t, h: h["entries"]["0"].update(task="z"), "belongs to no listed task"),
        (lambda t, h: t.update({"0": torch.ones(1)}), "is damaged"),
    ],
)
def test_a_damaged_file_is_named(change: Callable[[dict, dict], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    MASKS.save(path)
    damage(path, change)
    with pytest.raises(InputError, match=f"m.safetensors.*{message}"):
        Masks.load(path)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    MASKS.save(tmp_path / "m.safetensors")
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"masks file '.*m\.safetensors' is damaged: .* SHA-256"):
        Masks.load(tmp_path / "m.safetensors")


def test_a_truncated_a_foreign_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    MASKS.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"m\.safetensors' is not a whole safetensors file"):
        Masks.load(path)
    save_file({"w": torch.ones(1)}, path)
    with pytest.raises(InputError, match="not one of masks"):
        Masks.load(path)
    with pytest.raises(InputError, match=r"nothing\.safetensors' does not exist"):
        Masks.load(tmp_path / "nothing.safetensors")
