"""The network a verb works on: one of slimtask's checkpoints, or one of the user's own, by --model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.common import console, load_architectures
from slimtask.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from slimtask.checkpoint import Checkpoint
    from slimtask.tasks import Preprocessing, TaskSpec

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="PKG.MOD:FACTORY", help="A network of yours: what makes it, also FILE.py:FACTORY."),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="Its weights: .safetensors, or a torch state dict; else as it is made.")
]
TasksOption = Annotated[
    Path | None, typer.Option("--tasks", help="YAML list of its outputs: name, kind, channels; export needs it.")
]
InputOption = Annotated[
    str | None, typer.Option("--input", metavar="1x3x224x224", help="Shape of its input; several with commas.")
]

AlsoOption = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="1x3x64x64",
        help="With --model: a further input, which reaches what the first does not; may be given several times.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A checkpoint in memory and, if it is the user's own, the factory that makes its dense network."""

    checkpoint: Checkpoint
    factory: Callable[[], nn.Module] | None

    @property
    def also(self) -> dict[str, Any]:
        """Return the further inputs as the argument ``also`` of what finds and removes channels; empty without any."""
        return {"also": self.checkpoint.further()} if self.checkpoint.also else {}

    def rebuild(self) -> nn.Module:
        """Return the network in eval mode."""
        from slimtask.compress.rebuilding import rebuild

        return rebuild(self.checkpoint, self.factory)


def open_checkpoint(path: Path, model: str | None, also: Sequence[str] | None = None) -> Network:
    """Return the network in a checkpoint file; ``model`` names the factory of a foreign one. Raises InputError.

    ``also`` are shapes of further inputs of a foreign one, beside those that the checkpoint remembers.
    """
    from slimtask.checkpoint import Checkpoint
    from slimtask.cli.factory import load_factory

    if path.suffix == ".onnx":
        raise InputError(f"'{path}' is an ONNX file, which only `compress` takes; give a checkpoint or bundle.")
    checkpoint = Checkpoint.load(path)
    if not checkpoint.foreign:
        if model is not None:
            raise InputError(f"checkpoint '{path}' holds a network of slimtask's own; leave out --model.")
        if also:
            raise InputError(f"checkpoint '{path}' holds a network of slimtask's own; leave out --also.")
        load_architectures()
        return Network(checkpoint=checkpoint, factory=None)
    if model is None:
        made_by = checkpoint.architecture.name
        raise InputError(
            f"checkpoint '{path}' holds a network made by '{made_by}', which slimtask does not import on a file's "
            f"word; give --model {made_by}."
        )
    network = Network(checkpoint=checkpoint, factory=load_factory(model))
    if not also:
        return network
    checkpoint = _with_further(checkpoint, also)
    _check_runs(network.rebuild(), checkpoint)
    return Network(checkpoint=checkpoint, factory=network.factory)


def open_foreign(
    model: str, weights: Path | None, tasks: Path | None, shape: str | None, also: Sequence[str] | None = None
) -> Network:
    """Return the user's network as a checkpoint in memory that no file holds yet. Raises InputError."""
    import torch

    from slimtask.checkpoint import Architecture, Checkpoint, refuse_non_finite
    from slimtask.cli.factory import input_shapes, load_factory, load_weights_
    from slimtask.compress.network.by_task import check_tasks

    if shape is None:
        raise InputError(f"--model {model} needs the shape of its input; give --input 1x3x224x224, say.")
    inputs = input_shapes(shape)
    specs, preprocessing = _tasks(tasks, inputs)
    factory = load_factory(model)
    made = factory()
    if weights is not None:
        load_weights_(made, weights)
    buffers = dict(made.named_buffers())
    for name, tensor in made.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"--model {model} keeps a {type(tensor).__name__} in its state, '{name}'; drop it there.")
        if name in buffers and not bool(tensor.isfinite().all()):
            raise InputError(
                f"--model {model} keeps NaN or infinity in its buffer '{name}'; register it with persistent=False, so "
                "that it is made anew and no file has to hold it."
            )
    refuse_non_finite(made.state_dict(), f"the network of --model {model}")
    checkpoint = Checkpoint(
        weights={name: tensor.clone() for name, tensor in made.state_dict().items()},
        architecture=Architecture(name=model, arguments={}),
        tasks=specs or _own_tasks(made),
        preprocessing=preprocessing,
        inputs=inputs,
        provenance={} if weights is None else {"weights": str(weights)},
    )
    checkpoint = _with_further(checkpoint, also or ())
    _check_runs(made, checkpoint)
    if checkpoint.tasks:
        check_tasks(made, checkpoint.example(), checkpoint.tasks)
    return Network(checkpoint=checkpoint, factory=factory)


