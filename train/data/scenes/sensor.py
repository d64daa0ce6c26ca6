"""The camera's sensor: exposure, white balance, vignetting, blur, noise, display curve, eight bits."""

from __future__ import annotations

import torch
from torch import Tensor

from slimtask.train.data.scenes.counter import Draw


def expose(light: Tensor, draw: Draw) -> Tensor:
    """Return 8-bit pictures [b, 3, h, w] of linear light [b, 3, h, w] (float32, any unit).

    Noise is signal dependent (shot) plus constant (read); every scene has its own sensor.
    """
    height, width = light.shape[-2:]
    scale = draw.uniform("exposure", low=0.15, high=0.36).float() / _brightness(light).clamp(min=1e-9)
    gains = 1.0 + draw.uniform("white", 3, low=-0.12, high=0.12).float()
    picture = light * (scale[:, None] * gains)[..., None, None]
    blur = draw.uniform("blur", low=0.0, high=0.6).float()[:, None, None, None]
    picture = picture + blur * (_smooth(picture) - picture)
    corner = draw.uniform("vignette", low=0.0, high=0.35).float()[:, None, None]
    picture = picture * (1.0 - corner * _radius(height, width, light.device))[:, None]
    picture = picture / (1.0 + 0.25 * picture)  # a soft shoulder instead of hard clipping
    shot = draw.uniform("shot", low=0.0, high=0.05).float()[:, None, None, None]
    read = draw.uniform("read", low=0.001, high=0.012).float()[:, None, None, None]
    noise = draw.normal("noise", 3, height, width)
    picture = picture + noise * (shot * shot * picture.clamp(min=0.0) + read * read).sqrt()
    return (_display(picture.clamp(0.0, 1.0)) * 255.0 + 0.5).floor().to(torch.uint8)


def _brightness(light: Tensor) -> Tensor:
    """Return the squared mean root of the light of each picture, [b]: a mean that highlights do not rule.

    Added pairwise with elementwise additions, in an order that does not depend on the batch.
    """
    root = ((light[:, 0] + light[:, 1] + light[:, 2]) / 3.0).flatten(1)[:, ::7].sqrt()
    count = root.shape[1]
    while root.shape[1] > 1:
        if root.shape[1] % 2:
            root = torch.cat([root, torch.zeros_like(root[:, :1])], 1)
        root = root[:, : root.shape[1] // 2] + root[:, root.shape[1] // 2 :]
    mean = root[:, 0] / count
    return mean * mean


def _smooth(picture: Tensor) -> Tensor:
    """Return the picture after a 1-2-1 filter in both directions, borders repeated."""
    for dim in (-1, -2):
        size = picture.shape[dim]
        index = torch.arange(size, device=picture.device)
        before = picture.index_select(dim, (index - 1).clamp(min=0))
        after = picture.index_select(dim, (index + 1).clamp(max=size - 1))
        picture = 0.25 * before + 0.5 * picture + 0.25 * after
    return picture


def _radius(height: int, width: int, device: torch.device) -> Tensor:
    """Return the squared distance from the centre of the picture, 1 in the corners, [h, w]."""
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height * 2 - 1
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width * 2 - 1
    return (y * y)[:, None] * 0.5 + (x * x)[None] * 0.5


def _display(linear: Tensor) -> Tensor:
    """Return the sRGB display value of linear light, a fit by square roots (error below 0.003), both in 0 .. 1."""
    root = linear.sqrt()
    fourth = root.sqrt()
    eighth = fourth.sqrt()
    return (0.662002687 * root + 0.684122060 * fourth - 0.323583601 * eighth - 0.0225411470 * linear).clamp(0.0, 1.0)
