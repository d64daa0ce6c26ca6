"""The first problem of a model that is not valid, in words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from slimtask.errors import CheckFailed, InputError, SlimtaskError, first_problem, nearest


class Inner(BaseModel):
    size: int


class Outer(BaseModel):
    inner: list[Inner]

    @model_validator(mode="after")
    def _some(self) -> Outer:
        if not self.inner:
            raise ValueError("there is none")
        return self


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"inner": [{"size": 1}, {"size": "x"}]}, "inner.1.size: Input should be a valid integer"),
        ({}, "inner: Field required"),
        ({"inner": []}, "the whole: there is none"),
    ],
)
def test_the_first_problem_is_named_by_its_key(value: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    assert first_problem(caught.value, "the whole").startswith(problem)


def test_a_problem_of_the_whole_needs_no_name() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": []})
    assert first_problem(caught.value) == "there is none"


def test_of_many_words_only_the_closest_are_named() -> None:
    few, many = [f"layer{number}.conv" for number in range(30)], [f"layer{number}.conv" for number in range(31)]
    assert nearest("layer3.conw", many) == "; did you mean 'layer3.conv'?"
    assert nearest("q", few) == f"; known: {', '.join(sorted(few))}"
    said = nearest("12.c", many)
    assert said.startswith("; the closest of 31 known: ")
    named = said.partition("known: ")[2].split(", ")
    assert len(named) == 5
    assert named[0] == "layer12.conv"


@pytest.mark.parametrize("kind", [SlimtaskError, InputError, CheckFailed])
def test_a_sentence_quotes_a_line_at_most_and_prints(kind: type[SlimtaskError]) -> None:
    said = str(kind(f"no key 'a\nb\x1b[31m\ud800\u202e', nor '{'word ' * 1000}end', nor {'x' * 9999}, in 'it'; end."))
    assert said.startswith(r"no key 'a\nb\x1b[31m\ud800\u202e', nor 'word word")
    assert said.endswith("xxx, in 'it'; end.")
    assert said.isprintable()
    assert len(said) < 600
    assert str(kind(said)) == said
    assert len(str(kind("word " * 9999))) == 2000


def test_a_sentence_of_ordinary_length_stays_as_it_is() -> None:
    sentence = f"'{'a' * 190}' is the file's name, é, and {'not ' * 60}'b'; give 'c'."
    assert str(InputError(sentence)) == sentence


def test_check_failed_is_exit_status_one() -> None:
    assert CheckFailed("x").exit_status == 1
    assert InputError("x").exit_status == 2
