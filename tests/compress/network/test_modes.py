"""Modes come back module by module, on errors too."""

from __future__ import annotations

import pytest
from torch import nn

from slimtask.compress.network.modes import modes_kept


def test_modes_come_back_module_by_module() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), modes_kept(model):
        model.eval()
        model[1].train()
        raise KeyError
    assert before == [module.training for module in model.modules()]
