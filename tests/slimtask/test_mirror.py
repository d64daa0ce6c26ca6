"""The tests mirror the tree, file for file, and take the code by its public names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slimtask.test_imports import ROOT, sources

TESTS = ROOT / "tests"
ELSEWHERE = {"kernels", "compress/onnx", "bench/studies"}
"""What has a layout of tests of its own."""
SHARED = {
    "compress/api/how.py": "compress/api/test_models.py",
    "compress/graph/coupler.py": "compress/graph/test_coupling.py",
    "compress/graph/operands.py": "compress/graph/test_operations.py",
    "compress/latency/meter.py": "compress/latency/test_budgets.py",
    "train/loading.py": "compress/test_rebuilding.py",
    "train/methods/base.py": "train/test_loop.py",
    "train/methods/delta/tuning.py": "train/methods/delta/test_run.py",
    "train/rate_config.py": "train/test_optimizers.py",
    "train/sparsity/passes.py": "train/sparsity/test_proximal_step.py",
    "train/sparsity/walk.py": "train/sparsity/test_proximal_adamw.py",
    "export/shared/base.py": "export/shared/test_together.py",
    "export/shared/forms.py": "export/shared/test_vit.py",
    "bench/layers/delta_costs.py": "slimtask/cli/test_costs.py",
    "bench/report/showcase.py": "bench/test_sweeping.py",
    "bench/timing/gpu_clock.py": "bench/studies/delta/test_gpu.py",
    "slimtask/__main__.py": "slimtask/cli/test_surroundings.py",
    "slimtask/cli/bench.py": "slimtask/cli/test_verbs.py",
    "slimtask/cli/export.py": "slimtask/cli/test_verbs.py",
    "slimtask/cli/inspect.py": "slimtask/cli/test_network.py",
    "slimtask/cli/sweep.py": "slimtask/cli/test_verbs.py",
    "slimtask/cli/verify.py": "slimtask/cli/test_verbs.py",
    "slimtask/cli/calibration.py": "slimtask/cli/test_network.py",
    "slimtask/cli/compress_options.py": "slimtask/cli/test_compress.py",
    "slimtask/cli/scored.py": "slimtask/cli/test_evaluate.py",
}
"""A module whose tests stand in the file of a neighbour, of which it is a part."""


def modules() -> list[str]:
    """Return the paths of all modules whose tests are mirrored."""
    names = [path.relative_to(ROOT).as_posix() for path in sources() if path.name != "__init__.py"]
    return [name for name in names if not any(name.startswith(f"{folder}/") for folder in ELSEWHERE)]


def mirrored(module: str) -> Path:
    path = Path(module)
    return TESTS / path.parent / f"test_{path.name}"


def test_every_module_has_its_tests_where_it_stands() -> None:
    assert len(modules()) > 200
    missing = [name for name in modules() if name not in SHARED and not mirrored(name).is_file()]
    assert missing == []


def test_what_shares_a_file_of_tests_is_there_and_has_none_of_its_own() -> None:
    assert set(SHARED) <= set(modules())
    assert [test for test in SHARED.values() if not (TESTS / test).is_file()] == []
    assert [name for name in SHARED if mirrored(name).is_file()] == []


def private_patches(tree: ast.AST) -> Iterator[int]:
    """Yield the lines of calls that replace or remove a private name of a module or class."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in ("setattr", "delattr", "patch", "object"):
            continue
        words = [word.value for word in node.args[:2] if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        names = [part for word in words for part in word.split(".")]
        if any(name.startswith("_") and not name.endswith("__") for name in names):
            yield node.lineno


def test_no_private_name_is_patched() -> None:
    """A seam is an argument, a public function or the world outside: what is private may be renamed at any time."""
    files = [path for path in TESTS.rglob("*.py") if path.relative_to(TESTS).parts[0] != "kernels"]
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in files for line in private_patches(ast.parse(path.read_text()))
    ]
    assert len(files) > 200
    assert found == []


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ('monkeypatch.setattr("a.b._c", 1)', True),
        ('patch.setattr(\n    module, "_c", 1)', True),
        ('monkeypatch.delattr("a._b.c")', True),
        ('monkeypatch.setattr("a.b.c", 1)', False),
        ('patch.setattr(builtins, "__import__", f)', False),
        ('setattr(net, "_c", 1)', False),
    ],
)
def test_a_patch_of_a_private_name_is_seen_however_it_is_written(line: str, private: bool) -> None:
    assert bool(list(private_patches(ast.parse(line)))) is private
