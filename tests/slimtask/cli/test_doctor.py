"""`slimtask doctor`: it runs where nothing is installed, and names what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slimtask.cli.pieces import PIECES


def test_doctor_and_help_run_where_nothing_is_installed() -> None:
    gone = [piece.module for piece in PIECES]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({gone}))\n"
        "from slimtask.cli.app import main\n"
        "for words in (['doctor'], ['train', '-h'], ['inspect', 'none.safetensors']):\n"
        "    sys.argv = ['slimtask', *words]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n        print('status', stop.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"}
    )
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 0", "status 0", "status 2"]
    assert "training and compression" in done.stdout
    assert "`pip install torch` adds it" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_names_what_is_missing(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slimtask("doctor", "--json", tmp_path / "d.json") == 0
    pieces = {piece["name"]: piece for piece in json.loads((tmp_path / "d.json").read_text())["pieces"]}
    assert pieces["torch"]["version"] == torch.__version__.partition("+")[0]
    assert "slimtask[cluster]" in pieces["ray"]["how"]
    assert "[tensorrt]" in capsys.readouterr().out  # Rich must not take it for a style
