"""`slimtask demo`: its recipe is a whole one, swept over its levels; engines only where they can be built."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimtask.bench.sweeping import check_levels
from slimtask.cli import demo


@pytest.mark.parametrize("there", [True, False])
def test_the_demo_is_a_sweep_of_its_own_recipe(
    there: bool, slimtask: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[tuple[Any, ...]] = []
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: there or None if name == "tensorrt_rtx" else find(name, *_)
    )
    monkeypatch.setattr(demo, "run_sweep", lambda *arguments: asked.append(arguments))
    assert slimtask("demo", "--out", tmp_path / "out") == 0
    ((recipe, out, levels, engines, _),) = asked
    check_levels(recipe, levels)
    assert recipe.data.name == "scenes"
    assert out == tmp_path / "out"
    assert engines == (("tensorrt-rtx",) if there else ())
    assert ("slimtask[rtx]" in capsys.readouterr().out) is not there
