"""Launches inside engines: what TensorRT is told fits the kernels and the memory it gives them."""

import re

import pytest

from slimtask.export.delta_nodes.functions import Layer, layers
from slimtask.export.plugins.launch import SHARED_LIMIT_BYTES, launch_of, output_shape, supported
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
