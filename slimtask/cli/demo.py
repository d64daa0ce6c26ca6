"""`slimtask demo`: the whole chain on generated scenes, minutes on a laptop CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimtask.cli.common import JsonOption, console
from slimtask.cli.sweep import run_sweep

LEVELS = (0.5, 0.82, 0.9)


def demo_verb(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/demo"),
    json_path: JsonOption = None,
) -> None:
    """Train, compress, export and time a small multi-task network on generated scenes, dense and at three levels.

    Example: slimtask demo --out runs/demo
    """
    import importlib.util
    from importlib.resources import files

    import yaml

    from slimtask.train.recipe import parse_recipe

    text = (files("slimtask.cli") / "demo.yaml").read_text(encoding="utf-8")
    recipe = parse_recipe(yaml.safe_load(text), "the demo's recipe")
    engines = ("tensorrt-rtx",) if importlib.util.find_spec("tensorrt_rtx") else ()
    if not engines:
        console.print(
            "TensorRT-RTX is not installed, so no engines are built; `pip install slimtask[rtx]` adds them.",
            markup=False,
        )
    run_sweep(recipe, out, LEVELS, engines, json_path)
    console.print(f"try it: slimtask run {out / 'bundle'} {out / 'images' / '00000.png'} --out predictions")
