"""What tests of several processes share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def torchrun() -> Callable[..., str]:
    """Return ``run(code, folder, *words)``: ``code`` as folder/script.py in two processes there; what they printed."""

    def run(code: str, folder: Path, *words: str) -> str:
        (folder / "script.py").write_text(code)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
        done = subprocess.run(
            [sys.executable, *launcher, "script.py", *words],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