def with_tasks(network: Network, tasks: Path | None) -> Network:
    """Return ``network`` with the tasks of a file, checked against its outputs; as it is if there is no file."""
    from slimtask.compress.network.by_task import check_tasks

    if tasks is None:
        return network
    checkpoint = network.checkpoint
    if not checkpoint.foreign:
        raise InputError("the checkpoint names its tasks itself; leave out --tasks.")
    specs, preprocessing = _tasks(tasks, checkpoint.inputs)
    check_tasks(network.rebuild(), checkpoint.example(), specs)
    return Network(
        checkpoint=checkpoint.with_changes(tasks=specs, preprocessing=preprocessing), factory=network.factory
    )


def opened(
    checkpoint: Path | None,
    model: str | None,
    weights: Path | None,
    tasks: Path | None,
    shape: str | None,
    also: Sequence[str] | None = None,
) -> Network:
    """Return the network of a checkpoint, or the user's own that ``model`` names. Raises InputError."""
    if checkpoint is not None:
        only_for_foreign(checkpoint, weights=weights, input=shape)
        return with_tasks(open_checkpoint(checkpoint, model, also), tasks)
    if model is not None:
        return open_foreign(model, weights, tasks, shape, also)
    raise InputError("there is no network to work on; give a checkpoint, or --model with --input.")


def only_for_foreign(checkpoint: Path, **options: object) -> None:
    """Return None if none of the options, which describe a network without a checkpoint, is given beside one."""
    for name, value in options.items():
        if value is not None and value != []:
            raise InputError(
                f"--{name} describes a network without a checkpoint; leave it out or leave out '{checkpoint}'."
            )


def _tasks(path: Path | None, inputs: tuple[tuple[int, ...], ...]) -> tuple[tuple[TaskSpec, ...], Preprocessing | None]:
    """Return the tasks of a file (none without one) and how images become the input (None: it takes no such).

    What the file leaves out of that is said aloud.
    """
    from slimtask.task_file import read_tasks
    from slimtask.tasks import MOST_PIXELS, Preprocessing

    read = None if path is None else read_tasks(path)
    image = len(inputs) == 1 and len(inputs[0]) == 4 and inputs[0][1] == 3
    image = image and max(inputs[0][2:]) <= 4096 and inputs[0][2] * inputs[0][3] <= MOST_PIXELS
    if read is None:
        return (), Preprocessing(height=inputs[0][2], width=inputs[0][3]) if image else None
    if not image:
        return read.tasks, None
    if read.untold:
        console.print(f"how the network takes its images is not all in '{path}'; taken: {read.untold}", markup=False)
    return read.tasks, read.preprocessing(*inputs[0][2:])


def _own_tasks(model: nn.Module) -> tuple[TaskSpec, ...]:
    """Return the TaskSpecs that the network itself carries, none if it does not."""
    from slimtask.tasks import TaskSpec

    own = getattr(model, "tasks", None)
    return tuple(own) if isinstance(own, tuple | list) and all(isinstance(spec, TaskSpec) for spec in own) else ()


def _check_runs(model: nn.Module, checkpoint: Checkpoint) -> None:
    from slimtask.compress.network.trace import record

    for example in (checkpoint.example(), *checkpoint.further()):
        record(model, example)


def _with_further(checkpoint: Checkpoint, also: Sequence[str]) -> Checkpoint:
    """Return ``checkpoint`` with the shapes of further inputs after those that it remembers."""
    from slimtask.cli.factory import input_shapes

    known = list(checkpoint.also)
    for text in also:
        shapes = input_shapes(text, "--also")
        if len(shapes) != len(checkpoint.inputs):
            raise InputError(
                f"--also {text} is {len(shapes)} input(s), the network takes {len(checkpoint.inputs)}; give as many "
                "shapes, with commas, as --input."
            )
        if shapes != checkpoint.inputs and shapes not in known:
            known.append(shapes)
    return checkpoint.with_changes(also=tuple(known))
