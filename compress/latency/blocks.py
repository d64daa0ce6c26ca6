"""The residual blocks that the integer program may remove whole: what is left of one is its shortcut (``skip.py``).

Block removal as one binary beside the channel counts follows MDP (CVPR 2025, arXiv 2504.02168, section 3.2).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from slimtask.compress.edits.skip import SHORTCUTS, find_block, shortcut_of, skip_blocks_
from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.specs import LayerSpec
from slimtask.compress.network.look import look
from slimtask.errors import InputError

_TOLD = 0.5
"""The least share of a block's parameters that its own channels must score: else their scores say little of it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A removable block: its name, the groups (by number) that go with it, and the modules of the layers that do."""

    name: str
    groups: tuple[int, ...]
    layers: frozenset[str]


def residual_blocks(
    model: nn.Module, groups: Sequence[Group], specs: Sequence[LayerSpec], example: Tensor
) -> tuple[Block, ...]:
    """Return the blocks of ``model`` that are ``S(x) + F(x)`` or ``relu(S(x) + F(x))`` and can be cut down to ``S``.

    S is the block's child ``shortcut`` or ``downsample``, the identity without one. A block is known by its function,
    not its class: with every parameter of F at zero it must return S(x) or relu(S(x)). Of nested ones the innermost
    is taken. A block is left out if it has no channel groups of its own, if those hold less than half of its
    parameters (their scores would say little of the block), or if the network does not run without it.
    """
    possible = {name: block for name, _ in model.named_modules() if (block := _possible(model, name, groups, specs))}
    found = look(model, example, lambda network, x: _residual(network, list(possible), x), compute=True)
    runs = _that_run(model, found, example)
    return tuple(possible[name] for name in runs)


def goes_with(block: str, module: str) -> bool:
    """Return whether the module called ``module`` is gone once ``block`` is its shortcut."""
    kept = [f"{block}.{name}" for name in SHORTCUTS]
    return _within(module, block) and not any(_within(module, name) for name in kept)


def _within(module: str, owner: str) -> bool:
    return module == owner or module.startswith(f"{owner}.")


def _possible(model: nn.Module, name: str, groups: Sequence[Group], specs: Sequence[LayerSpec]) -> Block | None:
    """Return the module as a block if its structure allows, whatever it computes."""
    layers = frozenset(spec.module for spec in specs if goes_with(name, spec.module))
    if not name or not layers or not _is_found(model, name):
        return None
    own = tuple(i for i, group in enumerate(groups) if all(goes_with(name, member.module) for member in group.members))
    scored = {member.module for index in own for member in groups[index].members}
    return Block(name=name, groups=own, layers=layers) if own and _is_told(model, name, scored) else None


def _is_found(model: nn.Module, name: str) -> bool:
    """Return whether the edit that skips ``name`` means this module (a trunk may have one of the same name)."""
    return find_block(model, name) is model.get_submodule(name)


def _is_told(model: nn.Module, name: str, scored: Collection[str]) -> bool:
    """Return whether ``scored`` modules hold enough of the block's parameters, none of which others share."""
    inside: dict[int, tuple[str, int]] = {}
    outside: set[int] = set()
    for full, parameter in model.named_parameters(remove_duplicate=False):
        owner = full.rpartition(".")[0]
        if goes_with(name, owner):
            inside[id(parameter)] = owner, parameter.numel()
        else:
            outside.add(id(parameter))
    total = sum(size for _, size in inside.values())
    told = sum(size for owner, size in inside.values() if owner in scored)
    return told >= _TOLD * total > 0 and outside.isdisjoint(inside)


def _residual(model: nn.Module, names: Sequence[str], example: Tensor) -> list[str]:
    """Return those of ``names``, in the same order, that compute residual blocks; of nested ones the innermost."""
    shapes, found = _input_shapes(model, names, example), list[str]()
    for name in reversed(names):
        inner = any(other.startswith(f"{name}.") for other in found)
        if not inner and shapes[name] and all(_is_residual(find_block(model, name), example, s) for s in shapes[name]):
            found.append(name)
    return found[::-1]


def _input_shapes(model: nn.Module, names: Collection[str], example: Tensor) -> dict[str, set[torch.Size]]:
    """Return the shapes of each module's input in one pass, none for one that takes or gives more than a tensor."""
    shapes: dict[str, set[torch.Size]] = {name: set() for name in names}
    unfit: set[str] = set()

    def look(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if plain and args[0].dtype == example.dtype:
            shapes[name].add(args[0].shape)
        else:
            unfit.add(name)

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, kwargs, output, name=name: look(name, args, kwargs, output), with_kwargs=True
        )
        for name in names
    ]
    model(example)
    for handle in handles:
        handle.remove()
    return {name: set() if name in unfit else seen for name, seen in shapes.items()}


def _is_residual(block: nn.Module, example: Tensor, shape: torch.Size) -> bool:
    """Return whether the block without its parameters is its shortcut, or relu of that, on noise of ``shape``."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=example.dtype).to(example.device)
    zeros = {
        name: torch.zeros_like(parameter)
        for name, parameter in block.named_parameters()
        if name.partition(".")[0] not in SHORTCUTS
    }
    try:
        output, expected = functional_call(block, zeros, (noise,)), shortcut_of(block)(noise)
    except Exception:  # whatever the block makes of noise, it is then no residual block
        return False
    return output.shape == expected.shape and any(
        torch.allclose(output, wanted, rtol=1e-4, atol=1e-5) for wanted in (expected, expected.relu())
    )


def _that_run(model: nn.Module, names: Sequence[str], example: Tensor) -> list[str]:
    """Return those of ``names`` without which the network's code still runs: all of them, or each one on its own."""
    if not names or _runs_without(model, names, example):
        return list(names)
    alone = [name for name in names if _runs_without(model, [name], example)]
    return alone if alone and _runs_without(model, alone, example) else []


def _runs_without(model: nn.Module, names: Sequence[str], example: Tensor) -> bool:
    def see(network: nn.Module, x: Tensor) -> bool:
        skip_blocks_(network, names)
        network(x)
        return True

    try:
        return look(model, example, see)
    except InputError:
        return False
