"""Pictures of a data set as PNG files, to try a bundle on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from slimtask.files import atomic_file
from slimtask.train.data.protocol import MultiTaskDataset


def write_images(dataset: MultiTaskDataset, indices: Sequence[int], folder: Path | str) -> list[Path]:
    """Return the PNG files written to ``folder``, one per image of ``indices``, named by the index (``00007.png``)."""
    paths = []
    for index in indices:
        image = dataset[index]["image"].as_subclass(torch.Tensor)
        pixels = (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0)
        path = Path(folder) / f"{index:05d}.png"
        with atomic_file(path) as temporary:
            Image.fromarray(pixels.numpy()).save(temporary, format="PNG")
        paths.append(path)
    return paths
