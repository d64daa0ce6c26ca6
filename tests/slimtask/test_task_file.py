"""The file of tasks: a list is enough; every mistake is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimtask.errors import InputError
from slimtask.task_file import read_tasks
from slimtask.tasks import Preprocessing

ONE = "{name: classes, kind: classification, channels: 10}"


def test_a_list_or_a_mapping_with_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"- {ONE}\n- {{name: depth, kind: depth, channels: 1}}")
    read = read_tasks(path)
    assert [task.name for task in read.tasks] == ["classes", "depth"]
    assert read.preprocessing(4, 6) == Preprocessing(height=4, width=6)
    assert read.untold == "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225], order rgb"
    path.write_text(f"tasks: [{ONE}]\nmean: [0.5, 0.5, 0.5]\nstd: [1, 1, 1]")
    assert (read_tasks(path).mean, read_tasks(path).std) == ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert read_tasks(path).untold == "order rgb"
    path.write_text(f"tasks: [{ONE}]\nmean: [0.5, 0.5, 0.5]\nstd: [1, 1, 1]\norder: bgr")
    assert read_tasks(path).untold == ""
    assert read_tasks(path).preprocessing(4, 6).order == "bgr"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no list of tasks"),
        ("classes", "holds no list of tasks"),
        ("[]", "at least 1 item"),
        ("- [", "not valid YAML"),
        ("2020-99-99", "not valid YAML|holds no list"),
        ("- {name: classes}", "tasks.0.kind"),
        ("- {name: classes, kind: guess, channels: 1}", "tasks.0.kind"),
        ("- {name: classes, kind: classification, chanels: 1, channels: 1}", "unknown key.*did you mean 'channels'"),
        ("- {name: Classes, kind: classification, channels: 1}", "tasks.0.name"),
        ("- {name: depth, kind: depth, channels: 2}", "a depth task has 1 channel"),
        ("- {name: classes, kind: classification, channels: 0}", "tasks.0.channels"),
        (f"- {ONE}\n- {ONE}", "two tasks are called 'classes'"),
        (f"tasks: [{ONE}]\nstd: [0, 1, 1]", "std.0"),
        (f"tasks: [{ONE}]\nmean: [.nan, 1, 1]", "mean.0"),
        (f"tasks: [{ONE}]\nmeen: [1, 1, 1]", "unknown key 'meen'; did you mean 'mean'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_tasks(tmp_path / "t.yaml")
    assert "t.yaml" in str(caught.value)


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path / "t.yaml", tmp_path):
        with pytest.raises(InputError, match="task file"):
            read_tasks(path)
