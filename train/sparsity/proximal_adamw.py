"""AdamW followed by the exact proximal step of a group l1/l2 penalty, for all groups of all parameters at once.

Step t, with learning rate lr (Upadhyay et al., arXiv 2308.12114; Deleu & Bengio, arXiv 2102.03869):
m and v as in Adam; D = sqrt(v) + eps (not bias corrected); p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / D;
p -= lr weight_decay p; then for every group the weighted proximal operator with metric D and threshold
lr * strength * weight. The penalty acts through that operator only, never through the gradient.

Two passes over the weights do the work, in chunks that stay in cache: the first takes the Adam update and, at the norm
that each group is expected to have, the sums that give the zero test and Newton's step; the second shrinks. More passes
read the groups alone whose root is not exact yet. Float32 weights on a CPU take compiled passes (see ``native``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from slimtask.errors import InputError
from slimtask.train.sparsity import native
from slimtask.train.sparsity.group_state import GroupState, Limit, extended, valid_strength
from slimtask.train.sparsity.layout import GroupLayout
from slimtask.train.sparsity.passes import Scratch, update_pass
from slimtask.train.sparsity.prox import TOLERANCE
from slimtask.train.sparsity.proximal_step import proximal_step
from slimtask.train.sparsity.walk import Walk


class ProximalAdamW(Optimizer):
    """AdamW whose every step ends with the proximal operator of ``strength * sum_groups weight ||group||_2``.

    ``params`` are named: pairs (name, parameter), or dicts with such pairs under "params" and own settings (as for
    other torch optimisers, e.g. ``weight_decay=0`` for biases and BatchNorm). ``layout`` says which elements form
    groups; parameters outside of it, and all of them if it is None, get plain AdamW. ``weights`` [groups] defaults to
    sqrt(group size); 0 exempts a group. ``eps`` is added to the uncorrected sqrt(v), and is the least metric.

    A finite ``gamma`` makes the penalty MCP (see ``mcp``): groups of ||group|| >= gamma * strength * weight are let go.

    ``strength`` may be set at any time. ``limit``, if set, is called in every step with ``critical_strengths()`` and
    returns the strength of that step. Parameters without a gradient are left alone, as in torch.
    """

    def __init__(
        self,
        params: Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        layout: GroupLayout | None = None,
        *,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        strength: float = 0.0,
        gamma: float = math.inf,
        weights: Float[Tensor, " groups"] | None = None,
    ) -> None:
        if not (float(lr) >= 0 and eps > 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise InputError(
                f"lr {float(lr)}, eps {eps}, weight_decay {weight_decay}, betas {betas}: "
                "lr and weight_decay must be at least 0, eps above 0, betas in [0, 1)."
            )
        if not gamma > 0:
            raise InputError(f"gamma of the penalty is {gamma}; it must be above 0.")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        named: dict[str, Tensor] = {}
        for settings in self.param_groups:
            named.update(zip(settings.get("param_names", ()), settings["params"], strict=False))
            for parameter in settings["params"]:
                _check_dtype(parameter)
        self.layout = layout
        self._groups = GroupState.of(layout, named, weights, strength, gamma)
        self._walk = Walk()
        self._scratch = Scratch()

    @property
    def strength(self) -> float:
        """Return the strength lambda of the penalty, 0 or more; the threshold of a group is lr * strength * weight."""
        return self._groups.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._groups.strength = valid_strength(value)

    @property
    def limit(self) -> Limit | None:
        """Return the callback that turns the critical strengths [groups] of a step into its strength, or None."""
        return self._groups.limit

    @limit.setter
    def limit(self, value: Limit | None) -> None:
        self._groups.limit = value

    @property
    def used_strength(self) -> float:
        """Return the strength of the last step that had one, as ``limit`` or ``strength`` gave it."""
        return self._groups.used_strength

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Return the closure's loss, or None, after one step of AdamW and of the proximal operator."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self._groups
        if groups.roles:
            groups.to(next(iter(groups.roles)).device)
        works = self._walk.works(self.param_groups, self.state, groups)
        if self.layout is not None and (groups.strength > 0 or groups.limit is not None):
            proximal_step(works, groups, groups.units(self.param_groups), self._scratch)
        else:
            groups.critical = None
            for work in native.update(works):
                update_pass(work, self._scratch)
        self._walk.store(works, self.state)
        return loss

    def restart(self) -> None:
        """Forget all past gradients, moments and step counts, as if built anew; penalty and held groups stay."""
        self.state.clear()
        self._groups.forget()
        self._walk.forget()

    def zero_groups(self) -> Bool[Tensor, " groups"]:
        """Return which groups consist of exact zeros now."""
        groups = self._groups
        nonzero = extended(torch.zeros_like(groups.held, dtype=torch.int64))
        for parameter, (axis, slices) in groups.roles.items():
            counts = parameter.detach().movedim(axis, 0).reshape(len(slices), -1).count_nonzero(1)
            nonzero.index_add_(0, slices, counts.to(nonzero.device))
        return nonzero[:-1] == 0

    def held_groups(self) -> Bool[Tensor, " groups"]:
        """Return which groups ``hold`` keeps at zero."""
        return self._groups.held.clone()

    @torch.no_grad()
    def hold(self, mask: Bool[Tensor, " groups"]) -> None:
        """Set the groups in ``mask`` to zero, moments included, and keep them exactly zero from now on."""
        groups = self._groups
        groups.held = groups.held | mask.to(groups.held.device)
        held = extended(groups.held)
        for parameter, (axis, slices) in groups.roles.items():
            index = held[slices].nonzero()[:, 0].to(parameter.device)
            state = self.state.get(parameter, {})
            for tensor in (parameter, state.get("exp_avg"), state.get("exp_avg_sq")):
                if tensor is not None:
                    tensor.index_fill_(axis, index, 0.0)
        self._walk.forget()

    def exempt(self, mask: Bool[Tensor, " groups"]) -> None:
        """Take the groups in ``mask`` out of the penalty from now on: their weight becomes 0."""
        self._groups.weights = self._groups.weights.masked_fill(mask.to(self._groups.weights.device), 0.0)

    def critical_strengths(self) -> Float[Tensor, " groups"]:
        """Return per group the least strength that would have zeroed it in the last step: ||d p|| / (lr weight).

        MCP adds ||p before|| / (gamma weight).
        Infinite for held groups, for groups of weight 0 and while lr is 0. Raises InputError before the first step.
        """
        groups = self._groups
        if groups.critical is not None:
            return groups.critical.clone()
        units = groups.units(self.param_groups)
        if groups.gamma < math.inf:
            groups.relieve(self._norms(lambda parameter, _: parameter), units)
        return groups.critical_of(self._norms(lambda p, eps: self._metric(p, eps) * p), units)

    @torch.no_grad()
    def _norms(self, of: Callable[[Tensor, float], Tensor]) -> Tensor:
        """Return the norms [groups] of ``of(parameter, eps)``."""
        groups = self._groups
        squares = extended(torch.zeros_like(groups.norm))
        for settings in self.param_groups:
            for parameter in settings["params"]:
                if parameter in groups.roles:
                    axis, slices = groups.roles[parameter]
                    values = of(parameter, settings["eps"])
                    sums = values.square().movedim(axis, 0).reshape(len(slices), -1).sum(1, dtype=torch.float64)
                    squares.index_add_(0, slices, sums.to(squares.device))
        return squares[:-1].sqrt()

    def state_dict(self) -> dict[str, Any]:
        """Return torch's optimiser state plus the tensors of the groups under "sparsity".

        Everything is a tensor or, in "param_groups", a plain number, string or list.
        """
        return {**super().state_dict(), "sparsity": self._groups.tensors()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; that of ``torch.optim.AdamW`` is accepted too and changes no group."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.empty_like(parameter).copy_(state[key])
            state["step"] = state["step"].clone()
        if "sparsity" in state_dict:
            self._groups.load(state_dict["sparsity"])
        self._walk.forget()

    def _metric(self, parameter: Tensor, eps: float) -> Tensor:
        if parameter not in self.state:
            raise InputError("the critical strengths need second moments; take an optimiser step first.")
        second: Tensor = self.state[parameter]["exp_avg_sq"]
        return second.sqrt() + eps


def _check_dtype(parameter: Tensor) -> None:
    if parameter.dtype not in TOLERANCE:
        raise InputError(
            f"a parameter of shape {tuple(parameter.shape)} is {parameter.dtype}; "
            "keep the weights in float32 or float64 and train in mixed precision."
        )
