"""Deltas on disk: one safetensors file with values and indices, the rest as its JSON metadata. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from slimtask.checkpoint import Shape, holds_metadata, read_safetensors, write_safetensors
from slimtask.compress.structures.patterns import Pattern
from slimtask.documents import parse_json
from slimtask.errors import InputError, first_problem
from slimtask.tasks import Frozen

_KEY = "slimtask-delta"
_KEPT, _VALUES = "kept", "values"


class Stored(NamedTuple):
    """The delta of one parameter as the file holds it; see ``delta.Change``."""

    pattern: Pattern
    shape: tuple[int, ...]
    kept: Tensor
    values: Tensor


class _Entry(Frozen):
    """What the metadata says of one parameter; its tensors are named by its number."""

    parameter: str
    pattern: Pattern
    shape: Shape


class _Header(Frozen):
    """The metadata as it stands in the file."""

    kind: Literal["delta"] = "delta"
    schema_version: Literal[1] = 1
    task: str
    base: str = Field(pattern="^[0-9a-f]{64}$")
    execution: dict[str, Any]
    entries: tuple[_Entry, ...]


def write_delta(
    path: Path | str, task: str, base: str, execution: dict[str, Any], stored: Mapping[str, Stored]
) -> None:
    """Write a delta to ``path`` atomically."""
    entries = tuple(_Entry(parameter=name, pattern=one.pattern, shape=one.shape) for name, one in stored.items())
    tensors = {}
    for number, one in enumerate(stored.values()):
        tensors[f"{number}.{_KEPT}"] = one.kept
        tensors[f"{number}.{_VALUES}"] = one.values
    header = _Header(task=task, base=base, execution=execution, entries=entries)
    write_safetensors(path, tensors, {_KEY: header.model_dump_json()})


def is_delta_file(path: Path | str) -> bool:
    """Return whether ``path`` is a safetensors file of a delta, sound or not."""
    return holds_metadata(path, _KEY)


def read_delta(path: Path | str) -> tuple[str, str, dict[str, Any], dict[str, Stored]]:
    """Return (task, base digest, execution, deltas by parameter) of the file ``path``; InputError if it is damaged.

    Sizes are checked against each other before anything of a stated size is made.
    """
    tensors, metadata = read_safetensors(path, "delta file")
    if _KEY not in metadata:
        raise InputError(f"'{path}' is a safetensors file but not one of a delta; give a file that Delta.save wrote.")
    parse_json(metadata[_KEY], f"the metadata of delta file '{path}'")
    try:
        header = _Header.model_validate_json(metadata[_KEY])
    except ValidationError as error:
        raise InputError(f"delta file '{path}' has damaged metadata ({first_problem(error)}).") from None
    wanted = {f"{number}.{part}" for number in range(len(header.entries)) for part in (_KEPT, _VALUES)}
    if wanted != set(tensors):
        raise InputError(f"delta file '{path}' is damaged: its tensors are not those that its metadata lists.")
    stored: dict[str, Stored] = {}
    for number, entry in enumerate(header.entries):
        kept, values = tensors[f"{number}.{_KEPT}"], tensors[f"{number}.{_VALUES}"]
        if kept.dtype != torch.int32 or kept.ndim != 1 or values.ndim != 1 or not values.is_floating_point():
            raise InputError(
                f"delta file '{path}' is damaged: '{entry.parameter}' has no list of indices and one of values."
            )
        if entry.parameter in stored:
            raise InputError(f"delta file '{path}' is damaged: '{entry.parameter}' is there twice.")
        stored[entry.parameter] = Stored(pattern=entry.pattern, shape=entry.shape, kept=kept, values=values)
    return header.task, header.base, header.execution, stored
