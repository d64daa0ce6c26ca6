"""The delta layers as TensorRT plugins, whose kernels are compiled ahead of time and lie inside the engine.

Quickly deployable plugins: TensorRT's Python interface to such kernels (10.13 and later). TensorRT gives a kernel its
inputs' pointers, then integers, then its outputs', as the CUDA kernels take them. It launches one kernel with the 48
KiB of shared memory that need no asking, so variants are chosen that do with it.
"""

# No postponed annotations here: TensorRT reads the types of the functions it is given from their signatures.
import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from slimtask.errors import Unsupported
from slimtask.export.delta_nodes.functions import DOMAIN, Layer, layers
from slimtask.kernels.cuda.calls import Buffer, Call, Extras, blocks_call, csr_call, vectors_call
from slimtask.kernels.cuda.compile import PTX_TARGET, compile_kernel
from slimtask.kernels.cuda.variants import TENSOR_CORE, Gpu

SHARED_LIMIT_BYTES = 48 * 1024
_CALLS: dict[str, Callable[..., Call]] = {
    "DeltaBlocks": blocks_call,
    "DeltaVectors": vectors_call,
    "DeltaCsr": csr_call,
}
NAMES = (
    *("register", "aot_impl", "TensorDesc", "KernelLaunchParams"),
    *("ShapeExprs", "SymExprs", "SymIntExprs", "SymInt32"),
)
"""What is used of the module ``tensorrt.plugin``."""

# TensorRT has one registry in a process, which refuses a name twice
_registered: WeakKeyDictionary[ModuleType, dict[str, Gpu]] = WeakKeyDictionary()


def register_plugins(trt: ModuleType, names: Sequence[str], dtype: str, gpu: Gpu | None = None) -> tuple[str, ...]:
    """Return which of the delta nodes ``names`` TensorRT takes whole from now on, on tensors of ``dtype``.

    The others have no kernel for it: their bodies are built. ``gpu`` is what engines are built for until the next call
    (None: this machine's). Raises Unsupported where ``trt`` is TensorRT-RTX or older than its plugins.
    """
    chosen = supported(names, dtype)
    if not chosen:
        return ()
    plugin, registered = _plugin_module(trt), _registered.setdefault(trt, {})
    for layer in chosen:
        identifier = f"{DOMAIN}::{layer.name}"
        known = identifier in registered
        registered[identifier] = gpu or _this_gpu()
        try:
            if not known:
                _register(trt, plugin, layer, identifier)
        except BaseException:
            del registered[identifier]
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
        launch = launch_of(
            layer, [(_shape(one), _dtype(trt, one.dtype)) for one in inputs], _registered[trt][identifier]
        )
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


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The kernel's ``name`` in its ``ptx``, how many thread blocks, threads of each, and the ``integers`` it takes."""

    name: str
    ptx: str
    grid: int
    threads: int
    shared_bytes: int
    integers: tuple[int, ...]


def supported(names: Sequence[str], dtype: str) -> tuple[Layer, ...]:
    """Return the delta nodes among ``names`` that have a kernel for ``dtype`` ("float16", "float32", ...)."""
    return tuple(
        layer for layer in layers() if layer.name in names and (layer.kind == "DeltaCsr" or dtype in TENSOR_CORE)
    )


def launch_of(layer: Layer, inputs: Sequence[tuple[tuple[int, ...], str]], gpu: Gpu) -> Launch:
    """Return the launch of a node whose inputs, in its order, have these shapes and dtypes.

    Raises ValueError for shapes that do not fit together or a dtype without a kernel, RuntimeError without NVRTC.
    """
    by_name = {
        name: Buffer(pointer=0, shape=shape, dtype=dtype)
        for name, (shape, dtype) in zip(layer.inputs, inputs, strict=True)
    }
    call = _call(layer, by_name, replace(gpu, limit_bytes=SHARED_LIMIT_BYTES))
    if call.shared_bytes > SHARED_LIMIT_BYTES:
        raise ValueError(
            f"{call.variant.name} needs {call.shared_bytes} bytes of shared memory, a kernel in an engine gets "
            f"{SHARED_LIMIT_BYTES}; export without the plugin."
        )
    compiled = compile_kernel(call.variant, PTX_TARGET)
    # An engine finds kernels by name: two variants of one kernel must not share theirs.
    name = "slimtask_" + re.sub(r"\W", "_", call.variant.name)
    ptx, renamed = re.subn(rf"(\.entry\s+){re.escape(compiled.name)}(\s*\()", rf"\g<1>{name}\g<2>", compiled.ptx)
    if renamed != 1:
        raise RuntimeError(f"the PTX of {call.variant.name} has {renamed} entries named {compiled.name}, not one")
    return Launch(
        name=name,
        ptx=ptx,
        grid=call.grid,
        threads=call.variant.threads,
        shared_bytes=call.shared_bytes,
        integers=tuple(each for each in call.arguments if isinstance(each, int)),
    )


def output_shape(layer: Layer, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Return [T, N, M] of a node whose inputs, in its order, have these shapes."""
    by_name = dict(zip(layer.inputs, shapes, strict=True))
    tokens, outputs = by_name["base"]
    if layer.kind == "DeltaVectors":
        return by_name["column"][0], tokens, outputs
    height = by_name["value"][1] if layer.kind == "DeltaBlocks" else 1
    return (by_name["start"][0] - 1) // -(-outputs // height), tokens, outputs


def _call(layer: Layer, by_name: dict[str, Buffer], gpu: Gpu) -> Call:
    extras = Extras(
        delta_bias=by_name["delta_bias"] if layer.bias else None,
        gelu=layer.gelu,
        residual=by_name["residual"] if layer.residual else None,
    )
    shape = output_shape(layer, [buffer.shape for buffer in by_name.values()])
    y = Buffer(pointer=0, shape=shape, dtype=by_name["value"].dtype)
    arrays = [buffer for name, buffer in by_name.items() if name not in ("delta_bias", "residual")]
    return _CALLS[layer.kind](*arrays, y, extras=extras, gpu=gpu)
