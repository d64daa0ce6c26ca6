"""`slimtask compress --align auto`: channel counts off the measured staircase, and the proof that they pay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slimtask.cli.common import console, progress_bar, working
from slimtask.cli.network import Network
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.bench.faster import SpeedUp
    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.api.how import Prune, Zeros
    from slimtask.compress.removal.remove import Compressed


def compress_by_table(network: Network, how: Zeros | Prune) -> tuple[Checkpoint, Compressed, SpeedUp]:
    """Return the checkpoint compressed as ``how`` says, but to counts worth having here, and what that bought.

    Under a budget no group shrinks to what nobody can train. Raises InputError for a network of several inputs, and
    CheckFailed if the smaller network is measured slower than the dense one.
    """
    from torch import Tensor

    from slimtask.bench.faster import speed_up
    from slimtask.bench.layers.meter import OnnxRuntimeMeter
    from slimtask.compress.api.checkpoints import compress_checkpoint
    from slimtask.compress.api.how import Prune
    from slimtask.compress.latency.staircase import TRAINABLE, measured_counts
    from slimtask.compress.rebuilding import rebuild

    example = network.checkpoint.example()
    if not isinstance(example, Tensor):
        raise InputError("--align auto needs a network of one input; this one has several, give a number.")
    model, least_share = network.rebuild(), TRAINABLE if isinstance(how, Prune) else 0.0
    with progress_bar("measuring layers") as report:
        counts = measured_counts(
            model,
            example,
            OnnxRuntimeMeter(),
            least_share=least_share,
            progress=lambda count, total: report(count, total, ""),
            **network.also,
        )
    with working("finding what may go, removing it, proving it"):
        smaller, compressed = compress_checkpoint(
            network.checkpoint, replace(how, align=counts), factory=network.factory
        )
    with working("timing both networks"):
        found = speed_up(model, rebuild(smaller, network.factory), example)
    return smaller, compressed, found


def show_speed_up(found: SpeedUp) -> dict[str, Any]:
    """Print how the compressed network compares with the dense one and return it as JSON."""
    console.print(
        f"latency: {found.measured_ms:.3g} ms, dense {found.dense_ms:.3g} ms: {found.ratio} under ONNX Runtime here",
        markup=False,
        highlight=False,
    )
    return found.model_dump(mode="json")
