"""Masks on disk: one safetensors file, one bit an entry, shapes and schema in its JSON metadata. No pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from pydantic import Field, ValidationError
from torch import Tensor

from slimtask.checkpoint import holds_metadata, read_safetensors, write_safetensors
from slimtask.documents import parse_json
from slimtask.errors import InputError, first_problem
from slimtask.tasks import Frozen

SCHEMA = 1
_KEY = "slimtask-masks"
Size = Annotated[int, Field(ge=1)]


class _Entry(Frozen):
    """One stored mask: its parameter, the task it belongs to (None for all), its shape."""

    parameter: str
    task: str | None
    shape: tuple[Size, ...]


class _Header(Frozen):
    """The metadata as it stands in the file: tensor key -> what it is. ``tasks`` also names tasks without a mask."""

    kind: Literal["masks"] = "masks"
    schema_version: Literal[1] = 1
    tasks: tuple[str, ...]
    entries: dict[str, _Entry]


Shared = Mapping[str, Bool[Tensor, "..."]]
PerTask = Mapping[str, Mapping[str, Bool[Tensor, "..."]]]


def write_masks(path: Path | str, shared: Shared, per_task: PerTask) -> None:
    """Write masks to ``path`` atomically."""
    named: list[tuple[str | None, str, Tensor]] = [(None, name, mask) for name, mask in shared.items()]
    named += [(task, name, mask) for task, masks in per_task.items() for name, mask in masks.items()]
    entries = {
        str(index): _Entry(parameter=name, task=task, shape=tuple(mask.shape))
        for index, (task, name, mask) in enumerate(named)
    }
    header = _Header(tasks=tuple(per_task), entries=entries)
    tensors = {str(index): _pack(mask) for index, (_, _, mask) in enumerate(named)}
    write_safetensors(path, tensors, {_KEY: header.model_dump_json()})


def is_mask_file(path: Path | str) -> bool:
    """Return whether ``path`` is a safetensors file of masks, sound or not."""
    return holds_metadata(path, _KEY)


def read_masks(
    path: Path | str,
) -> tuple[dict[str, Bool[Tensor, "..."]], dict[str, dict[str, Bool[Tensor, "..."]]]]:
    """Return (shared masks, masks per task) of the file ``path``; InputError names a damaged or foreign one."""
    tensors, metadata = read_safetensors(path, "masks file")
    if _KEY not in metadata:
        raise InputError(f"'{path}' is a safetensors file but not one of masks; give a file that Masks.save wrote.")
    parse_json(metadata[_KEY], f"the metadata of masks file '{path}'")
    try:
        header = _Header.model_validate_json(metadata[_KEY])
    except ValidationError as error:
        raise InputError(f"masks file '{path}' has damaged metadata ({first_problem(error)}).") from None
    if set(header.entries) != set(tensors):
        raise InputError(f"masks file '{path}' is damaged: its tensors are not those that its metadata lists.")
    shared: dict[str, Tensor] = {}
    per_task: dict[str, dict[str, Tensor]] = {task: {} for task in header.tasks}
    for key, entry in header.entries.items():
        if entry.task is not None and entry.task not in per_task:
            raise InputError(f"masks file '{path}' is damaged: '{entry.parameter}' belongs to no listed task.")
        target = shared if entry.task is None else per_task[entry.task]
        target[entry.parameter] = _unpack(tensors[key], entry, path)
    return shared, per_task


def _pack(mask: Tensor) -> UInt8[Tensor, " bytes"]:
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))


def _unpack(bits: Tensor, entry: _Entry, path: Path | str) -> Tensor:
    """Return the boolean mask of ``entry``; the size is checked before anything of that size is made."""
    count = math.prod(entry.shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise InputError(
            f"masks file '{path}' is damaged: the mask of '{entry.parameter}' holds {bits.numel()} bytes, "
            f"its shape {list(entry.shape)} needs {-(-count // 8)}."
        )
    flat = np.unpackbits(bits.numpy(), count=count).astype(bool)
    return torch.from_numpy(flat).reshape(entry.shape)
