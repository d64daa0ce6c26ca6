"""Quickly deployable plugins: TensorRT's Python interface to kernels compiled ahead of time (10.13 and later)."""

# No postponed annotations here: TensorRT reads the types of the functions it is given from their signatures.
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from slimtask.errors import Unsupported
from slimtask.export.delta_nodes.functions import DOMAIN, Layer
from slimtask.export.plugins.launch import launch_of, output_shape, supported
from slimtask.kernels.cuda.variants import Gpu

NAMES = (
    "register",
    "aot_impl",
    "TensorDesc",
    "KernelLaunchParams",
    "ShapeExprs",
    "SymExprs",
    "SymIntExprs",
    "SymInt32",
)
"""What is used of the module ``tensorrt.plugin``."""

_registered: dict[str, Gpu] = {}  # TensorRT has one registry in a process, which refuses a name twice


def register_plugins(trt: ModuleType, names: Sequence[str], dtype: str, gpu: Gpu | None = None) -> tuple[str, ...]:
    """Return which of the delta nodes ``names`` TensorRT takes whole from now on, on tensors of ``dtype``.

    The others have no kernel for it: their bodies are built. ``gpu`` is what engines are built for until the next call
    (None: this machine's). Raises Unsupported where ``trt`` is TensorRT-RTX or older than its plugins.
    """
    chosen = supported(names, dtype)
    if not chosen:
        return ()
    plugin = _plugin_module(trt)
    for layer in chosen:
        identifier = f"{DOMAIN}::{layer.name}"
        known = identifier in _registered
        _registered[identifier] = gpu or _this_gpu()
        try:
            if not known:
                _register(trt, plugin, layer, identifier)
        except BaseException:
            del _registered[identifier]
            raise
    return tuple(layer.name for layer in chosen)


def _plugin_module(trt: ModuleType) -> ModuleType:
    product = "TensorRT-RTX" if hasattr(trt, "ComputeCapability") else "TensorRT"
    reason = "its Python module has no 'plugin' with kernels compiled ahead of time"
    try:
        plugin = importlib.import_module(f"{trt.__name__}.plugin")
    except ImportError:
        plugin = None
    if plugin is None or not all(hasattr(plugin, name) for name in NAMES):
        raise Unsupported(
            "a plugin for delta layers",
            f"{product} {trt.__version__}",
            reason,
            "use TensorRT 10.13 or later, or build the nodes' bodies, in standard operators",
        )
    return plugin


def _register(trt: ModuleType, plugin: ModuleType, layer: Layer, identifier: str) -> None:
    """Register what describes the output of ``layer`` and what launches it on the GPU that is registered then."""
    tensor: Any = plugin.TensorDesc
    params_type, integers_type = plugin.KernelLaunchParams, plugin.SymExprs
    result: Any = tuple[str, str, params_type, integers_type]  # type: ignore[valid-type]

    def described(inputs: Sequence[Any]) -> Any:
        out = inputs[layer.inputs.index("value")].like()
        shape = plugin.ShapeExprs(3)
        for axis, size in enumerate(output_shape(layer, [_shape(one) for one in inputs])):
            shape[axis] = size
        out.shape_expr = shape
        return out

    def launched(inputs: Sequence[Any]) -> Any:
        launch = launch_of(layer, [(_shape(one), _dtype(trt, one.dtype)) for one in inputs], _registered[identifier])
        params = plugin.KernelLaunchParams()
        params.grid_x, params.block_x, params.shared_mem = launch.grid, launch.threads, launch.shared_bytes
        integers = plugin.SymIntExprs(len(launch.integers))
        for number, value in enumerate(launch.integers):
            integers[number] = plugin.SymInt32(value)
        return launch.name, launch.ptx, params, integers

    # The parameters' names and number are the plugin's: one function for each number of inputs.
    def describe_six(a: tensor, b: tensor, c: tensor, d: tensor, e: tensor, f: tensor) -> tensor:
        return described((a, b, c, d, e, f))

    def describe_seven(a: tensor, b: tensor, c: tensor, d: tensor, e: tensor, f: tensor, g: tensor) -> tensor:
        return described((a, b, c, d, e, f, g))

    def launch_six(
        a: tensor, b: tensor, c: tensor, d: tensor, e: tensor, f: tensor, outputs: tuple[tensor], tactic: int
    ) -> result:
        return launched((a, b, c, d, e, f))

    def launch_seven(
        a: tensor, b: tensor, c: tensor, d: tensor, e: tensor, f: tensor, g: tensor, outputs: tuple[tensor], tactic: int
    ) -> result:
        return launched((a, b, c, d, e, f, g))

    functions = {6: (describe_six, launch_six), 7: (describe_seven, launch_seven)}
    describe, launch = functions[len(layer.inputs)]
    plugin.register(identifier)(describe)
    plugin.aot_impl(identifier)(launch)


def _shape(tensor: Any) -> tuple[int, ...]:
    """Return the sizes of a tensor, all of which must be known when the engine is built."""
    expressions = [tensor.shape_expr[axis] for axis in range(tensor.ndim)]
    return tuple(expression.constant_value() for expression in expressions)


def _dtype(trt: ModuleType, dtype: Any) -> str:
    names = {trt.float32: "float32", trt.float16: "float16", trt.bfloat16: "bfloat16", trt.int32: "int32"}
    return names[dtype]


def _this_gpu() -> Gpu:
    import torch

    properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Gpu(
        sm=10 * properties.major + properties.minor,
        multiprocessors=properties.multi_processor_count,
        shared_bytes=properties.shared_memory_per_block_optin,
    )
