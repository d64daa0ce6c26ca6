"""What a convolution or linear layer makes of constant inputs, some unknown, and which of its slices are zero."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slimtask.compress.graph.axes import Array


def per_index(array: Array, axis: int, size: int) -> Array:
    """Return the value at each index of ``axis``, [size]; NaN where it differs along any other axis."""
    flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    steady = (flat == flat[:, :1]).all(axis=1)
    return np.broadcast_to(np.where(steady, flat[:, 0], np.nan), (size,)).copy()


def affine(weight: Tensor, inputs: Array, bias: Array, groups: int) -> Array:
    """Return the constant outputs of a layer, [outputs]; ``weight`` is [outputs, inputs of one group, taps].

    An output is known if each input that its weights do not ignore is.
    """
    outputs, width = weight.shape[:2]
    unknown = np.isnan(inputs)
    if unknown.all():
        dead = dead_slices(weight, 0)
        return np.where(dead, bias, np.nan)
    alive = (weight != 0).any(dim=2).cpu().numpy().reshape(groups, outputs // groups, width)
    sums = as_numpy(weight.double().sum(dim=2)).reshape(groups, outputs // groups, width)
    blurred = (alive & unknown.reshape(groups, 1, width)).any(axis=2).ravel()
    total = (sums * np.nan_to_num(inputs).reshape(groups, 1, width)).sum(axis=2).ravel()
    return np.where(blurred, np.nan, total + bias)


def dead_slices(weight: Tensor, axis: int) -> Array:
    """Return for each index of ``axis`` whether the whole slice of ``weight`` is exactly zero."""
    flat = weight.detach().transpose(0, axis).flatten(1)
    dead = (flat[:, 0] == 0).cpu().numpy().copy()
    candidates = np.flatnonzero(dead)
    if len(candidates):
        dead[candidates] = (flat[torch.from_numpy(candidates).to(flat.device)] == 0).all(dim=1).cpu().numpy()
    return dead


def as_numpy(tensor: Tensor) -> Array:
    """Return a tensor of any device and type in float64."""
    array: Array = tensor.detach().double().cpu().numpy()
    return array
