"""ONE `.safetensors` file per network: weights, and as JSON metadata all that is needed to rebuild it. No pickle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from slimtask.documents import parse_json
from slimtask.errors import InputError, first_problem
from slimtask.files import atomic_file, check_regular
from slimtask.seal import SEAL, UNSEALED, check_seal, seal_
from slimtask.tasks import Frozen, Preprocessing, TaskSpec

SCHEMA = 1
_KEY = "slimtask"
_OTHERS = {"slimtask-delta": "the delta of a sub-task", "slimtask-masks": "masks"}  # what else a run writes, by its key


MOST_ELEMENTS = 2**25
"""Of all inputs of a network together: an image of 3840 x 2160 has 25 million."""


def check_elements(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` if a tensor of it is small enough to be made: a crafted file must cost nothing."""
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"an input of shape {list(shape)} has more than {MOST_ELEMENTS:,} elements")
    return shape


class Architecture(Frozen):
    """A registered architecture's name and the JSON arguments its factory takes.

    Of a network of the user's own ``name`` is "pkg.mod:factory", for information: it is never imported.

    Examples:
        >>> from slimtask import Architecture
        >>> Architecture(name="mynet:make", arguments={"width": 0.5}).arguments
        {'width': 0.5}
    """

    name: str
    arguments: dict[str, Any]


Side = Annotated[int, Field(ge=1, le=2**20)]
Shape = Annotated[tuple[Side, ...], Field(min_length=1, max_length=8), AfterValidator(check_elements)]


class _Header(Frozen):
    """The metadata as it stands in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int
    architecture: Architecture
    tasks: tuple[TaskSpec, ...]
    preprocessing: Preprocessing | None
    edits: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]
    inputs: tuple[Shape, ...] = ()
    also: tuple[tuple[Shape, ...], ...] = ()

    @model_validator(mode="after")
    def _check_size(self) -> _Header:
        shapes = (*self.inputs, *(shape for further in self.also for shape in further))
        if sum(map(math.prod, shapes)) > MOST_ELEMENTS:
            raise ValueError(f"its inputs have more than {MOST_ELEMENTS:,} elements together")
        return self


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network on disk: weights (parameters and buffers by name), architecture, tasks, edits since the dense network.

    ``edits`` are the JSON forms of Plans in the order they were made; ``provenance`` says where the network came from
    (recipe, metrics, certificate). ``inputs`` are the shapes of a foreign network's inputs; without them the input
    is one RGB image as ``preprocessing`` says, which is None only for a foreign network that takes no such image.
    ``also`` are the shapes of further inputs, which reach parts of it that the first does not.

    Examples:
        >>> from slimtask import Architecture, Checkpoint
        >>> from torch import nn
        >>> own = Architecture(name="mynet:make", arguments={})
        >>> weights, inputs = nn.Conv2d(3, 2, 1).state_dict(), ((1, 3, 8, 8),)
        >>> net = Checkpoint(weights=weights, architecture=own, tasks=(), preprocessing=None, inputs=inputs)
        >>> net.save("net.safetensors")
        >>> Checkpoint.load("net.safetensors").example().shape
        torch.Size([1, 3, 8, 8])
    """

    weights: dict[str, Tensor]
    architecture: Architecture
    tasks: tuple[TaskSpec, ...]
    preprocessing: Preprocessing | None
    edits: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[tuple[int, ...], ...] = ()
    also: tuple[tuple[tuple[int, ...], ...], ...] = ()

    @property
    def foreign(self) -> bool:
        """Return whether the network is the user's own, which only the user's factory can build."""
        return ":" in self.architecture.name

    def example(self) -> Tensor | tuple[Tensor, ...]:
        """Return zeros that the network takes: one tensor, or a tuple of them for several inputs."""
        if self.inputs:
            return _zeros(self.inputs)
        if self.preprocessing is None:
            raise InputError("the checkpoint does not say which input its network takes; it is damaged.")
        return torch.zeros(1, 3, self.preprocessing.height, self.preprocessing.width)

    def further(self) -> tuple[Tensor | tuple[Tensor, ...], ...]:
        """Return zeros of the further inputs that the network takes."""
        return tuple(map(_zeros, self.also))

    def with_changes(self, **changes: Any) -> Checkpoint:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def save(self, path: Path | str) -> None:
        """Write the checkpoint to ``path`` atomically. Raises InputError if a weight is not finite."""
        refuse_non_finite(self.weights, "the network to be saved")
        header = _Header(
            schema_version=SCHEMA,
            architecture=self.architecture,
            tasks=self.tasks,
            preprocessing=self.preprocessing,
            edits=self.edits,
            provenance=self.provenance,
            inputs=self.inputs,
            also=self.also,
        )
        unused = set() if self.also else {"also"}  # a file without it is one that earlier versions read
        write_safetensors(path, self.weights, {_KEY: header.model_dump_json(exclude=unused)})

    @classmethod
    def load(cls, path: Path | str) -> Checkpoint:
        """Return the checkpoint in ``path``; InputError names a missing, damaged, foreign or non-finite file."""
        tensors, metadata = read_safetensors(path, "checkpoint")
        if _KEY not in metadata:
            raise InputError(_no_checkpoint(path, metadata))
        parse_json(metadata[_KEY], f"the metadata of checkpoint '{path}'")  # of sane depth and numbers
        try:
            header = _Header.model_validate_json(metadata[_KEY])
        except ValidationError as error:
            raise InputError(
                f"checkpoint '{path}' has damaged metadata ({first_problem(error, 'as a whole')})."
            ) from None
        if header.schema_version != SCHEMA:
            raise InputError(
                f"checkpoint '{path}' has schema version {header.schema_version}, this slimtask reads {SCHEMA}; "
                "use the version that wrote it."
            )
        refuse_non_finite(tensors, f"checkpoint '{path}'")
        return cls(
            weights=tensors,
            architecture=header.architecture,
            tasks=header.tasks,
            preprocessing=header.preprocessing,
            edits=header.edits,
            provenance=header.provenance,
            inputs=header.inputs,
            also=header.also,
        )


