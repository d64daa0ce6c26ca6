"""What the logits of a policy are and cost: initial values, sampling, the sharing and the sparsity loss.

Logits are [tasks, blocks, 2], of executing (column 0) and of skipping (column 1) a block.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slimtask.compress.edits.trunk_costs import TrunkCosts
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.train.methods.adashare.config import PolicyConfig

EXECUTE, SKIP = 0, 1
_DRAWS = 20_000
Logits = Float[Tensor, "tasks blocks 2"]


def initial_logits(config: PolicyConfig, tasks: int, blocks: int) -> Logits:
    """Return the logits at the start: all 0.5, 1e-3 times normal, or 0 against ``init_skip_logit``."""
    if config.init == "equal":
        return torch.full((tasks, blocks, 2), 0.5)
    if config.init == "random":
        return 1e-3 * torch.randn(tasks, blocks, 2)
    logits = torch.zeros(tasks, blocks, 2)
    logits[..., SKIP] = config.init_skip_logit
    return logits


def gumbel(shape: tuple[int, ...], seed: int) -> Float[Tensor, "..."]:
    """Return standard Gumbel noise that depends on ``seed`` alone: the same in every process and after a resume."""
    generator = torch.Generator().manual_seed(seed)
    smallest = torch.finfo(torch.float32).tiny
    return -torch.empty(shape).exponential_(generator=generator).clamp_min(smallest).log()


def soft_sample(logits: Logits, noise: Logits, temperature: float) -> Logits:
    """Return the Gumbel-softmax sample (Jang et al., ICLR 2017) of every decision; the pairs sum to one."""
    return ((logits + noise) / temperature).softmax(dim=-1)


def execute_probabilities(logits: Logits) -> Float[Tensor, "tasks blocks"]:
    """Return the probability with which each task executes each block."""
    return logits.softmax(dim=-1)[..., EXECUTE]


def sample_rows(probabilities: Float[Tensor, "tasks blocks"], seed: int) -> list[tuple[bool, ...]]:
    """Return one Bernoulli sample of the decisions, one row per task; it depends on ``seed`` alone."""
    draws = torch.rand(probabilities.shape, generator=torch.Generator().manual_seed(seed))
    return [tuple(row) for row in (draws < probabilities.cpu()).tolist()]


def entropy_bits(probabilities: Float[Tensor, "tasks blocks"]) -> float:
    """Return the mean entropy of a decision in bits: 1 is undecided, 0 certain."""
    both = torch.stack([probabilities, 1 - probabilities]).double()
    return float(-torch.special.xlogy(both, both).sum(dim=0).mean()) / math.log(2)


def random_policy(
    tasks: tuple[str, ...], blocks: tuple[str, ...], costs: TrunkCosts, trunks: float, seed: int
) -> Policy:
    """Return a random policy whose branched trunk costs ``trunks`` dense ones within 2 %.

    Drawn are how many first blocks all tasks decide alike and how often a block is executed, both uniformly, then the
    decisions; the first of ``_DRAWS`` of that cost that skips something is taken. Raises InputError if there is none.
    """
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(_DRAWS, 1, 1, generator=generator)
    executes = torch.rand(_DRAWS, len(tasks), len(blocks), generator=generator) < rates
    common = torch.randint(len(blocks) + 1, (_DRAWS, 1, 1), generator=generator)
    executes = torch.where(torch.arange(len(blocks)) < common, executes[:, :1], executes)
    executes = executes[~executes.flatten(1).all(dim=1)]
    cost = costs.trunks_of(executes)
    fits = ((cost / trunks - 1).abs() <= 0.02).nonzero().flatten()
    if not len(fits):
        nearest = float(cost[(cost - trunks).abs().argmin()])
        raise InputError(
            f"of {_DRAWS} random policies none costs {trunks:g} dense trunks; the nearest costs {nearest:.3g}, set "
            "policy.random.trunks to that."
        )
    rows = executes[fits[0]].tolist()
    return Policy(blocks=blocks, selects={task: tuple(row) for task, row in zip(tasks, rows, strict=True)})


def depth_weights(blocks: int, direction: str) -> Float[Tensor, "blocks"]:
    """Return what a difference at each block costs.

    "deep" grows to the last block, (l + 1) / L, as AdaShare's code has it; "shallow" falls from the first, (L - l) / L,
    so that it favours shared beginnings; "flat" is one.
    """
    rising = torch.arange(1, blocks + 1) / blocks
    return {"deep": rising, "shallow": rising.flip(0), "flat": torch.ones(blocks)}[direction]


def sharing_loss(logits: Logits, direction: str) -> Float[Tensor, ""]:
    """Return the weighted L1 distance of the raw logits of executing, summed over pairs of tasks and all blocks."""
    executing = logits[..., EXECUTE]
    pairs = torch.combinations(torch.arange(len(logits)), 2).to(logits.device)
    distances = (executing[pairs[:, 0]] - executing[pairs[:, 1]]).abs()
    return (distances * depth_weights(logits.shape[1], direction).to(logits)).sum()


def sparsity_loss(logits: Logits, learnable: int, form: str = "skip") -> Float[Tensor, ""]:
    """Return what executing costs: the mean over the last ``learnable`` blocks, summed over tasks.

    "skip" is -log p(skip), as AdaShare's code has it. It pulls hardest at what is nearly certain to be executed, so a
    useful block settles where p(skip) is its cost over its use. "execute" is log p(execute), which lets go of what is
    nearly certain, so that a decision ends on one side.
    """
    both = F.log_softmax(logits[:, -learnable:], dim=-1)
    costs = -both[..., SKIP] if form == "skip" else both[..., EXECUTE]
    return costs.mean(dim=1).sum()
