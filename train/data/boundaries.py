"""Edges read off a map of labels: where two labels meet, and a morphological thinning to lines of one pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

VOID = 255


def boundaries(labels: Shaped[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """Return the pixels that have another label than one of their four neighbours: a line on either side."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for dim in (-1, -2):
        size = labels.shape[dim] - 1
        differ = labels.narrow(dim, 0, size) != labels.narrow(dim, 1, size)
        for start in (0, 1):
            edge.narrow(dim, start, size).logical_or_(differ)
    return edge


def label_edges(labels: Shaped[Tensor, "height width"]) -> Float[Tensor, "1 height width"]:
    """Return the boundaries between labels, values {0, 1, 255}, from a label map (255 void).

    A labelled pixel is an edge if one of its four neighbours carries another label: so a boundary is two pixels wide,
    one on either side, at whatever size the map has. Void pixels, and labelled ones that touch void but no other label,
    are 255 (ignored): nobody knows what the annotator would have drawn there.
    """
    edge = torch.zeros_like(labels, dtype=torch.bool)
    near_void = labels == VOID
    void = near_void.clone()
    for dim in (-1, -2):
        size = labels.shape[dim] - 1
        p, q = labels.narrow(dim, 0, size), labels.narrow(dim, 1, size)
        differ = (p != q) & (p != VOID) & (q != VOID)
        for start, other in ((0, q), (1, p)):
            edge.narrow(dim, start, size).logical_or_(differ)
            near_void.narrow(dim, start, size).logical_or_(other == VOID)
    return edge.float().masked_fill(near_void & ~edge | void, float(VOID))[None]


def thin(mask: Bool[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """Return the mask thinned to lines one pixel wide that hang together as the mask did (Guo and Hall, CACM 1989)."""
    padded = F.pad(mask, (1, 1, 1, 1))
    flat, width = padded.view(-1), padded.shape[1]
    clockwise = (-width, 1 - width, 1, width + 1, width, width - 1, -1, -width - 1)  # from the north
    rules = [_removable(second) for second in (False, True)]
    pixels = flat.nonzero().squeeze(1)
    while True:
        before = pixels.numel()
        for rule in rules:
            code = torch.zeros_like(pixels)
            for bit, offset in enumerate(clockwise):
                code += flat[pixels + offset].long() << bit
            gone = rule[code]
            flat[pixels[gone]] = False
            pixels = pixels[~gone]
        if pixels.numel() == before:
            return padded[1:-1, 1:-1].contiguous()


def _removable(second: bool) -> Bool[Tensor, "256"]:
    """Return whether a sub-iteration of Guo and Hall removes a pixel, by its neighbours: bit 0 north, clockwise."""
    p2, p3, p4, p5, p6, p7, p8, p9 = ((torch.arange(256) >> bit & 1).bool() for bit in range(8))
    pairs = ((p2, p3, p4), (p4, p5, p6), (p6, p7, p8), (p8, p9, p2))
    crossings = torch.stack([~a & (b | c) for a, b, c in pairs]).sum(0)
    first_count = torch.stack([p9 | p2, p3 | p4, p5 | p6, p7 | p8]).sum(0)
    second_count = torch.stack([p2 | p3, p4 | p5, p6 | p7, p8 | p9]).sum(0)
    count = torch.minimum(first_count, second_count)
    kept_side = (p2 | p3 | ~p5) & p4 if second else (p6 | p7 | ~p9) & p8
    return (crossings == 1) & (count >= 2) & (count <= 3) & ~kept_side
