from __future__ import annotations

import math

import torch

from slimtask.train.data.scenes.counter import Draw, mix


def _mix_in_plain_integers(x: int) -> int:
    x ^= x >> 16
    x = x * 0x21F0AAAD % 2**32
    x ^= x >> 15
    x = x * 0x735A2D97 % 2**32
    return x ^ (x >> 15)


def test_mix_equals_the_hash_in_unbounded_integers():
    values = [0, 1, 2, 0xFFFFFFFF, 0x80000000, 123456789, 0xDEADBEEF]
    assert mix(torch.tensor(values)).tolist() == [_mix_in_plain_integers(v) for v in values]


def test_mix_is_a_permutation():
    assert len(mix(torch.arange(100_000)).unique()) == 100_000


def test_a_draw_does_not_depend_on_its_batch():
    many = Draw(7, "train", [3, 10**12, 5])
    for i, index in enumerate([3, 10**12, 5]):
        alone = Draw(7, "train", [index])
        assert torch.equal(alone.uniform("x", 4, 2)[0], many.uniform("x", 4, 2)[i])
        assert torch.equal(alone.normal("noise", 9)[0], many.normal("noise", 9)[i])


def test_seed_split_index_and_name_all_matter():
    base = Draw(1, "train", [0]).bits("x", 8)
    for other in (
        Draw(2, "train", [0]).bits("x", 8),
        Draw(1 + 2**32, "train", [0]).bits("x", 8),
        Draw(1, "val", [0]).bits("x", 8),
        Draw(1, "train", [1]).bits("x", 8),
        Draw(1, "train", [2**32]).bits("x", 8),
        Draw(1, "train", [0]).bits("y", 8),
    ):
        assert not (base == other).any()


def test_no_two_of_many_scenes_share_their_state():
    draw = Draw(0, "train", range(200_000))
    assert len((draw.high << 32 | draw.low).unique()) == 200_000


def test_uniform_is_uniform_and_neighbours_are_uncorrelated():
    x = Draw(0, "train", range(2000)).uniform("x", 50)
    counts = torch.histc(x, bins=20, min=0.0, max=1.0)
    expected = x.numel() / 20
    assert ((counts - expected).square() / expected).sum() < 44  # chi-squared, 19 degrees: p = 0.001
    y = (x - 0.5) * math.sqrt(12)
    assert (y[:, :-1] * y[:, 1:]).mean().abs() < 0.015
    assert (y[:-1] * y[1:]).mean().abs() < 0.015


def test_integer_covers_its_range():
    assert Draw(0, "train", range(500)).integer("k", count=7).unique().tolist() == list(range(7))


def test_normal_has_mean_zero_and_variance_one():
    x = Draw(0, "train", range(200)).normal("n", 1000)
    assert x.mean().abs() < 0.01
    assert abs(x.var().item() - 1.0) < 0.02
