"""The state of a run on disk: what was written is read, and damage is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slimtask.errors import InputError
from slimtask.train.state import load_state, save_state

SECTIONS = {"model": {"a.weight": torch.arange(6.0)}, "optimizer": {"state/0/step": torch.tensor(3.0)}}
FACTS = {"step": 3, "lambda": 0.1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_state(tmp_path / "state.safetensors", SECTIONS, FACTS)
    return tmp_path / "state.safetensors"


def test_what_is_written_is_read(path: Path) -> None:
    sections, facts = load_state(path)
    assert facts == FACTS
    assert {name: set(content) for name, content in sections.items()} == {n: set(c) for n, c in SECTIONS.items()}
    for name, content in SECTIONS.items():
        assert all(torch.equal(sections[name][key], tensor) for key, tensor in content.items())


def test_a_flipped_byte_and_a_missing_end_are_named(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(InputError, match=r"training state '.*' is damaged: .* SHA-256"):
        load_state(path)
    path.write_bytes(raw[:-1])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_state(path)


def test_other_tensors_are_no_state(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="was not written by `slimtask train`"):
        load_state(tmp_path / "other.safetensors")
