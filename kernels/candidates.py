"""The candidates of dispatch: what each executes exactly, where it runs, its work and its floor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from slimtask.kernels.floors import Ceilings, Work, delta_work, dense_work
from slimtask.kernels.problem import LINEAR_PATTERNS, PATTERNS, Problem

Form = Literal["merged", "rows", "delta"]

_PAIRS = ("hidden-units", "heads")
_DENSE_TENSOR = {"linear": "tensor", "mlp": "hidden-units", "attention": "heads"}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to execute base and sub-tasks.

    ``form`` "merged" is T dense models that share nothing, "rows" shares the rows that did not change, "delta" needs
    the changed weights alone where they did not. ``patterns`` are those it executes exactly; ``rate`` names the ceiling
    its deltas run at and ``reached`` the share of it that good kernels are known to reach. ``sources`` are the files
    and folders that implement it: costs measured with other files are stale.
    """

    name: str
    does: str
    form: Form
    patterns: tuple[str, ...]
    work: Callable[[Problem], tuple[Work, ...]]
    launches: Callable[[Problem], int]
    rate: str = "dense"
    reached: float = 1.0
    backends: tuple[str, ...] = ("cuda", "cpu")
    cuda_dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    cuda_needs: str | None = None
    sources: tuple[str, ...] = ()

    def excluded(self, problem: Problem) -> str | None:
        """Return why this candidate cannot execute ``problem`` exactly, or None if it can."""
        every_row = problem.rows == 1
        if problem.pattern not in self.patterns and not (self.form == "rows" and every_row):
            return f"executes {', '.join(self.patterns)} exactly, not {problem.pattern}"
        if self.form == "delta" and every_row:
            return "every row changed: no row is left that needs the delta alone"
        if self.form != "merged" and problem.operator == "attention" and problem.rows > 0:
            return "an attention mixes its tokens: once some rows change, all do"
        if problem.device.backend not in self.backends:
            return f"runs on {', '.join(self.backends)} only"
        return self._refused_by_cuda(problem) if problem.device.backend == "cuda" else None

    def _refused_by_cuda(self, problem: Problem) -> str | None:
        if problem.dtype not in self.cuda_dtypes:
            return f"takes {', '.join(self.cuda_dtypes)}, not {problem.dtype}"
        if self.cuda_needs and not problem.device.has(self.cuda_needs):
            return f"needs {self.cuda_needs}, which is not installed"
        if self.cuda_needs and (problem.device.sm or 0) < 80:
            return "needs compute capability 8.0 or newer"
        return None

    def flops(self, problem: Problem) -> float:
        """Return the FLOPs for all tasks and the base."""
        return sum(work.flops for work in self.work(problem))

    def bytes(self, problem: Problem) -> float:
        """Return the bytes moved for all tasks and the base, each array once."""
        return sum(work.bytes for work in self.work(problem))

    def floor_ms(self, problem: Problem, ceilings: Ceilings | None = None) -> float:
        """Return the least time in ms on ``ceilings`` (default: the device's own), gaps between launches included."""
        return self._ms(problem, ceilings or problem.ceilings, 1.0)

    def expected_ms(self, problem: Problem) -> float:
        """Return the floor with deltas at the share of their ceiling that good kernels reach, in ms."""
        return self._ms(problem, problem.ceilings, self.reached)

    def _ms(self, problem: Problem, limits: Ceilings, reached: float) -> float:
        rate = reached * getattr(limits, self.rate)
        products = sum(work.seconds(limits, rate) for work in self.work(problem))
        return 1e3 * (products + self.launches(problem) * limits.launch_s)

    def canonical(self, problem: Problem) -> Problem:
        """Return ``problem`` without what does not change this candidate's time: equal ones share one measurement."""
        if self.form == "merged":
            pattern = _DENSE_TENSOR[problem.operator]
            return replace(problem, pattern=pattern, density=1.0, rows=1.0, base_included=False)
        alone = replace(problem, tasks=problem.deltas, base_included=False)
        if self.form == "delta":
            return alone
        return replace(alone, density=1.0, pattern="rows" if problem.operator == "linear" else problem.pattern)

    def source_hash(self) -> str:
        """Return the hash of the files that implement this candidate; "library" where only torch does."""
        return hash_of(self.sources) if self.sources else "library"


@cache
def hash_of(sources: tuple[str, ...], root: Path = Path(__file__).parent) -> str:
    """Return the hash of the source files that ``sources``, files and folders in ``root``, hold."""
    digest = hashlib.sha256()
    for source in sources:
        for path in sorted([root / source, *(root / source).rglob("*")]):
            if path.suffix in (".py", ".cu", ".cuh", ".h"):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _dense(problem: Problem) -> tuple[Work, ...]:
    return tuple(dense_work(layer, models=problem.tasks, item_bytes=problem.item_bytes) for layer in problem.layers)


