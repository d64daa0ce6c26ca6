"""A tiny transformer of two tasks with deltas, traced once for every path."""

import pytest
import torch

from slimtask.compress.edits.deltas import install_deltas_
from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import HiddenUnits, Unstructured
from slimtask.export.delta_nodes.paths import trace_paths
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.models import multitask_net
from slimtask.train.models.vit import VITS, ViTShape

TASKS = (TaskSpec(name="depth", kind="depth", channels=1), TaskSpec(name="edges", kind="edges", channels=1))
SIDES = {"mlp.0.weight": "out", "mlp.0.bias": "out", "mlp.3.weight": "in"}
ROLES = {"fused": ("depth", "edges"), "depth": ("depth",), "edges": ("edges",)}


def delta_of(net, task, seed):
    """Return a delta of "depth", base-fed, in 20 hidden units of the MLP; of others, own-fed, in 5 % of its weights."""
    generator, changes = torch.Generator().manual_seed(seed), {}
    for name, parameter in net.trunk.named_parameters():
        block, _, leaf = name.removeprefix("encoder.layers.").partition(".")
        if leaf in SIDES:
            shape = tuple(parameter.shape)
            pattern = HiddenUnits(of=block, side=SIDES[leaf]) if task == "depth" else Unstructured()
            kept = torch.zeros(pattern.units(shape), dtype=torch.bool)
            kept[:20] = True  # those units; but of single entries 5 %, anywhere
            kept = kept if task == "depth" else torch.rand(len(kept), generator=generator) < 0.05
            mask = pattern.expand(kept, shape)
            values = 0.3 * torch.randn(shape, generator=generator) * mask
            changes[f"trunk.{name}"] = Change.of(pattern, values, mask)
    execution = Execution(feed="base" if task == "depth" else "own")
    return Delta(task=task, base=digest(net, changes), changes=changes, execution=execution)


@pytest.fixture(scope="session")
def delta_net():
    """The network and its deltas."""
    shape = VITS["vit_tiny"]
    VITS["vit_tiny"] = ViTShape(patch=8, depth=1, heads=2, head_width=32, grid=(4, 5))
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = multitask_net(tasks=TASKS, trunk="vit_tiny", head="light").eval()
    finally:
        VITS["vit_tiny"] = shape
    deltas = [delta_of(net, spec.name, seed) for seed, spec in enumerate(TASKS)]
    install_deltas_(net, deltas)
    return net.eval(), deltas


@pytest.fixture(scope="session")
def preprocessing_40():
    return Preprocessing(height=32, width=40)


@pytest.fixture(scope="session")
def traced(delta_net):
    """The graph of every path with whole weights; clone before changing."""
    return trace_paths(delta_net[0], ROLES, torch.zeros(1, 3, 32, 40))
