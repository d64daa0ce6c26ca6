"""No module imports what leads back to it, imports inside functions counted: those only hide a circle from Python."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slimtask.test_imports import ROOT, sources

Graph = dict[str, set[str]]


def name_of(path: Path) -> str:
    """Return the module in a file: stages are imported as parts of slimtask, packages by their folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "slimtask" else ("slimtask", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below ``node`` but for those under ``if TYPE_CHECKING:``, which never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from executed(ast.Module(body=child.orelse, type_ignores=[]))
        else:
            yield child
            yield from executed(child)


def imported(text: str, modules: set[str]) -> set[str]:
    """Return those of ``modules`` that a source text imports; ``from package import name`` is the package or module."""
    names = set()
    for node in executed(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not the house's, and not resolved here"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else str(node.module) for name in whole}
    return names & modules


@functools.cache
def import_graph() -> Graph:
    files = {name_of(path): path for path in sources()}
    return {name: imported(path.read_text(), set(files)) - {name} for name, path in files.items()}


def circle(graph: Graph) -> list[str]:
    """Return one circle of ``graph``, its first module again at the end; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_module_imports_what_leads_back_to_it() -> None:
    graph = import_graph()
    assert len(graph) > 300
    assert any(graph.values())
    assert circle(graph) == []


def test_the_rooms_of_compress_stand_on_six_floors() -> None:
    rooms: Graph = {}
    for name, others in import_graph().items():
        if name.startswith("slimtask.compress."):
            here = name.split(".")[2]
            inside = {other.split(".")[2] for other in others if other.startswith("slimtask.compress.")}
            rooms.setdefault(here, set()).update(inside - {here})
    assert circle(rooms) == []
    assert 10 < len(rooms) <= 16
    floors: dict[str, int] = {}
    for here in graphlib.TopologicalSorter(rooms).static_order():
        floors[here] = 1 + max((floors[other] for other in rooms[here]), default=0)
    assert max(floors.values()) <= 6


@pytest.mark.parametrize(
    "line", ["from p import b", "from p.b import x", "import p.b", "def f():\n    from p.b import x"]
)
def test_a_circle_is_seen_however_it_is_imported(line: str) -> None:
    modules = {"p", "p.a", "p.b"}
    graph = {"p.a": imported(line, modules), "p.b": imported("from p.a import y", modules)}
    assert circle(graph) in (["p.a", "p.b", "p.a"], ["p.b", "p.a", "p.b"])


def test_what_only_a_type_checker_imports_does_not_count() -> None:
    text = "if TYPE_CHECKING:\n    from p.a import x\nelse:\n    from p.b import x"
    assert imported(text, {"p.a", "p.b"}) == {"p.b"}
