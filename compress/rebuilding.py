"""From a checkpoint back to a network: registered architecture, replayed edits, loaded weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from slimtask.architectures import build
from slimtask.checkpoint import Checkpoint
from slimtask.compress.edits.branches import BranchPaths
from slimtask.compress.edits.deltas import DeltaPaths
from slimtask.compress.edits.skip import SkipBlocks
from slimtask.compress.edits.tasks import KeepTasks
from slimtask.compress.removal.cuts import retie_, tied_tensors
from slimtask.compress.removal.plan import Plan
from slimtask.errors import InputError, first_problem
from slimtask.tasks import TaskSpec

Edit = Plan | SkipBlocks | BranchPaths | DeltaPaths | KeepTasks
_EDIT: TypeAdapter[Edit] = TypeAdapter(Annotated[Edit, Field(discriminator="kind")])


def rebuild(checkpoint: Checkpoint, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return the checkpoint's network in eval mode, with its ``tasks`` attribute.

    ``factory()`` makes the fresh dense network if its architecture is not registered: a path found in a file is never
    imported. Raises InputError if the edits or the weights do not fit it.

    Examples:
        >>> from slimtask import Architecture, Checkpoint
        >>> from slimtask.compress import rebuild
        >>> from torch import nn
        >>> own, weights = Architecture(name="mynet:make", arguments={}), nn.Conv2d(3, 2, 1).state_dict()
        >>> saved = Checkpoint(weights=weights, architecture=own, tasks=(), preprocessing=None, inputs=((1, 3, 8, 8),))
        >>> rebuild(saved, factory=lambda: nn.Conv2d(3, 2, 1)).training
        False
    """
    model = _fresh(checkpoint, factory)
    if not hasattr(model, "tasks"):
        model.tasks = checkpoint.tasks  # type: ignore[assignment]
    for edit in checkpoint.edits:
        read_edit(edit).apply_(model)
    own = model.state_dict()
    for name, tensor in checkpoint.weights.items():
        if name not in own or own[name].shape != tensor.shape:
            wanted = list(own[name].shape) if name in own else "no such tensor"
            raise InputError(
                f"the checkpoint does not fit the architecture: '{name}' is {list(tensor.shape)}, expected {wanted}."
            )
    missing = [name for name in own if name not in checkpoint.weights]
    if missing:
        raise InputError(f"the checkpoint is not whole: it lacks '{missing[0]}' ({len(missing)} tensors are missing).")
    # assign: the skeleton's tensors have no memory of their own; clones, so that the checkpoint stays as it is.
    # Those of a foreign network have, and copying into them keeps tied weights tied.
    weights = OrderedDict((name, tensor.clone()) for name, tensor in checkpoint.weights.items())
    weights._metadata = own._metadata  # type: ignore[attr-defined]  # some networks ask for their version
    tied = tied_tensors(model)
    model.load_state_dict(weights, assign=factory is None)
    retie_(tied)
    return model.eval()


def served_tasks(checkpoint: Checkpoint) -> tuple[TaskSpec, ...]:
    """Return the tasks of a checkpoint that its network still has: not those that an edit dropped."""
    kept = [{*edit.tasks} for edit in map(read_edit, checkpoint.edits) if isinstance(edit, KeepTasks)]
    return tuple(task for task in checkpoint.tasks if all(task.name in names for names in kept))


def replay(checkpoint: Checkpoint, factory: Callable[[], nn.Module] | None = None) -> Iterator[tuple[nn.Module, Edit]]:
    """Yield (the network before the edit, the edit) for each of the checkpoint's edits in order; weights do not matter.

    It is one network that is edited in place as the caller goes on.
    """
    if not checkpoint.edits:
        return
    model = _fresh(checkpoint, factory)
    for edit in map(read_edit, checkpoint.edits):
        yield model, edit
        edit.apply_(model)


def _fresh(checkpoint: Checkpoint, factory: Callable[[], nn.Module] | None) -> nn.Module:
    if factory is not None:
        return factory()
    if checkpoint.foreign:
        name = checkpoint.architecture.name
        raise InputError(
            f"the checkpoint holds a network of yours, made by '{name}', and slimtask imports nothing on a "
            f"file's word; give --model {name} (in Python: rebuild(checkpoint, factory))."
        )
    return _skeleton(checkpoint)


def _skeleton(checkpoint: Checkpoint) -> nn.Module:
    """Return the fresh network without memory for its tensors, so that a crafted size allocates nothing."""
    architecture = checkpoint.architecture
    try:
        with torch.device("meta"):
            model: nn.Module = build(architecture.name, architecture.arguments, checkpoint.tasks)
    except (RuntimeError, OverflowError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint's architecture '{architecture.name}' cannot be built with its arguments "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}); the file is damaged."
        ) from None
    return model


def read_edit(edit: dict[str, Any]) -> Edit:
    """Return an edit from its JSON form. Raises InputError if it is not valid."""
    try:
        return _EDIT.validate_python(edit)
    except ValidationError as error:
        raise InputError(f"the checkpoint's edit is not valid ({first_problem(error)}).") from None
