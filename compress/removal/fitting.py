"""Which cuts a network's code survives, and which of its modules need to be told sizes for that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from slimtask.compress.graph.analysis import Analysis
from slimtask.compress.graph.axes import Array
from slimtask.compress.graph.coupler import Coupling
from slimtask.compress.graph.operands import operands
from slimtask.compress.network.inputs import Inputs
from slimtask.compress.network.tape import Operation, Ref, Tape
from slimtask.compress.network.trace import try_record
from slimtask.compress.removal.fixes import moved, size_fixes, valued
from slimtask.compress.removal.sized import ModuleSizes, can_hold
from slimtask.compress.removal.surgery import Cut, kept_atoms, make_cut

# what only lays out data: a module that is told its sizes may do it by other calls
# fmt: off
_LAYOUT = frozenset(
    {
        "view", "_unsafe_view", "reshape", "expand", "slice", "select", "split", "split_with_sizes", "index_select",
        "index", "narrow", "clone", "alias", "detach", "lift_fresh_copy", "lift_fresh", "_to_copy", "permute",
        "transpose", "t", "squeeze", "unsqueeze", "unbind", "as_strided", "_reshape_alias", "copy_", "zeros", "ones",
        "empty", "full", "arange", "scalar_tensor", "new_zeros", "new_empty", "new_ones", "new_full", "unsafe_split",
        "empty_strided", "fill_", "zero_", "linspace", "rand", "randn", "index_put_", "_index_put_impl_", "repeat",
    }
)
# fmt: on
_ATTEMPTS = 24


@dataclass
class Fit:
    """The cuts that the code survives together, each other one with what it breaks, and the sizes to tell modules."""

    good: list[Cut]
    lost: list[tuple[Cut, str]] = field(default_factory=list)
    sizes: tuple[ModuleSizes, ...] = ()


@dataclass(frozen=True)
class _Problem:
    """Where a pass of the cut network departs from what the coupling expects: module, operation and tape, in words."""

    why: str
    module: str
    tape: int
    operation: Operation | None = None


def fit(analysis: Analysis, cuts: Sequence[Cut]) -> Fit:
    """Return which of the ``cuts`` the network's code survives, tried apart in every pass of the analysis.

    Every value of the cut network must have the shape that the coupling expects. Where one does not, or the code fails,
    the module that made it, and every other of its class, is told its sizes; if that does not help, the cuts that the
    failing operations touch are taken back, in all modules of the class at once.
    """
    state = _Attempt(analysis, [cut for cut in cuts if not bool(cut.keep.all())])
    for _ in range(_ATTEMPTS):
        problem = state.problem()
        if problem is None or not state.cuts:
            break
        if not state.tell_more(problem):
            state.take_back(problem)
    else:
        state.give_up()
    return Fit(state.cuts, state.lost, state.sizes())


def sizes_of(analysis: Analysis, cuts: Sequence[Cut], told: Collection[str] | None = None) -> tuple[ModuleSizes, ...]:
    """Return the sizes that the ``told`` modules, all for None, need if the ``cuts`` are made."""
    fixes = size_fixes(analysis.coupling, kept_atoms(analysis, cuts))
    modules = dict(analysis.model.named_modules())
    return tuple(
        sizes
        for name, sizes in fixes.items()
        if name in modules and can_hold(modules[name]) and (told is None or name in told)
    )


class _Attempt:
    """The cuts still standing and the modules that are told their sizes."""

    def __init__(self, analysis: Analysis, cuts: list[Cut]) -> None:
        self.cuts, self.lost = cuts, list[tuple[Cut, str]]()
        self._analysis = analysis
        self._modules = dict(analysis.model.named_modules())
        self._told: set[str] = set()
        self._refresh()

    def sizes(self) -> tuple[ModuleSizes, ...]:
        """Return what the told modules are told."""
        return tuple(sizes for name, sizes in self._fixes.items() if name in self._told)

    def problem(self) -> _Problem | None:
        """Return the first departure of a pass through the cut network, None if there is none in any."""
        if not self.cuts:
            return None
        smaller, _ = make_cut(self._analysis.model, self.cuts, self.sizes())
        for index, inputs in enumerate(self._analysis.inputs):
            if found := self._in_pass(smaller, index, inputs):
                return found
        return None

    def _in_pass(self, smaller: nn.Module, index: int, inputs: Inputs) -> _Problem | None:
        whole = self._analysis.tapes[index]
        cut = try_record(smaller, inputs, compute=whole.computed, training=whole.training)
        if cut.failure is not None:
            mode = "train" if whole.training else "run"
            return _Problem(
                f"the network does not {mode} without them: {cut.failure.words}",
                cut.failure.module,
                index,
                _at(whole, cut.failure.module, cut.failure.place),
            )
        return None if whole.computed else _departure(self._analysis.coupling, index, cut, self._kept)

    def tell_more(self, problem: _Problem) -> bool:
        """Tell sizes to more modules, those nearest to the problem first; return False if there are none left."""
        chain = [problem.module]
        while chain[-1]:
            chain.append(chain[-1].rpartition(".")[0])
        rings: list[Collection[str]] = [[name] for name in chain]
        rings.append(list(self._fixes))
        for ring in rings:
            classes = {type(self._modules[name]) for name in ring if name in self._modules}
            more = {
                name
                for name in self._fixes
                if name not in self._told and (name in ring or type(self._modules[name]) in classes)
            }
            if more:
                self._told |= more
                return True
        return False

    def take_back(self, problem: _Problem) -> None:
        """Take back the cuts that the problem's operation touches, in every module of its class; else half of all."""
        gone = self._touched(problem) or self._inside(problem.module) or self.cuts[len(self.cuts) // 2 :]
        chosen = {id(cut) for cut in gone}
        self.lost += [(cut, problem.why) for cut in gone]
        self.cuts = [cut for cut in self.cuts if id(cut) not in chosen]
        self._refresh()

    def give_up(self) -> None:
        """Take back everything."""
        self.lost += [(cut, "the network's code does not follow the cuts") for cut in self.cuts]
        self.cuts = []

    def _refresh(self) -> None:
        self._kept = kept_atoms(self._analysis, self.cuts)
        fixes = size_fixes(self._analysis.coupling, self._kept)
        self._fixes = {
            name: sizes for name, sizes in fixes.items() if name in self._modules and can_hold(self._modules[name])
        }
        coupling = self._analysis.coupling
        self._told |= (valued(coupling, self._kept) | moved(coupling, self._kept)) & self._fixes.keys()

    def _touched(self, problem: _Problem) -> list[Cut]:
        op = problem.operation
        if op is None:
            return []
        kind = type(self._modules.get(op.module))
        alike = [
            other
            for other in self._analysis.tapes[problem.tape].operations
            if other.name == op.name
            and (other is op or (other.place == op.place and type(self._modules.get(other.module)) is kind))
        ]
        coupling, classes = self._analysis.coupling, self._analysis.coupling.classes
        found: set[int] = set()
        for other in alike:
            for ref in (*operands(other), *other.outputs):
                for layer in coupling.values[problem.tape].get(ref.number, []):
                    found |= set(np.unique(classes[layer[layer > 0]]).tolist())
        return [cut for cut in self.cuts if found & self._channels(cut)]

    def _channels(self, cut: Cut) -> set[int]:
        """Return the classes of the channels that a cut removes."""
        gone = ~kept_atoms(self._analysis, [cut])
        return set(np.unique(self._analysis.coupling.classes[gone]).tolist())

    def _inside(self, module: str) -> list[Cut]:
        inside = [cut for cut in self.cuts if _touches(cut, module)]
        return inside if module else []


def _touches(cut: Cut, module: str) -> bool:
    return any(f"{member.module}.".startswith(f"{module}.") for member in cut.group.members)


def _at(tape: Tape, module: str, place: int) -> Operation | None:
    """Return the operation that a pass through ``module`` makes after ``place`` others."""
    return next((op for op in tape.operations if op.module == module and op.place == place), None)


def _departure(coupling: Coupling, index: int, cut: Tape, kept: Array) -> _Problem | None:
    """Return the first operation of the cut network that is not the dense one's at the shapes that are expected."""
    whole = coupling.tapes[index]
    expected = [op for op in whole.operations if op.name not in _LAYOUT]
    got = [op for op in cut.operations if op.name not in _LAYOUT]

    def shape(ref: Ref) -> tuple[int, ...]:
        return coupling.shape(index, ref, kept)

    for one, other in zip(expected, got, strict=False):
        words = _difference(one, other, shape)
        if words:
            return _Problem(words, one.module, index, one)
    if len(expected) != len(got):
        return _Problem("its code takes another way without them", "", index, expected[-1] if expected else None)
    for name, ref in whole.outputs.items():
        if name in cut.outputs and cut.outputs[name].shape != ref.shape:
            return _Problem(f"output '{name}' changes its shape", "", index)
    return None


Shape = Callable[[Ref], tuple[int, ...]]


def _difference(one: Operation, other: Operation, shape: Shape) -> str:
    """Return how the cut network's operation is not what the dense one's becomes, "" if it is."""
    if one.name != other.name:
        return "its code takes another way without them"
    if words := _misread(one, other, shape):
        return words
    counted = 1 if "norm" in one.name else None  # behind it come statistics, in forms of their own
    for ref, found in zip(one.outputs[:counted], other.outputs, strict=False):
        if shape(ref) != found.shape:
            return f"'{one.name}' makes {list(found.shape)} where {list(shape(ref))} is expected"
    return f"a number in '{one.name}' depends on how many there are" if _numbers(one) != _numbers(other) else ""


def _misread(one: Operation, other: Operation, shape: Shape) -> str:
    """Return how an operand of the cut network's operation is not what is expected, "" if all are."""
    if one.name == "native_group_norm" and one.args[6] > 1:
        x, groups = one.args[0], one.args[6]
        if other.args[6] * x.shape[1] != groups * shape(x)[1]:
            return f"'{one.name}' keeps its number of groups"
    for ref, found in zip(operands(one), operands(other), strict=False):
        if shape(ref) != found.shape:
            return f"'{one.name}' reads {list(found.shape)} where {list(shape(ref))} is expected"
    return ""


def _numbers(op: Operation) -> list[int | float]:
    """Return the numbers that an element-wise operation computes with."""
    numbers = [x for x in op.args if isinstance(x, int | float) and not isinstance(x, bool)]
    return numbers if op.pointwise else []
