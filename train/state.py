"""The state of an unfinished training run on disk: tensors in safetensors, the rest as JSON beside them. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimtask.checkpoint import read_safetensors, write_safetensors
from slimtask.documents import parse_json
from slimtask.errors import InputError

_KEY, _SEPARATOR = "slimtask-state", "::"


def save_state(path: Path, sections: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
    """Write named sections of tensors and JSON ``facts`` to one file, atomically, with a SHA-256 of it all."""
    tensors = {
        f"{section}{_SEPARATOR}{name}": tensor
        for section, content in sections.items()
        for name, tensor in content.items()
    }
    write_safetensors(path, tensors, {_KEY: json.dumps(facts)})


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return (sections, facts) of a state file; InputError if it is missing, damaged or of another kind."""
    tensors, metadata = read_safetensors(path, "training state")
    if _KEY not in metadata:
        raise InputError(f"training state '{path}' was not written by `slimtask train`; start the run anew.")
    sections: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        section, _, name = key.partition(_SEPARATOR)
        sections.setdefault(section, {})[name] = tensor
    return sections, parse_json(metadata[_KEY], f"training state '{path}'")


def flatten_optimizer(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of an optimiser's ``state_dict()`` under flat names; settings are the recipe's to restore."""
    flat = {f"sparsity/{name}": tensor for name, tensor in state.get("sparsity", {}).items()}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            flat[f"state/{index}/{name}"] = torch.as_tensor(value)
    return flat


def unflatten_optimizer(flat: dict[str, Tensor], settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a ``state_dict`` made of flat tensors and the optimiser's own present ``param_groups``."""
    state: dict[int, dict[str, Tensor]] = {}
    sparsity: dict[str, Tensor] = {}
    for key, tensor in flat.items():
        kind, *rest = key.split("/")
        if kind == "sparsity":
            sparsity[rest[0]] = tensor
        else:
            state.setdefault(int(rest[0]), {})[rest[1]] = tensor
    return {"state": state, "param_groups": settings, **({"sparsity": sparsity} if sparsity else {})}
