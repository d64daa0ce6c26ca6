"""One forward pass recorded as a Tape (``tape.py``), without running the caller's network.

The pass runs in a process apart (``apart.py``) on the meta device, so it computes nothing, allocates nothing, and
leaves nothing behind; a network that looks at values (e.g. ``if x.max() > 0``) is traced on real ones. What a tape does
not hold is Python: no source is parsed, no code rewritten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from slimtask.compress.network.apart import FORKS, apart, first_line
from slimtask.compress.network.contents import independent_copy, tensors_in
from slimtask.compress.network.inputs import Inputs, call, map_tensors, meta_like, named_outputs
from slimtask.compress.network.sites import Passes, SiteRecorder, plain
from slimtask.compress.network.tape import Failure, Operation, Ref, Tape
from slimtask.errors import InputError, SlimtaskError

# element-wise, though PyTorch does not tag them so
_UNTAGGED = frozenset(("hardswish", "_prelu_kernel", "bernoulli", "uniform", "normal", "exponential"))


def record(model: nn.Module, example: Inputs, *, compute: bool | None = None, training: bool = False) -> Tape:
    """Return the tape of one forward pass of ``model`` on ``example``, in eval mode unless ``training``.

    ``compute`` says whether to run on real values; None does so only if the network does not run without. ``model`` is
    not run: a process apart runs what it has of it. Raises InputError if the network does not run on the example.
    """
    return try_record(model, example, compute=compute, training=training).whole(type(model).__name__)


def try_record(model: nn.Module, example: Inputs, *, compute: bool | None = None, training: bool = False) -> Tape:
    """Return the tape as ``record`` does, or what there is of it, with its ``failure``, if the pass ends early."""
    refuse_unfit(model)
    tape = Tape()
    for real in (False, True) if compute is None else (compute,):
        if real and _elsewhere(model):  # CUDA cannot be used in a forked process
            model = independent_copy(model).cpu()
            example = map_tensors(Tensor.cpu, example)
        subject = model if FORKS else independent_copy(model)
        try:
            tape = apart(partial(_pass, subject, example, real, training))
        except RuntimeError as error:
            tape = Tape(failure=Failure("RuntimeError", first_line(error), ""))
        if tape.failure is None:
            break
    return tape


def refuse_unfit(model: nn.Module) -> None:
    """Raise InputError, with what to give instead, for a network that has no code or no sizes of its own."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{type(model).__name__} is TorchScript, whose code cannot be followed; give the module that was scripted."
        )
    if isinstance(model, torch.fx.GraphModule):
        raise InputError(
            f"{type(model).__name__} is an exported graph, whose sizes are fixed; give the nn.Module it was made from."
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise InputError(f"'{name}' has no shape yet; run the network once, or give its lazy layer its sizes.")


def unused(tape: Tape, model: nn.Module) -> list[str]:
    """Return the names of the parameters that no operation of the tape reads."""
    read: set[int] = set()
    for op in tape.operations:
        tree_map(lambda x: read.add(x.number) if isinstance(x, Ref) else None, (op.args, op.kwargs))
    used = {name for number, name in tape.leaves.items() if number in read}
    return [name for name, _ in model.named_parameters() if name not in used]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, one name for each shared one."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def shared_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose parameters and buffers are the very tensors of the original.

    Cutting gives a module new tensors, so the original stays as it is and the copy costs only what is cut. Such a copy
    is never run here: what runs, runs apart.
    """
    return independent_copy(model, sharing=(*model.parameters(), *model.buffers()))


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Return a context in which attention is made of its plain operations, the same ones on every device.

    Without it nn.TransformerEncoderLayer takes a fused path, and scaled_dot_product_attention is one call on the CPU
    but many on the meta device, so that places counted on a tape would not be those of a real pass.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _elsewhere(model: nn.Module) -> bool:
    return any(tensor.device.type not in ("cpu", "meta") for tensor in (*model.parameters(), *model.buffers()))


def _pass(model: nn.Module, example: Inputs, real: bool, training: bool) -> Tape:
    """Return the tape of ``model``, which is switched, emptied and run here: it must be nobody's."""
    passes = Passes(model)
    with plain_attention(), torch.no_grad(), passes.followed():
        try:
            model.train(training)
            if not real:
                empty_(model)
                example = map_tensors(meta_like, example)
            recorder = Recorder(named_tensors(model), passes)
            sites = SiteRecorder(passes, recorder.ref)
            with contextlib.nullcontext() if real else torch.device("meta"), recorder, sites:
                outputs = call(model, example)
            tape = recorder.finish(outputs)
        except SlimtaskError:
            raise
        except Exception as error:
            recorder = locals().get("recorder") or Recorder({}, passes)
            tape = recorder.tape
            tape.failure = Failure(type(error).__name__, first_line(error), *passes.where(error))
    tape.computed, tape.training = real, training
    tape.sites = sites.sites if "sites" in locals() else []
    return tape


def empty_(model: nn.Module) -> None:
    """Move every tensor that the network reaches to the meta device, in place; tied ones stay tied."""
    moved: dict[int, Tensor] = {}
    originals = []  # alive while ids are compared
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in moved:
                    originals.append(tensor)
                    empty = meta_like(tensor)
                    moved[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
                if tensor is not None:
                    table[name] = moved[id(tensor)]  # type: ignore[assignment]
    mine = {id(tensor) for tensor in moved.values()}
    for tensor in tensors_in(model):  # caches, tables kept as attributes, what hooks hold
        if id(tensor) not in mine and tensor.device.type != "meta":
            with contextlib.suppress(RuntimeError):
                torch.utils.swap_tensors(tensor, meta_like(tensor.detach()))  # type: ignore[no-untyped-call]


class Running(Protocol):
    """Who is running: the name of the module, and how many calls of a kind it has made."""

    @property
    def module(self) -> str:
        """Return the innermost module that is running."""

    def counted(self, what: str) -> int:
        """Return how many calls of a kind the module has made."""

    def count(self, what: str) -> int:
        """Count a further call; return how many went before."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation that runs in its context; ``tensors`` are the parameters and buffers by name."""

    def __init__(self, tensors: Mapping[str, Tensor], passes: Running) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers: Any = WeakTensorKeyDictionary()
        self._count = 0
        self._passes = passes
        self.tape = Tape()
        for name, tensor in tensors.items():
            self.tape.leaves[self.ref(tensor).number] = name
            self.tape.shapes[name] = tuple(tensor.shape)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        refs, named = self._refs(tuple(args)), self._refs(kwargs)
        module, place = self._passes.module, self._passes.counted("op")
        result = func(*args, **kwargs)
        self._passes.count("op")
        name = str(func.overloadpacket.__name__)
        turn = self._passes.count(f"op {name}")
        self.tape.operations.append(
            Operation(
                name=name,
                pointwise=_is_pointwise(func, name),
                args=refs,
                kwargs=named,
                outputs=tuple(self.ref(x) for x in _flat(result)),
                module=module,
                place=place,
                turn=turn,
            )
        )
        return result

    def finish(self, outputs: Any) -> Tape:
        """Return the tape of a pass that gave ``outputs``."""
        self.tape.outputs = {name: self.ref(tensor) for name, tensor in named_outputs(outputs).items()}
        return self.tape

    def _refs(self, tree: Any) -> Any:
        return tree_map(lambda x: self.ref(x) if isinstance(x, Tensor) else plain(x), tree)

    def ref(self, tensor: Tensor) -> Ref:
        """Return the value that a tensor is."""
        with torch._C.DisableTorchFunction():
            number = self._numbers.get(tensor)
            if number is None:
                number = self._count
                self._count += 1
                self._numbers[tensor] = number
                self.tape.storages[number] = tensor.untyped_storage()._cdata
            return Ref(number, tuple(tensor.shape))


def _is_pointwise(func: Any, name: str) -> bool:
    """Return whether each entry of the output depends on the entries at its place only; in-place forms count."""
    if torch.Tag.pointwise in func.tags or name.removesuffix("_") in _UNTAGGED:
        return True
    packet: Any = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [x for x in result if isinstance(x, Tensor)] if isinstance(result, tuple | list) else []
