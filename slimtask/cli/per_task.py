"""`slimtask compress --per-task`: one network for each task, and what sharing one network costs instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slimtask.cli.common import console, emit, working
from slimtask.cli.network import Network
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.compress.per_task import Structure


def compress_per_task(
    network: Network,
    out: Path,
    masks: Path | None,
    policy: Path | None,
    sets: Sequence[str],
    align: int,
    json_path: Path | None,
) -> None:
    """Write one checkpoint per task, per task set and for their union to the folder ``out``, and print the table."""
    from torch import Tensor

    from slimtask.checkpoint import json_safe
    from slimtask.compress.task_table import tabulate, task_networks
    from slimtask.files import atomic_directory, write_json

    example = network.checkpoint.example()
    if not isinstance(example, Tensor):
        raise InputError("networks per task need a network of one input; this one has several.")
    model = network.rebuild()
    structure = _structure(masks, policy)
    with working("making the network of each task, proving each"):
        chosen = [tuple(text.split("+")) for text in sets]
        networks = task_networks(model, structure, example, sets=chosen, align=align)
        report = tabulate(model, networks, example)
    with atomic_directory(out) as folder:
        for name, made in networks.items():
            checkpoint = network.checkpoint.with_changes(
                weights=made.model.state_dict(),
                edits=(*network.checkpoint.edits, *made.edits),
                provenance={
                    **network.checkpoint.provenance,
                    "per_task": name,
                    "certificate": json_safe(made.certificate.model_dump()),
                },
            )
            checkpoint.save(folder / f"{name}.safetensors")
        write_json(folder / "table.json", report.model_dump(mode="json"))
    console.print(str(report), markup=False, highlight=False)
    emit(report.model_dump(mode="json"), json_path)


def _structure(masks: Path | None, policy: Path | None) -> Structure:
    from slimtask.compress.masks import Masks
    from slimtask.compress.policy import Policy

    if masks is not None and policy is not None:
        raise InputError("--masks and --policy are two structures; give one of them.")
    if policy is not None:
        return Policy.load(policy)
    return Masks(shared={}, per_task={}) if masks is None else Masks.load(masks)
