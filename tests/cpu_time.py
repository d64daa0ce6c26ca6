"""Limits on work in seconds of this process's own processor time, which a busy machine does not lengthen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail if the block computes for longer."""
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds
