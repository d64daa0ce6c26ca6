"""A delta made by hand, with its dense form."""

from __future__ import annotations

import torch
from torch import nn

from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import HiddenUnits, Unstructured


def base_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))


def make_delta(model: nn.Module, execution: Execution | None = None) -> tuple[Delta, dict[str, torch.Tensor]]:
    """Return a delta of two hidden units and a few bias entries, and its dense form made by hand."""
    torch.manual_seed(1)
    dense = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    dense["0.weight"][[2, 5]] = torch.randn(2, 6)
    dense["0.bias"][[2, 5]] = torch.randn(2)
    dense["2.weight"][:, [2, 5]] = torch.randn(6, 2)
    dense["2.bias"][[0, 1, 4]] = torch.randn(3)
    patterns = {
        "0.weight": HiddenUnits(of="mlp", side="out"),
        "0.bias": HiddenUnits(of="mlp", side="out"),
        "2.weight": HiddenUnits(of="mlp", side="in"),
        "2.bias": Unstructured(),
    }
    changes = {name: Change.of(patterns[name], dense[name], dense[name] != 0) for name in dense}
    made = Delta(task="depth", base=digest(model, changes), changes=changes, execution=execution or Execution())
    return made, dense
