from __future__ import annotations

import json
import subprocess
import sys

import torch

from slimtask.bench.timing.environment import environment, gpus, usable_cores
from slimtask.measured import version_of


def test_environment_is_json_and_names_what_is_installed():
    found = environment()
    json.dumps(found, allow_nan=False)
    assert found["cores"] == usable_cores() >= 1
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in found["versions"]["torch"]
    assert version_of("no-such-distribution") is None


def fake_program(folder, text):
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "nvidia-smi").chmod(0o755)
    return str(folder)


def test_gpus_are_read_from_the_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", fake_program(tmp_path / "one", "echo 'NVIDIA H100, 580.1, 81559 MiB'; echo a warning"))
    assert gpus() == [{"name": "NVIDIA H100", "driver": "580.1", "memory": "81559 MiB"}]
    assert environment()["gpu"] == gpus()
    for name, text in (("broken", "echo 'a, b, c'; exit 9"), ("silent", "exit 0")):
        monkeypatch.setenv("PATH", fake_program(tmp_path / name, text))
        assert gpus() == []


def test_environment_imports_nothing_heavy():
    code = (
        "import sys; from slimtask.bench.timing.environment import environment; environment(); "
        "print({'torch', 'onnxruntime', 'onnx', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
