"""The phases against a step-by-step simulation; the curriculum and the temperature against their formulas."""

from __future__ import annotations

from typing import Any

import pytest

from slimtask.errors import InputError
from slimtask.train.methods.adashare.config import AlternateConfig, PolicyConfig
from slimtask.train.methods.adashare.schedule import PolicySchedule


def schedule(steps: int, blocks: int = 8, **values: Any) -> PolicySchedule:
    alternate = AlternateConfig(weights=values.pop("weights", 3), policy=values.pop("policy", 2))
    return PolicySchedule.of(PolicyConfig(alternate=alternate, **values), steps, blocks)


def test_phases_and_places_follow_a_walk_through_the_steps() -> None:
    made, walk = schedule(47, warmup=0.15), []
    walk += ["warmup"] * 7
    while len(walk) < 47:
        walk += ["weights"] * 3 + ["policy"] * 2
    for step, phase in enumerate(walk[:47]):
        assert made.phase(step) == phase
        assert made.place(step) == walk[:step].count(phase)


@pytest.mark.parametrize("speed", [1, 2, 3])
def test_the_curriculum_opens_one_more_block_every_speed_policy_phases(speed: int) -> None:
    made = schedule(400, blocks=5, warmup=0.1, curriculum_speed=speed, temperature=4.0, temperature_decay=0.9)
    phases = 0
    for step in range(400):
        assert made.finished(step) == phases
        assert made.learnable(step) == min(5, phases // speed + 1)
        assert made.temperature(step) == pytest.approx(4.0 * 0.9**phases)
        if made.phase(step) == "policy" and (step == 399 or made.phase(step + 1) != "policy"):
            phases += 1
    assert made.settled == 40 + 5 * speed * 5
    assert made.learnable(made.settled - 1) == 5


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0.2), (2, 0.0), (3, 0.0), (10, 0.5), (60, 0.0)])
def test_a_short_run_still_has_both_phases(steps: int, warmup: float) -> None:
    made = schedule(steps, weights=400, policy=100, warmup=warmup)
    phases = [made.phase(step) for step in range(steps)]
    assert {"weights", "policy"} <= set(phases)
    assert made.weights + made.policy == steps - made.warmup
    if steps == 60:
        assert made.weights == 48


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(InputError, match=r"at least two steps after the warm-up, train\.steps leaves 1; raise it"):
        schedule(1)
