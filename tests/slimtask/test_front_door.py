"""Every public name comes from its stage, and asking for none of them costs nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

STAGES = ("slimtask", "slimtask.compress", "slimtask.export", "slimtask.train", "slimtask.bench")


@pytest.mark.parametrize("stage", STAGES)
def test_every_public_name_is_there_and_no_module_has_it(stage: str) -> None:
    package = importlib.import_module(stage)
    assert package.__all__
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        value = getattr(package, name)
        assert name == "errors" or not isinstance(value, ModuleType)
        assert value.__doc__
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


def test_a_name_is_the_one_of_its_module_whatever_was_imported_before() -> None:
    from slimtask.bench.sweeping import sweep
    from slimtask.compress.api.models import compress

    assert importlib.import_module("slimtask.compress").compress is compress
    assert importlib.import_module("slimtask.bench").sweep is sweep


def test_the_doors_open_without_torch() -> None:
    code = f"import sys\nimport {', '.join(STAGES)}\nimport slimtask.export.runtime\nprint('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
