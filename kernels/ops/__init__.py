"""The delta layers as PyTorch operators, `torch.ops.slimtask.*`, one per layout; importing this needs torch.

On a CPU, and wherever no kernel fits, they run in standard operators; on CUDA devices in the kernels of
`slimtask.kernels.cuda` and `slimtask.kernels.triton`. They trace (`torch.compile`, `torch.export`) as one node each.
"""

from __future__ import annotations

from slimtask.kernels.ops.channels import (
    appended,
    assemble,
    complete,
    delta_out_channels,
    places,
    split,
)
from slimtask.kernels.ops.cuda import STANDARD, chosen, overwriting
from slimtask.kernels.ops.rows import delta_rows, scatter_rows
from slimtask.kernels.ops.sparse import delta_blocks, delta_csr, delta_vectors
from slimtask.kernels.ops.tensors import tensor_of, tensors_of

__all__ = [
    "STANDARD",
    "appended",
    "assemble",
    "chosen",
    "complete",
    "delta_blocks",
    "delta_csr",
    "delta_out_channels",
    "delta_rows",
    "delta_vectors",
    "overwriting",
    "places",
    "scatter_rows",
    "split",
    "tensor_of",
    "tensors_of",
]
