"""Engines from ONNX graphs through the TensorRT API, with the module (tensorrt or tensorrt_rtx) handed in.

One code path for both products and for TensorRT 10 and 11. Networks are always strongly typed: precision lives in
the graph and is read back, never asked for. Where the products differ, the API itself is asked (``hasattr``), not a
version. Variables carry the names of their TensorRT classes (``config`` is an IBuilderConfig, ``network`` an
INetworkDefinition, and so on), which lets a test hold every member used here against the bindings' own lists.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

from slimtask.errors import InputError, SlimtaskError, Unsupported, nearest
from slimtask.export.precision import engine_precision, network_precision
from slimtask.files import atomic_file
from slimtask.tasks import Frozen

RTX_TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
"""Compute capabilities that a TensorRT-RTX engine is built for by default: Ampere, Ada and Blackwell."""


class Engine(Frozen):
    """What is known of a built engine: size, the precision read back, and the GPUs it was built for ("sm_86")."""

    bytes: int = Field(ge=1)
    precision: str
    precision_source: Literal["network", "engine"]
    targets: tuple[str, ...]


def build_engine(
    trt: ModuleType, onnx_path: Path | str, engine_path: Path | str, *, targets: Sequence[str] | None = None
) -> Engine:
    """Return what was built after writing to ``engine_path`` an engine of the ONNX file, its weights beside it.

    ``targets`` are compute capabilities such as "sm_86" (None: RTX_TARGETS) where the product compiles for chosen
    ones without a GPU (TensorRT-RTX); other products build for the GPU of this machine, and accept only None.
    TF32 is switched off: "fp32" means float32. Raises InputError for an unreadable graph or an unknown target,
    Unsupported if the parser lacks an operator or the builder fails.
    """
    chosen = check_targets(trt, targets)
    built_for = chosen or (_current_target(trt),)
    log = _logger(trt)
    log.messages.clear()
    builder, network = _parse(trt, log, Path(onnx_path))
    config = builder.create_builder_config()
    _set_targets(trt, config, chosen)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = log.messages[0] if log.messages else "the builder gave no reason"
        raise Unsupported(
            f"building '{Path(onnx_path).name}'", _product(trt), reason, "use --to onnx, or another target"
        )
    content = bytes(plan)
    with atomic_file(engine_path) as temporary:
        temporary.write_bytes(content)
    inspected = None if chosen else _inspect(trt, log, content)
    return Engine(
        bytes=len(content),
        precision=inspected or network_precision(trt, network),
        precision_source="engine" if inspected else "network",
        targets=built_for,
    )


def check_targets(trt: ModuleType, targets: Sequence[str] | None) -> tuple[str, ...]:
    """Return the targets an engine will be built for, () for the GPU of this machine; InputError for an unknown one."""
    if not hasattr(trt, "ComputeCapability"):
        if targets:
            raise InputError(
                f"{_product(trt)} builds for the GPU of this machine only; leave out the targets {list(targets)}, or "
                "export to tensorrt-rtx."
            )
        return ()
    members = (str(name) for name in dir(trt.ComputeCapability))
    known = {f"sm_{name[2:]}" for name in members if name.startswith("SM") and name[2:].isdigit()}
    for target in targets or ():
        if target not in known:
            raise InputError(f"unknown target '{target}' for {_product(trt)}{nearest(target, known)}")
    return tuple(targets) if targets else RTX_TARGETS


def _set_targets(trt: ModuleType, config: Any, targets: tuple[str, ...]) -> None:
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.replace("sm_", "SM")), index)


def _parse(trt: ModuleType, log: Any, onnx_path: Path) -> tuple[Any, Any]:
    """Return (builder, network): the builder must outlive its network."""
    if not onnx_path.is_file():
        raise InputError(f"the graph '{onnx_path}' does not exist; export it to ONNX first.")
    try:
        builder = trt.Builder(log)
    except Exception as error:  # pybind reports a missing driver as a TypeError about a null factory
        reason = log.messages[0] if log.messages else str(error).splitlines()[0]
        raise Unsupported("building an engine", _product(trt), reason, "build on a machine with a GPU") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    # A file that is no ONNX at all can pass for an empty graph.
    if not parser.parse_from_file(str(onnx_path)) or network.num_outputs == 0:
        raise _parser_error(trt, parser, onnx_path)
    return builder, network


def _parser_error(trt: ModuleType, parser: Any, onnx_path: Path) -> SlimtaskError:
    """Return one sentence for everything the parser reported."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    named = [(error, error.node_name()) for error in errors]
    reasons = [f"{_where(error, name)}{error.desc().strip().rstrip('.')}" for error, name in named]
    sentence = "; ".join(dict.fromkeys(reasons)) or "it holds no graph"
    if not any(name for _, name in named):
        return InputError(f"{_product(trt)} cannot read '{onnx_path.name}': {sentence}; export the graph again.")
    return Unsupported(
        f"the graph '{onnx_path.name}'",
        _product(trt),
        sentence,
        "replace that operation in the model, or use --to onnx",
    )


def _where(error: Any, name: str) -> str:
    return f"node '{name}' ({error.node_operator()}): " if name else ""


def _inspect(trt: ModuleType, log: Any, content: bytes) -> str | None:
    """Return the precision according to the engine's own inspector, or None if it does not tell."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return engine_precision(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _current_target(trt: ModuleType) -> str:
    import torch

    if not torch.cuda.is_available():
        raise Unsupported(
            "building an engine",
            f"{_product(trt)} without a GPU",
            "it times kernels on the GPU it builds for",
            "build on a machine with one, or export to tensorrt-rtx",
        )
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def _product(trt: ModuleType) -> str:
    return f"{'TensorRT-RTX' if hasattr(trt, 'ComputeCapability') else 'TensorRT'} {trt.__version__}"


@functools.cache
def _logger(trt: ModuleType) -> Any:
    """Return the one logger of ``trt``, which keeps errors in ``messages``; TensorRT wants a single one per process."""

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.messages.append(" ".join(msg.split()).rstrip("."))

    return Log()
