"""The format of ``report.json``: what the chain measured, level by level; level 0 is the dense network.

Every time is in milliseconds, every sparsity a fraction in [0, 1], ``delta_m`` is in per cent (positive: better than
dense), counts are whole numbers. Keys beyond the fixed ones have defaults, so a report without them is still valid.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from slimtask.bench.bench import Bench, Row
from slimtask.bench.timing.measure import Ratio
from slimtask.errors import InputError, first_problem
from slimtask.files import read_json, write_json
from slimtask.tasks import Frozen, TaskSpec


def _defined(value: Any) -> Any:
    """JSON has no NaN: a score that is undefined (no such class in the split) is written as null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Score = Annotated[float | None, BeforeValidator(_defined)]


class Timing(Frozen):
    """A latency in milliseconds; ``speedup`` is dense over this one, from the same interleaved run."""

    median: float = Field(gt=0)
    p10: float = Field(gt=0)
    p90: float = Field(gt=0)
    n: int = Field(ge=1)
    p99: float | None = None
    minimum: float | None = None
    steady: bool = True
    speedup: Ratio | None = None
    verdict: str = ""


class Latency(Timing):
    """The latency of a level's fused graph on one backend, and of its other paths (one per task) by path name."""

    paths: dict[str, Timing] = Field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, level: str, *, fused: str = "fused") -> Latency:
        """Return a level's latencies from a benchmark; ``fused`` names the path that computes all tasks."""
        paths = {row.path: _timing(row) for row in bench.rows if row.level == level and row.path != fused}
        return cls(**_timing(bench.row(level, fused)).model_dump(), paths=paths)


class CertificateSummary(Frozen):
    """What the removal's certificate says: the largest relative difference over all tasks, and whether it holds."""

    max_rel_error: Score
    holds: bool


class LayerWidth(Frozen):
    """Channels of one layer in the dense network and at this level."""

    name: str
    before: int = Field(ge=0)
    after: int = Field(ge=0)


class Level(Frozen):
    """One sparsity level: its size, its accuracy, its latency per backend, and the proof of its removal.

    ``sparsity`` is the fraction of the trunk's parameters removed, ``group_sparsity`` the fraction of channel groups
    that are zero, ``flop_ratio`` the dense FLOPs over this level's (which is no speed-up).
    """

    name: str
    sparsity: float = Field(ge=0, le=1)
    params: int = Field(ge=0)
    flops: int = Field(ge=0)
    metrics: dict[str, dict[str, Score]] = Field(default_factory=dict)
    delta_m: Score = None
    latency_ms: dict[str, Latency] = Field(default_factory=dict)
    certificate: CertificateSummary | None = None
    group_sparsity: float | None = Field(default=None, ge=0, le=1)
    flop_ratio: float | None = None
    layers: tuple[LayerWidth, ...] = ()


class Engine(Frozen):
    """One built engine: what built it, from which file, for which tasks and GPUs; precision as read back."""

    backend: str
    path: str
    tasks: tuple[str, ...]
    bytes: int = Field(ge=0)
    precision: str
    targets: tuple[str, ...] = ()


class Report(Frozen):
    """Everything the page shows.

    ``tasks`` gives metric names their direction, ``command`` is how to get this report again, ``history`` holds per
    level the rows of its training log (e.g. {"step", "loss", "group_sparsity"}), ``notes`` are sentences to show.
    """

    levels: tuple[Level, ...] = Field(min_length=1)
    engines: tuple[Engine, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    title: str = "slimtask report"
    command: str = ""
    created: str = ""
    tasks: tuple[TaskSpec, ...] = ()
    history: dict[str, list[dict[str, float | int | None]]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: Any, what: str = "the report") -> Report:
        """Return the report held by a JSON value; InputError names the first wrong key of ``what``."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            problem = first_problem(error, "top level")
            raise InputError(f"{what} is not a valid report: {problem}; write it again.") from None

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Return the report in a JSON file; InputError if it is missing, damaged or of another format."""
        return cls.parse(read_json(path, "report"), f"'{path}'")

    def save(self, path: Path | str) -> None:
        """Write ``report.json``, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @property
    def backends(self) -> tuple[str, ...]:
        """Backends the dense network was timed on, in the order given."""
        return tuple(self.levels[0].latency_ms)


def _timing(row: Row) -> Timing:
    return Timing(**row.measurement.summary(), speedup=row.speedup, verdict=row.verdict)
