"""Skipping residual blocks for real: a skipped block is its shortcut, and nothing else of it is left.

AdaShare's rule (its code; Sun et al., NeurIPS 2020, section 3.1): an executed block is ``relu(S(x) + F(x))``, a skipped
one ``S(x)``, where S is the projection of a block that strides or widens and the identity elsewhere. The skip path has
no ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from slimtask.compress.network.look import look
from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen

SHORTCUTS = ("shortcut", "downsample")


class SkipBlocks(Frozen):
    """The edit that skips blocks; replays on a fresh dense network like a Plan."""

    kind: Literal["skip"] = "skip"
    blocks: tuple[str, ...]

    def apply_(self, model: nn.Module) -> None:
        """Skip the blocks in place. Raises InputError, before anything is touched, if the network lacks one."""
        skip_blocks_(model, self.blocks)


class SkippedBlock(nn.Module):
    """Mixed into the class of a skipped block: forward is its shortcut, the identity if it has none.

    The block stays an instance of its class, so that a trunk that looks for its blocks by class still finds it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the shortcut of ``x``."""
        out: Tensor = shortcut_of(self)(x)
        return out


def skip_blocks_(model: nn.Module, names: Sequence[str]) -> None:
    """Reduce the named blocks of ``model`` to their shortcuts, in place; what is left keeps its names.

    Names count from the network or from its ``trunk``. A block's projection is its child ``shortcut`` or
    ``downsample``. Works on the meta device. Raises InputError, before anything is touched, if a block is missing.
    """
    for block in [find_block(model, name) for name in names]:
        _reduce_(block)


def find_block(model: nn.Module, name: str) -> nn.Module:
    """Return the block called ``name`` in ``model.trunk`` or ``model``; InputError if there is none."""
    for root in (getattr(model, "trunk", None), model):
        modules: dict[str, nn.Module] = dict(root.named_modules()) if isinstance(root, nn.Module) else {}
        if name and name in modules:
            return modules[name]
    blocks = getattr(getattr(model, "trunk", None), "blocks", None)
    known = list(blocks) if isinstance(blocks, dict) else [n for n, _ in model.named_modules() if n]
    raise InputError(f"the network has no block '{name}'{nearest(name, known)}")


def shortcut_of(block: nn.Module) -> nn.Module:
    """Return the block's projection (its child ``shortcut`` or ``downsample``), an identity if it has none."""
    for name in SHORTCUTS:
        child = getattr(block, name, None)
        if isinstance(child, nn.Module):
            return child
    return nn.Identity()


def check_skippable(model: nn.Module, names: Sequence[str], example: Tensor) -> None:
    """Raise InputError if, on ``example``, the shortcut of a named block is not shaped as the block's output."""
    wrong = look(model, example, lambda network, x: _unfit(network, names, x))
    if wrong:
        raise InputError(
            f"block '{wrong[0]}' cannot be skipped: it changes the shape of its input and has no "
            f"{' or '.join(repr(name) for name in SHORTCUTS)} that does so too; execute it for every task."
        )


def _unfit(model: nn.Module, names: Sequence[str], example: Tensor) -> list[str]:
    """Return the blocks whose shortcut is not shaped as their output, in one pass."""
    wrong: list[str] = []

    def watch(name: str) -> None:
        def check(block: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            try:
                fits = shortcut_of(block)(arguments[0]).shape == output.shape
            except (RuntimeError, AttributeError, IndexError):
                fits = False
            if not fits:
                wrong.append(name)

        find_block(model, name).register_forward_hook(check)

    for name in names:
        watch(name)
    model(example)
    return wrong


def _reduce_(block: nn.Module) -> None:
    if isinstance(block, SkippedBlock):
        return
    for name in [name for name, _ in block.named_children() if name not in SHORTCUTS]:
        delattr(block, name)
    for name in [name for name, _ in block.named_parameters(recurse=False)]:
        delattr(block, name)
    for name in [name for name, _ in block.named_buffers(recurse=False)]:
        delattr(block, name)
    cls = type(block)
    # what knows torch's own layers must not take a skipped one for a layer with weights
    own = cls.__module__.startswith("torch.nn.")
    block.__class__ = SkippedBlock if own else type(f"Skipped{cls.__name__}", (SkippedBlock, cls), {})
