"""What others wrote as JSON or YAML is plain content or one sentence, whatever it is."""

from __future__ import annotations

import re

import pytest

from slimtask.documents import parse_json, parse_yaml
from slimtask.errors import InputError
from tests.cpu_time import at_most

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10)]
)


@pytest.mark.parametrize("depth", [150, 1000, 100_000])
@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_deep_nesting_is_one_sentence(parse, open_: str, close: str, depth: int) -> None:
    with at_most(5), pytest.raises(InputError, match="the file 'x' is nested more than 100 deep"):
        parse(open_ * depth + "1" + close * depth, "the file 'x'")


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_integers_that_nothing_takes_are_refused(parse, digits: int) -> None:
    for sign in ("", "-"):
        with pytest.raises(InputError, match=r"more than 64 bits|not what its form"):
            parse(f'{{"a": [{sign}{"9" * digits}]}}', "x")


NOT_MADE = (
    *("a: !!bool maybe", "a: !!int ''", "a: !!int x", "a: !!float x", "a: !!timestamp x", "? [a]\n: b", "a: !!set x"),
    *("a: !!python/object/apply:os.system [ls]", "a: !!binary é", "a: !!null x\nb: !!map x", "2020-99-99: 1", "\x01"),
    *("- !!omap [x]", "<<: x", "a: *b", "a: 1\na: 2", "%YAML 9", "1: a", "on: a", "a: 2020-01-01", "a: !!binary AAAA"),
)


@pytest.mark.parametrize("text", NOT_MADE)
def test_yaml_that_does_not_construct_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"^x (is not valid YAML|has the key|holds a) .*\.$"):
        parse_yaml(text, "x")


@pytest.mark.parametrize("text", [BOMB, MERGES, "&a [*a]", "a: &a {b: *a}"])
def test_aliases_make_no_more_than_they_name(text: str) -> None:
    refused = r"more than 100,000 values|nested more than 100 deep|not valid YAML"
    with at_most(5), pytest.raises(InputError, match=refused):
        parse_yaml(text, "x")


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InputError, match=r"no Unicode, '\\ud800'"):
        parse_json('{"a": "\\ud800"}', "x")
    with pytest.raises(InputError):
        parse_yaml('a: "\\ud800"', "x")


def test_sound_content_passes() -> None:
    content = {"a": [1, -2.5, None, True, "é"], "b": {"c": 2**63}}
    assert parse_json('{"a": [1, -2.5, null, true, "é"], "b": {"c": 9223372036854775808}}', "x") == content
    assert parse_yaml("a: [1, -2.5, null, true, é]\nb: {c: 9223372036854775808}", "x") == content
    assert parse_yaml("", "x") is None
    assert parse_yaml("base: &b {a: 1}\nmore: {<<: *b, c: 2}", "x")["more"] == {"a": 1, "c": 2}


def test_where_json_breaks_is_told_by_the_line() -> None:
    with pytest.raises(InputError, match=re.escape("x is not valid JSON (line 2: Expecting")):
        parse_json('{"x": 1,\n oops}', "x")
