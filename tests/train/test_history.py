"""metrics.jsonl as it is read back: whole, cut off by a kill, or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimtask.errors import InputError
from slimtask.train.history import read_history

WHOLE = '{"step": 0, "kind": "train", "loss": 1.5}\n{"step": 1, "kind": "val", "loss": null}\n'


def test_a_last_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(WHOLE + '{"step": 2, "ki', encoding="utf-8")
    assert [record["step"] for record in read_history(path)] == [0, 1]


@pytest.mark.parametrize(
    "damage", [b'{"step": 2, "ki\n', b'["step"]\n', b'{"kind": "train"}\n', b"[" * 5000 + b"\n", b"\xff\xfe\n"]
)
def test_damage_before_the_end_is_one_sentence(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damage + WHOLE.encode())
    with pytest.raises(InputError, match="metrics") as caught:
        read_history(path)
    assert "\n" not in str(caught.value)
