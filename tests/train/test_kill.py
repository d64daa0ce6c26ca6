"""kill -9, twice, at arbitrary moments: the resumed run ends in the weights and the log of one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from slimtask.checkpoint import Checkpoint
from slimtask.errors import InputError
from slimtask.train.recipe import load_recipe
from slimtask.train.run import train
from slimtask.train.state import load_state

RECIPE = {
    "name": "tiny",
    "data": {
        "name": "scenes", "height": 32, "width": 48, "train": 24, "val": 4, "test": 4, "cache": True,
        "tasks": ["segmentation", "depth"],
    },
    "model": {"width": 0.125, "head_hidden": 8},
    "train": {"steps": 24, "batch": 4, "lr": 0.003, "eval_every": 3},
    "sparsity": {"target": 0.6, "warmup": 0.2, "ramp": 0.4},
}  # fmt: skip


def training(folder: Path, out: str, *, resume: bool) -> subprocess.Popen[bytes]:
    """Return a training in a process of its own, of one thread: bits depend on how many share a sum."""
    command = [sys.executable, "-m", "slimtask.cli.app", "train", str(folder / "recipe.yaml")]
    return subprocess.Popen(
        [*command, "--out", str(folder / out), *(["--resume"] if resume else [])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def reached(state: Path, step: int) -> bool:
    """Return whether the state of ``step`` is there; not while it is replaced between two looks at the file."""
    try:
        return state.exists() and load_state(state)[1]["step"] >= step
    except InputError:
        return False


def killed_after(step: int, folder: Path) -> None:
    """Train and kill as soon as the state of ``step`` or a later one is on the disk."""
    with training(folder, "cut", resume=False) as process:
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            state = folder / "cut" / "state.safetensors"
            if reached(state, step):
                break
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)


def test_a_killed_run_ends_bit_equal(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    killed_after(6, tmp_path)
    with training(tmp_path, "cut", resume=True) as process:
        assert process.wait() == 0
    train(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "whole")
    one, two = (Checkpoint.load(tmp_path / out / "checkpoint.safetensors").weights for out in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
