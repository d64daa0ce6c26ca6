"""Inputs to compare on: of every shape that was given, whatever the network does to its input."""

from __future__ import annotations

import copy

import torch

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
