"""Graphs in one interleaved run."""

from __future__ import annotations

from slimtask.bench.timing.graphs import measure_graphs


def test_graphs_are_timed_in_one_run_and_the_larger_one_is_slower(save_convolution):
    paths = {"small": save_convolution("small.onnx", 1), "large": save_convolution("large.onnx", 512)}
    measured = measure_graphs(paths, threads=1, rounds=5, min_sample_ms=0.1)
    assert list(measured) == ["small", "large"]
    assert [one.n for one in measured.values()] == [5, 5]
    assert measured["large"].ratio(measured["small"]).above_one
    assert measured["large"].conditions.threads == 1
