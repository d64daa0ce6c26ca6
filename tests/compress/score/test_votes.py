"""The vote against DiSparse's rule written out with sets, and against scanning every share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slimtask.compress.graph.groups import Group
from slimtask.compress.score.budget import Budget, choose
from slimtask.compress.score.votes import vote
from slimtask.errors import InputError

SIZES = (7, 12, 5, 4)  # two shared groups and the head of each task
HEADS = {"depth": 2, "edges": 3}


def random_scores(seed: int) -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    scores = {
        task: [torch.rand(size, generator=generator, dtype=torch.float64) * 10 for size in SIZES] for task in HEADS
    }
    for task in scores:
        for other, group in HEADS.items():
            if other != task:
                scores[task][group].zero_()
    return scores


def disparse(scores: dict[str, list[torch.Tensor]], share: float) -> set[tuple[int, int]]:
    """Return the (group, channel) kept by the published rule: a threshold over all layers per task, then OR."""
    union: set[tuple[int, int]] = set()
    for per_group in scores.values():
        channels = {(g, c): float(v) for g, score in enumerate(per_group) if score.any() for c, v in enumerate(score)}
        count = int(share * len(channels) + 1e-9)
        union |= set(sorted(channels, key=lambda key: -channels[key])[:count])
    return union


def as_set(masks: Any) -> set[tuple[int, int]]:
    return {(g, c) for g, mask in enumerate(masks) for c in mask.nonzero().flatten().tolist()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_only_what_every_task_gives_up_goes(seed: int, share: float) -> None:
    scores = random_scores(seed)
    done = vote(scores, share)
    expected = disparse(scores, share)
    if all(any(group == g for group, _ in expected) for g in range(len(SIZES))):
        assert as_set(done.keep) >= expected
    # what is kept beyond the rule is the one channel a task keeps of each group it uses
    beyond = as_set(done.keep) - expected
    for group, channel in beyond:
        lonely = [t for t in scores if as_set(done.per_task[t]) >= {(group, channel)}]
        assert any(int(done.per_task[t][group].sum()) == 1 for t in lonely)
    assert done.keep_ratio == pytest.approx(len(as_set(done.keep)) / sum(SIZES))
    for task, masks in done.per_task.items():
        assert as_set(masks) <= as_set(done.keep)
        used = sum(size for size, score in zip(SIZES, scores[task], strict=True) if score.any())
        assert done.task_ratios[task] == pytest.approx(len(as_set(masks)) / used)
        assert not any(mask.any() for mask, score in zip(masks, scores[task], strict=True) if not score.any())


@pytest.mark.parametrize("seed", range(5))
def test_exact_asks_the_tasks_for_less_until_the_union_fits(seed: int) -> None:
    scores, share = random_scores(seed), 0.6
    done = vote(scores, share, exact=True)
    assert vote(scores, share).keep_ratio > done.keep_ratio
    sizes = [len(disparse(scores, kappa / 1000)) for kappa in range(1001)]
    best = max(size for size in sizes if size <= int(share * sum(SIZES)))
    assert len(as_set(done.keep)) == best
    assert as_set(done.keep) == disparse(scores, (sizes.index(best)) / 1000)


def test_exact_stays_below_the_share_where_votes_tie() -> None:
    a, b = [torch.tensor([4.0, 3, 2, 1]).double()], [torch.tensor([3.0, 4, 1, 2]).double()]
    done = vote({"a": a, "b": b}, 0.75, exact=True)  # the next share would keep all four
    assert done.keep[0].tolist() == [True, True, False, False]
    assert done.per_task["b"][0].tolist() == [False, True, False, False]


def test_the_scores_of_the_vote_lead_choose_to_the_same_channels() -> None:
    scores = random_scores(7)
    groups = [Group(name=str(size), channels=size, members=()) for size in SIZES]
    done = vote(scores, 0.5, exact=True)
    kept = choose(groups, done.scores, Budget(keep=done.keep_ratio))
    assert as_set(kept) == as_set(done.keep)


def test_counts_are_asked_for_in_each_group() -> None:
    a = [torch.tensor([4.0, 3, 2, 1]).double(), torch.tensor([1.0, 2, 3]).double()]
    b = [torch.tensor([1.0, 9, 2, 8]).double(), torch.tensor([1.0, 2, 3]).double()]
    done = vote({"a": a, "b": b}, [2, 1])
    assert [mask.tolist() for mask in done.keep] == [[True, True, False, True], [False, False, True]]
    assert done.per_task["b"][0].tolist() == [False, True, False, True]
    tight = vote({"a": a, "b": b}, [2, 1], exact=True)
    assert [mask.tolist() for mask in tight.keep] == [[True, True, False, False], [False, False, True]]
    assert tight.per_task["a"][0].tolist() == [True, False, False, False]


@pytest.mark.parametrize("how", ["min", "mean", "max"])
def test_scores_are_combined_after_division_by_the_mean_over_what_the_task_uses(how: str) -> None:
    a = [torch.tensor([2.0, 2.5, 1.5]).double(), torch.zeros(1).double()]
    b = [torch.tensor([4.0, 3.0, 7.0]).double() * 0.5, torch.tensor([9.0]).double() * 0.5]
    expected_mean_b = 23 * 0.5 / 4
    voices = [[x / 2, y / expected_mean_b] for x, y in zip(a[0].tolist(), b[0].tolist(), strict=True)]
    done = vote({"a": a, "b": b}, 0.5, how)
    reduce = {"min": min, "max": max, "mean": lambda pair: sum(pair) / 2}[how]
    assert done.scores[0].tolist() == pytest.approx([reduce(pair) for pair in voices])
    assert done.scores[1].tolist() == pytest.approx([4.5 / expected_mean_b])
    ranked = sorted(
        {(0, c): reduce(pair) for c, pair in enumerate(voices)}.items() | {((1, 0), 4.5 / expected_mean_b)},
        key=lambda item: -item[1],
    )
    assert as_set(done.keep) >= {key for key, _ in ranked[:2]}
    assert as_set(done.per_task["a"]) <= as_set(done.keep)
    assert not done.per_task["a"][1].any()


def test_fixed_groups_keep_everything_and_do_not_count() -> None:
    scores = random_scores(3)
    done = vote(scores, 0.5, fixed=[False, True, False, False])
    assert done.keep[1].all()
    assert all(masks[1].all() for masks in done.per_task.values())
    assert done.keep_ratio == pytest.approx(sum(int(done.keep[g].sum()) for g in (0, 2, 3)) / (7 + 5 + 4))
    without = {task: [score for g, score in enumerate(rest) if g != 1] for task, rest in scores.items()}
    alone = vote(without, 0.5)
    assert all(torch.equal(done.keep[g], alone.keep[i]) for i, g in enumerate((0, 2, 3)))


def test_a_group_nobody_needs_keeps_one_channel() -> None:
    one = [torch.ones(3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]
    done = vote({"a": one, "b": one}, 0.4)
    assert int(done.keep[1].sum()) == 1
    assert not done.per_task["a"][1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0.5, "how": "mni"}, "did you mean 'min'"),
        ({"keep": 0.0}, "must lie in 0..1"),
        ({"keep": [1, 2]}, "one per group"),
        ({"keep": [8, 1, 1, 1]}, "one per group"),
        ({"keep": 0.5, "fixed": [True]}, "one entry for each of the 4 groups"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vote(random_scores(0), **arguments)


def test_tasks_must_score_the_same_groups() -> None:
    with pytest.raises(InputError, match="at least one task"):
        vote({}, 0.5)
    scores = random_scores(0)
    with pytest.raises(InputError, match="task 'edges' do not match"):
        vote({"depth": scores["depth"], "edges": scores["edges"][:3]}, 0.5)
    with pytest.raises(InputError, match="every score of task 'idle' is zero"):
        vote({"idle": [torch.zeros(3, dtype=torch.float64)]}, 0.5)
