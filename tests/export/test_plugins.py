"""Plugins against a module that stands for ``tensorrt.plugin``: it has what is used of it, and nothing else.

What TensorRT is told of launches fits the kernels and the memory it gives them.
"""

import inspect
import re
import sys
import types

import pytest

from slimtask.errors import Unsupported
from slimtask.export import plugins
from slimtask.export.delta_nodes.functions import Layer, layers
from slimtask.export.plugins import (
    NAMES,
    SHARED_LIMIT_BYTES,
    Launch,
    launch_of,
    output_shape,
    register_plugins,
    supported,
)
from slimtask.kernels.cuda.variants import Gpu

GPU = Gpu.of_sm(90)
HALF, INTS = "float16", "int32"
TASKS, TOKENS, INPUTS, OUTPUTS = 3, 1024, 768, 3072
SHAPES = {
    "DeltaBlocks": {"start": (TASKS * 48 + 1,), "column": (700,), "value": (700, 64, 64), "x": (TOKENS, INPUTS)},
    "DeltaVectors": {"column": (TASKS, 48, 48), "value": (TASKS, 48, 64, 48), "x_t": (INPUTS, TOKENS)},
    "DeltaCsr": {"start": (TASKS * OUTPUTS + 1,), "column": (9000,), "value": (9000,), "x_t": (INPUTS, TOKENS)},
}
INTEGERS = {
    "DeltaBlocks": (TASKS, TOKENS, OUTPUTS, INPUTS),
    "DeltaVectors": (TASKS, TOKENS, OUTPUTS, TOKENS, 48),
    "DeltaCsr": (TASKS, TOKENS, OUTPUTS, INPUTS, TOKENS),
}


class Expression:
    def __init__(self, value):
        self.value = value

    def constant_value(self):
        return self.value


class Expressions(list):
    def __init__(self, length):
        super().__init__([None] * length)


class TensorDesc:
    def __init__(self, shape, dtype):
        self.shape_expr, self.dtype, self.ndim = [Expression(size) for size in shape], dtype, len(shape)

    def like(self):
        return TensorDesc([one.value for one in self.shape_expr], self.dtype)


@pytest.fixture
def trt(monkeypatch):
    """A TensorRT whose plugin module records what is registered."""
    made = types.ModuleType("fake_tensorrt")
    made.__version__ = "10.13"
    made.float32, made.float16, made.bfloat16, made.int32 = "FLOAT", "HALF", "BF16", "INT32"
    plugin = types.ModuleType("fake_tensorrt.plugin")
    plugin.registered, plugin.compiled = {}, {}

    def recorder(into):
        def named(identifier):
            assert identifier not in into, "TensorRT refuses a name twice"
            return lambda function: into.setdefault(identifier, function)

        return named

    plugin.register, plugin.aot_impl = recorder(plugin.registered), recorder(plugin.compiled)
    plugin.TensorDesc, plugin.ShapeExprs, plugin.SymIntExprs = TensorDesc, Expressions, Expressions
    plugin.SymExprs, plugin.SymInt32, plugin.KernelLaunchParams = Expressions, Expression, types.SimpleNamespace
    assert {name for name in vars(plugin) if not name.startswith("_")} == {*NAMES, "registered", "compiled"}
    monkeypatch.setitem(sys.modules, "fake_tensorrt", made)
    monkeypatch.setitem(sys.modules, "fake_tensorrt.plugin", plugin)
    made.plugin = plugin
    return made


def test_a_node_is_described_and_launched(trt):
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed")
    assert register_plugins(trt, ["DeltaBlocksBias"], "float16", GPU) == ("DeltaBlocksBias",)
    assert register_plugins(trt, ["DeltaBlocksBias"], "float16", GPU) == ("DeltaBlocksBias",)
    shapes = [(7,), (9,), (9, 64, 64), (40, 100), (40, 130), (2, 130), (40, 130)]
    inputs = [TensorDesc(shape, trt.int32 if number < 2 else trt.float16) for number, shape in enumerate(shapes)]
    out = trt.plugin.registered["slimtask::DeltaBlocksBias"](*inputs)
    assert (list(out.shape_expr), out.dtype) == ([2, 40, 130], trt.float16)
    name, ptx, params, integers = trt.plugin.compiled["slimtask::DeltaBlocksBias"](*inputs, (out,), 0)
    assert f".entry {name}(" in ptx
    assert [one.value for one in integers] == [2, 40, 130, 100, 2]
    assert (params.grid_x, params.block_x) == (12, 64)  # tiles of 32 tokens, by 3 of outputs, by 2 sub-tasks
    assert params.shared_mem <= 48 * 1024


