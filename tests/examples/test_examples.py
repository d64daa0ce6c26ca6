"""Every example runs as its README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*/run.py")), ids=lambda path: path.parent.name)
def test_example(script: Path, tmp_path: Path) -> None:
    more = {"02_compress_any_network": ["64"]}.get(script.parent.name, [])  # small images, for speed
    command = [sys.executable, str(script), str(tmp_path / "out"), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "certificate: True" in done.stdout
    assert (tmp_path / "out" / "manifest.json").exists()
    assert (script.parent / "README.md").exists()
