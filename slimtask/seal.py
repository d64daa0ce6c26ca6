"""A safetensors file's SHA-256, kept in its own metadata: a byte that flips on disk or on the way is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

from slimtask.errors import InputError

SEAL = "slimtask-sha256"
"""The metadata key. Its value covers all tensor bytes, and the header (names, shapes, metadata) without this key."""
UNSEALED = "0" * 64
_METADATA, _CHUNK_BYTES = "__metadata__", 2**20


def seal_(path: Path | str) -> None:
    """Write the SHA-256 of ``path``, saved with ``UNSEALED`` under the key ``SEAL``, into it, in place.

    The order of the metadata, which safetensors leaves to chance, becomes alphabetic: equal content, equal bytes.
    """
    with Path(path).open("r+b") as file:
        length, header = _header(file)
        metadata = header[_METADATA] | {SEAL: _digest(header, file)}
        sealed = {_METADATA: dict(sorted(metadata.items()))} | {k: v for k, v in header.items() if k != _METADATA}
        text = json.dumps(sealed, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) != length:
            raise ValueError(f"the header of '{path}' is not compact JSON, so a seal cannot be put into it")
        file.seek(8)
        file.write(text)


def check_seal(path: Path | str, what: str, expected: str) -> None:
    """Raise InputError, which calls the file ``what``, if the content of ``path`` has not the SHA-256 ``expected``.

    The file must be known to be a whole safetensors file.
    """
    with Path(path).open("rb") as file:
        _, header = _header(file)
        found = _digest(header, file)
    if found != expected:
        raise InputError(
            f"{what} '{path}' is damaged: its content does not have the SHA-256 that was written into it; write or "
            "copy it again."
        )


def _header(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Return the header's length in bytes and its content; ``file`` stands at the tensor bytes then."""
    length = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(length))
    return length, header


def _digest(header: dict[str, Any], file: BinaryIO) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of the header without its seal and of the rest of ``file``."""
    metadata = {name: value for name, value in header[_METADATA].items() if name != SEAL}
    found = hashlib.sha256(json.dumps(header | {_METADATA: metadata}, sort_keys=True).encode())
    while chunk := file.read(_CHUNK_BYTES):
        found.update(chunk)
    return found.hexdigest()
