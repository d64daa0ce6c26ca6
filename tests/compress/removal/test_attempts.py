"""The largest part that succeeds, found in few attempts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from slimtask.compress.removal.attempts import largest


class Attempt:
    def __init__(self, *bad: int) -> None:
        self.bad, self.count = set(bad), 0

    def __call__(self, items: Sequence[int]) -> tuple[int, ...] | str:
        self.count += 1
        faulty = self.bad & set(items)
        return f"bad: {min(faulty)}" if faulty else tuple(sorted(items))


def test_all_at_once() -> None:
    attempt = Attempt()
    assert largest(range(100), attempt) == (tuple(range(100)), [])
    assert attempt.count == 1


@pytest.mark.parametrize("bad", range(8))
def test_one_faulty_item_is_put_back_alone(bad: int) -> None:
    attempt = Attempt(bad)
    done, failed = largest(range(8), attempt)
    assert done == tuple(item for item in range(8) if item != bad)
    assert failed == [(bad, f"bad: {bad}")]
    assert attempt.count <= 8


@pytest.mark.parametrize("bad", [(0, 500, 999), tuple(range(1000))])
def test_the_attempts_are_bounded_and_the_rest_says_so(bad: tuple[int, ...]) -> None:
    attempt = Attempt(*bad)
    done, failed = largest(range(1000), attempt)
    assert not isinstance(done, str)
    assert attempt.count <= 9
    assert len(done) + len(failed) == 1000
    assert "8 attempts" in failed[-1][1]


def test_nothing_at_all_fails_with_its_words() -> None:
    assert largest([], lambda items: "always") == ("always", [])
    done, failed = largest([1], lambda items: "always")
    assert done == "always"
    assert failed == [(1, "always")]
