"""The networks from the wild by name, each of a family of its own, with weights that say something and an input."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.studies.zoo.models import randomise_
from slimtask.bench.studies.zoo_wild import (
    own_decoding,
    own_sharing,
    segmentation_families,
    timm_families,
    transformers_families,
)
from slimtask.compress.network.inputs import Inputs
from slimtask.errors import InputError, nearest

OWN: dict[str, Callable[[], nn.Module]] = {
    "BiFPN": own_decoding.BiFpn,
    "cross-stitch": own_sharing.CrossStitch,
    "cross-task attention": own_decoding.CrossTask,
    "FiLM": own_sharing.Film,
    "hard sharing": own_sharing.HardSharing,
    "hooked DPT": own_decoding.HookedDpt,
    "MTAN": own_sharing.Mtan,
    "NDDR-CNN": own_sharing.Nddr,
    "PAD-Net": own_decoding.PadNet,
    "Panoptic FPN": own_decoding.PanopticFpn,
    "recurrent refinement": own_sharing.Recurrent,
    "YOLOP": own_decoding.Yolop,
}


_SMALL = 100_000  # entries; rows of larger weights differ anyway


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network in eval mode and a valid input.

    Not ``counted`` is the output of a detector, which finds as many boxes as it finds.
    """

    model: nn.Module
    example: Inputs
    counted: bool = True


SOURCES: dict[str, Mapping[str, Any]] = {
    "timm": timm_families.FAMILIES,
    "smp": segmentation_families.SEGMENTATION,
    "transformers": transformers_families.FAMILIES,
    "torchvision": segmentation_families.DETECTORS,
    "own": OWN,
}


def names() -> list[str]:
    """Return the name of every network, ``source/family``."""
    return [f"{source}/{_slug(family)}" for source, families in SOURCES.items() for family in families]


def subject(name: str, seed: int = 0) -> Subject:
    """Return the network called ``name`` with seeded weights, none of them trivial; InputError for an unknown one."""
    if name not in names():
        raise InputError(f"there is no network '{name}' in the wild zoo{nearest(name, names())}.")
    torch.manual_seed(seed)
    random.seed(seed)
    source, _, slug = name.partition("/")
    found = _build(source, next(family for family in SOURCES[source] if _slug(family) == slug))
    _vary_(randomise_(found.model.eval(), seed), seed)
    return found


def _vary_(model: nn.Module, seed: int) -> None:
    """Change entries of small parameters a little until no two of one are equal, so that each is known by its value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            while 1 < parameter.numel() <= _SMALL and bool((again := _repeated(parameter)).any()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator) * again)


def _repeated(values: Tensor) -> Tensor:
    """Return where an entry equals one before it."""
    ordered, places = values.flatten().sort()
    again = torch.zeros(values.numel(), dtype=torch.bool)
    again[places[1:]] = ordered[1:] == ordered[:-1]
    return again.view(values.shape)


def _build(source: str, family: str) -> Subject:
    if source == "timm":
        model, size = timm_families.build(family)
        return Subject(model=model, example=torch.zeros(1, 3, size, size))
    if source == "own":
        return Subject(model=OWN[family](), example=_own_example(family))
    build = {
        "smp": segmentation_families.build_segmentation,
        "transformers": transformers_families.build,
        "torchvision": segmentation_families.build_detector,
    }[source]
    model, example = build(family)
    return Subject(model=model, example=example, counted=source != "torchvision")


def _own_example(family: str) -> Inputs:
    image = torch.zeros(1, 3, 64, 64)
    return {"image": image, "task": torch.zeros(1, 3)} if family == "FiLM" else image


def _slug(family: str) -> str:
    return re.sub("[^a-z0-9]+", "-", family.lower().replace("+", "-plus")).strip("-")
