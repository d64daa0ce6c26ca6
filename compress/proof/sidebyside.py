"""Two networks run side by side in a process apart: the user's own, which may be masked there, and the smaller one."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimtask.compress.network.apart import FORKS, apart, first_line
from slimtask.compress.network.contents import independent_copy, own_tensors_, tensors_in
from slimtask.compress.network.draws import FixedDraws, seeded
from slimtask.compress.network.inputs import Inputs, batch_size, call, map_tensors, tensors_of
from slimtask.compress.network.outputs import named_leaves
from slimtask.compress.network.probes import Probes
from slimtask.compress.network.sites import Passes
from slimtask.compress.network.tape import Failure
from slimtask.compress.network.trace import plain_attention
from slimtask.compress.proof.compare import Comparison, TaskDifference
from slimtask.compress.proof.kept import KeptPlace, KeptPlaces, NotComparable
from slimtask.errors import CheckFailed, SlimtaskError

_ROUNDING = 100  # a difference up to so many tolerances may be rounding, as may any order or count; float64 tells
_AMOUNT = 0.7310585
_HALVES = (torch.float16, torch.bfloat16)
_WIDE = {torch.float32: torch.float64, **dict.fromkeys(_HALVES, torch.float64), torch.complex64: torch.complex128}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The user's network, the smaller one, and what makes the first comparable: zeros, and operations kept small."""

    own: nn.Module
    smaller: nn.Module
    mask: Callable[[nn.Module], None] | None = None
    places: tuple[KeptPlace, ...] = ()

    def apart(self) -> Pair:
        """Return the pair as it may be changed: itself in a process of its own, copies of both elsewhere.

        The smaller network gets memory of its own for what it shares.
        """
        pair = self if FORKS else replace(self, own=independent_copy(self.own), smaller=independent_copy(self.smaller))
        own_tensors_(pair.smaller, pair.own)
        pair.own.eval()
        pair.smaller.eval()
        return pair


@dataclass(kw_only=True)
class Measured:
    """What a comparison found. ``failure`` is what ended it, of the network ``failed``.

    ``undefined`` says that the user's network fails or gives NaN on noise, ``half`` that it is of half precision and
    both ran in float64, ``widened`` that float64 decided. ``skipped`` counts the probes on which the masked network
    makes other calls than on the example, and ``compared`` is (batch size, height and width) of each probe
    that both ran on, and ``digest`` is what the smaller one computed on the first. ``alone`` says that it did so again
    when the user's tensors were overwritten.
    """

    worst: dict[str, TaskDifference] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    compared: tuple[tuple[int, tuple[int, ...]], ...] = ()
    skipped: int = 0
    random: tuple[str, ...] = ()
    failure: Failure | None = None
    failed: Literal["own", "smaller"] = "own"
    undefined: bool = False
    half: bool = False
    widened: bool = False
    digest: str = ""
    alone: bool = False


class Stopped(Exception):
    """A pass of one of the two networks that ended in an exception."""

    def __init__(self, failure: Failure, who: Literal["own", "smaller"]) -> None:
        super().__init__(str(failure))
        self.failure, self.who = failure, who


def measure(pair: Pair, probes: Probes, tolerance: float) -> Measured:
    """Return how far the two networks are apart on ``probes``; both run in a process apart."""
    try:
        return apart(lambda: _Bench(pair.apart(), probes, tolerance).run())
    except RuntimeError as error:
        raise CheckFailed(
            f"the comparison of both networks ended ({first_line(error)}); nothing was written."
        ) from error


