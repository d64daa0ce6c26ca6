from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from slimtask.bench.studies.delta.pairs import DeltaPair, Pair, StackedPair, flop_ratio, pair_forms

KINDS = {"mlp": (16, 40, 0), "attention": (16, 16, 4)}


def pairs(kind: str) -> tuple[Pair, list[Pair], list[torch.Tensor]]:
    torch.manual_seed(0)
    base = Pair.random(*KINDS[kind])
    units = [torch.tensor([0, 2]), torch.tensor([1, 3])]
    return base, [base.changed(which) for which in units], units


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batched", [False, True])
def test_corrections_give_every_task_its_dense_output(kind: str, batched: bool) -> None:
    base, own, units = pairs(kind)
    for pair in (base, *own):
        pair.double()
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    outputs = DeltaPair(base, own, units, batched=batched)(x)
    for found, pair in zip(outputs, (base, *own), strict=True):
        torch.testing.assert_close(found, pair(x), rtol=0, atol=1e-12)
    assert (outputs[1] - outputs[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_batched_baseline_is_all_dense_ones(kind: str) -> None:
    _, own, _ = pairs(kind)
    x = torch.randn(1, 9, 16)
    torch.testing.assert_close(StackedPair(own)(x), torch.cat([pair(x) for pair in own]))


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_that_torch_counts(kind: str) -> None:
    base, own, units = pairs(kind)
    x = torch.randn(1, 9, 16)

    def count(module: torch.nn.Module) -> int:
        with (
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            module(x)
        return counter.get_total_flops()

    dense, shared = sum(count(pair) for pair in own), count(DeltaPair(base, own, units, batched=False))
    assert flop_ratio(base, 9, 2, 2) == pytest.approx(dense / shared)


def test_exported_forms_are_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    baselines, forms = pair_forms(Pair.random(16, 40, 0), tokens=9, points=((2, 0.1),), folder=tmp_path, threads=1)
    assert set(baselines) == {"dense 2", "batched 2"}
    for call in baselines.values():
        call()
    assert [form.also for form in forms] == [{"form": "units"}, {"form": "units, corrections batched"}]
    assert max(form.max_rel_error for form in forms) < 1e-6
