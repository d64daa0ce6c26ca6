"""What a cut network of the realised-speed benchmark can still learn: a short training on real, labelled images."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from slimtask.bench.studies.intervals import t_interval
from slimtask.compress.tuning import finetune
from slimtask.errors import InputError

BATCH, RATE, ALPHA = 64, 1e-3, 0.5
_MEAN, _SPREAD = 0.45, 0.25


class LabelledImages:
    """The images of a ZIP with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``, all of one size, in memory.

    CIFAR-10, say. ``classes`` are the names of the folders under ``train``, sorted. Raises InputError if either split
    is missing, or the sizes differ.
    """

    def __init__(self, path: Path | str) -> None:
        if not zipfile.is_zipfile(path):
            raise InputError(f"'{path}' is not a ZIP; give one with train/CLASS/*.jpg and test/CLASS/*.jpg.")
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".png")))
            self.classes = sorted({name.split("/")[1] for name in names if name.startswith("train/")})
            self.train, self.test = (self._split(archive, names, split) for split in ("train", "test"))

    def _split(self, archive: zipfile.ZipFile, names: list[str], split: str) -> tuple[Tensor, Tensor]:
        mine = [name for name in names if name.startswith(f"{split}/")]
        if not mine:
            raise InputError(f"'{archive.filename}' holds no {split}/CLASS/*.jpg.")
        files = (Image.open(io.BytesIO(archive.read(name)), formats=("PNG", "JPEG")) for name in mine)
        images = [pil_to_tensor(image.convert("RGB")) for image in files]
        if len({image.shape for image in images}) > 1:
            raise InputError(f"the images of '{archive.filename}' differ in size; give images of one size.")
        return torch.stack(images), torch.tensor([self.classes.index(name.split("/")[1]) for name in mine])

    def batches(self, seed: int) -> Iterator[tuple[Float[Tensor, "batch 3 h w"], Int[Tensor, " batch"]]]:
        """Yield batches of the training split in a seeded order, each shifted by up to four pixels or mirrored."""
        generator = torch.Generator().manual_seed(seed)
        images, labels = self.train
        while True:
            for chosen in torch.split(torch.randperm(len(images), generator=generator), BATCH):
                yield self._augmented(images[chosen], generator), labels[chosen]

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[-2:]
        top, left, mirrored = torch.randint(0, 8, (3,), generator=generator).tolist()
        padded = nn.functional.pad(normalised(images), (4, 4, 4, 4))[..., top : top + height, left : left + width]
        return padded.flip(-1) if mirrored % 2 else padded

    def calibration(self, count: int = 64) -> Float[Tensor, "count 3 h w"]:
        """Return training images spread evenly over the classes."""
        images = self.train[0]
        return normalised(images[torch.arange(count) * len(images) // count])

    def fit(self, network: nn.Module, steps: int, seed: int, teacher: nn.Module | None = None) -> None:
        """Train ``network`` in place for ``steps``; the outputs of a ``teacher`` are half of the aim."""
        finetune(network, self.batches(seed), steps=steps, lr=RATE, loss=_cross_entropy, teacher=teacher, alpha=ALPHA)
        network.eval()

    @torch.no_grad()
    def hits(self, network: nn.Module) -> Bool[Tensor, " images"]:
        """Return of every test image whether ``network`` names its class."""
        images, labels = self.test
        answers = [network(normalised(part)).argmax(1) for part in torch.split(images, 256)]
        return torch.cat(answers) == labels


def normalised(images: Tensor) -> Float[Tensor, "batch 3 h w"]:
    """Return bytes [batch, 3, h, w] as floats of mean 0 and spread 1, roughly."""
    return (images / 255 - _MEAN) / _SPREAD


def gain(mine: Bool[Tensor, " images"], theirs: Bool[Tensor, " images"]) -> dict[str, float]:
    """Return by how much ``mine`` hits more often than ``theirs`` ("mean"), and its 95 % interval, images paired."""
    differences = (mine.double() - theirs.double()).tolist()
    low, high = t_interval(differences)
    return {"mean": sum(differences) / len(differences), "low": low, "high": high}


def _cross_entropy(outputs: Any, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])
