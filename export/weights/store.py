"""Weights shared on disk: every large tensor of every graph is stored once, and the graphs point at it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from slimtask.files import atomic_file

WEIGHTS = "weights.bin"
_SHARED_FROM_BYTES = 256  # smaller tensors stay in the graph: a reference costs about as much
_ALIGNMENT_BYTES = 64  # a cache line, and more than any element type needs


@dataclass
class _Blob:
    """Distinct contents, by hash, with the offset each will have in the file."""

    offsets: dict[bytes, int] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def place(self, content: bytes) -> int:
        """Return the offset of ``content``, adding it (aligned) the first time it is seen."""
        key = hashlib.sha256(content).digest()
        if key not in self.offsets:
            padding = -self.size_bytes % _ALIGNMENT_BYTES
            self.offsets[key] = self.size_bytes + padding
            self.chunks.append(b"\0" * padding + content)
            self.size_bytes += padding + len(content)
        return self.offsets[key]


def write_graphs(graphs: Mapping[str, ir.Model], folder: Path | str, weights: str = WEIGHTS) -> tuple[str, ...]:
    """Return the names of the files written: the graphs (file name -> model) and, if any is large, their ``weights``.

    Tensors of 256 bytes and more are written to one file, equal ones once, at offsets that are multiples of 64; the
    graphs refer to them as ONNX external data relative to ``folder``. The result depends on the graphs alone.
    """
    folder = Path(folder)
    blob = _Blob()
    for model in graphs.values():
        for graph in (model.graph, *model.graph.subgraphs()):
            for value in graph.initializers.values():
                _share(value, blob, folder, weights)
    if blob.chunks:
        with atomic_file(folder / weights) as temporary, temporary.open("wb") as file:
            file.writelines(blob.chunks)
    for name, model in graphs.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    return (*graphs, weights) if blob.chunks else tuple(graphs)


def _share(value: ir.Value, blob: _Blob, folder: Path, weights: str) -> None:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < _SHARED_FROM_BYTES:
        return
    content = tensor.tobytes()
    value.const_value = ir.ExternalTensor(
        weights,
        offset=blob.place(content),
        length=len(content),
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name or "",
        base_dir=folder,
    )
