"""AdamW followed by the exact proximal step of a group l1/l2 penalty, for all groups of all parameters at once.

Step t, with learning rate lr (Upadhyay et al., arXiv 2308.12114; Deleu & Bengio, arXiv 2102.03869):
m and v as in Adam; D = sqrt(v) + eps (not bias corrected); p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / D;
p -= lr weight_decay p; then for every group the weighted proximal operator with metric D and threshold
lr * strength * weight. The penalty acts through that operator only, never through the gradient.

Two passes over the weights do the work, in chunks that stay in cache: the first takes the Adam update and, at the norm
that each group had one step before, the sums that give the zero test and Newton's step; the second shrinks.
Extra passes touch only parameters with a group whose root is not exact yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from slimtask.errors import InputError
from slimtask.train.sparsity.blocked import Block, blocks_of
from slimtask.train.sparsity.layout import UNGROUPED, GroupLayout
from slimtask.train.sparsity.passes import (
    NORM_DP,
    GroupSums,
    Scratch,
    Work,
    shrink_pass,
    sum_pass,
    update_pass,
)
from slimtask.train.sparsity.prox import MAX_ITERATIONS, TOLERANCE, newton_step

Limit = Callable[[Tensor], float]
# Where Newton starts for a group that has no norm to start from (new, or zero so far): at a ridge this many times its
# metric, which means from ||x|| close to 0 and so, most often, from below the root.
COLD = 8.0
# The change of a norm from one step to the next is expected to repeat, up to this factor.
MAX_TREND = 2.0
_SAVED = ("held", "norm", "trend", "metric")


@dataclass(kw_only=True, eq=False)
class _Groups:
    """What the optimiser knows of its groups. One shared object, so that wrappers of the optimiser see every change."""

    roles: dict[Tensor, tuple[int, Tensor]]
    weights: Tensor
    held: Tensor
    norm: Tensor
    trend: Tensor
    metric: Tensor
    strength: float
    used_strength: float
    tolerance: float
    limit: Limit | None = None
    critical: Tensor | None = None
    scratch: Scratch = field(default_factory=Scratch)
    plan_key: tuple[Any, ...] = ()
    plan: list[tuple[int, int, Block]] = field(default_factory=list)

    def to(self, device: torch.device) -> None:
        """Move the per-group tensors to ``device``."""
        if self.weights.device != device:
            for name in ("weights", *_SAVED):
                setattr(self, name, getattr(self, name).to(device))

    def remember(self, norm: Tensor) -> None:
        """Store the norms [groups] of this step and how they changed, which predicts those of the next."""
        known = (norm > 0) & (self.norm > 0)
        self.trend = torch.where(known, (norm / self.norm).clamp(1 / MAX_TREND, MAX_TREND), 1.0)
        self.norm = norm


class ProximalAdamW(Optimizer):
    """AdamW whose every step ends with the proximal operator of ``strength * sum_groups weight ||group||_2``.

    ``params`` are named: pairs (name, parameter), or dicts with such pairs under "params" and own settings (as for
    other torch optimisers, e.g. ``weight_decay=0`` for biases and BatchNorm). ``layout`` says which elements form
    groups; parameters outside of it, and all of them if it is None, get plain AdamW. ``weights`` [groups] defaults to
    sqrt(group size); 0 exempts a group. ``eps`` is added to the uncorrected sqrt(v), and is the least metric.

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
        weights: Float[Tensor, "groups"] | None = None,
    ) -> None:
        if not (float(lr) >= 0 and eps > 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise InputError(
                f"lr {float(lr)}, eps {eps}, weight_decay {weight_decay}, betas {betas}: "
                "lr and weight_decay must be at least 0, eps above 0, betas in [0, 1)."
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        roles = self._roles(layout)
        self.layout = layout
        self._groups = _Groups(
            roles=roles,
            weights=_weights(layout, weights),
            held=torch.zeros(_count(layout), dtype=torch.bool),
            norm=torch.zeros(_count(layout), dtype=torch.float64),
            trend=torch.ones(_count(layout), dtype=torch.float64),
            metric=torch.zeros(_count(layout), dtype=torch.float64),
            strength=_valid_strength(strength),
            used_strength=0.0,
            tolerance=min((TOLERANCE[parameter.dtype] for parameter in roles), default=0.0),
        )

    @property
    def strength(self) -> float:
        """Return the strength lambda of the penalty, 0 or more; the threshold of a group is lr * strength * weight."""
        return self._groups.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._groups.strength = _valid_strength(value)

    @property
    def limit(self) -> Limit | None:
        """Return the callback that turns the critical strengths [groups] of a step into its strength, or None."""
        return self._groups.limit

    @limit.setter
    def limit(self, value: Limit | None) -> None:
        self._groups.limit = value

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Return the closure's loss, or None, after one step of AdamW and of the proximal operator."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self._groups
        works = self._works()
        if self.layout is not None and (groups.strength > 0 or groups.limit is not None):
            self._proximal_step(works)
        else:
            groups.critical = None
            for work in works:
                update_pass(work, groups.scratch)
        for work in works:
            self._store(work)
        return loss

    def zero_groups(self) -> Bool[Tensor, "groups"]:
        """Return which groups consist of exact zeros now."""
        device = self._groups.weights.device
        nonzero = torch.zeros(_count(self.layout) + 1, dtype=torch.int64, device=device)
        for parameter, (axis, members) in self._groups.roles.items():
            slices = parameter.detach().movedim(axis, 0).reshape(len(members), -1)
            nonzero.index_add_(0, members.to(device), slices.ne(0).sum(1).to(device))
        return nonzero[:-1] == 0

    def held_groups(self) -> Bool[Tensor, "groups"]:
        """Return which groups ``hold`` keeps at zero."""
        return self._groups.held.clone()

    @torch.no_grad()
    def hold(self, mask: Bool[Tensor, "groups"]) -> None:
        """Set the groups in ``mask`` to zero, moments included, and keep them exactly zero from now on."""
        groups = self._groups
        groups.held = groups.held | mask.to(groups.held.device)
        held = torch.cat([groups.held, groups.held.new_zeros(1)])
        for parameter, (axis, members) in groups.roles.items():
            index = held[members.to(held.device)].nonzero()[:, 0].to(parameter.device)
            state = self.state.get(parameter, {})
            for tensor in (parameter, state.get("exp_avg"), state.get("exp_avg_sq")):
                if tensor is not None:
                    tensor.index_fill_(axis, index, 0.0)
        groups.plan_key = ()

    def exempt(self, mask: Bool[Tensor, "groups"]) -> None:
        """Take the groups in ``mask`` out of the penalty from now on: their weight becomes 0."""
        self._groups.weights = self._groups.weights.masked_fill(mask.to(self._groups.weights.device), 0.0)

    def critical_strengths(self) -> Float[Tensor, "groups"]:
        """Return, per group, the least strength that zeroes it in the last step: ||d p|| / (lr weight), before the prox.

        Infinite for held groups, for groups of weight 0 and while lr is 0. Raises InputError before the first step.
        """
        groups = self._groups
        if groups.critical is not None:
            return groups.critical.clone()
        squares = torch.zeros(_count(self.layout) + 1, dtype=torch.float64, device=groups.weights.device)
        for settings in self.param_groups:
            for parameter in settings["params"]:
                if parameter in groups.roles:
                    squares += self._metric_squares(parameter, settings["eps"], len(squares)).to(squares.device)
        return self._critical(squares[:-1].sqrt(), self._units())

    def state_dict(self) -> dict[str, Any]:
        """Return torch's optimiser state plus the tensors of the groups under "sparsity".

        Everything is a tensor or, in "param_groups", a plain number, string or list.
        """
        groups = self._groups
        sparsity = {
            "strength": torch.tensor([groups.strength, groups.used_strength], dtype=torch.float64),
            **{name: getattr(groups, name).clone() for name in _SAVED},
        }
        if groups.critical is not None:
            sparsity["critical"] = groups.critical.clone()
        return {**super().state_dict(), "sparsity": sparsity}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the state of a ``torch.optim.AdamW`` is accepted and starts no group."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.empty_like(parameter).copy_(state[key])
        groups = self._groups
        groups.plan_key = ()
        sparsity = state_dict.get("sparsity")
        if sparsity is None:
            return
        if sparsity["held"].shape != groups.held.shape:
            raise InputError(
                f"the optimiser state has {len(sparsity['held'])} groups, the layout {len(groups.held)}; "
                "resume with the layout that the state was saved with."
            )
        groups.strength, groups.used_strength = sparsity["strength"].tolist()
        device = groups.weights.device
        for name in _SAVED:
            setattr(groups, name, sparsity[name].to(device).clone())
        groups.critical = sparsity["critical"].to(device).clone() if "critical" in sparsity else None

    def _proximal_step(self, works: list[Work]) -> None:
        groups = self._groups
        units = self._units()
        ridge = self._first_ridge(units)
        sums = GroupSums(len(units), units.device)
        for work in works:
            update_pass(work, groups.scratch, sums, _extended(ridge, work))
        norm_dp = sums.totals[NORM_DP, :-1].sqrt()
        groups.critical = self._critical(norm_dp, units)
        strength = groups.strength if groups.limit is None else _valid_strength(groups.limit(groups.critical.clone()))
        groups.used_strength = strength
        threshold = units * strength
        alive = (norm_dp > threshold) & (threshold > 0) & norm_dp.isfinite()
        _, square, slope = sums.totals[:, :-1]
        norm, error = newton_step(threshold / ridge, threshold, norm_dp, square, slope)
        norm = self._refine(works, threshold, norm_dp, norm, alive & (error > groups.tolerance))
        groups.remember(torch.where(alive, norm, 0.0))
        # x^2 / (d + ridge) over x^2 is a weighted mean of 1 / (d + ridge), which tells the size of d.
        metric = square / slope - ridge
        groups.metric = torch.where((metric > 0) & metric.isfinite(), metric, groups.metric)
        dead = (norm_dp <= threshold) & (threshold > 0)
        ridge = torch.where(alive, threshold / norm, torch.where(dead, torch.inf, 0.0))
        for work in works:
            if work.block.slices is not None:
                shrink_pass(work, groups.scratch, _extended(ridge, work))

    def _first_ridge(self, units: Tensor) -> Tensor:
        """Return the ridge [groups] at which the update pass evaluates: that of the last step's norm and strength."""
        groups = self._groups
        threshold = units * (groups.used_strength or groups.strength)
        cold = groups.metric == 0
        if bool(cold.any()):
            groups.metric = torch.where(cold, self._metric_ceiling(), groups.metric)
        warm = (groups.norm > 0) & (threshold > 0)
        expected = groups.norm * groups.trend
        return torch.where(units > 0, torch.where(warm, threshold / expected, COLD * groups.metric), 0.0)

    def _metric_ceiling(self) -> Tensor:
        """Return an upper bound [groups] of the metric that the coming update pass will compute."""
        groups = self._groups
        ceiling = torch.zeros(len(groups.weights) + 1, dtype=torch.float64, device=groups.weights.device)
        for settings in self.param_groups:
            beta2 = settings["betas"][1]
            for parameter in settings["params"]:
                if parameter in groups.roles and parameter.grad is not None:
                    axis, members = groups.roles[parameter]
                    second = self.state[parameter]["exp_avg_sq"].movedim(axis, 0).reshape(len(members), -1).amax(1)
                    gradient = parameter.grad.movedim(axis, 0).reshape(len(members), -1).abs().amax(1)
                    bound = (beta2 * second.double() + (1 - beta2) * gradient.double().square()).sqrt()
                    ceiling.scatter_reduce_(0, members, bound + settings["eps"], "amax")
        return ceiling[:-1]

    def _refine(
        self, works: list[Work], threshold: Tensor, norm_dp: Tensor, norm: Tensor, unresolved: Tensor
    ) -> Tensor:
        """Return ``norm`` [groups] after as many more Newton passes as the ``unresolved`` groups need."""
        parts: list[Work] | None = None
        for _ in range(MAX_ITERATIONS):
            if not bool(unresolved.any()):
                break
            if parts is None:
                wanted = torch.cat([unresolved, unresolved.new_zeros(1)])
                parts = [part for part in (work.part(wanted) for work in works) if part is not None]
            sums = GroupSums(len(norm), norm.device)
            ridge = torch.where(unresolved, threshold / norm, 0.0)
            for part in parts:
                sum_pass(part, self._groups.scratch, sums, _extended(ridge, part))
            _, square, slope = sums.totals[:, :-1]
            updated, error = newton_step(norm, threshold, norm_dp, square, slope)
            norm = torch.where(unresolved, updated, norm)
            unresolved = unresolved & (error > self._groups.tolerance)
        return norm

    def _critical(self, norm_dp: Tensor, units: Tensor) -> Tensor:
        return torch.where((units > 0) & ~self._groups.held, norm_dp / units, torch.inf)

    def _units(self) -> Tensor:
        """Return lr * weight [groups]; a group that spans several learning rates takes the largest."""
        groups = self._groups
        rates = {
            float(settings["lr"])
            for settings in self.param_groups
            if any(p in groups.roles for p in settings["params"])
        }
        if len(rates) <= 1:
            return groups.weights * max(rates, default=0.0)
        rate = torch.zeros(len(groups.weights) + 1, dtype=torch.float64, device=groups.weights.device)
        for settings in self.param_groups:
            for parameter in settings["params"]:
                if parameter in groups.roles:
                    members = groups.roles[parameter][1].to(rate.device)
                    rate[members] = rate[members].clamp(min=float(settings["lr"]))
        return groups.weights * rate[:-1]

    def _metric_squares(self, parameter: Tensor, eps: float, count: int) -> Tensor:
        if parameter not in self.state:
            raise InputError("the critical strengths need second moments; take an optimiser step first.")
        axis, members = self._groups.roles[parameter]
        square = ((self.state[parameter]["exp_avg_sq"].sqrt() + eps) * parameter.detach()).square()
        slices = square.movedim(axis, 0).reshape(len(members), -1).sum(1, dtype=torch.float64)
        return slices.new_zeros(count).index_add_(0, members.to(slices.device), slices)

    def _works(self) -> list[Work]:
        """Return the blocks of every parameter that has a gradient, with step counts advanced."""
        present = [
            (index, parameter)
            for index, settings in enumerate(self.param_groups)
            for parameter in settings["params"]
            if parameter.grad is not None
        ]
        if not present:
            return []
        steps = [int(self._state_of(parameter)["step"].add_(1)) for _, parameter in present]
        groups = self._groups
        if groups.roles:
            groups.to(next(iter(groups.roles)).device)
        key = tuple((id(parameter), step - steps[0]) for (_, parameter), step in zip(present, steps, strict=True))
        if key != groups.plan_key:
            groups.plan_key, groups.plan = key, self._plan(present, steps)
        return [self._load(self.param_groups[index], steps[position], block) for index, position, block in groups.plan]

    def _plan(self, present: list[tuple[int, Tensor]], steps: list[int]) -> list[tuple[int, int, Block]]:
        """Return (param group, position of one of its parameters in ``present``, block) for every block to walk."""
        groups = self._groups
        together: dict[tuple[int, int], list[int]] = {}
        for position, (index, _) in enumerate(present):
            together.setdefault((index, steps[position]), []).append(position)
        plan = []
        for (index, _), positions in together.items():
            parameters = [present[position][1] for position in positions]
            for block in blocks_of([(p, *groups.roles.get(p, (0, None))) for p in parameters], len(groups.weights)):
                plan.append((index, positions[0], block))
        held = torch.cat([groups.held, groups.held.new_zeros(1)])
        for _, _, block in plan:
            if block.slices is not None and bool(held[block.slices].any()):
                block.keep = block.spread((~held).to(block.parameters[0].dtype))
        return plan

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            if parameter.dtype not in TOLERANCE:
                raise InputError(
                    f"a parameter is {parameter.dtype}; keep the weights in float32 (or float64) and use mixed precision."
                )
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _load(self, settings: dict[str, Any], step: int, block: Block) -> Work:
        states = [self.state[parameter] for parameter in block.parameters]
        values, gradient, first, second = block.load(
            [
                block.parameters,
                [_aligned_gradient(parameter) for parameter in block.parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
            ]
        )
        return Work(
            block=block,
            values=values,
            gradient=gradient,
            first=first,
            second=second,
            settings=settings,
            step=step,
        )

    def _store(self, work: Work) -> None:
        block = work.block
        block.store(work.values, block.parameters)
        block.store(work.first, [self.state[parameter]["exp_avg"] for parameter in block.parameters])
        block.store(work.second, [self.state[parameter]["exp_avg_sq"] for parameter in block.parameters])

    def _roles(self, layout: GroupLayout | None) -> dict[Tensor, tuple[int, Tensor]]:
        """Return axis and group of every slice (the number of groups for "none") for each parameter in the layout."""
        if layout is None:
            return {}
        named: dict[str, Tensor] = {}
        for settings in self.param_groups:
            named.update(zip(settings.get("param_names", ()), settings["params"], strict=False))
        roles = {}
        for member in layout.members:
            parameter = named.get(member.parameter)
            if parameter is None:
                raise InputError(
                    f"the layout names parameter '{member.parameter}', which the optimiser was not given; "
                    "pass (name, parameter) pairs with the layout's names."
                )
            if parameter.shape[member.axis : member.axis + 1] != member.groups.shape:
                raise InputError(
                    f"parameter '{member.parameter}' has shape {tuple(parameter.shape)}, but its member in the layout "
                    f"has {len(member.groups)} slices on axis {member.axis}; build the layout from this model."
                )
            groups = member.groups.to(parameter.device)
            roles[parameter] = member.axis, torch.where(groups == UNGROUPED, len(layout), groups)
        return roles


def _aligned_gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of ``parameter`` in the memory layout of the parameter."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise InputError(
            "a parameter has a sparse gradient, which the optimiser cannot use; build it without sparse=True."
        )
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


def _extended(values: Tensor, work: Work) -> Tensor:
    """Return per-group ``values`` in the dtype of ``work`` with a 0 appended, the entry of slices in no group."""
    return torch.cat([values, values.new_zeros(1)]).to(work.values.dtype)


def _weights(layout: GroupLayout | None, weights: Tensor | None) -> Tensor:
    count = 0 if layout is None else len(layout)
    if weights is None:
        return torch.zeros(0, dtype=torch.float64) if layout is None else layout.group_sizes.double().sqrt()
    if weights.shape != (count,) or not bool((weights >= 0).all() & weights.isfinite().all()):
        raise InputError(f"weights must be {count} finite numbers of at least 0, one a group.")
    return weights.double().clone()


def _valid_strength(value: float) -> float:
    value = float(value)
    if not 0 <= value < float("inf"):
        raise InputError(f"the strength of the penalty is {value}; it must be a finite number of at least 0.")
    return value


def _count(layout: GroupLayout | None) -> int:
    return 0 if layout is None else len(layout)
