"""The command: what kills a process is a failure, and its summary names what failed, was refused and never shrank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimtask.bench.studies.fuzz import __main__ as fuzz_compress
from slimtask.bench.studies.fuzz.__main__ import summary
from slimtask.errors import InputError


def test_the_command_writes_rows_and_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(module: str, arguments: list[str], log: Path, timeout_seconds: float) -> str:
        """Check three networks and die on the fourth."""
        ran.append(arguments)
        first, count = int(arguments[0]), int(arguments[1])
        rows = [{"seed": s, "status": "pass", "failures": [], "seconds": 1.0} for s in range(first, first + count)]
        Path(arguments[2]).write_text("".join(json.dumps(row) + "\n" for row in rows if row["seed"] != 13))
        return "killed by signal 11" if first <= 13 < first + count else ""

    monkeypatch.setattr(fuzz_compress, "run_module", run)
    status = fuzz_compress.main(["--networks", "14", "--jobs", "1", "--json", str(tmp_path / "fuzz.json")])
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert status == 1
    assert [row["seed"] for row in result["networks"]] == [13]
    assert result["summary"]["failed_seeds"] == [13]
    assert "killed by signal 11" in result["networks"][0]["failures"][0]["error"]
    assert json.loads(capsys.readouterr().out)["summary"]["networks"] == 14


def row(seed: int, status: str, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "status": status, "failures": [], "seconds": 1.0, **more}


def test_refusals_are_counted_by_reason_and_constructs_by_fate() -> None:
    why = "nothing can be removed: 0 of {}; they are fixed because: 'x' is mixed (a, b). Keep out."
    rows = [
        row(0, "pass", constructs=[("A", "shrunk"), ("B", "whole")], **{"certificate only": ["A"]}),
        row(1, "refused", refusals={"prune": why.format(4)}, constructs=[("B", "refused")]),
        row(2, "refused", refusals={"prune": why.format(9)}, constructs=[("B", "refused")]),
    ]
    found = summary(rows)
    assert found["counts"] == {"pass": 1, "refused": 2}
    assert list(found["refusals"].values()) == [2]
    assert found["certificate_only"] == 1
    assert found["must_shrink_and_never_did"] == ["B"]
    assert found["constructs"]["B"] == {"drawn": 3, "whole": 1, "refused": 2}


def test_a_construct_that_never_shrinks_fails_the_run_although_all_networks_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(module: str, arguments: list[str], log: Path, timeout_seconds: float) -> str:
        assert arguments[-2:] == ["--constructs", "Rotary"]
        fate = "whole" if whole else "shrunk"
        rows = [row(seed, "pass", constructs=[("NoSuchBlock", fate)]) for seed in range(3)]
        Path(arguments[2]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ""

    monkeypatch.setattr(fuzz_compress, "run_module", run)
    for whole in (True, False):
        status = fuzz_compress.main(["--networks", "3", "--jobs", "1", "--constructs", "Rotary"])
        assert status == int(whole)
    capsys.readouterr()


def test_a_name_that_is_no_construct_ends_in_a_sentence() -> None:
    with pytest.raises(InputError, match="no construct 'Nonsense'"):
        fuzz_compress.main(["--networks", "1", "--constructs", "Nonsense"])
