"""The networks: enough of them, each of a family of its own, nothing trivial; one of each library where it is there."""

from __future__ import annotations

import importlib

import pytest
import torch

from slimtask.bench.studies.zoo.models import noise_like
from slimtask.bench.studies.zoo_wild.outputs import tensors
from slimtask.bench.studies.zoo_wild.subjects import names, subject
from slimtask.bench.studies.zoo_wild.timm_families import FAMILIES
from slimtask.compress.network.inputs import call
from slimtask.errors import InputError


def test_there_are_at_least_120_networks_of_distinct_families() -> None:
    assert len(names()) == len(set(names())) >= 120
    assert len({model for model, _, _ in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("own/")])
def test_networks_by_hand_run_and_repeat(name: str) -> None:
    one, two = subject(name), subject(name)
    noise = noise_like(one.example, seed=3)
    with torch.no_grad():
        first, second = tensors(call(one.model, noise)), tensors(call(two.model, noise))
    assert all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(first, second, strict=True))
    for parameter in one.model.parameters():
        assert parameter.numel() == 1 or parameter.unique().numel() > 1


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("timm", "timm/mobilenetv4"),
        ("segmentation_models_pytorch", "smp/pan"),
        ("transformers", "transformers/vit-masked-autoencoder"),
        ("torchvision", "torchvision/ssdlite"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_one_network_of_each_library_runs(library: str, name: str) -> None:
    try:
        importlib.import_module(library)
    except ImportError:
        pytest.skip(f"{library} is not installed; pip install '.[zoo]' adds it")
    found = subject(name)
    with torch.no_grad():
        assert tensors(call(found.model, noise_like(found.example, seed=1)))


def test_an_unknown_network_is_told() -> None:
    with pytest.raises(InputError, match="did you mean 'own/mtan'"):
        subject("own/mtam")
