"""Where verbs write: nothing that is not theirs is replaced, and what cannot be written is told before the work."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from slimtask.cli.places import check_places, write_report
from slimtask.errors import InputError

Run = Callable[..., int]
CONTENTS = {
    "net.safetensors": b"\x10\0\0\0\0\0\0\0{}",
    "recipe.yaml": b"name: mine\n",
    "policy.json": b'{"depth": ["a"]}',
    "list.json": b"[1, 2]",
    "like.json": b'{"slimtask": "mine"}',
    "notes": b"a",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CONTENTS)
def test_json_replaces_nothing_that_is_no_report(name: str, slimtask: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_bytes(CONTENTS[name])
    assert slimtask("doctor", "--json", name) == 2
    assert name in capsys.readouterr().err
    assert Path(name).read_bytes() == CONTENTS[name]


def test_json_replaces_reports_empty_files_and_where_links_lead(slimtask: Run) -> None:
    Path("empty").touch()
    Path("link.json").symlink_to("new.json")
    for name in ("new.json", "new.json", "empty", "link.json"):
        assert slimtask("doctor", "--json", name) == 0
        assert json.loads(Path(name).read_text())["slimtask"]["report"] == "doctor"
    assert Path("link.json").is_symlink()


def test_json_to_a_device_or_pipe_is_written_and_replaces_nothing(slimtask: Run) -> None:
    assert slimtask("doctor", "--json", "/dev/null") == 0
    assert not Path("/dev/null").is_file()
    os.mkfifo("pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_text()))
    reader.start()
    assert slimtask("doctor", "--json", "pipe") == 0
    reader.join(10)
    assert json.loads(got[0])["pieces"]


def checked(verb: str, **arguments: object) -> str:
    """Return how the outputs of a verb are refused."""
    with pytest.raises(InputError) as refused:
        check_places(verb, arguments)
    return str(refused.value)


def test_outputs_that_clash_are_refused() -> None:
    Path("in.safetensors").write_bytes(b"x")
    os.link("in.safetensors", "linked")
    Path("bundle").mkdir()
    given, out = Path("in.safetensors"), Path("out.safetensors")
    assert "both" in checked("compress", checkpoint=given, out=out, json_path=Path("./out.safetensors").absolute())
    assert "is what the command reads" in checked("inspect", path=given, json_path=Path("linked"))
    assert "is what the command reads" in checked("run", images=[Path("a"), given], json_path=given)
    assert "lies in --out" in checked("export", checkpoint=given, out=Path("b"), json_path=Path("b/r.json"))
    assert "lies in --json" in checked("export", checkpoint=given, out=Path("r/b"), json_path=Path("r"))
    assert "which the command reads" in checked("verify", path=Path("bundle"), json_path=Path("bundle/v.json"))
    assert "which the command reads" in checked("run", bundle=Path("bundle"), out=Path("bundle/predictions"))
    assert "both" in checked("inspect", path=given, plot=Path("p.svg"), json_path=Path("p.svg"))
    check_places("costs", {"checkpoint": given, "out": Path("costs"), "json_path": Path("costs/r.json")})
    check_places("compress", {"checkpoint": given, "out": out, "json_path": Path("r.json"), "per_task": False})


@pytest.mark.parametrize(
    ("verb", "arguments", "better"),
    [
        ("compress", {"checkpoint": "n.safetensors", "out": "s.onnx"}, "s.safetensors"),
        ("compress", {"model": "net:Net", "out": "s.pt"}, "s.safetensors"),
        ("compress", {"checkpoint": "n.onnx", "out": "s.safetensors"}, "s.onnx"),
        ("compress", {"checkpoint": "n.safetensors", "out": "s.safetensors", "per_task": True}, "'s'"),
        ("export", {"checkpoint": "n.safetensors", "out": "b.ONNX"}, "'b'"),
        ("train", {"recipe": "r.yaml", "out": "net.safetensors"}, "'net'"),
        ("run", {"bundle": "b", "out": "p.png"}, "'p'"),
        ("doctor", {"json_path": "r.yaml"}, "r.json"),
    ],
)
def test_an_ending_that_promises_another_format_is_refused(
    verb: str, arguments: dict[str, object], better: str
) -> None:
    given = {k: Path(v) if isinstance(v, str) and k != "model" else v for k, v in arguments.items()}
    assert better in checked(verb, **given)


@pytest.mark.parametrize("name", ["net.v2", "net", "run.2024.01", "net.safetensors"])
def test_other_endings_promise_nothing(name: str) -> None:
    check_places("compress", {"checkpoint": Path("in.safetensors"), "out": Path(name)})


@pytest.mark.parametrize(
    "place", ["/proc/new/x", "file/x", "file/deeper/x", "n" * 300, f"{'n' * 300}/x", "/dev/null/x"]
)
@pytest.mark.parametrize("name", ["out", "json_path"])
def test_what_cannot_be_written_is_refused_before_the_work(name: str, place: str, tmp_path: Path) -> None:
    Path("file").write_text("mine")
    told = checked("export", checkpoint=Path("in.safetensors"), **{name: Path(place)})
    assert "give another path" in told
    assert "Errno" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_that_is_a_folder_or_a_dash_is_refused() -> None:
    Path("folder").mkdir()
    assert "is a folder" in checked("doctor", json_path=Path("folder"))
    assert "/dev/stdout" in checked("doctor", json_path=Path("-"))


def test_a_report_that_came_meanwhile_is_not_replaced() -> None:
    check_places("doctor", {"json_path": Path("r.json")})
    Path("r.json").write_text('{"slimtask": {"report": "theirs"}}')
    with pytest.raises(InputError, match="exists already"):
        write_report(Path("r.json"), {})
    check_places("doctor", {"json_path": Path("r.json")})
    Path("r.json").write_text("now it is mine")
    with pytest.raises(InputError, match="is no report"):
        write_report(Path("r.json"), {})
    assert Path("r.json").read_text() == "now it is mine"
