"""The surgery on single modules: slicing parameters, buffers and the attributes that repeat their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from slimtask.compress.graph.modules import channel_sizes, slice_axis
from slimtask.errors import InputError
from slimtask.tasks import Frozen

_CUTTABLE = nn.Linear | nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm


class LayerCut(Frozen):
    """What stays of one module: ``outputs`` and ``inputs`` are the kept indices of each axis, None for all.

    Of a grouped convolution only outputs are named: whole groups, whose inputs follow from them. ``adds_bias`` says
    that the module gains a bias parameter, into which constants of removed channels were folded.
    """

    module: str
    outputs_before: int = Field(ge=1)
    inputs_before: int = Field(ge=1)
    outputs: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None
    adds_bias: bool = False


class TensorCut(Frozen):
    """What stays of one axis of a parameter or buffer that belongs to no layer, e.g. a class token."""

    tensor: str
    axis: int = Field(ge=0)
    before: int = Field(ge=1)
    kept: tuple[int, ...]


def cut_layer_(module: nn.Module, layer: LayerCut) -> None:
    """Slice the parameters, buffers and attributes of one module in place, as ``layer`` says."""
    outputs, inputs = _index(layer.outputs), _index(layer.inputs)
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm):
        _cut_norm_(module, outputs)
        return
    assert isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    if layer.adds_bias and module.bias is None:
        module.bias = nn.Parameter(module.weight.new_zeros(channel_sizes(module)[0]))
    slice_(module, ("weight",), slice_axis(module, "out"), outputs)
    slice_(module, ("bias",), 0, outputs)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        _shrink_groups_(module, outputs)
        return
    slice_(module, ("weight",), slice_axis(module, "in"), inputs)
    writes, reads = (module.weight.shape[slice_axis(module, side)] for side in ("out", "in"))
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = writes, reads
    else:
        module.out_channels, module.in_channels = writes, reads


def slice_(module: nn.Module, names: Sequence[str], axis: int, index: Tensor | None) -> None:
    """Keep ``index`` along ``axis`` of the named parameters and buffers, in place."""
    for name in names:
        tensor = getattr(module, name, None)
        if tensor is None or index is None:
            continue
        sliced = tensor.detach().index_select(axis, index.to(tensor.device)).clone()
        if isinstance(tensor, nn.Parameter):
            sliced = nn.Parameter(sliced, requires_grad=tensor.requires_grad)
        setattr(module, name, sliced)


def check_layer(layer: LayerCut, module: nn.Module | None) -> None:
    """Raise InputError unless ``layer`` can be cut from ``module``."""
    if module is None or not isinstance(module, _CUTTABLE):
        raise InputError(f"the plan does not fit this network: it has no layer '{layer.module}' that can be cut.")
    sizes = channel_sizes(module)
    if sizes != (layer.outputs_before, layer.inputs_before):
        raise InputError(
            f"the plan does not fit this network: '{layer.module}' has {sizes[0]} outputs and {sizes[1]} inputs, "
            f"the plan was made for {layer.outputs_before} and {layer.inputs_before}."
        )
    for kept, size in ((layer.outputs, sizes[0]), (layer.inputs, sizes[1])):
        if kept is not None:
            _check_indices(kept, size, layer.module)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        kept_of = torch.bincount(
            torch.tensor(layer.outputs or range(sizes[0])) // (sizes[0] // module.groups), minlength=module.groups
        )
        if layer.inputs is not None or not set(kept_of.tolist()) <= {0, sizes[0] // module.groups}:
            raise InputError(f"the plan is damaged: '{layer.module}' is a grouped convolution, cut it by whole groups.")


def check_tensor(cut: TensorCut, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError unless ``cut`` can be made in the network's parameters and buffers ``tensors``."""
    tensor = tensors.get(cut.tensor)
    if tensor is None or cut.axis >= tensor.ndim or tensor.shape[cut.axis] != cut.before:
        found = "none of that name" if tensor is None else f"{list(tensor.shape)}"
        raise InputError(
            f"the plan does not fit this network: it cuts {cut.before} entries of axis {cut.axis} of '{cut.tensor}', "
            f"the network has {found}."
        )
    _check_indices(cut.kept, cut.before, cut.tensor)


def _check_indices(kept: tuple[int, ...], size: int, where: str) -> None:
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
        raise InputError(f"the plan is damaged: '{where}' must keep rising channels within 0..{size - 1}.")


def _cut_norm_(module: nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm, kept: Tensor | None) -> None:
    slice_(module, ("weight", "bias", "running_mean", "running_var"), 0, kept)
    size = channel_sizes(module)[0] if kept is None else len(kept)
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], size)
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups > 1:  # whole groups went
            module.num_groups = module.num_groups * size // module.num_channels
        module.num_channels = size
    else:
        module.num_features = size


def tied_tensors(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return by identity the parameters and buffers that several modules hold: (module, name) of each."""
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                holders.setdefault(id(tensor), []).append((module, name))
    return {key: held for key, held in holders.items() if len(held) > 1}


def retie_(holders: Mapping[int, Sequence[tuple[nn.Module, str]]]) -> None:
    """Give all that held one tensor the one that a cut made of it, in place, with the sizes that follow."""
    for key, held in holders.items():
        made = next((getattr(module, name) for module, name in held if id(getattr(module, name)) != key), None)
        for module, name in held if made is not None else ():
            if getattr(module, name) is not made:
                setattr(module, name, made)
                refresh_sizes_(module)


def refresh_sizes_(module: nn.Module) -> None:
    """Set the attributes of a layer that repeat the sizes of its weight, in place."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1:
        module.out_channels, module.in_channels = (weight.shape[slice_axis(module, side)] for side in ("out", "in"))
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = len(weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], weight.shape[-1])


def _shrink_groups_(module: nn.modules.conv._ConvNd, kept: Tensor | None) -> None:
    """Set the sizes of a grouped convolution of which whole groups were taken."""
    if kept is None:
        return
    reads = module.in_channels // module.groups
    writes = module.out_channels // module.groups
    module.groups = len(kept) // writes
    module.in_channels, module.out_channels = module.groups * reads, len(kept)


def _index(kept: tuple[int, ...] | None) -> Tensor | None:
    return None if kept is None else torch.tensor(kept, dtype=torch.int64)
