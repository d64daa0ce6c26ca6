"""The command line, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from slimtask.cli.app import main


@pytest.fixture(scope="session")
def slimtask() -> Callable[..., int]:
    """Return a function that runs the command line on its words and returns the exit status."""

    def run(*words: object) -> int:
        before, sys.argv = sys.argv, ["slimtask", *map(str, words)]
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        finally:
            sys.argv = before
        return 0

    return run
