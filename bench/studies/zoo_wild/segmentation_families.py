"""Segmentation networks of segmentation-models-pytorch, every architecture, and the detectors of torchvision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# family: (architecture, encoder, arguments)
SEGMENTATION: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DeepLabV3": ("DeepLabV3", "resnet18", {}),
    "DeepLabV3+": ("DeepLabV3Plus", "mobilenet_v2", {}),
    "DPT": ("DPT", "tu-vit_tiny_patch16_224", {"dynamic_img_size": True}),
    "FPN": ("FPN", "efficientnet-b0", {}),
    "FPN that concatenates": ("FPN", "timm-skresnet18", {"decoder_merge_policy": "cat"}),
    "Linknet": ("Linknet", "mobileone_s0", {}),
    "MAnet": ("MAnet", "resnet18", {}),
    "PAN": ("PAN", "tu-mobilenetv3_small_100", {}),
    "PSPNet": ("PSPNet", "vgg11_bn", {}),
    "SegFormer": ("Segformer", "mit_b0", {}),
    "U-Net": ("Unet", "mit_b0", {}),
    "U-Net with attention and a class head": (
        "Unet",
        "densenet121",
        {"decoder_attention_type": "scse", "aux_params": {"classes": 4, "dropout": 0.1}},
    ),
    "U-Net on ConvNeXt": ("Unet", "tu-convnext_atto", {"decoder_interpolation": "bilinear"}),
    "U-Net++": ("UnetPlusPlus", "timm-efficientnet-b0", {}),
    "UPerNet": ("UPerNet", "tu-regnety_002", {}),
}
DETECTORS = {
    "Faster R-CNN": "fasterrcnn_mobilenet_v3_large_fpn",
    "FCOS": "fcos_resnet50_fpn",
    "Keypoint R-CNN": "keypointrcnn_resnet50_fpn",
    "Mask R-CNN": "maskrcnn_resnet50_fpn",
    "RetinaNet": "retinanet_resnet50_fpn",
    "SSDLite": "ssdlite320_mobilenet_v3_large",
}


def build_segmentation(family: str) -> tuple[nn.Module, torch.Tensor]:
    """Return the network with five classes and random weights, and its image."""
    import segmentation_models_pytorch as smp

    architecture, encoder, arguments = SEGMENTATION[family]
    make = getattr(smp, architecture)
    return make(encoder_name=encoder, encoder_weights=None, classes=5, **arguments), torch.zeros(1, 3, 128, 128)


def build_detector(family: str) -> tuple[nn.Module, tuple[list[torch.Tensor]]]:
    """Return the detector with random weights and its list of one image; boxes of any score count: there are some."""
    from torchvision import models

    name = DETECTORS[family]
    settings: dict[str, float] = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    if "rcnn" in name:
        settings |= {"box_score_thresh": 0.0, "box_detections_per_img": 10}
    elif name.startswith("fcos"):
        settings["score_thresh"] = 0.0
    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **settings)
    return model, ([torch.zeros(3, 96, 128)],)
