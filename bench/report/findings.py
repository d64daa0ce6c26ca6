"""What a report's figures say in words: the best level, the headline, the flops beside the speed. No drawing here."""

from __future__ import annotations

from slimtask.bench.report.schema import Level, Report
from slimtask.bench.timing.measure import Ratio

ACCURACY_FLOOR = -3.0
"""A level below this delta_m (per cent) is not offered as the best one, however fast it is."""


def percent(fraction: float | int, digits: int = 0) -> str:
    """Return a fraction in per cent, with a space that does not break before the sign."""
    return f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def main_backend(report: Report) -> str | None:
    """Return the backend the headline speaks of: the first one the dense network was timed on."""
    return report.backends[0] if report.backends else None


def speedup(report: Report, level: Level, backend: str) -> Ratio | None:
    """Return dense over this level on a backend; without a stored interval the medians' ratio stands for all three."""
    mine, dense = level.latency_ms.get(backend), report.levels[0].latency_ms.get(backend)
    if mine is None or dense is None:
        return None
    value = dense.median / mine.median
    return mine.speedup or Ratio(value=value, low=value, high=value)


def flop_ratio(report: Report, level: Level) -> float | None:
    """Return dense FLOPs over this level's; a ratio of counts, no speed."""
    return level.flop_ratio or (report.levels[0].flops / level.flops if level.flops else None)


def best_level(report: Report) -> Level | None:
    """Return the fastest level that may be recommended, None if there is none.

    It must be faster than dense beyond its interval, keep delta_m at or above ``ACCURACY_FLOOR``, and its certificate
    must hold.
    """
    backend = main_backend(report)
    if backend is None:
        return None
    allowed = []
    for level in report.levels[1:]:
        gain = speedup(report, level, backend)
        accurate = level.delta_m is None or level.delta_m >= ACCURACY_FLOOR
        proven = level.certificate is None or level.certificate.holds
        if gain is not None and gain.above_one and accurate and proven:
            allowed.append((gain.value, level))
    return max(allowed, key=lambda pair: pair[0])[1] if allowed else None


def headline(report: Report) -> str:
    """Return the one sentence that opens the report: the best result that is true."""
    best, backend = best_level(report), main_backend(report)
    if len(report.levels) == 1:
        return "Only the dense network was measured."
    if backend is None:
        return "Nothing was timed, so nothing is said about speed."
    if best is None:
        return f"No level is both faster than the dense network and within {-ACCURACY_FLOOR:g} % of its accuracy."
    gain = speedup(report, best, backend)
    assert gain is not None
    sentence = f"{gain.value:.1f}x faster than the dense network, with {percent(best.sparsity)} of the trunk removed"
    if best.delta_m is None:
        return f"{sentence}."
    if best.delta_m >= 0:
        return f"{sentence} and accuracy {best.delta_m:.1f} % better."
    return f"{sentence} for {-best.delta_m:.1f} % of accuracy."


def subline(report: Report) -> str:
    """Return the sentence under the headline: latencies, backend, spread, and the FLOP ratio under its own name."""
    best, backend = best_level(report), main_backend(report)
    if backend is None or len(report.levels) == 1:
        return ""
    dense = report.levels[0].latency_ms[backend]
    if best is None:
        fastest = min(
            (level for level in report.levels[1:] if backend in level.latency_ms),
            key=lambda level: level.latency_ms[backend].median,
            default=None,
        )
        if fastest is None:
            return ""
        return (
            f"Dense takes {dense.median:.2f} ms on {backend}; the fastest level, {fastest.name}, takes "
            f"{fastest.latency_ms[backend].median:.2f} ms{_accuracy(fastest)}."
        )
    mine, gain, flops = best.latency_ms[backend], speedup(report, best, backend), flop_ratio(report, best)
    assert gain is not None
    text = f"Level {best.name}: {dense.median:.2f} ms down to {mine.median:.2f} ms on {backend}"
    if gain.low < gain.high:
        text += f", speed-up {gain.value:.2f}x (95 % interval {gain.low:.2f} to {gain.high:.2f})"
    if flops is not None:
        text += f"; its FLOP ratio is {flops:.2f}x"
    text += ". All levels were timed interleaved in one process"
    return f"{text}." if dense.steady and mine.steady else f"{text}, on a machine too busy to be sure: measure again."


def verdicts(report: Report) -> list[tuple[str, str, str]]:
    """Return (level, backend, sentence) wherever the benchmark left a verdict about a compressed level."""
    return [
        (level.name, backend, latency.verdict)
        for level in report.levels[1:]
        for backend, latency in level.latency_ms.items()
        if latency.verdict
    ]


def primary_metrics(report: Report) -> list[tuple[str, str, str]]:
    """Return (task, primary metric, arrow of its better direction) for every task the dense network was scored on."""
    specs = {task.name: task for task in report.tasks}
    found = []
    for task, values in report.levels[0].metrics.items():
        spec = specs.get(task)
        if spec is not None and spec.metric in values:
            found.append((task, spec.metric, "↑" if spec.higher_is_better else "↓"))
        elif values:
            found.append((task, next(iter(values)), ""))
    return found


def _accuracy(level: Level) -> str:
    return "" if level.delta_m is None else f" with delta_m {level.delta_m:+.1f} %"
