"""Seals: whatever byte of a file changes is noticed, equal content is equal bytes, files without one are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimtask.checkpoint import read_safetensors, write_safetensors
from slimtask.errors import InputError
from slimtask.seal import SEAL, UNSEALED, seal_

TENSORS = {"a": torch.arange(6.0), "b": -torch.arange(6.0), "c": torch.tensor(True)}
METADATA = {
    "slimtask": '{"who": "Zoë \\" \\\\ \\n\\u001f \\u007f"}',
    "also": "\x1f\x7f\t\b ü 🙂 \\u0041",
    "zero": UNSEALED,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "a.safetensors", TENSORS, METADATA)
    return tmp_path / "a.safetensors"


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def test_what_is_written_is_read_and_other_readers_take_it_too(path: Path) -> None:
    tensors, metadata = read_safetensors(path, "file")
    assert metadata.pop(SEAL) != UNSEALED
    assert metadata == METADATA
    for found in (tensors, load_file(path)):
        assert set(found) == set(TENSORS)
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_the_seal_is_the_hash_of_header_and_data(path: Path) -> None:
    header, data = parts(path)
    seal = header["__metadata__"].pop(SEAL)
    assert hashlib.sha256(json.dumps(header, sort_keys=True).encode() + data).hexdigest() == seal


def test_every_flipped_bit_of_the_tensors_is_noticed(path: Path) -> None:
    raw, (_, data) = path.read_bytes(), parts(path)
    for place in range(len(raw) - len(data), len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        with pytest.raises(InputError, match=r"file '.*a\.safetensors' is damaged: .* SHA-256"):
            read_safetensors(path, "file")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"a":{', b'"d":{'),
        (b'"F32","shape":[6]', b'"I32","shape":[6]'),
        (b'"shape":[6]', b'"shape":[6,1]'),
        (b"who", b"wha"),
    ],
)
def test_a_header_that_still_reads_is_noticed_too(path: Path, old: bytes, new: bytes) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].replace(old, new, 1)
    assert header != raw[8 : 8 + length]
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    with pytest.raises(InputError, match=r"a\.safetensors' is damaged"):
        read_safetensors(path, "file")


def test_equal_content_is_equal_bytes(path: Path) -> None:
    raw = path.read_bytes()
    for _ in range(8):  # safetensors alone leaves the order of the metadata to chance
        write_safetensors(path, TENSORS, METADATA)
        assert path.read_bytes() == raw


def test_a_file_without_a_seal_is_read(path: Path) -> None:
    save_file(TENSORS, path, metadata={"slimtask": "{}"})
    assert set(read_safetensors(path, "file")[0]) == set(TENSORS)
    save_file(TENSORS, path)
    assert read_safetensors(path, "file")[1] == {}


def test_a_header_that_has_no_room_is_left_alone(path: Path) -> None:
    save_file(TENSORS, path, metadata={"slimtask": "{}"})
    raw = path.read_bytes()
    with pytest.raises(ValueError, match="a seal cannot be put"):
        seal_(path)
    assert path.read_bytes() == raw
