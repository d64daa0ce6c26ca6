"""A latency as a measurement: every sample, the conditions it was taken under, and ratios that refuse to mislead.

Two latencies may be divided only if they were taken in one run, interleaved, under the same conditions; anything else
compares two moments of a machine rather than two networks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from slimtask.errors import InputError, first_problem
from slimtask.tasks import Frozen

STEADY_LIMIT = 1.15
"""Above this median / minimum a figure says more about the machine's other work than about the network."""

_RESAMPLES = 2000
_MUST_AGREE = ("backend", "backend_version", "device", "precision", "threads", "batch", "shape", "graph")


class Conditions(Frozen):
    """What a latency was measured under. ``shape`` is one input without its batch dimension, e.g. (3, 96, 128).

    ``precision`` is read from the artifact, ``graph`` says whether a CUDA graph was replayed, and ``run_id`` is stamped
    by the protocol: equal for measurements that were interleaved in one process, and for no others.

    Examples:
        >>> from slimtask.bench import Conditions
        >>> where = {"backend": "python", "backend_version": "3", "device": "cpu", "precision": "fp32", "threads": 1}
        >>> Conditions(**where, batch=1, shape=(3, 96, 128)).graph
        False
    """

    backend: str
    backend_version: str
    device: str
    precision: str
    threads: int = Field(ge=0)
    batch: int = Field(ge=1)
    shape: tuple[int, ...]
    graph: bool = False
    run_id: str = ""


class Ratio(Frozen):
    """A ratio of two median latencies with its bootstrap interval; ``str`` gives ``2.31x [2.27, 2.36]``.

    Examples:
        >>> from slimtask.bench import Ratio
        >>> ratio = Ratio(value=2.31, low=2.27, high=2.36)
        >>> print(ratio, ratio.above_one)
        2.31x [2.27, 2.36] True
    """

    value: float
    low: float
    high: float
    confidence: float = 0.95

    @property
    def above_one(self) -> bool:
        """Whether the whole interval lies above 1."""
        return self.low > 1.0

    @property
    def below_one(self) -> bool:
        """Whether the whole interval lies below 1."""
        return self.high < 1.0

    def __str__(self) -> str:
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


class Measurement(Frozen):
    """The latency of one candidate: sample i was taken in round i of the run, in milliseconds per call.

    Examples:
        >>> from slimtask.bench import Conditions, Measurement
        >>> where = {"backend": "python", "backend_version": "3", "device": "cpu", "precision": "fp32", "threads": 1}
        >>> one = Measurement(samples_ms=(2.0, 2.1, 2.2), conditions=Conditions(**where, batch=1, shape=(3, 96, 128)))
        >>> one.median_ms, one.steady
        (2.1, True)
    """

    samples_ms: tuple[float, ...] = Field(min_length=1)
    conditions: Conditions
    calls_per_sample: int = Field(default=1, ge=1)

    @field_validator("samples_ms")
    @classmethod
    def _check_samples(cls, samples: tuple[float, ...]) -> tuple[float, ...]:
        if not np.isfinite(samples).all() or min(samples) <= 0:
            raise ValueError("every sample must be a positive finite number of milliseconds")
        return samples

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Median latency in milliseconds."""
        return self._percentile(50)

    @property
    def p10_ms(self) -> float:
        """10th percentile in milliseconds (linear interpolation, as all percentiles here)."""
        return self._percentile(10)

    @property
    def p90_ms(self) -> float:
        """90th percentile in milliseconds."""
        return self._percentile(90)

    @property
    def p99_ms(self) -> float:
        """99th percentile in milliseconds."""
        return self._percentile(99)

    @property
    def minimum_ms(self) -> float:
        """Smallest sample in milliseconds."""
        return min(self.samples_ms)

    @property
    def spread(self) -> float:
        """Median divided by minimum: 1 on an idle machine, more where something else took part of the time."""
        return self.median_ms / self.minimum_ms

    @property
    def steady(self) -> bool:
        """Whether the spread is at most ``STEADY_LIMIT``; if not, the figure is not yet a measurement."""
        return self.spread <= STEADY_LIMIT

    def summary(self) -> dict[str, Any]:
        """Return the statistics as a JSON-ready dict; times in milliseconds under the keys of ``report.json``."""
        return {
            "median": self.median_ms,
            "p10": self.p10_ms,
            "p90": self.p90_ms,
            "p99": self.p99_ms,
            "minimum": self.minimum_ms,
            "n": self.n,
            "steady": self.steady,
        }

    def ratio(self, other: Measurement, *, across: Collection[str] = (), seed: int = 0) -> Ratio:
        """Return this median over the other's, so that ``dense.ratio(slim)`` is the speed-up of ``slim``.

        The 95 % interval is a percentile bootstrap over rounds: both samples of a round are drawn together, so drift
        that hit both cancels. ``across`` names the conditions that the caller means to compare (e.g. "precision").

        Raises:
            InputError: (a ValueError) if the measurements are of different runs, rounds or conditions.
        """
        self._refuse_other(other, across)
        mine, theirs = np.asarray(self.samples_ms), np.asarray(other.samples_ms)
        rounds = np.random.default_rng(seed).integers(self.n, size=(_RESAMPLES, self.n))
        ratios = np.median(mine[rounds], axis=1) / np.median(theirs[rounds], axis=1)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return Ratio(value=self.median_ms / other.median_ms, low=float(low), high=float(high))

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dict, with the statistics under ``summary`` for readers without numpy."""
        return self.model_dump(mode="json") | {"summary": self.summary()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Measurement:
        """Return the measurement that ``to_json`` wrote; InputError says which key is wrong."""
        try:
            return cls.model_validate({key: item for key, item in value.items() if key != "summary"})
        except ValidationError as error:
            raise InputError(f"not a measurement: {first_problem(error, 'measurement')}; measure again.") from None

    def _percentile(self, q: int) -> float:
        return float(np.percentile(self.samples_ms, q))

    def _refuse_other(self, other: Measurement, across: Collection[str]) -> None:
        mine, theirs = self.conditions, other.conditions
        for name in _MUST_AGREE:
            if name not in across and getattr(mine, name) != getattr(theirs, name):
                raise InputError(
                    f"these latencies cannot be divided: {name} is {getattr(mine, name)!r} for one and "
                    f"{getattr(theirs, name)!r} for the other; measure both under the same conditions."
                )
        if not mine.run_id or mine.run_id != theirs.run_id or self.n != other.n:
            raise InputError(
                "these latencies cannot be divided: they come from different runs; measure both interleaved in one run."
            )
