"""Bundles of networks with deltas: what they store, that they are the network, and what a runtime makes of them."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from slimtask.compress.edits.deltas import install_deltas_
from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import HiddenUnits, Unstructured
from slimtask.errors import InputError
from slimtask.export.bundle import Bundle
from slimtask.export.exporter import export_bundle
from slimtask.export.paths import DeltaLayers, trace_paths
from slimtask.export.runtime.runner import Runner
from slimtask.export.verify import verify_bundle
from slimtask.export.weights.shared import write_whole
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def preprocessing_40():
    return Preprocessing(height=32, width=40)


@pytest.fixture(scope="module")
def traced(delta_net):
    """The graph of every path with whole weights; clone before changing."""
    return trace_paths(delta_net[0], ROLES, torch.zeros(1, 3, 32, 40))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, delta_net, traced, preprocessing_40):
    """The bundle with deltas, and the one with merged weights, of the same trace."""
    folder = tmp_path_factory.mktemp("deltas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "slimtask.export.artifacts.trace_paths", lambda *_, **__: {role: g.clone() for role, g in traced.items()}
        )
        for name in ("shared", "merged"):
            export_bundle(delta_net[0], folder / name, preprocessing=preprocessing_40, merged=name == "merged")
    return folder


@pytest.mark.parametrize("name", ["shared", "merged"])
def test_every_path_is_the_network_and_verifies(bundles, name):
    bundle = Bundle.open(bundles / name)
    assert [artifact.role for artifact in bundle.manifest.artifacts] == ["fused", "depth", "edges"]
    assert all(artifact.parity and artifact.parity.error < 1e-5 for artifact in bundle.manifest.artifacts)
    assert all(artifact.precision == "fp32" for artifact in bundle.manifest.artifacts)
    assert verify_bundle(bundles / name)


def test_the_file_holds_the_base_once_and_the_deltas_once(bundles, delta_net):
    net, deltas = delta_net
    once = sum(p.numel() * 4 for name, p in net.named_parameters() if ".deltas." not in name)
    sizes = [delta.size() for delta in deltas]
    own = sum(size.values_bytes + size.index_bytes for size in sizes)
    stored, merged = (bundles / name / "weights.bin" for name in ("shared", "merged"))
    assert once < stored.stat().st_size < once + 1.1 * own
    assert merged.stat().st_size > once + 5 * own


def optimized(path, tmp_path):
    """Return what ONNX Runtime computes for an image, and how many nodes of each kind are left once it has loaded."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"image": np.random.default_rng(0).standard_normal((1, 3, 32, 40), np.float32)})
    graph = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    return outputs, Counter(node.op_type for node in graph.node)


@pytest.mark.parametrize("role", ["fused", "depth", "edges"])
def test_onnx_runtime_puts_weights_together_when_it_loads(bundles, role, tmp_path):
    path = bundles / "shared" / f"{role}.onnx"
    makes = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    assert makes & {"ScatterElements", "Concat"}
    merged, plain = optimized(bundles / "merged" / f"{role}.onnx", tmp_path)
    shared, left = optimized(path, tmp_path)
    assert left == plain
    for got, want in zip(shared, merged, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_task_alone_needs_nothing_of_the_others(traced, delta_net):
    """The own-fed task is as large as the base network, a base-fed one larger by its delta, all tasks by both."""
    numbers = {
        role: sum(v.const_value.size for v in graph.graph.initializers.values()) for role, graph in traced.items()
    }
    own = {delta.task: sum(len(change.values) for change in delta.changes.values()) for delta in delta_net[1]}
    assert numbers["depth"] - numbers["edges"] > own["depth"]
    assert numbers["fused"] > numbers["depth"] + own["edges"]


@torch.no_grad()
def test_it_runs_as_any_bundle(bundles, delta_net):
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 40), np.float32)
    with Runner.open(bundles / "shared", tasks=["depth"]) as runner:
        made = runner.infer(image)
    want = delta_net[0](torch.from_numpy(image), tasks=["depth"])["depth"]
    np.testing.assert_allclose(made["depth"], want.numpy(), rtol=1e-4, atol=1e-5)


def test_whole_graphs_are_the_merged_ones(bundles, tmp_path):
    """TensorRT-RTX folds no constants: its graph has them folded."""
    path = write_whole(bundles / "shared" / "edges.onnx", tmp_path)
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert ops == Counter(node.op_type for node in onnx.load(bundles / "merged" / "edges.onnx").graph.node)
    for got, want in zip(
        optimized(path, tmp_path)[0], optimized(bundles / "merged" / "edges.onnx", tmp_path)[0], strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_tensorrt_rtx_builds_it(bundles, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    from slimtask.export.engines import build_engine

    for name in ("shared", "merged"):
        build_engine(trt, bundles / name / "edges.onnx", tmp_path / name, targets=["sm_86"])
    whole = write_whole(bundles / "shared" / "edges.onnx", tmp_path)
    engine = build_engine(trt, whole, tmp_path / "whole", targets=["sm_86"])
    assert engine.bytes < (tmp_path / "shared").stat().st_size


def test_merged_is_for_deltas(net, preprocessing, tmp_path):
    with pytest.raises(InputError, match=r"^--merged is for networks with deltas"):
        export_bundle(net, tmp_path / "out", preprocessing=preprocessing, merged=True)
    with pytest.raises(InputError, match=r"^--delta-nodes is for networks with deltas"):
        export_bundle(net, tmp_path / "out", preprocessing=preprocessing, layers=DeltaLayers(always=True))
