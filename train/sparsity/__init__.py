"""Group sparsity: which weights form a group, the proximal operator that zeroes groups, the optimiser around it."""

from __future__ import annotations

from slimtask.train.sparsity.layout import GroupLayout, Member, input_channel_layout, output_channel_layout
from slimtask.train.sparsity.prox import weighted_group_prox
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW

__all__ = [
    "GroupLayout",
    "Member",
    "ProximalAdamW",
    "input_channel_layout",
    "output_channel_layout",
    "weighted_group_prox",
]
