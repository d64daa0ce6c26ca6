from __future__ import annotations

import copy

import pytest

ODD = """70 % <script>alert('&"')</script> $x_1$"""


def _timing(median: float, speedup: float | None) -> dict:
    ratio = None if speedup is None else {"value": speedup, "low": 0.98 * speedup, "high": 1.02 * speedup}
    return {"median": median, "p10": 0.97 * median, "p90": 1.05 * median, "n": 40, "speedup": ratio}


def _level(name: str, sparsity: float, delta_m: float, median: float, dense_median: float = 10.0) -> dict:
    dense = sparsity == 0
    gain = None if dense else dense_median / median
    fused = _timing(median, gain) | {"verdict": "" if dense else f"verdict about {name}"}
    return {
        "name": name,
        "sparsity": sparsity,
        "params": round(3e6 * (1 - sparsity)) + 1000,
        "flops": round(1e9 * (1 - sparsity)) + 1000,
        "metrics": {"segmentation": {"pixel_accuracy": 0.8, "miou": 0.5 + delta_m / 100}, "depth": {"abs_rel": 0.2}},
        "delta_m": delta_m,
        "latency_ms": {
            "onnxruntime-cpu": fused | {"paths": {"segmentation": _timing(0.7 * median, gain)}},
            "pytorch-cpu": _timing(2 * median, gain),
        },
        "certificate": None if dense else {"max_rel_error": 3e-7, "holds": True},
        "group_sparsity": 0.8 * sparsity,
        "layers": [{"name": f"{name} conv{i}", "before": 16, "after": round(16 * (1 - sparsity))} for i in range(3)],
    }


REPORT = {
    "levels": [
        _level("dense", 0.0, 0.0, 10.0),
        _level("30 %", 0.3, 0.4, 8.0),
        _level(ODD, 0.7, -1.5, 4.0),
        _level("90 %", 0.9, -8.0, 2.0),
    ],
    "engines": [
        {
            "backend": "tensorrt-rtx",
            "path": "fused<1>.engine",
            "tasks": ["segmentation", "depth"],
            "bytes": 2_345_678,
            "precision": "float16",
            "targets": ["sm_80", "sm_120"],
        }
    ],
    "environment": {"cpu": "Some <CPU> & more", "versions": {"torch": "2.14.1"}},
    "title": "A <report>",
    "command": "slimtask demo --set a=<b> && true",
    "created": "2026-11-20",
    "tasks": [
        {"name": "segmentation", "kind": "segmentation", "channels": 3, "classes": ["wall", "<floor>", "sky"]},
        {"name": "depth", "kind": "depth", "channels": 1},
    ],
    "history": {"90 %": [{"step": i, "loss": 1.0, "group_sparsity": i / 10} for i in range(9)]},
    "notes": ["Trained on <scenes>."],
}


@pytest.fixture
def report_dict() -> dict:
    """The dict of a full report whose names try to break out of HTML, LaTeX and SVG."""
    return copy.deepcopy(REPORT)
