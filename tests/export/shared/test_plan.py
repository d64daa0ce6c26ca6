"""The form that each branch takes, by the delta that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slimtask.compress.structures.delta import Execution
from slimtask.export.shared.plan import plan_steps
from slimtask.export.shared.source import read_source

MakeNet = Callable[..., Any]
BRANCHES = [f"encoder_layer_{i}.{kind}" for i in range(4) for kind in ("attention", "mlp")]


def forms(net: Any, **budgets: dict[str, int]) -> list[str]:
    steps = plan_steps(read_source(net), ["depth"], budgets)
    return [f"{step.reads} {step.form}" for (step,) in steps]


@pytest.mark.parametrize(
    ("kind", "execution", "expected"),
    [
        ("hidden-units", Execution(feed="base"), ["shared", "shared", "shared", "units", "shared", "units"]),
        ("heads", Execution(feed="base"), ["shared", "shared", "units", "shared", "units", "shared"]),
        ("element", Execution(feed="base"), ["shared", "shared", "merged", "merged", "merged", "merged"]),
        ("tensor", Execution(feed="base"), ["shared", "shared", "shared", "shared", "second", "merged"]),
    ],
)
def test_base_fed_branches_compute_what_changed(
    kind: str, execution: Execution, expected: list[str], make_net: MakeNet
) -> None:
    made = forms(make_net({"depth": (kind, execution)}))
    assert made == [f"base {form}" for form in [*expected, "shared", "shared"]]


def test_own_fed_tasks_share_up_to_their_first_change(make_net: MakeNet) -> None:
    net = make_net({"depth": ("hidden-units", Execution())})
    assert forms(net) == ["base shared"] * 3 + ["base units"] + ["own merged"] * 4
    assert forms(make_net({"depth": ("everything", Execution())})) == ["own merged"] * 8  # the embedding changed


def test_rows_are_the_deltas_own_or_those_asked_for(make_net: MakeNet) -> None:
    net = make_net({"depth": ("hidden-units", Execution(rows=0.5))})
    assert forms(net) == ["base shared"] * 3 + ["base units"] + ["rows shared", "rows units"] + ["rows shared"] * 2
    steps = plan_steps(read_source(net), ["depth"], {"depth": {BRANCHES[5]: 4}})
    assert [step.row_count(21) for (step,) in steps] == [0, 0, 0, 0, 11, 4, 11, 11]
    assert forms(make_net({"depth": ("hidden-units", Execution(rows=1.0))}))[4:] == ["own merged"] * 4


def test_every_step_says_why(make_net: MakeNet) -> None:
    steps = plan_steps(read_source(make_net({"depth": ("hidden-units", Execution(feed="base"))})), ["depth"], {})
    assert steps[3][0].why == "fed the base's stream; 10 of 128 hidden units changed"
    assert steps[0][0].why == "fed the base's stream; nothing changed"


def test_a_budget_of_one_row_is_one_row_and_a_share_of_one_all(make_net: MakeNet) -> None:
    net = make_net({"depth": ("hidden-units", Execution())})
    (step,) = plan_steps(read_source(net), ["depth"], {"depth": {BRANCHES[5]: 1}})[5]
    assert (step.reads, step.row_count(21)) == ("rows", 1)
    assert forms(make_net({"depth": ("hidden-units", Execution(rows=1))}))[4:] == ["own merged"] * 4
