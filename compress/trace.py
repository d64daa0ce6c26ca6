"""One forward pass as a tape: every ATen operation with the values that it reads and writes, in order of execution.

The pass runs on the meta device, so it computes nothing and allocates nothing; a network that looks at values (e.g.
``if x.max() > 0``) is traced on real ones. What a tape does not hold is Python: no source is parsed, no code rewritten.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from slimtask.compress.inputs import Inputs, call, map_tensors, meta_like, named_outputs
from slimtask.compress.modes import modes_kept
from slimtask.errors import InputError


@dataclass(frozen=True)
class Ref:
    """A value on the tape: its number and its shape when it was read or written."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One ATen call; tensors among its arguments and outputs are Refs."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]

    @property
    def name(self) -> str:
        """Return the operation's name without namespace and overload, e.g. ``convolution``."""
        return str(self.op.overloadpacket.__name__)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return the argument at ``position`` or called ``name``."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


@dataclass(kw_only=True)
class Tape:
    """The operations of one forward pass; ``leaves`` names the parameters and buffers among the values."""

    operations: list[Operation] = field(default_factory=list)
    leaves: dict[int, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    storages: dict[int, int] = field(default_factory=dict)
    outputs: dict[str, Ref] = field(default_factory=dict)
    computed: bool = False


def record(model: nn.Module, example: Inputs, *, compute: bool | None = None, training: bool = False) -> Tape:
    """Return the tape of one forward pass of ``model`` on ``example``, in eval mode unless ``training``.

    ``compute`` says whether to run on real values; None does so only if the network does not run without. Raises
    InputError if the network does not run on the example.
    """
    try:
        with modes_kept(model), plain_attention(), torch.no_grad():
            model.train(training)
            if compute is not None:
                return _record_real(model, example) if compute else _record_meta(model, example)
            try:
                return _record_meta(model, example)
            except Exception:
                return _record_real(model, example)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{type(model).__name__} does not run on the example input ({type(error).__name__}: {first}); "
            "check the input's shape and what the network expects."
        ) from error


def unused(tape: Tape, model: nn.Module) -> list[str]:
    """Return the names of the parameters that no operation of the tape reads."""
    read: set[int] = set()
    for op in tape.operations:
        tree_map(lambda x: read.add(x.number) if isinstance(x, Ref) else None, (op.args, op.kwargs))
    used = {name for number, name in tape.leaves.items() if number in read}
    return [name for name, _ in model.named_parameters() if name not in used]


def _record_meta(model: nn.Module, example: Inputs) -> Tape:
    tensors = {name: meta_like(tensor) for name, tensor in named_tensors(model).items()}
    recorder = _Recorder(tensors)
    inputs = map_tensors(meta_like, example)
    with torch.device("meta"), recorder:
        outputs = call(lambda *args, **kwargs: functional_call(model, tensors, args, kwargs), inputs)
    return recorder.finish(outputs)


def _record_real(model: nn.Module, example: Inputs) -> Tape:
    recorder = _Recorder(named_tensors(model))
    with recorder:
        outputs = call(model, example)
    recorder.tape.computed = True
    return recorder.finish(outputs)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, one name for each shared one."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def shared_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose parameters and buffers are the very tensors of the original.

    Cutting gives a module new tensors, so the original stays as it is and the copy costs only what is cut.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Return a context without the fused fast path of nn.TransformerEncoderLayer, which hides its operations."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers: Any = WeakTensorKeyDictionary()
        self._count = 0
        self.tape = Tape()
        for name, tensor in tensors.items():
            self.tape.leaves[self._ref(tensor).number] = name
            self.tape.shapes[name] = tuple(tensor.shape)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        refs, named = self._refs(tuple(args)), self._refs(kwargs)
        result = func(*args, **kwargs)
        outputs = [self._ref(x) for x in _flat(result)]
        self.tape.operations.append(Operation(op=func, args=refs, kwargs=named, outputs=tuple(outputs)))
        return result

    def finish(self, outputs: Any) -> Tape:
        self.tape.outputs = {name: self._ref(tensor) for name, tensor in named_outputs(outputs).items()}
        return self.tape

    def _refs(self, tree: Any) -> Any:
        return tree_map(lambda x: self._ref(x) if isinstance(x, Tensor) else x, tree)

    def _ref(self, tensor: Tensor) -> Ref:
        number = self._numbers.get(tensor)
        if number is None:
            number = self._count
            self._count += 1
            self._numbers[tensor] = number
            self.tape.storages[number] = tensor.untyped_storage()._cdata
        return Ref(number, tuple(tensor.shape))


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [x for x in result if isinstance(x, Tensor)] if isinstance(result, tuple | list) else []
