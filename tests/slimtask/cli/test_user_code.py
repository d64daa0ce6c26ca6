"""Whose error it is: the innermost frame of the user's own code, whatever it went through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimtask.cli.user_code import first_line, raised_in
from slimtask.errors import InputError


def raised(code: str, path: Path) -> BaseException:
    path.write_text(code)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        exec(compile(code, str(path), "exec"), {"json": json, "InputError": InputError})
    return caught.value


def test_the_line_is_that_of_the_users_code_though_a_library_raised(tmp_path: Path) -> None:
    error = raised("def f():\n    json.loads('{')\n\nf()\n", tmp_path / "mine.py")
    assert raised_in(error) == "mine.py, line 2"


def test_what_no_file_of_the_users_raised_is_nobodys() -> None:
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    assert raised_in(caught.value.with_traceback(caught.tb.tb_next)) is None  # without this file, Python's own
    assert raised_in(ValueError("never raised")) is None


def test_the_first_line_is_short_and_has_no_full_stop() -> None:
    assert first_line(ValueError("one.\ntwo")) == "one"
    assert first_line(ValueError()) == "no reason given"
    assert len(first_line(ValueError("x" * 999))) == 300
