"""The three ways slimtask says no: bad input, a check that does not hold, a thing a backend cannot do.

Examples:
    >>> from slimtask import errors
    >>> from slimtask.train import load_recipe
    >>> try:
    ...     load_recipe("nowhere.yaml")
    ... except errors.InputError as error:
    ...     print(error.exit_status, isinstance(error, ValueError))
    2 True
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

_QUOTED, _SENTENCE = 200, 2000  # characters of one thing quoted, and of all
_LONG = re.compile(rf"(?<![^\s(\[:=,])'[^']{{{_QUOTED - 1},}}'|\S{{{_QUOTED + 1},}}")
_LISTED, _CLOSEST = 30, 5  # words that a sentence lists; the closest ones, if there are more


class SlimtaskError(Exception):
    """Base of every error a user can mend; the command line prints its one sentence and no traceback.

    The sentence is made ``plain``: whatever it quotes of a file or an option is a line of printable characters.
    """

    exit_status = 2

    def __init__(self, sentence: str = "") -> None:
        super().__init__(plain(sentence))


def plain(sentence: str) -> str:
    """Return ``sentence`` with characters that do not print escaped, and what is too long cut in its middle."""
    text = "".join(char if char.isprintable() else _escaped(char) for char in sentence)
    text = _LONG.sub(lambda found: _cut(found[0], _QUOTED), text)
    return _cut(text, _SENTENCE)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}[...]{text[len(text) - most // 2 + 5 :]}"


class InputError(SlimtaskError, ValueError):
    """Bad input: one sentence that says what is wrong, where, and how to mend it. Exit status 2."""


class CheckFailed(SlimtaskError):
    """The check a verb performs does not hold (a certificate, a parity, a hash). Exit status 1."""

    exit_status = 1


class Unsupported(SlimtaskError):
    """A capability that an operator, target or backend lacks, with the reason and what to use instead."""

    def __init__(self, operation: str, target: str, reason: str, instead: str) -> None:
        super().__init__(f"{operation} is not possible on {target}: {reason}; {instead}.")
        self.operation, self.target, self.reason, self.instead = operation, target, reason, instead

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes it again in another process."""
        return type(self), (self.operation, self.target, self.reason, self.instead)


def first_problem(error: ValidationError, whole: str = "") -> str:
    """Return ``"key.of.it: what is wrong"`` of the first problem; ``whole`` names one that is no single key's."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    problem = first["msg"].removeprefix("Value error, ")
    return f"{where}: {problem}" if where else problem


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, else the list of known words.

    Of a long list, a network's parameters say, only the closest ones are named.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if len(known) > _LISTED:
        some = difflib.get_close_matches(word, known, n=_CLOSEST, cutoff=0.0)
        return f"; the closest of {len(known)} known: {', '.join(some)}"
    return f"; known: {', '.join(known)}"
