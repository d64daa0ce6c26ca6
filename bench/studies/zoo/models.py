"""The float models of torchvision as test subjects: their names, their inputs, and weights that say something."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.architectures import register
from slimtask.compress.network.inputs import Inputs, map_tensors
from slimtask.tasks import TaskSpec

ARCHITECTURE = "torchvision"
_DETECTION = ("fasterrcnn", "maskrcnn", "keypointrcnn", "fcos", "retinanet", "ssd300", "ssdlite320")
_SEGMENTATION = ("deeplabv3", "fcn", "lraspp")
_NORMALISED_STREAMS = ("vit", "swin", "swin3d", "maxvit", "mvit", "convnext")


def model_names() -> list[str]:
    """Return the names of torchvision's float models without the detectors, whose outputs depend on thresholds."""
    import torchvision

    names = torchvision.models.list_models()
    return [name for name in names if not name.startswith("quantized") and name.split("_")[0] not in _DETECTION]


def convolutional_names() -> list[str]:
    """Return the models whose channels no LayerNorm ties together, so that dead ones can go exactly."""
    return [name for name in model_names() if name.split("_")[0] not in _NORMALISED_STREAMS]


def example_of(name: str) -> Inputs:
    """Return a valid input of the model, all zeros: [1, 3, height, width], a clip, or two images for optical flow."""
    if name.startswith("raft"):
        return (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128))
    if name == "s3d":
        return torch.zeros(1, 3, 16, 224, 224)
    if name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        return torch.zeros(1, 3, 16, 112, 112)
    if name.startswith(("mvit", "swin3d")):
        return torch.zeros(1, 3, 16, 224, 224)
    size = 299 if name == "inception_v3" else 256 if name.startswith("swin_v2") else 224
    return torch.zeros(1, 3, size, size)


def noise_like(example: Inputs, seed: int) -> Inputs:
    """Return seeded white noise of the shapes of ``example``."""
    generator = torch.Generator().manual_seed(seed)
    return map_tensors(lambda x: torch.randn(x.shape, generator=generator), example)


@register(ARCHITECTURE)
def _architecture(*, tasks: tuple[TaskSpec, ...], model: str) -> nn.Module:
    return fresh(model)


def fresh(name: str) -> nn.Module:
    """Return the model as torchvision initialises it, in eval mode."""
    import torchvision

    arguments: dict[str, Any] = {"weights": None}
    if name.startswith(_SEGMENTATION):
        arguments["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = True
    model: nn.Module = torchvision.models.get_model(name, **arguments)
    return model.eval()


def dense(name: str, seed: int = 0) -> nn.Module:
    """Return the model in eval mode with seeded weights, none of them trivial."""
    torch.manual_seed(seed)
    random.seed(seed)
    return randomise_(fresh(name), seed)


def randomise_(model: nn.Module, seed: int) -> nn.Module:
    """Return ``model`` with random values, in place, wherever initialisation leaves trivial ones.

    BatchNorm statistics of zero and one, biases of zero and heads of zero would make wrong removals look right.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                module.running_mean.copy_(0.1 * noise(module.running_mean))
                assert module.running_var is not None
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.1 * noise(parameter))
            elif not bool(parameter.any()):
                parameter.copy_(0.02 * noise(parameter))
    return model