def _rows(problem: Problem) -> tuple[Work, ...]:
    """The base, and the changed rows through merged weights, which are read whole."""
    deltas, rows = problem.deltas, problem.rows
    works = []
    for layer in problem.layers:
        shared = delta_work(layer, deltas=deltas, density=0.0, rows=rows, item_bytes=problem.item_bytes)
        merged = problem.item_bytes * deltas * layer.inputs * layer.outputs * (rows > 0)
        works.append(replace(shared, bytes=shared.bytes + merged))
    return tuple(works)


def _delta(index_bytes: float, times: tuple[float, ...] = (1.0,)) -> Callable[[Problem], tuple[Work, ...]]:
    """The base, the delta where rows did not change, merged weights where they did; ``times`` density, by layer."""

    def works(problem: Problem) -> tuple[Work, ...]:
        return tuple(
            delta_work(
                layer,
                deltas=problem.deltas,
                density=problem.density * factor,
                rows=problem.rows,
                item_bytes=problem.item_bytes,
                index_bytes=index_bytes,
            )
            for layer, factor in zip(problem.layers, times, strict=True)
        )

    return works


def _after_base(own: int) -> Callable[[Problem], int]:
    return lambda problem: own + (problem.rows > 0)


CANDIDATES = (
    Candidate(
        name="dense",
        does="T separate products with merged weights",
        form="merged",
        patterns=PATTERNS,
        work=_dense,
        launches=lambda problem: problem.tasks * len(problem.layers),
    ),
    Candidate(
        name="batched",
        does="one batched product over the merged weights of all tasks",
        form="merged",
        patterns=PATTERNS,
        work=_dense,
        launches=lambda problem: len(problem.layers),
    ),
    Candidate(
        name="out-channels",
        does="A: one product with the changed outputs of every task appended to the base's weights",
        form="delta",
        patterns=("out-channels",),
        work=_delta(0.0),
        launches=_after_base(1),
        rate="channels",
        sources=("ops",),
    ),
    Candidate(
        name="rows",
        does="B: the base, and the changed rows gathered and sent through merged weights",
        form="rows",
        patterns=("rows",),
        work=_rows,
        launches=lambda problem: len(problem.layers) * (1 + (problem.rows > 0)),
        sources=("ops", "triton"),
    ),
    Candidate(
        name="blocks-cuda",
        does="C: 64-wide blocks of all tasks in one launch, activations kept in shared memory",
        form="delta",
        patterns=("block",),
        work=_delta(4 / 64**2),
        launches=_after_base(2),
        rate="stationary",
        backends=("cuda",),
        cuda_dtypes=("float16", "bfloat16"),
        cuda_needs="cuda-bindings",
        sources=("ops", "cuda"),
    ),
    Candidate(
        name="blocks-triton",
        does="C: 64-wide blocks of all tasks in one launch, activations read from L2",
        form="delta",
        patterns=("block",),
        work=_delta(4 / 64**2),
        launches=_after_base(2),
        rate="streamed",
        backends=("cuda",),
        cuda_needs="triton",
        sources=("ops", "triton"),
    ),
    Candidate(
        name="blocks-torch",
        does="C: 64-wide blocks in standard operators",
        form="delta",
        patterns=("block",),
        work=_delta(4 / 64**2),
        launches=_after_base(2),
        rate="streamed",
        backends=("cpu",),
        sources=("ops",),
    ),
    Candidate(
        name="vectors",
        does="D: 32 or 64 outputs share one list of inputs, gathered and multiplied dense",
        form="delta",
        patterns=("vector", "block", "in-channels"),
        work=_delta(4 / 32),
        launches=_after_base(2),
        rate="stationary",
        cuda_dtypes=("float16", "bfloat16"),
        cuda_needs="cuda-bindings",
        sources=("ops", "cuda"),
    ),
    Candidate(
        name="csr",
        does="G: single entries, on CUDA cores on a GPU",
        form="delta",
        patterns=tuple(pattern for pattern in LINEAR_PATTERNS if pattern not in ("tensor", "rows")),
        work=_delta(4.0),
        launches=_after_base(2),
        rate="scalar",
        reached=0.5,  # what good CSR kernels reach of the shared memory's limit
        cuda_needs="cuda-bindings",
        sources=("ops", "cuda"),
    ),
    Candidate(
        name="units",
        does="changed hidden units or heads appended to the first layer, a correction in the second",
        form="delta",
        patterns=_PAIRS,
        work=_delta(0.0, (1.0, 2.0)),  # the second layer takes the new units in and the base's out again
        launches=_after_base(4),
        rate="channels",
        sources=("units.py",),
    ),
)


def candidate(name: str) -> Candidate:
    """Return the candidate ``name``, or ValueError."""
    found = next((each for each in CANDIDATES if each.name == name), None)
    if found is None:
        names = ", ".join(each.name for each in CANDIDATES)
        raise ValueError(f"there is no candidate '{name}'; take one of {names}.")
    return found
