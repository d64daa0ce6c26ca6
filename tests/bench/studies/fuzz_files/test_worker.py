"""The fuzzer of files finds what it looks for: tracebacks, hangs, files read outside, results lost."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from random import Random

import pytest

from slimtask.bench.studies.fuzz_files import __main__ as command
from slimtask.bench.studies.fuzz_files import worker
from slimtask.bench.studies.fuzz_files.base import RECIPE, TASKS, make
from slimtask.bench.studies.fuzz_files.cases import Case, break_, case
from slimtask.bench.studies.fuzz_files.damage import ANY, TEXTS, json_damage, yaml_damage
from slimtask.bench.studies.fuzz_files.run import Watch, run_words
from slimtask.cli import app

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are watched by Linux's inotify")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make(folder)
    return folder


def test_the_base_is_whole_and_cases_repeat(base: Path) -> None:
    names = {path.name for path in base.iterdir()}
    assert names >= {"net.safetensors", "bundle", "net.onnx", "w.pt", "recipe.yaml", "tasks.yaml", "image.png"}
    assert [case(seed)[0] for seed in range(50)] == [case(seed)[0] for seed in range(50)]
    assert {case(seed)[0].kind for seed in range(200)} == {
        "checkpoint", "manifest", "bundle", "recipe", "tasks", "image", "onnx", "weights", "options",
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_a_case_is_run_on_copies(seed: int, base: Path) -> None:
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    row = worker.check(seed, base)
    assert row["seconds"] > 0
    assert row["words"] == list(case(seed)[0].words)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", [*ANY, *TEXTS])
def test_every_damage_changes_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(TASKS)
    {**ANY, **TEXTS}[name](path, Random(3), tmp_path)
    assert not path.is_file() or path.stat().st_size > 1e6 or path.read_bytes() != TASKS.encode()


def test_values_of_json_and_yaml_are_changed(tmp_path: Path) -> None:
    path, content = tmp_path / "f", {"a": [1, {"b": "c"}], "d": None}
    for seed in range(20):
        path.write_text(json.dumps(content))
        json_damage(path, Random(seed), tmp_path)
        assert json.loads(path.read_text()) != content
        path.write_text(RECIPE)
        yaml_damage(path, Random(seed), tmp_path)
        assert path.read_bytes() != RECIPE.encode()


def test_an_opened_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    watch = Watch({"secret": tmp_path / "secret"})
    assert watch.opened() == []
    (tmp_path / "secret").read_text()
    assert watch.opened() == ["secret"]
    assert watch.opened() == []
    watch.close()


def raising() -> None:
    raise KeyError("lost")


def hanging() -> None:
    time.sleep(60)


def reading() -> None:
    Path("../outside/secret").read_text()


def changing() -> None:
    Path("image.png").unlink()
    Path("new").write_text("half")
    raise SystemExit(2)


@pytest.mark.parametrize(
    ("verb", "fault"),
    [(raising, "traceback: KeyError: 'lost'"), (hanging, "longer than"), (reading, "opened 'secret'"),
     (changing, "changed or removed 'image.png'"), (changing, "left 'new' behind"), (changing, "nothing was said")],
)  # fmt: skip
def test_each_fault_is_found(verb: object, fault: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "main", verb)
    monkeypatch.setattr(worker, "LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(worker, "case", lambda seed: (Case(kind="image", damage="", file="", words=("x",)), Random(0)))
    assert any(fault in found for found in worker.check(0, base)["faults"])


def test_a_command_is_run_as_the_shell_would(base: Path, tmp_path: Path) -> None:
    ended = run_words(("verify", str(base / "bundle")), tmp_path)
    assert (ended.status, ended.trace) == (0, "")
    assert "fused.onnx" in ended.output
    missing = run_words(("verify", "nothing"), tmp_path)
    assert missing.status == 2
    assert "nothing" in missing.error


def test_what_kills_the_process_is_a_fault_of_its_case(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(module: str, words: list[str], log: Path, seconds: float) -> str:
        first, count = int(words[1]), int(words[2])
        rows = [{"seed": seed, "faults": []} for seed in range(first, min(first + count, 2))]
        Path(words[3]).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return "killed by signal 11" if first <= 2 < first + count else ""

    monkeypatch.setattr(command, "run_module", run)
    rows = command.run_chunk(base, 0, 3)
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert rows[2]["faults"] == ["the process ended: killed by signal 11"]


def test_options_break_no_file(base: Path, tmp_path: Path) -> None:
    break_(Case(kind="options", damage="run", file="", words=("run",)), base, Random(0), tmp_path)
    assert (base / "image.png").stat().st_size > 100
