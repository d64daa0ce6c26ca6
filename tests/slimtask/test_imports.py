"""The house rules that a machine can check: import direction, cheap import, nothing heavy at package import."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "kernels": set(),
    "compress": {"slimtask"},
    "train": {"slimtask", "compress"},
    "export": {"slimtask", "compress", "kernels"},
    "bench": {"slimtask", "compress", "kernels", "export", "train"},
    "slimtask": set(),
}
# What kernels needs of the operating system is not written twice: these modules import neither torch nor any stage.
SYSTEM = {"slimtask.errors", "slimtask.files", "slimtask.measured", "slimtask.processes"}
HEAVY = ("torch_pruning", "tensorrt", "tensorrt_rtx", "triton", "onnxruntime", "pycuda", "ray", "matplotlib")
# A Triton kernel is a function of a module that imports triton, found there by its globals: the modules that hold them
# are themselves imported only inside functions (the test of the stages below watches that).
HOMES = {Path("kernels/triton"): {"triton"}}


def sources() -> list[Path]:
    links = {stage for stage in ALLOWED if stage != "slimtask"}
    files = [path for stage in links for path in (ROOT / stage).rglob("*.py")]
    files += [path for path in (ROOT / "slimtask").rglob("*.py") if path.relative_to(ROOT).parts[1] not in links]
    return sorted(files)


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def test_imports_run_only_in_the_direction_of_the_house() -> None:
    wrong = []
    for path in sources():
        relative = path.relative_to(ROOT)
        stage = relative.parts[0]
        if relative.parts[:2] == ("slimtask", "cli"):  # the verbs sit on top of everything
            continue
        for name, line in imports(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] != "slimtask" or len(parts) < 2:
                continue
            if stage == "kernels" and ".".join(parts[:2]) in SYSTEM:
                continue
            other = parts[1] if parts[1] in ALLOWED else "slimtask"
            if other not in (stage, *ALLOWED[stage]):
                wrong.append(f"{relative}:{line} imports {name}")
    assert sources()
    assert wrong == []


def test_the_product_knows_nothing_of_the_studies() -> None:
    product = [path for path in sources() if (ROOT / "bench" / "studies") not in path.parents]
    wrong = [
        f"{path}:{line}"
        for path in product
        for name, line in imports(ast.parse(path.read_text()))
        if name.startswith("slimtask.bench.studies")
    ]
    assert wrong == []


def test_heavy_modules_are_imported_only_inside_functions() -> None:
    wrong = []
    for path in sources():
        tree = ast.parse(path.read_text())
        heavy = set(HEAVY) - HOMES.get(path.relative_to(ROOT).parent, set())
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                wrong += [f"{path}:{line}" for name, line in imports(node) if name.split(".")[0] in heavy]
    assert wrong == []


def test_files_and_functions_stay_readable() -> None:
    too_long = []
    for path in sources():
        text = path.read_text()
        if text.count("\n") > 400:
            too_long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 80:
                too_long.append(f"{path}:{node.name}")
    assert too_long == []


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_slimtask_is_fast_and_light() -> None:
    code = (
        "import sys, time; start = time.process_time(); import slimtask; "
        "print(time.process_time() - start, [m for m in sys.modules if m.split('.')[0] in "
        f"{('torch', *HEAVY)}])"
    )
    seconds, _, loaded = run(code).partition(" ")
    assert loaded == "[]"
    assert float(seconds) < 0.5


@pytest.mark.parametrize("stage", ["compress", "train", "kernels.triton.compile", "export", "bench", "cli.app"])
def test_importing_a_stage_pulls_in_nothing_heavy(stage: str) -> None:
    code = f"import sys; import slimtask.{stage}; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code) == "[]"


def test_help_of_the_command_answers_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    text = run("import sys; sys.argv = ['slimtask', '--help']; from slimtask.cli.app import main; main()")
    assert "compress" in text
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5
