"""Where measured times are kept, and what if they cannot be."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from slimtask.files import read_json
from slimtask.measured import cache_folder, cpu_name, in_memory, keep, version_of


def test_the_folder_is_the_variables_else_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SLIMTASK_COSTS", raising=False)
    assert cache_folder("costs", "SLIMTASK_COSTS") == tmp_path / ".cache" / "slimtask" / "costs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("costs", "SLIMTASK_COSTS") == tmp_path / "xdg" / "slimtask" / "costs"
    assert cache_folder() == tmp_path / "xdg" / "slimtask"
    monkeypatch.setenv("SLIMTASK_COSTS", str(tmp_path / "own"))
    assert cache_folder("costs", "SLIMTASK_COSTS") == tmp_path / "own"


def test_what_cannot_be_written_is_kept_in_memory_and_said_once(tmp_path: Path) -> None:
    keep(tmp_path / "new" / "file.json", {"ms": 1}, "HERE")
    assert read_json(tmp_path / "new" / "file.json", "file") == {"ms": 1}
    assert in_memory(tmp_path / "new" / "file.json") is None
    blocked = tmp_path / "new" / "file.json" / "deeper.json"
    with pytest.warns(UserWarning, match=r"cannot be kept .* let HERE name a folder that can be written"):
        keep(blocked, {"ms": 2}, "HERE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep(blocked, {"ms": 3}, "HERE")
    assert in_memory(blocked) == {"ms": 3}


def test_the_machine_is_named() -> None:
    assert cpu_name()
    assert version_of("numpy")
    assert version_of("no-such-distribution") is None
