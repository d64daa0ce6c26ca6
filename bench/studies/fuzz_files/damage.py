"""Ways to break a file of any format: cut, flipped, filled, replaced by something that is no file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

Damage = Callable[[Path, Random, Path], None]
"""Called as (file to break, random choices, folder outside that nothing may read)."""


class Runs:
    """An object whose unpickling would open the file that betrays it."""

    def __init__(self, secret: Path) -> None:
        self.secret = str(secret)

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.secret,)


def _empty(path: Path, r: Random, outside: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path, r: Random, outside: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: r.randrange(len(data))])


def _flipped(path: Path, r: Random, outside: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(r.choice((1, 1, 4, 64))):
        data[r.randrange(min(len(data), r.choice((64, len(data)))))] ^= 1 << r.randrange(8)
    path.write_bytes(bytes(data))


def _filled(path: Path, r: Random, outside: Path) -> None:
    data = bytearray(path.read_bytes())
    start = r.randrange(len(data))
    length = min(len(data) - start, r.choice((1, 8, 100)))
    data[start : start + length] = bytes([r.choice((0, 255, 0x5B, 0x7B))]) * length
    path.write_bytes(bytes(data))


def _noise(path: Path, r: Random, outside: Path) -> None:
    path.write_bytes(r.randbytes(r.choice((1, 7, 8, 100, 10_000))))


def _longer(path: Path, r: Random, outside: Path) -> None:
    path.write_bytes(path.read_bytes() + r.choice((b"\0" * 100, b"{}", r.randbytes(1000))))


def _huge_length(path: Path, r: Random, outside: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(r.choice((2**62, 2**40, 2**31, 2**64 - 1)).to_bytes(8, "little") + data[8:])


def _pickle(path: Path, r: Random, outside: Path) -> None:
    path.write_bytes(pickle.dumps(Runs(outside / "secret")))


def _folder(path: Path, r: Random, outside: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path, r: Random, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path, r: Random, outside: Path) -> None:
    path.unlink()
    path.symlink_to(r.choice(("/dev/zero", "/dev/urandom", "/dev/null", "/proc/self/mem")))


def _gone(path: Path, r: Random, outside: Path) -> None:
    path.unlink()


def _loop(path: Path, r: Random, outside: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _vast(path: Path, r: Random, outside: Path) -> None:
    with path.open("r+b") as file:  # holes, which take no room
        file.truncate(r.choice((2**33, 2**41)))


ANY: Mapping[str, Damage] = {
    "empty": _empty,
    "cut": _cut,
    "flipped": _flipped,
    "filled": _filled,
    "noise": _noise,
    "longer": _longer,
    "a huge length": _huge_length,
    "a pickle": _pickle,
    "a folder": _folder,
    "a FIFO": _fifo,
    "a device": _device,
    "gone": _gone,
    "a link to itself": _loop,
    "vast": _vast,
}
