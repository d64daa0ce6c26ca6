"""Inputs to compare on: of every shape that was given, whatever the network does to its input."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from slimtask.compress.network.probes import certificate_inputs
from slimtask.compress.proof.certify import certify
from tests.compress.proof.networks import IMAGE, Net


def test_networks_that_write_to_their_input_do_not_shrink_the_probes() -> None:
    net = Net(start=lambda x: x.mul_(0))
    probes = certificate_inputs(net, IMAGE)
    assert certify(net, copy.deepcopy(net), probes)
    assert float(probes.ordinary[0].abs().max()) > 1


def test_further_examples_are_probes_too() -> None:
    probes = certificate_inputs(Net(), IMAGE, also=(torch.zeros(5, 3, 24, 40),))
    assert [tuple(x.shape) for x in probes.ordinary][-1] == (5, 3, 24, 40)
    net = Net()
    assert certify(net, copy.deepcopy(net), probes).sizes == ((16, 16), (8, 8), (24, 40))


def test_ordinary_noise_is_that_of_normalised_images_at_two_sizes_and_extremes_are_flat_or_strong() -> None:
    probes = certificate_inputs(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 64, 64))
    assert [tuple(x.shape) for x in probes.ordinary] == [(3, 3, 64, 64), (3, 3, 48, 48)]
    white, strong = probes.ordinary[0][:2], probes.extreme[0][0]
    assert float(white.std()) == pytest.approx(1, abs=0.05)
    assert float(strong.std()) == pytest.approx(10, abs=0.5)
    assert [x.unique().tolist() for x in probes.extreme[0][1:]] == [[-2.0], [pytest.approx(2.4)]]
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in probes.unit)
    again = certificate_inputs(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 64, 64))
    assert all(torch.equal(x, y) for x, y in zip(probes.all, again.all, strict=True))


def test_a_network_of_one_size_gets_only_it_and_one_of_one_batch_only_that() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    assert [tuple(x.shape) for x in certificate_inputs(flat, IMAGE).ordinary] == [(3, 3, 16, 16)]
    alone = Net(start=lambda x: x.view(1, 3, 16, 16))
    assert [tuple(x.shape) for x in certificate_inputs(alone, IMAGE).ordinary] == [(1, 3, 16, 16)]
    words = torch.arange(4)[None]
    assert all(torch.equal(x, words) for x in certificate_inputs(nn.Embedding(5, 2), words).all)