class _Bench:
    """Both networks, here to be used up."""

    def __init__(self, pair: Pair, probes: Probes, tolerance: float) -> None:
        self._pair, self._probes, self._tolerance = pair, probes, tolerance
        self._found = Measured(half=is_half(pair.own) and runs_wide(pair.smaller, probes.ordinary[0]))
        self._comparison = Comparison()
        self._random: dict[str, None] = {}

    def run(self) -> Measured:
        found = self._found
        try:
            if found.half:
                self._widen_()
            self._ordinary(list(self._probes.ordinary))
            if not found.undefined:
                self._extreme()
        except Stopped as error:
            found.failure, found.failed = error.failure, error.who
            found.undefined = error.who == "own"
        self._comparison.finish_()
        found.worst, found.words = self._comparison.worst, self._comparison.words
        found.random = tuple(self._random)
        return found

    def _widen_(self) -> None:
        self._found.widened = True
        for network in (self._pair.own, self._pair.smaller):
            widen_(network)

    def _ordinary(self, batches: list[Inputs]) -> None:
        """Compare on ``batches``: the smaller network first, for masking the other one might reach it."""
        batches = [map_tensors(wide, x) for x in batches] if self._found.half else batches
        got = [self._run(x, "smaller") for x in batches]
        self._found.digest = digest(got[0])
        self._found.alone = self._is_alone(batches[0])
        if self._pair.mask is not None:
            self._pair.mask(self._pair.own)
        self._compare(batches, got)

    def _is_alone(self, x: Inputs) -> bool:
        """Return whether the smaller network computes the same while the user's tensors are overwritten."""
        with overwritten(tensors_in(self._pair.own)):
            try:
                return digest(self._run(x, "smaller")) == self._found.digest
            except Stopped:  # it computes nothing any more
                return False

    def _compare(self, batches: Sequence[Inputs], got: Sequence[dict[str, Any]]) -> None:
        for place, (x, result) in enumerate(zip(batches, got, strict=True)):
            try:
                expected = self._run(x, "own")
            except NotComparable as error:
                if place == 0:
                    raise Stopped(Failure("NotComparable", str(error), ""), "own") from error
                self._found.skipped += 1
                continue
            self._found.undefined |= any(_has_nan(value) for value in expected.values())
            self._comparison.add_(expected, result)
            self._found.compared = (*self._found.compared, _size(x))

    def _extreme(self) -> None:
        """Compare in float64: the extreme probes, and before them the ordinary ones if their rounding is in doubt."""
        found, worst = self._found, self._comparison.worst
        rounded = any(self._tolerance < each.max_rel <= _ROUNDING * self._tolerance for each in worst.values())
        doubtful = (rounded or self._comparison.counted) and not found.widened
        batches = [map_tensors(wide, x) for x in (*(self._probes.ordinary if doubtful else ()), *self._probes.extreme)]
        if not batches:
            return
        if not found.half:
            for network in (self._pair.own, self._pair.smaller):
                widen_(network)
        undefined = found.undefined
        try:
            first = self._run(batches[0], "own")
        except (Stopped, NotComparable):  # its code insists on float32, or does not take strong noise
            return
        if doubtful:
            self._comparison.restart_()
            found.widened = True
        for place, x in enumerate(batches):
            expected = first if place == 0 else self._run(x, "own")
            self._comparison.add_(expected, self._run(x, "smaller"))
            if not (doubtful and place < len(self._probes.ordinary)):
                found.compared = (*found.compared, _size(x))
        found.undefined = undefined

    def _run(self, x: Inputs, who: Literal["own", "smaller"]) -> dict[str, Any]:
        network = self._pair.own if who == "own" else self._pair.smaller
        passes, draws = Passes(network), FixedDraws()
        kept = KeptPlaces(self._pair.places, passes) if who == "own" and self._pair.places else None
        try:
            return run_once(network, x, passes, draws, kept or contextlib.nullcontext())
        except SlimtaskError:
            raise
        except Exception as error:
            failure = Failure(type(error).__name__, first_line(error), *passes.where(error))
            raise Stopped(failure, who) from error
        finally:
            self._random.update(dict.fromkeys(draws.names))


def run_once(network: nn.Module, x: Inputs, passes: Passes, *contexts: Any) -> dict[str, Any]:
    """Return every output of one pass on a copy of ``x`` by name, none of which a later pass can write to."""
    with contextlib.ExitStack() as stack:
        for context in (torch.no_grad(), plain_attention(), seeded(), passes.followed(), *contexts):
            stack.enter_context(context)
        outputs = call(network, map_tensors(Tensor.clone, x))
    return {name: _copied(value) for name, value in named_leaves(outputs).items()}


def digest(outputs: dict[str, Any]) -> str:
    """Return a fingerprint of the outputs, equal only if they are equal bit for bit."""
    made = hashlib.sha256()
    for name, value in sorted(outputs.items()):
        data = value.contiguous().view(-1).view(torch.uint8).numpy() if _has_bytes(value) else pickle.dumps(repr(value))
        made.update(repr((name, getattr(value, "dtype", ""), getattr(value, "shape", ""))).encode())
        made.update(bytes(data))
    return made.hexdigest()


@contextlib.contextmanager
def overwritten(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Add a number that no weight is used to to every tensor of real or complex numbers, and take it back."""
    touched = [tensor.detach() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    before = [tensor.clone() for tensor in touched]
    for tensor in touched:
        with contextlib.suppress(RuntimeError):  # several entries in one place of memory
            tensor.add_(_AMOUNT)
    try:
        yield
    finally:
        for tensor, values in zip(touched, before, strict=True):
            with contextlib.suppress(RuntimeError):
                tensor.copy_(values)


def is_half(network: nn.Module) -> bool:
    """Return whether a parameter of the network is of half precision."""
    return any(parameter.dtype in _HALVES for parameter in network.parameters())


def wide(x: Tensor) -> Tensor:
    """Return the tensor in float64 (complex128) if it is of numbers, else as it is."""
    return x.to(_WIDE.get(x.dtype, x.dtype))


def widen_(network: nn.Module) -> None:
    """Give every tensor that the network reaches double precision, in place; ties and closures keep them."""
    for tensor in tensors_in(network):
        if tensor.dtype in _WIDE:
            tensor.data = tensor.data.to(_WIDE[tensor.dtype])


def runs_wide(network: nn.Module, x: Inputs) -> bool:
    """Return whether a copy of the network runs in float64."""
    try:
        copied = independent_copy(network).eval()
        widen_(copied)
        run_once(copied, map_tensors(wide, x), Passes(copied))
    except Exception:  # whatever it says, it does not
        return False
    return True


def _size(x: Inputs) -> tuple[int, tuple[int, ...]]:
    return batch_size(x), next((tuple(tensor.shape[2:]) for tensor in tensors_of(x)), ())


def _copied(value: Any) -> Any:
    return value.detach().as_subclass(Tensor).clone() if isinstance(value, Tensor) else value


def _has_nan(value: Any) -> bool:
    return isinstance(value, Tensor) and bool(value.isnan().any())


def _has_bytes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0
