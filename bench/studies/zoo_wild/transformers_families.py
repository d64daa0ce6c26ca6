"""Vision networks of transformers from tiny configurations of their own: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_BLOCKS: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_PLAIN: dict[str, Any] = {**_BLOCKS, "intermediate_size": 128, "image_size": 64, "patch_size": 16}
_MLP: dict[str, Any] = {**_BLOCKS, "mlp_ratio": 2, "image_size": 64, "patch_size": 16}
_WINDOWS: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 32,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 8],
    "window_size": 4,
    "num_labels": 10,
}
_PYRAMID: dict[str, Any] = {
    "num_encoder_blocks": 3,
    "depths": [1, 2, 1],
    "hidden_sizes": [32, 64, 128],
    "patch_sizes": [7, 3, 3],
    "strides": [4, 2, 2],
    "num_labels": 10,
}
_ATTENTION: dict[str, Any] = {"num_attention_heads": [1, 2, 4], "mlp_ratios": [4, 4, 4]}
_RESNET: dict[str, Any] = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128, 256],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}

_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "Depth Anything": ("Dinov2", {**_MLP, "out_indices": [0, 1, 2, 3], "reshape_hidden_states": False}),
    "DETR": ("ResNet", {**_RESNET, "out_features": ["stage4"]}),
    "UPerNet": (
        "ConvNext",
        {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1], "out_indices": [1, 2, 3, 4]},
    ),
    "ViTPose": (
        "VitPoseBackbone",
        {**_BLOCKS, "image_size": [64, 64], "patch_size": [16, 16], "out_features": ["stage3"]},
    ),
}
# family: (class of the network without its ending, what it is for, configuration, side of the image in pixels)
FAMILIES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "BEiT": ("Beit", "ForImageClassification", {**_PLAIN, "use_relative_position_bias": True, "num_labels": 10}, 64),
    "BEiT segmentation": (
        "Beit",
        "ForSemanticSegmentation",
        {**_PLAIN, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "auxiliary_channels": 32, "num_labels": 5},
        64,
    ),
    "CLIP vision tower": ("CLIPVision", "Model", {**_PLAIN, "projection_dim": 32}, 64),
    "ConvNeXt": (
        "ConvNext",
        "ForImageClassification",
        {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "num_labels": 10},
        64,
    ),
    "CvT": (
        "Cvt",
        "ForImageClassification",
        {
            "embed_dim": [32, 64, 96],
            "num_heads": [1, 2, 3],
            "depth": [1, 2, 3],
            "drop_path_rate": [0.0] * 3,
            "num_labels": 10,
        },
        64,
    ),
    "Data2Vec vision": ("Data2VecVision", "ForImageClassification", {**_PLAIN, "num_labels": 10}, 64),
    "DeiT with a teacher": ("DeiT", "ForImageClassificationWithTeacher", {**_PLAIN, "num_labels": 10}, 64),
    "Depth Anything": (
        "DepthAnything",
        "ForDepthEstimation",
        {
            "reassemble_hidden_size": 64,
            "patch_size": 16,
            "neck_hidden_sizes": [16, 32, 48, 64],
            "fusion_hidden_size": 32,
            "head_hidden_size": 16,
        },
        64,
    ),
    "DETR": (
        "Detr",
        "ForObjectDetection",
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "num_queries": 10,
            "use_timm_backbone": False,
            "num_labels": 5,
        },
        64,
    ),
    "DINOv2 with SwiGLU": (
        "Dinov2",
        "ForImageClassification",
        {**_MLP, "use_swiglu_ffn": True, "num_labels": 10},
        64,
    ),
    "DPT": (
        "DPT",
        "ForDepthEstimation",
        {
            **_PLAIN,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 32, 48, 64],
            "fusion_hidden_size": 32,
        },
        64,
    ),
    "FocalNet": (
        "FocalNet",
        "ForImageClassification",
        {"image_size": 64, "embed_dim": 32, "hidden_sizes": [64, 128, 128], "depths": [1, 2, 1], "num_labels": 10},
        64,
    ),
    "GLPN": ("GLPN", "ForDepthEstimation", {"hidden_sizes": [16, 32, 80, 128], "decoder_hidden_size": 32}, 64),
    "LeViT": (
        "Levit",
        "ForImageClassification",
        {"image_size": 64, "hidden_sizes": [64, 96, 128], "depths": [1, 2, 1], "num_labels": 10},
        64,
    ),
    "MobileViT segmentation": (
        "MobileViT",
        "ForSemanticSegmentation",
        {
            "image_size": 64,
            "hidden_sizes": [64, 80, 96],
            "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 128],
            "aspp_out_channels": 32,
            "num_labels": 5,
        },
        64,
    ),
    "PoolFormer": ("PoolFormer", "ForImageClassification", {**_PYRAMID, "padding": [2, 1, 1]}, 64),
    "PVT": (
        "Pvt",
        "ForImageClassification",
        {
            **_PYRAMID,
            **_ATTENTION,
            "image_size": 64,
            "patch_sizes": [4, 2, 2],
            "sequence_reduction_ratios": [4, 2, 1],
        },
        64,
    ),
    "SegFormer": (
        "Segformer",
        "ForSemanticSegmentation",
        {**_PYRAMID, **_ATTENTION, "sr_ratios": [4, 2, 1], "decoder_hidden_size": 64},
        64,
    ),
    "SigLIP vision tower": ("SiglipVision", "Model", _PLAIN, 64),
    "Swin": ("Swin", "ForImageClassification", _WINDOWS, 64),
    "Swin V2": ("Swinv2", "ForImageClassification", _WINDOWS, 64),
    "Swin2SR": (
        "Swin2SR",
        "ForImageSuperResolution",
        {"image_size": 16, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        16,
    ),
    "UPerNet": (
        "UperNet",
        "ForSemanticSegmentation",
        {"hidden_size": 32, "auxiliary_channels": 16, "auxiliary_in_channels": 64, "num_labels": 5},
        64,
    ),
    "ViT": ("ViT", "ForImageClassification", {**_PLAIN, "num_labels": 10}, 64),
    "ViT masked autoencoder": (
        "ViTMAE",
        "ForPreTraining",
        {
            **_PLAIN,
            "decoder_num_attention_heads": 4,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 2,
            "decoder_intermediate_size": 64,
        },
        64,
    ),
    "ViTPose": ("VitPose", "ForPoseEstimation", {"use_simple_decoder": False}, 64),
    "YOLOS": ("Yolos", "ForObjectDetection", {**_PLAIN, "image_size": [64, 64], "num_detection_tokens": 10}, 64),
}


def build(family: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return the network with random weights and its keyword arguments."""
    import transformers

    name, purpose, settings, size = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**settings, **_backbone(family))
    inputs = {"pixel_values": torch.zeros(1, 3, size, size)}
    if name == "ViTMAE":  # which patches it hides it would draw at random
        inputs["noise"] = torch.linspace(0, 1, (size // 16) ** 2)[None]
    return getattr(transformers, f"{name}{purpose}")(config), inputs


def _backbone(family: str) -> dict[str, Any]:
    """Return the configuration of the network inside, of those that have one."""
    import transformers

    name, settings = _BACKBONES.get(family, ("", {}))
    return {"backbone_config": getattr(transformers, f"{name}Config")(**settings)} if name else {}
