"""The command keeps every row, goes on where it was stopped, and redoes one tool without the other."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from slimtask.bench.studies.zoo_wild import __main__ as command
from slimtask.errors import InputError

A, B, C = "own/bifpn", "own/film", "own/mtan"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The tools and networks that were run; the second tool on the second network fails."""
    found: list[tuple[str, str]] = []

    def run(tool: str, name: str, cpu_seconds: int) -> dict[str, Any]:
        found.append((tool, name))
        good = "pass" if tool == "slimtask" else "runs"
        return {"status": "fail" if name == B else good, "kind": "wrong", "reason": "", "share": 0.5}

    monkeypatch.setattr(command, "run_tool", run)
    return found


def rows(path: Path) -> list[str]:
    return [row["name"] for row in json.loads(path.read_text())["models"]]


def test_rows_are_kept_and_resumed(tmp_path: Path, asked: list[tuple[str, str]]) -> None:
    out = tmp_path / "wild.json"
    assert command.main(["--models", A, "--json", str(out)]) == 0
    assert asked == [("slimtask", A), ("peer", A)]
    assert "| own/bifpn |" in out.with_suffix(".md").read_text()
    asked.clear()
    assert command.main(["--models", A, B, "--resume", "--json", str(out), "--jobs", "1"]) == 1
    assert asked == [("slimtask", B), ("peer", B)]
    asked.clear()
    assert command.main(["--models", A, B, "--resume", "--json", str(out)]) == 1
    assert asked == [("slimtask", B)]  # slimtask's fail is tried again, torch-pruning's is not
    assert rows(out) == [A, B]


def test_one_tool_is_redone_and_the_other_kept(tmp_path: Path, asked: list[tuple[str, str]]) -> None:
    out = tmp_path / "wild.json"
    command.main(["--models", A, "--only", "peer", "--json", str(out)])
    command.main(["--models", C, "--only", "slimtask", "--json", str(out)])
    command.main(["--models", A, "--only", "slimtask", "--json", str(out)])
    assert asked == [("peer", A), ("slimtask", C), ("slimtask", A)]
    first, second = json.loads(out.read_text())["models"]
    assert {"slimtask", "peer"} <= first.keys()
    assert "peer" not in second


def test_an_unknown_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no network 'own/mtam'"):
        command.main(["--models", "own/mtam", "--json", str(tmp_path / "wild.json")])


@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        ("took longer than 30 seconds", "timeout"),
        (f"killed by signal {int(signal.SIGXCPU)}", "timeout"),
        ("killed by signal 9", "traceback"),
    ],
)
def test_a_process_that_ends_early_is_a_fail(ended: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(module: str, arguments: list[str], log: Path, timeout_seconds: float) -> str:
        Path(arguments[2], "row.json").write_text('{"part": "removal", "params_before": 7}')
        return ended

    monkeypatch.setattr(command, "run_module", crash)
    row = command.run_tool("slimtask", A, 3)
    assert row == {"params_before": 7, "status": "fail", "kind": kind, "reason": f"removal: {ended}"}
