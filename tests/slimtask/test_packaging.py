"""What a wheel holds: every module and every recipe, though the stages and the recipes are links."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_modules_and_recipes_are_packaged() -> None:
    from setuptools import find_namespace_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = find_namespace_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    assert "*.yaml" in settings["package-data"]["*"]
    packaged = {path for package in packages for path in (ROOT / package.replace(".", "/")).glob("*")}
    held = {path.resolve() for path in packaged}
    for stage in ("bench", "compress", "export", "kernels", "recipes", "slimtask", "train"):
        files = [path for ending in ("*.py", "*.yaml") for path in (ROOT / stage).rglob(ending)]
        assert files
        assert {path.resolve() for path in files} <= held
