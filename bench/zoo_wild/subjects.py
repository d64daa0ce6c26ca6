"""The networks from the wild by name, each of a family of its own, with weights that say something and an input."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import torch
from torch import nn

from slimtask.bench.zoo_models import randomise_
from slimtask.bench.zoo_wild import timm_families
from slimtask.compress.inputs import Inputs
from slimtask.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network in eval mode and a valid input.

    Not ``counted`` is the output of a detector, which finds as many boxes as it finds.
    """

    model: nn.Module
    example: Inputs
    counted: bool = True


def names() -> list[str]:
    """Return the name of every network, ``source/family``."""
    return [f"timm/{_slug(family)}" for family in timm_families.FAMILIES]


def subject(name: str, seed: int = 0) -> Subject:
    """Return the network called ``name`` with seeded weights, none of them trivial; InputError for an unknown one."""
    if name not in names():
        raise InputError(f"there is no network '{name}' in the wild zoo{nearest(name, names())}.")
    torch.manual_seed(seed)
    random.seed(seed)
    found = _build(name)
    randomise_(found.model.eval(), seed)
    return found


def _build(name: str) -> Subject:
    _, _, slug = name.partition("/")
    family = next(each for each in timm_families.FAMILIES if _slug(each) == slug)
    model, size = timm_families.build(family)
    return Subject(model=model, example=torch.zeros(1, 3, size, size))


def _slug(family: str) -> str:
    return re.sub("[^a-z0-9]+", "-", family.lower()).strip("-")
