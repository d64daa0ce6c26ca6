"""The generator: every block runs, on two sizes unless it says otherwise, and a seed is always the same network."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.bench.studies.fuzz.networks import (
    ALL_HEADS,
    BLOCKS,
    CONSTRUCTS,
    NAMES,
    FuzzNet,
    check_names,
    label_of,
    labels_of,
    make_block,
    network,
    side_of,
)
from slimtask.bench.studies.fuzz.outputs import FORMS
from slimtask.bench.studies.fuzz.snapshot import tensors_in
from slimtask.bench.studies.fuzz.truth import difference, leaves, plainly
from slimtask.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:input's size at dim=1:UserWarning")


def made(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    into = 3 if name == "Unsure" else 16
    return make_block(random.Random(seed), name, into, 24, (16, 16)).eval()


def image(block_name: str, *size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3 if block_name == "Unsure" else 16, *size, generator=generator)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_maps_maps_to_maps_of_any_size_unless_it_is_made_for_one(name: str) -> None:
    for seed in range(8):
        block = made(name, seed)
        with plainly():
            assert block(image(name, 16, 16)).ndim == 4
            if not getattr(BLOCKS[name], "sized", False):
                assert block(image(name, 24, 20)).ndim == 4
                continue
        with plainly(), pytest.raises(RuntimeError):
            block(image(name, 24, 20))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_seeded_and_its_output_depends_on_its_input(name: str) -> None:
    one, two, x = made(name, 1), made(name, 1), image(name, 16, 16)
    weights = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    with plainly():
        first = one(x.clone())
        assert torch.equal(first, two(x.clone()))
        assert bool((first != one(x + 0.5)).any())
        assert bool(first.isfinite().all())


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_a_construct_names_a_layer_that_it_works_on(name: str) -> None:
    block = made(name, 0)
    subject = getattr(block, "subject", "first")
    found = [part for part, _ in (*block.named_modules(), *block.named_parameters())]
    assert subject in found


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_outputs_holds_all_that_the_first_head_gives(form: str) -> None:
    net = network(2, [form, "MapsHead"])
    assert isinstance(net, FuzzNet)
    assert net.form == form
    with plainly():
        found = leaves(net(torch.randn(2, 3, side_of(2), side_of(2))))
    assert any(isinstance(leaf, torch.Tensor) and leaf.ndim == 4 for leaf in found.values())


def test_a_seed_is_always_the_same_network_in_the_same_state() -> None:
    for seed in (0, 3, 7, 10, 91):
        one, two = network(seed), network(seed)
        x = torch.randn(3, 3, side_of(seed), side_of(seed))
        states = zip(tensors_in(one), tensors_in(two), strict=True)
        assert all(torch.equal(a, b) for a, b in states)
        with plainly():
            assert not difference(one(x), two(x)).words
    assert str(network(3)) != str(network(7))


def test_a_network_has_not_run() -> None:
    for seed, name in ((1, "CachedGrid"), (1, "HookOverSelf"), (1, "DataInitialised"), (1, "RunningMaximum")):
        for block in network(seed, [name]).blocks:  # type: ignore[union-attr]
            kept: dict[str, Any] = vars(block)
            assert kept.get("grid") is None
            assert not kept.get("grids")
            assert not kept.get("found")
            assert int(dict(block.named_buffers()).get("calls", torch.tensor(0))) == 0


def test_every_construct_has_its_turn() -> None:
    assert len(NAMES) > 60
    drawn: set[str] = set()
    for seed in range(1, 2 * len(NAMES), 2):
        drawn |= {label.partition("(")[0] for label, _ in labels_of(network(seed))}
    assert set(NAMES) <= drawn


def test_only_the_named_constructs_are_drawn_between_plain_blocks() -> None:
    for seed in range(12):
        labels = {label.partition("(")[0] for label, _ in labels_of(network(seed, ["Rotary", "dict", "RoiHead"]))}
        assert labels & {"Rotary", "RoiHead", "dict"} == {"Rotary", "RoiHead", "dict"}
        assert labels <= {"Rotary", "dict", "RoiHead", "ConvBlock", "Depthwise", "Residual"}


def test_an_unknown_construct_is_named() -> None:
    with pytest.raises(InputError, match="no construct 'Rotory'; did you mean 'Rotary'"):
        check_names(["Rotory"])
    check_names([*BLOCKS, *ALL_HEADS, *FORMS])


def test_a_label_says_how_a_block_is_written() -> None:
    block = made("HandAttention", 0)
    assert label_of(block) == f"HandAttention({block.how})"
    assert label_of(made("Rotary", 0)) == "Rotary"