def _zeros(shapes: tuple[tuple[int, ...], ...]) -> Tensor | tuple[Tensor, ...]:
    made = tuple(torch.zeros(shape) for shape in shapes)
    return made if len(made) > 1 else made[0]


def _no_checkpoint(path: Path | str, metadata: Mapping[str, str]) -> str:
    """Return what a safetensors file is that is no checkpoint, and what to give instead."""
    for key, what in _OTHERS.items():
        if key in metadata:
            return f"'{path}' holds {what}, not a network; give the checkpoint.safetensors of its run."
    return (
        f"checkpoint '{path}' is a safetensors file but not one of slimtask's; "
        "give a file that `slimtask train` or `slimtask compress` wrote."
    )


def write_safetensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, atomically, and into its metadata the SHA-256 of it all."""
    from safetensors.torch import save_file

    # clones: tied weights share memory, which safetensors refuses
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(held, temporary, metadata={**metadata, SEAL: UNSEALED})
        seal_(temporary)


def read_safetensors(path: Path | str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return (tensors, metadata) of a safetensors file; InputError names the file if it is missing or damaged.

    A file with a SHA-256 in it, as ``write_safetensors`` makes them, is read only if it has that.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path, what)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if SEAL in metadata:
                check_seal(path, what, metadata[SEAL])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeError, RuntimeError) as error:
        raise InputError(
            f"{what} '{path}' is not a whole safetensors file ({error}); it is truncated or of another kind, "
            "write or copy it again."
        ) from None


def holds_metadata(path: Path | str, key: str) -> bool:
    """Return whether ``path`` is a safetensors file with ``key`` in its metadata, sound or not."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return key in (file.metadata() or {})
    except (OSError, SafetensorError, UnicodeError, MemoryError):  # MemoryError: too large to be mapped
        return False


def refuse_non_finite(weights: dict[str, Tensor], where: str) -> None:
    """Raise InputError naming the first tensor that holds a NaN or an infinity."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{where} holds NaN or infinity in '{name}'; the training diverged, take an earlier one.")


def json_safe(value: Any) -> Any:
    """Return ``value`` as what JSON makes of it (tuples become lists), so that a round trip compares equal."""
    return json.loads(json.dumps(value, allow_nan=False))
