"""Layouts on disk: one safetensors file, whole or absent, that no reader can be made to run code by.

Its header names for every layout the kind and the sizes; bfloat16 is stored as its bits, uint16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from slimtask.kernels.atomic import write_whole
from slimtask.kernels.dtypes import bfloat16
from slimtask.kernels.layouts import LAYOUTS, Layout

SCHEMA = 1
_KEY = "slimtask_layouts"


def save_layouts(path: Path | str, layouts: Mapping[str, Layout]) -> None:
    """Write the layouts under their names; ``path`` is replaced only once all of the new file is on the disk."""
    from safetensors.numpy import save

    tensors = {
        f"{name}/{part}": array.view(np.uint16) if array.dtype == bfloat16() else array
        for name, layout in layouts.items()
        for part, array in layout.arrays().items()
    }
    header = {name: {"kind": layout.kind, **layout.sizes()} for name, layout in layouts.items()}
    write_whole(Path(path), save(tensors, {_KEY: json.dumps({"schema": SCHEMA, "layouts": header})}))


def load_layouts(path: Path | str) -> dict[str, Layout]:
    """Return the layouts of a file by name; ValueError, naming the file, if it is absent, damaged or none of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return _layouts(header, arrays)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the deltas '{path}' cannot be read ({error}); give a whole file.") from None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"'{path}' does not hold packed deltas ({str(error).rstrip('.')}); pack them again.") from None


def _layouts(header: Any, arrays: dict[str, Shaped[np.ndarray, "..."]]) -> dict[str, Layout]:
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"its header is not of schema {SCHEMA}")
    layouts = {}
    for name, sizes in header["layouts"].items():
        own = {key.rpartition("/")[2]: arrays.pop(key) for key in list(arrays) if key.rpartition("/")[0] == name}
        layouts[name] = _layout(own, **sizes)
    if arrays:
        raise ValueError(f"it has arrays of no layout: {', '.join(sorted(arrays))}")
    return layouts


def _layout(arrays: dict[str, Shaped[np.ndarray, "..."]], kind: Any, shape: Any, **sizes: Any) -> Layout:
    if kind not in LAYOUTS:
        raise ValueError(f"the kind '{kind}' is unknown")
    if not all(type(size) is int for size in [*shape, *sizes.values()]):
        raise ValueError("a size is no integer")
    if len(shape) != 3:
        raise ValueError(f"the shape {shape} is not [tasks, outputs, inputs]")
    arrays = {name: array.view(bfloat16()) if array.dtype == np.uint16 else array for name, array in arrays.items()}
    return LAYOUTS[kind].from_arrays(arrays, shape=tuple(shape), **sizes)
