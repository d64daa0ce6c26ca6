"""The most that can be proven of a set, in few attempts: all at once, then halves, what fails alone being put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def largest(
    items: Sequence[Item], attempt: Callable[[Sequence[Item]], Done | str], most: int = 8
) -> tuple[Done | str, list[tuple[Item, str]]]:
    """Return what ``attempt`` makes of the items that it succeeds on together, and each other one with the reason.

    ``attempt`` returns in words what is wrong, if anything is. After ``most`` attempts what is still in doubt counts as
    failed, so that one faulty item of many costs a logarithm of their number. If even no item at all is too much, the
    words come back. Example: ``largest([1, 2, 3], lambda some: "odd" if 3 in some else sum(some))`` is
    ``(3, [(3, "odd")])``.
    """
    good: list[Item] = []
    failed: list[tuple[Item, str]] = []
    pending, done, tried = [list(items)], None, 0
    why = ""
    while pending:
        part = pending.pop()
        if tried >= most:
            doubt = f"not tried on its own after {most} attempts, of which the last failed: {why}"
            failed += [(item, doubt) for item in part]
            continue
        tried += 1
        result = attempt([*good, *part])
        if not isinstance(result, str):
            good, done = [*good, *part], result
            continue
        why = result
        if len(part) == 1:
            failed.append((part[0], why))
        elif part:
            half = len(part) // 2
            pending += [part[half:], part[:half]]
        else:
            return why, failed
    return (attempt([]) if done is None else done), failed
