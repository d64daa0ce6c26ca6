"""Masks in a table: the density of every layer and, for masks per task, how far they overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimtask.cli.common import console, table
from slimtask.errors import InputError


def show_masks(path: Path, plot: Path | None) -> dict[str, Any]:
    """Print densities and overlap of the masks in ``path``, draw the overlap to ``plot``, and return them as JSON."""
    from slimtask.compress.structures.masks import Masks
    from slimtask.files import refuse_existing
    from slimtask.train.methods.masks.overlap import overlap, save_plot

    masks = Masks.load(path)
    density = masks.density()
    several = len(masks.tasks) > 1
    if plot is not None:
        refuse_existing(plot)
        if not several:
            raise InputError(f"'{path}' holds one mask for all tasks, which overlaps with nothing; leave out --plot.")
    found = overlap(masks) if several else None
    rows = table(f"Masks of {', '.join(masks.tasks) or 'all tasks'}", "parameter", "kept", *masks.tasks, "IoU")
    by_task = [masks.density([task]) for task in masks.tasks]
    for name, share in density.items():
        own = [_share(densities.get(name)) for densities in by_task]
        layer = None if found is None else found.layers.get(name)
        rows.add_row(name.removesuffix(".weight"), f"{share:.1%}", *own, "-" if layer is None else f"{layer.mean:.3f}")
    console.print(rows)
    console.print(f"{masks.total_density():.2%} of the masked weights stay")
    result = {"schema": 1, "density": masks.total_density(), "densities": density}
    if found is not None:
        console.print(f"IoU of the tasks' masks, mean over pairs: {found.total.mean:.3f}")
        console.print(f"the tasks part from {found.watershed or 'no layer'} on")
        result |= {"overlap": found.to_json()}
        if plot is not None:
            save_plot(found, plot)
            console.print(f"overlap against depth: {plot}")
    return result


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
