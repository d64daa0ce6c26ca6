"""Time on a GPU: one CUDA graph per candidate and input set, replayed in turns between two events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

import torch

from slimtask.bench.timing.isolated import Unusable, reason
from slimtask.bench.timing.measure import Conditions, Measurement

Run = Callable[[], object]
FLUSH_BYTES = 256 * 2**20  # more than any L2


@runtime_checkable
class Clock(Protocol):
    """Prepares runs and times them; the device's own, or one for tests."""

    def capture(self, run: Run) -> Run:
        """Return a replay of what ``run`` launches."""

    def time(self, replays: Mapping[str, Sequence[Run]], *, cold: bool) -> dict[str, list[float]]:
        """Return samples in ms per replay by name, taken in turns; ``cold``: with nothing of it in L2."""

    def check(self, error: Exception | None = None) -> None:
        """Wait for the device; raises Unusable, because of ``error`` if given, where this process has lost it."""


@dataclass(frozen=True, kw_only=True)
class GraphClock:
    """CUDA graphs and events: ``replays`` per candidate in samples of ``per_sample``, rotating its input sets.

    A cold sample is one replay behind a write of 256 MB that the events do not include.
    """

    replays: int = 200
    per_sample: int = 20

    def capture(self, run: Run) -> Run:
        """Return the replay of a CUDA graph of ``run``, warmed up; its outputs live in the graph's own memory.

        Raises Unusable where the capture fails: torch's allocator and stream then stay as they were during it, and
        what was wrong is the context of the error that it raises at the end.
        """
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.no_grad(), torch.cuda.graph(graph):
                run()
        except Exception as error:
            raise Unusable(f"it cannot be captured: {reason(error.__context__ or error)}") from error

        def replay() -> None:
            graph.replay()

        return replay

    def time(self, replays: Mapping[str, Sequence[Run]], *, cold: bool) -> dict[str, list[float]]:
        """Return samples in ms per replay by name."""
        flushed = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda") if cold else None
        samples: dict[str, list[float]] = {name: [] for name in replays}
        for sets in replays.values():
            for replay in sets:
                replay()
        for _ in range(max(1, self.replays // self.per_sample)):
            for name, sets in replays.items():
                if flushed is None:
                    samples[name].append(_between_events([sets[i % len(sets)] for i in range(self.per_sample)]))
                    continue
                flushed.fill_(len(samples[name]) % 7)
                samples[name].append(_between_events([sets[len(samples[name]) % len(sets)]]))
        return samples

    def check(self, error: Exception | None = None) -> None:
        """Wait for the device; raises Unusable, because of ``error`` if given, where this process has lost it."""
        try:
            torch.cuda.synchronize()
        except Exception as lost:
            raise Unusable(reason(error or lost)) from lost


def replayed(
    samples: Mapping[str, Sequence[float]], *, cuda: bool, device: str, precision: str, shape: tuple[int, ...]
) -> dict[str, Measurement]:
    """Return samples that a clock took in turns as measurements of one run; not ``cuda``: by a clock for tests."""
    conditions = Conditions(
        backend="cuda-graph" if cuda else "pytorch-cpu",
        backend_version=torch.__version__,
        device=device,
        precision=precision,
        threads=1,
        batch=1,
        shape=shape,
        graph=cuda,
        run_id=uuid4().hex,
    )
    return {name: Measurement(samples_ms=tuple(each), conditions=conditions) for name, each in samples.items()}


def _between_events(replays: Sequence[Run]) -> float:
    begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    for replay in replays:
        replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / len(replays)