def test_a_node_is_launched_on_the_gpu_that_was_named_last(trt, monkeypatch):
    launch = Launch(name="kernel", ptx="", grid=1, threads=32, shared_bytes=0, integers=())
    asked = []
    monkeypatch.setattr(plugins, "launch_of", lambda layer, inputs, gpu: asked.append(gpu) or launch)
    for gpu in (GPU, Gpu.of_sm(80), GPU):
        register_plugins(trt, ["DeltaCsr"], "float16", gpu)
        launched = trt.plugin.compiled["slimtask::DeltaCsr"]
        inputs = [TensorDesc((1,), trt.int32)] * (len(inspect.signature(launched).parameters) - 2)
        launched(*inputs, (inputs[0],), 0)
    assert asked == [GPU, Gpu.of_sm(80), GPU]


def test_a_node_whose_registration_failed_is_not_taken_for_registered(trt, monkeypatch):
    def refuses(identifier):
        raise RuntimeError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(trt.plugin, "register", refuses)
        with pytest.raises(RuntimeError, match="no such thing"):
            register_plugins(trt, ["DeltaCsr"], "float16", GPU)
    assert register_plugins(trt, ["DeltaCsr"], "float16", GPU) == ("DeltaCsr",)
    assert set(trt.plugin.registered) == {"slimtask::DeltaCsr"}


def test_signatures_are_typed_and_agree(trt):
    register_plugins(trt, ["DeltaVectors", "DeltaCsrGelu"], "bfloat16", GPU)
    for identifier, described in trt.plugin.registered.items():
        wanted = inspect.signature(described)
        given = inspect.signature(trt.plugin.compiled[identifier])
        assert {p.annotation for p in wanted.parameters.values()} == {TensorDesc}
        assert wanted.return_annotation is TensorDesc
        assert list(given.parameters) == [*wanted.parameters, "outputs", "tactic"]
    assert len(inspect.signature(trt.plugin.registered["slimtask::DeltaVectors"]).parameters) == 6


def test_what_has_no_kernel_is_not_registered(trt):
    assert register_plugins(trt, ["DeltaBlocks", "DeltaCsr"], "float32", GPU) == ("DeltaCsr",)
    assert register_plugins(trt, [], "float16", GPU) == ()


def test_without_plugins_it_is_unsupported_by_name():
    rtx = types.ModuleType("no_such_tensorrt")
    rtx.__version__, rtx.ComputeCapability = "1.7", object
    with pytest.raises(Unsupported, match=r"plugin for delta layers.*TensorRT-RTX 1\.7"):
        register_plugins(rtx, ["DeltaCsr"], "float16", GPU)
    assert register_plugins(rtx, [], "float16", GPU) == ()


def inputs_of(layer, dtype=HALF):
    base = (TOKENS, OUTPUTS)
    shapes = SHAPES[layer.kind] | {"base": base, "residual": base}
    shapes["delta_bias"] = (TASKS, OUTPUTS) if layer.bias else base
    return [(shapes[name], INTS if name in ("start", "column") else dtype) for name in layer.inputs]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("bias", "gelu", "residual", "flags"), [(False, False, False, 0), (True, True, True, 7)])
def test_the_ptx_takes_the_nodes_inputs_then_integers_then_the_output(kind, bias, gelu, residual, flags):
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed")
    layer = Layer(kind=kind, bias=bias, gelu=gelu, residual=residual)
    launch = launch_of(layer, inputs_of(layer), GPU)
    assert launch.integers == (*INTEGERS[kind], flags)
    assert launch.shared_bytes <= SHARED_LIMIT_BYTES
    assert ".target sm_80" in launch.ptx
    (parameters,) = re.findall(rf"\.visible \.entry {launch.name}\((.*?)\)", launch.ptx, re.DOTALL)
    widths = re.findall(r"\.param \.[bus](\d+)", parameters)
    assert widths == ["64"] * len(layer.inputs) + ["32"] * len(launch.integers) + ["64"]
    (threads,) = re.findall(r"\.maxntid (\d+)", launch.ptx)
    assert int(threads) == launch.threads
    assert 0 < launch.grid <= 132 * 2


def test_other_variants_have_other_names():
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed")
    names = {
        launch_of(Layer(kind="DeltaCsr"), inputs_of(Layer(kind="DeltaCsr"), dtype), GPU).name
        for dtype in (HALF, "float32")
    }
    assert len(names) == 2


def test_what_has_no_kernel_is_left_out():
    names = ("DeltaBlocksGelu", "DeltaCsr", "Other")
    assert [layer.name for layer in supported(names, HALF)] == ["DeltaBlocksGelu", "DeltaCsr"]
    assert [layer.name for layer in supported(names, "float32")] == ["DeltaCsr"]
    layer = Layer(kind="DeltaBlocks")
    small = [((4,), INTS), ((2,), INTS), ((2, 32, 64), HALF), *[((8, 64), HALF)] * 4]
    with pytest.raises(ValueError, match="value has shape"):
        launch_of(layer, small, GPU)


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: layer.name)
def test_the_output_has_every_sub_task(layer):
    assert output_shape(layer, [shape for shape, _ in inputs_of(layer)]) == (TASKS, TOKENS, OUTPUTS)
