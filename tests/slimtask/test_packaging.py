"""What a wheel holds: every module but the studies, and every recipe, though stages and recipes are links."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_modules_and_recipes_are_packaged() -> None:
    from setuptools import find_namespace_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = settings["packages"]["find"]
    packages = find_namespace_packages(str(ROOT), include=found["include"], exclude=found["exclude"])
    assert {"*.yaml", "*.html"} <= set(settings["package-data"]["*"])
    packaged = {path for package in packages for path in (ROOT / package.replace(".", "/")).glob("*")}
    held = {path.resolve() for path in packaged}
    for stage in ("bench", "compress", "export", "kernels", "recipes", "slimtask", "train"):
        files = [path for ending in ("*.py", "*.yaml", "*.html") for path in (ROOT / stage).rglob(ending)]
        studies = ROOT / "bench" / "studies"
        product = {path.resolve() for path in files if studies not in path.parents}
        assert product
        assert product <= held
        assert not [path for path in held if studies.resolve() in path.parents]
