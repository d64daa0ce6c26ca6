"""The packages that slimtask uses: what each is for, and how to get it. `doctor` lists them; a missing one is named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A package: the distributions it may come from (any one suffices), the module they hold, and its purpose."""

    distributions: tuple[str, ...]
    module: str
    purpose: str
    how: str


def _piece(distributions: str, module: str, purpose: str, how: str) -> Piece:
    return Piece(distributions=tuple(distributions.split()), module=module, purpose=purpose, how=f"pip install {how}")


PIECES = (
    _piece("torch", "torch", "training and compression", "torch"),
    _piece("torchvision", "torchvision", "trunks with published weights", "torchvision"),
    _piece("safetensors", "safetensors", "reading and writing checkpoints", "safetensors"),
    _piece("lightning-fabric", "lightning_fabric", "training", "lightning-fabric"),
    _piece("torchmetrics", "torchmetrics", "metrics", "torchmetrics"),
    _piece("scipy", "scipy", "latency budgets", "scipy"),
    _piece("onnx", "onnx", "ONNX export", "onnx onnxscript"),
    _piece("onnxscript", "onnxscript", "ONNX export", "onnx onnxscript"),
    _piece("onnxruntime-gpu onnxruntime", "onnxruntime", "running and timing ONNX graphs", "onnxruntime"),
    _piece("pillow", "PIL", "reading and writing images", "pillow"),
    _piece("matplotlib", "matplotlib", "plots, and pictures of predictions", "matplotlib"),
    _piece("tensorboard", "tensorboard", "curves of a training run", "tensorboard"),
    _piece("tensorrt-rtx", "tensorrt_rtx", "engines for RTX GPUs, built without a GPU", "slimtask[rtx]"),
    _piece("tensorrt", "tensorrt", "engines for data-centre GPUs, built on the GPU", "slimtask[tensorrt]"),
    _piece("triton", "triton", "kernels for GPUs", "triton"),
    _piece("pycuda", "pycuda", "running engines without torch", "slimtask[gpu]"),
    _piece("ray", "ray", "sweeps over several machines", "slimtask[cluster]"),
)


def missing_piece(error: ImportError) -> str | None:
    """Return in one sentence which package could not be imported and how to get it; None if it is slimtask's own."""
    root = (error.name or "").partition(".")[0]
    if not root or root == "slimtask":
        return None
    piece = next((each for each in PIECES if each.module == root), None)
    if piece is None:
        return f"the Python package '{root}' cannot be imported ({_reason(error)}); install it."
    return (
        f"{piece.distributions[-1]} is needed here, for {piece.purpose}, and cannot be imported ({_reason(error)}); "
        f"`{piece.how}` adds it, and `slimtask doctor` says what else is missing."
    )


def _reason(error: ImportError) -> str:
    first = (str(error).strip().splitlines() or ["no reason given"])[0][:200].rstrip(".")
    return "it is not installed" if isinstance(error, ModuleNotFoundError) else first
