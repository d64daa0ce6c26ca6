"""`slimtask compress --per-task`: one network for each task, and what sharing one network costs instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtask.cli.common import console, table, working
from slimtask.cli.finetune import Wanted, worse
from slimtask.cli.network import Network
from slimtask.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from slimtask.compress.per_task.networks import Structure, SubNetwork
    from slimtask.train.tune import Stage, Tuner

SAME = 1e-8
"""Largest mean squared difference, relative to the outputs' mean square, of networks that compute the same."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training did to one network: facts to be told, its stages, and the sentences about what got worse."""

    told: dict[str, Any]
    stages: list[Stage]
    worse: list[str]


def compress_per_task(
    network: Network,
    out: Path,
    structure: Structure,
    sets: Sequence[str],
    align: int,
    wanted: Wanted,
    recipe: Path | None,
) -> dict[str, Any]:
    """Write one checkpoint per task, per task set and for their union to the folder ``out``; return the table as JSON.

    A network that computes something else under its masks than ``network`` does was never trained: it is trained on as
    ``wanted``, on the data of ``recipe`` or those of its training, or refused.
    """
    from torch import Tensor

    from slimtask.compress.per_task.table import tabulate, task_networks
    from slimtask.files import atomic_directory, write_json

    example = network.checkpoint.example()
    if not isinstance(example, Tensor):
        raise InputError("networks per task need a network of one input; this one has several.")
    model = network.rebuild()
    chosen = [tuple(text.split("+")) for text in sets]
    untrained = _untrained(model, structure, chosen, example)
    if untrained and wanted.finetune is None:
        raise InputError(
            f"under these masks the networks {', '.join(untrained)} compute what was never trained; add --finetune "
            "STEPS to train each on (with --distil 0.5 from the outputs of the network given too), or --finetune 0 to "
            "train them elsewhere."
        )
    if not untrained and wanted.first is not None:
        console.print("every network computes what the one given does, so none is trained on.")
    tuner = wanted.tuner_of(network, recipe) if untrained and (wanted.finetune or wanted.recalibrate) else None
    with working("making the network of each task, proving each"):
        networks = task_networks(model, structure, example, sets=chosen, align=align)
        report = tabulate(model, networks, example)
    trained = {} if tuner is None else {name: _train(tuner, networks[name]) for name in untrained}
    never = untrained if not wanted.finetune else []
    with atomic_directory(out) as folder:
        for name, made in networks.items():
            _checkpoint(network, name, made, trained.get(name)).save(folder / f"{name}.safetensors")
        write_json(folder / "table.json", report.model_dump(mode="json"))
    console.print(str(report), markup=False, highlight=False)
    _show(trained)
    if never:
        told = f"not trained under their masks: {', '.join(never)}; train them before they are of use."
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    return report.model_dump(mode="json") | {
        "untrained": never,
        "training": {name: one.told for name, one in trained.items()},
        "validation": {name: [asdict(stage) for stage in one.stages] for name, one in trained.items()},
    }


def _untrained(model: nn.Module, structure: Structure, sets: Sequence[tuple[str, ...]], example: Tensor) -> list[str]:
    """Return the networks, by name, whose outputs under their masks are not those of ``model``, which was trained.

    A policy is learned path by path, so its networks compute what was trained.
    """
    import torch

    from slimtask.compress.edits.tasks import Selected, task_names
    from slimtask.compress.per_task.networks import known_tasks
    from slimtask.compress.structures.masks import Masks
    from slimtask.compress.tuning import output_distance

    if not isinstance(structure, Masks):
        return []
    names = task_names(model, example)
    wanted = {"union": names, **{name: (name,) for name in names}}
    wanted |= {"+".join(tasks): known_tasks(names, tasks) for tasks in sets}
    probe = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    found = []
    with torch.no_grad():
        for name, tasks in wanted.items():
            given, masked = (Selected(net, tasks).eval()(probe) for net in (model, structure.applied(model, tasks)))
            if not float(output_distance(masked, given)) <= SAME:
                found.append(name)
    return found


def _train(tuner: Tuner, made: SubNetwork) -> Trained:
    """Train one network in place under its masks, and return what that did."""
    own = tuner.for_tasks(made.tasks)
    model = made.model.to(own.device)
    own.score("own mask", 1, model)
    told, _ = own.train_(model, 1)
    model.cpu()
    return Trained(told=told, stages=own.stages, worse=worse(own.stages, own.rounds))


def _checkpoint(network: Network, name: str, made: SubNetwork, trained: Trained | None) -> Any:
    """Return the checkpoint of one network; its certificate is that of the removal, before any training."""
    from slimtask.checkpoint import json_safe

    facts = {
        **network.checkpoint.provenance,
        "per_task": name,
        "certificate": json_safe(made.certificate.model_dump()),
    }
    if trained is not None:
        facts |= {"training": trained.told, "validation": trained.stages[-1].metrics}
    return network.checkpoint.with_changes(
        weights=made.model.state_dict(),
        edits=(*network.checkpoint.edits, *made.edits),
        provenance=json_safe(facts),
    )


def _show(trained: Mapping[str, Trained]) -> None:
    """Print the quality of each trained network on the validation split: as given, under its mask, tuned."""
    if not trained:
        return
    stages = [stage.stage for stage in next(iter(trained.values())).stages]
    rows = table("Quality on the validation split", "network", "", *stages)
    for name, one in trained.items():
        rows.add_row(name, "distance to given", *(f"{stage.distance:.4f}" for stage in one.stages))
        for task, metrics in one.stages[0].metrics.items():
            for metric in metrics:
                scores = [stage.metrics[task][metric] for stage in one.stages]
                rows.add_row(name, f"{task} {metric}", *("-" if x is None else f"{x:.4f}" for x in scores))
    console.print(rows)
    for name, one in trained.items():
        for sentence in one.worse:
            console.print(f"{name}: {sentence}", markup=False, highlight=False, soft_wrap=True)


def structure_of(masks: Path | None, policy: Path | None) -> Structure:
    """Return what says which task needs what: masks, a policy, or for neither masks that take nothing."""
    from slimtask.compress.structures.masks import Masks
    from slimtask.compress.structures.policy import Policy

    if masks is not None and policy is not None:
        raise InputError("--masks and --policy are two structures; give one of them.")
    if policy is not None:
        return Policy.load(policy)
    return Masks(shared={}, per_task={}) if masks is None else Masks.load(masks)
