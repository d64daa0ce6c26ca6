"""What the system refuses: sentences of ours, true about what is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from slimtask.cli.system import left, of_the_system, refusals
from slimtask.errors import InputError


@pytest.mark.parametrize(
    "number",
    [
        errno.EISDIR, errno.ENOTEMPTY, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP,
        errno.EMFILE, errno.EFBIG, errno.EIO, errno.EBUSY, errno.ENOMEM, errno.ENXIO,
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["some/file", 3, None, b"some/\xff"])
def test_no_sentence_is_the_systems_own(number: int, name: object) -> None:
    told = of_the_system(OSError(number, os.strerror(number), name))
    assert os.strerror(number) not in told
    assert "'3'" not in told
    assert "Errno" not in told
    assert told.endswith(".")
    assert told.count(";") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_what_is_left(number: int, tmp_path: Path) -> None:
    out, report = tmp_path / "small.safetensors", tmp_path / "r.json"

    def told() -> str:
        with pytest.raises(InputError) as refused, refusals({"out": out, "json_path": report}):
            raise OSError(number, "full", str(report))
        return str(refused.value)

    assert "nothing was written" in told()
    out.write_text("whole")
    assert "nothing" not in told()
    assert f"'{out}' stays as it is" in told()
    assert left({"out": None}) == ""
