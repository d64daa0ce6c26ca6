"""The tensors of a branch as buffers, and those by which a task's second layer is computed from the base's input."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from slimtask.export.shared.core import Layers
from slimtask.export.shared.plan import Step
from slimtask.kernels.units.correction import Layer, correction


class Tensors(nn.Module):
    """Tensors by name, as buffers, so that they move and convert with the module."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor.detach().clone().contiguous())

    def __contains__(self, name: str) -> bool:
        return name.replace(".", "_") in self._buffers

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "_"))

    def layer(self, name: str) -> Layer:
        """Return the layer of that name."""
        return Layer(self[f"{name}.weight"], self[f"{name}.bias"])


def second_of(base: Layer, own: Layer, columns: Tensor, step: Step) -> dict[str, Tensor]:
    """Return the tensors by which a task's second layer is computed from the base's input and its own units."""
    if step.form == "units":
        made = correction(base, own, columns)
        return {"column": made.column, "weight": made.weight, "bias": made.bias}
    rest = own.weight.index_fill(1, columns, 0.0)
    return {"column": columns, "rest": rest, "weight": own.weight[:, columns], "bias": own.bias}


def layers_of(tensors: Mapping[str, Tensor]) -> Layers:
    """Return the three layers of a part's tensors."""
    return Layers(*(Layer(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in ("norm", "first", "second")))


def tensors_of(module: nn.Module) -> Tensors:
    """Return ``module``, an entry of a ModuleDict, as what it is."""
    if not isinstance(module, Tensors):
        raise TypeError(f"{type(module).__name__} holds no tensors")
    return module
