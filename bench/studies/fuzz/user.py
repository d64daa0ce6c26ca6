"""The user of a fuzzed network: in what state it is given away, on what it is looked at, and what is noted about it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.studies.fuzz.networks import network, side_of
from slimtask.bench.studies.fuzz.truth import plainly
from slimtask.errors import InputError, SlimtaskError


class Findings:
    """The failures of one network by check, what was refused and why, and figures about it."""

    def __init__(self, seed: int) -> None:
        self.failures: list[dict[str, str]] = []
        self.refusals: dict[str, str] = {}
        self.figures: dict[str, Any] = {"seed": seed}

    def expect(self, holds: bool, check: str, words: str) -> None:
        """Note a failure of ``check`` unless it holds."""
        if not holds:
            self.failures.append({"check": check, "error": words[:500]})

    def run(self, check: str, function: Callable[[], Any]) -> Any:
        """Return the function's answer; an exception is a failure of ``check``, and the answer None."""
        try:
            return function()
        except Exception as error:
            self.expect(False, check, in_words(error))
            return None

    def ask(self, what: str, function: Callable[[], Any]) -> Any:
        """Return what the code under test says; an InputError is a refusal, and the answer None."""
        try:
            return function()
        except InputError as error:
            self.refusals[what] = str(error)
        except SlimtaskError as error:
            self.expect(False, "check failed", f"{what}: {error}")
        except Exception as error:
            self.expect(False, "traceback", f"{what}: {in_words(error)}")
        return None


def in_words(error: Exception) -> str:
    """Return an exception with its place."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__} at {where}: {str(error).strip()[:300]}"


class User:
    """Makes the network of a seed as its user has it: in some mode, and maybe run before."""

    def __init__(self, seed: int, only: Sequence[str] = ()) -> None:
        self.seed, self.only = seed, only
        self.mode = ("eval", "eval", "train", "eval", "mixed")[seed % 5]
        self.ran = (None, "without gradients", None, "with gradients")[seed // 3 % 4]

    def network(self) -> nn.Module:
        """Return the network, the same at every call."""
        net = network(self.seed, self.only)
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(self.ran == "with gradients"):
            torch.manual_seed(self.seed)
            if self.ran is not None:
                net(noise_of(self.seed))
        if self.mode != "eval":
            net.train()
        for module in [*net.children()][:1] if self.mode == "mixed" else []:
            module.eval()
        return net

    def inputs(self) -> list[Tensor]:
        """Return inputs that nobody has seen: noise, a bright image, and noise of another size if it is taken."""
        noise, other = noise_of(self.seed), noise_of(self.seed, more=8)
        return [noise, noise[:1] + 3, *([other] if _runs(self.network().eval(), other) else [])]


def _runs(net: nn.Module, x: Tensor) -> bool:
    try:
        with plainly():
            net(x)
    except RuntimeError:
        return False
    return True


def example_of(seed: int) -> Tensor:
    """Return an input of network ``seed``, zeros or noise, [1, 3, side, side]."""
    return noise_of(seed)[:1] if seed % 3 == 0 else torch.zeros(1, 3, side_of(seed), side_of(seed))


def noise_of(seed: int, more: int = 0) -> Tensor:
    """Return inputs of network ``seed`` that no certificate has seen, [2, 3, side, side], or ``more`` pixels a side."""
    generator = torch.Generator().manual_seed(1_000_000 + seed)
    return torch.randn(2, 3, side_of(seed) + more, side_of(seed) + more, generator=generator)
