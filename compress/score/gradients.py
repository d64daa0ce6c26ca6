"""Channel scores from the loss: how much it would change, to first order, if the channel's weights became zero.

- "taylor": |sum of weight * gradient| of the slice, biases included (Molchanov et al., CVPR 2019, section 3.1, without
  the square), added over the members of the group. For a BatchNorm that is the effect of closing a gate behind it.
- "snip": sum of |weight * gradient| over the weights of convolutions and linear layers (Lee et al., ICLR 2019).

Both are taken batch by batch and averaged over the batches: gradients of opposite sign in two batches must not cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import FILTERS, NORMS, Member, filter_rows, sum_per_channel
from slimtask.compress.network.contents import independent_copy
from slimtask.errors import InputError

Loss = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
Products = dict[Tensor, Tensor | None]


def gradient_scores(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: str,
    calibration: Iterable[Any] | None,
    loss: Loss | None,
    *,
    together: bool,
) -> dict[str, list[Float64[Tensor, " _channels"]]]:
    """Return the raw scores of every group per task, or of the summed loss under "total" if ``together``.

    A copy of the network runs, in eval mode, and ``loss`` is given that copy.
    """
    if calibration is None or loss is None:
        raise InputError(f"the criterion '{criterion}' needs calibration batches and a loss; give both or take 'l2'.")
    model = independent_copy(model).eval()
    modules = dict(model.named_modules())
    parameters = [parameter.requires_grad_(True) for parameter in _parameters(groups, modules)]
    totals: dict[str, list[Tensor]] = {}
    batches, depends = 0, False
    with torch.enable_grad():
        for batch in calibration:
            batches += 1
            losses = _losses(loss(model, batch), together)
            for left, (task, value) in zip(range(len(losses) - 1, -1, -1), losses.items(), strict=True):
                gradients = torch.autograd.grad(value, parameters, retain_graph=left > 0, allow_unused=True)
                depends = depends or any(gradient is not None for gradient in gradients)
                products = _products(parameters, gradients)
                sums = totals.setdefault(task, [torch.zeros(group.channels, dtype=torch.float64) for group in groups])
                for group, total in zip(groups, sums, strict=True):
                    total.add_(_score(group, modules, products, criterion))
    if not batches:
        raise InputError(f"the criterion '{criterion}' was given no calibration batch; give at least one.")
    if not depends:
        raise InputError("the loss does not depend on the network that it is given; let it run its first argument.")
    return {task: [total / batches for total in sums] for task, sums in totals.items()}


def _parameters(groups: Sequence[Group], modules: dict[str, nn.Module]) -> list[Tensor]:
    """Return the weights and biases of all members, each once."""
    known = [modules[member.module] for group in groups for member in group.members if member.kind in FILTERS | NORMS]
    tensors = [getattr(module, name) for module in known for name in ("weight", "bias")]
    return list(dict.fromkeys(tensor for tensor in tensors if isinstance(tensor, Tensor)))


def _losses(value: Tensor | Mapping[str, Tensor], together: bool) -> dict[str, Tensor]:
    """Return the checked losses by task, or their sum as "total"."""
    if not together and not isinstance(value, Mapping):
        raise InputError("scores per task need a loss that returns one scalar per task, a dict; this one returns one.")
    losses = dict(value) if isinstance(value, Mapping) else {"total": value}
    if not losses:
        raise InputError("the loss returned no task; return at least one scalar.")
    for task, scalar in losses.items():
        if scalar.numel() != 1 or not bool(scalar.isfinite().all()) or not scalar.requires_grad:
            raise InputError(
                f"the loss '{task}' must be one finite number that depends on the weights; it is {scalar.detach()}."
            )
    return {"total": torch.stack([scalar.sum() for scalar in losses.values()]).sum()} if together else losses


def _products(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Products:
    """Return weight * gradient for each parameter, None where the loss does not depend on it."""
    return {
        parameter: None if gradient is None else parameter.detach().double() * gradient.double()
        for parameter, gradient in zip(parameters, gradients, strict=True)
    }


def _score(
    group: Group, modules: dict[str, nn.Module], products: Products, criterion: str
) -> Float64[Tensor, " channels"]:
    """Return the group's score of one batch, added over its members."""
    total = torch.zeros(group.channels, dtype=torch.float64)
    for member in group.members:
        values = (
            _values(member, modules[member.module], products, criterion) if member.kind in FILTERS | NORMS else None
        )
        if values is not None:
            total += sum_per_channel(values, member, group.channels).abs()
    return total


def _values(member: Member, module: nn.Module, products: Products, criterion: str) -> Tensor | None:
    """Return the sum of the products over each of the member's slices, [size]; None if it has none."""
    assert isinstance(module.weight, Tensor | None)
    product = None if module.weight is None else products[module.weight]
    if product is None or (member.kind in NORMS and (criterion == "snip" or product.ndim != 1)):
        return None
    values = product if member.kind in NORMS else filter_rows(module, member.side, product)
    if criterion == "snip":
        return values.abs().sum(dim=1)
    values = values if values.ndim == 1 else values.sum(dim=1)
    bias = products[module.bias] if member.side == "out" and isinstance(module.bias, Tensor) else None
    return values if bias is None else values + bias
