"""The recipes that come with slimtask, found by name wherever it is installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import slimtask
from slimtask.errors import InputError, nearest

FOLDER = Path(slimtask.__file__).parent / "recipes"
_STUDY = "study"  # what `make methods` varies, of no use by themselves


@cache
def shipped() -> dict[str, Path]:
    """Return every recipe that comes with slimtask by its name, such as "scenes" or "scenes/relate"."""
    found = {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in FOLDER.rglob("*.yaml")}
    return {name: found[name] for name in sorted(found) if not Path(name).name.startswith(_STUDY)}


def find_recipe(path: Path | str) -> Path:
    """Return the file that ``path`` names: itself, or the shipped recipe of that name if there is no such file.

    ``scenes``, ``scenes.yaml`` and ``recipes/scenes.yaml`` name the same one. Raises InputError, with the nearest name,
    if there is neither.
    """
    path = Path(path)
    if path.is_absolute() or (path.exists() and not path.is_dir()):
        return path
    name = path.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if name in shipped():
        return shipped()[name]
    if path.is_dir():
        raise InputError(
            f"recipe '{path}' is a folder; give a file in it, or the name of a recipe{nearest(name, shipped())}"
        )
    raise InputError(
        f"recipe '{path}' does not exist, and none of that name comes with slimtask{nearest(name, shipped())}"
    )
