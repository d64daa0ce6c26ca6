"""What a policy's trunk costs in FLOPs: every beginning of a path once, each block executed or as its shortcut."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from slimtask.compress.edits.skip import SHORTCUTS
from slimtask.compress.graph.operations import operation_flops
from slimtask.compress.network.trace import record
from slimtask.compress.structures.policy import Policy
from slimtask.tasks import Frozen


class TrunkCosts(Frozen):
    """FLOPs of a dense trunk: of its ``stem``, and of each block ``executed`` and ``skipped`` (its shortcut alone)."""

    stem: int
    executed: tuple[int, ...]
    skipped: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> TrunkCosts:
        """Return the costs of ``model.trunk``, whose ``blocks`` are a dict, for one pass of ``example``.

        Counted as ``count_flops`` does; what belongs to no block counts as stem. Raises InputError if the network does
        not run on the example.
        """
        names = list(model.trunk.blocks)  # type: ignore[union-attr, arg-type]
        stem, executed, skipped = 0, [0] * len(names), [0] * len(names)
        for operation in record(model, example).operations:
            module, flops = f"{operation.module}.", operation_flops(operation)
            place = next((i for i, name in enumerate(names) if module.startswith(f"trunk.{name}.")), None)
            if place is not None:
                executed[place] += flops
                inside = module.removeprefix(f"trunk.{names[place]}.")
                skipped[place] += flops if inside.split(".")[0] in SHORTCUTS else 0
            elif module.startswith("trunk."):
                stem += flops
        return cls(stem=stem, executed=tuple(executed), skipped=tuple(skipped))

    @property
    def dense(self) -> int:
        """Return the FLOPs of the trunk that executes everything, once."""
        return self.stem + sum(self.executed)

    def trunks(self, policy: Policy) -> float:
        """Return the FLOPs of the trunk that branches as ``policy`` says, in dense trunks.

        1 executes everything once for all tasks; tasks that share nothing cost up to one each.

        >>> costs = TrunkCosts(stem=10, executed=(40, 50), skipped=(0, 0))
        >>> costs.trunks(Policy(blocks=("x", "y"), selects={"depth": (True, True), "edges": (True, False)}))
        1.0
        """
        return float(self.trunks_of(torch.tensor([list(policy.selects.values())]))[0])

    def trunks_of(self, executes: Bool[Tensor, "policies tasks blocks"]) -> Float64[Tensor, "policies"]:
        """Return the same for many policies, as decisions to execute."""
        equal = (executes[:, :, None] == executes[:, None, :]).cumprod(dim=-1)  # [policies, tasks, tasks, blocks]
        earlier = torch.ones(executes.shape[1], executes.shape[1]).tril(-1).bool()
        first = ~(equal.bool() & earlier[None, :, :, None]).any(dim=2)
        cost = torch.where(executes, torch.tensor(self.executed), torch.tensor(self.skipped))
        return (self.stem + (cost * first).sum(dim=(1, 2))).double() / self.dense
