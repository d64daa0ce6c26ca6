from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_no_module_of_bench_imports_itself_by_a_detour_not_even_inside_a_function() -> None:
    files = {"slimtask.bench." + ".".join(f.relative_to(BENCH).with_suffix("").parts): f for f in BENCH.rglob("*.py")}
    imports = {name: _imported(file) & set(files) - {name} for name, file in files.items()}
    assert len(list(TopologicalSorter(imports).static_order())) == len(files)


def _imported(file: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {str(node.module) for node in nodes} | {f"{node.module}.{one.name}" for node in nodes for one in node.names}
