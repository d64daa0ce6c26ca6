"""Ways to break a file of any format, and JSON and YAML: cut, flipped, replaced; depth, numbers, types, names, tags."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

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


_DIGITS = "9" * 5000
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**62, 2**70, 1e308, -0.0, "", "x" * 5000, "\x1b[31mred\x1b[0m", "../../secret", "/etc/passwd",
    "\ud800", "\u202e", [], {}, [[]], {"": 1}, "nan", "${HOME}", "!!python/object:os.system",
)  # fmt: skip
_YAML = (
    "!!bool maybe", "!!python/object/apply:os.system ['true']", "!!binary x", "&a [*a]", "*nothing", "2020-99-99",
    "!!timestamp x", "? [1]", "<<: 1", "{a: {a: {a", "- - - -", "%YAML 9.9", "\t- x", ".inf", "0x" + "f" * 3000,
    _DIGITS,
)  # fmt: skip


def _deep(path: Path, r: Random, outside: Path) -> None:
    opening, closing = r.choice((("[", "]"), ('{"a":', "}"), ("[{", "}]")))
    depth = r.choice((200, 1000, 100_000))
    path.write_text(opening * depth + closing * depth * r.randrange(2), "utf-8")


def _digits(path: Path, r: Random, outside: Path) -> None:
    text = path.read_text("utf-8")
    places = [i for i, letter in enumerate(text) if letter.isdigit()]
    place = r.choice(places) if places else 0
    path.write_text(text[:place] + _DIGITS + text[place:], "utf-8")


def _encoding(path: Path, r: Random, outside: Path) -> None:
    data = path.read_bytes()
    place = r.randrange(len(data) + 1)
    path.write_bytes(data[:place] + r.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\0", b"\x1b[2J")) + data[place:])


def _not_a_number(path: Path, r: Random, outside: Path) -> None:
    path.write_text(r.choice(("NaN", "Infinity", "null", "3", '"words"', "[]", "[[", "true")), "utf-8")


def changed(content: Any, r: Random) -> Any:
    """Return ``content`` with one value at random replaced, left out, doubled, or a key nobody knows added."""
    place = content
    while isinstance(place, dict | list) and place:
        key = r.choice(list(place)) if isinstance(place, dict) else r.randrange(len(place))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner and r.random() < 0.8):
            how = r.randrange(5)
            if how == 0 and isinstance(place, dict):
                del place[key]
            elif how == 1 and isinstance(place, dict):
                place[str(r.choice(("zz", "", "__class__", "\n", "\ud800")))] = inner
            elif how == 2 and isinstance(place, list):
                place.extend(place[:1] * r.choice((1, 50)))
            else:
                place[key] = r.choice(_VALUES)
            break
        place = inner
    return content


def json_damage(path: Path, r: Random, outside: Path) -> None:
    """Change one value of a JSON file."""
    path.write_text(json.dumps(changed(json.loads(path.read_text("utf-8")), r)), "utf-8")


def yaml_damage(path: Path, r: Random, outside: Path) -> None:
    """Change one value of a YAML file, or put a construct of YAML's into it."""
    import yaml

    text = path.read_text("utf-8")
    if r.random() < 0.4:
        lines = text.splitlines()
        lines.insert(r.randrange(len(lines) + 1), r.choice(_YAML))
        path.write_text("\n".join(lines), "utf-8", "surrogatepass")
        return
    made = yaml.safe_dump(changed(yaml.safe_load(text), r), allow_unicode=True)
    path.write_text(made, "utf-8", "surrogatepass")


def header_damage(path: Path, r: Random, outside: Path) -> None:
    """Change one value in the JSON head of a safetensors file, its length and the rest of it made to fit."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    if "__metadata__" in head and r.random() < 0.5:
        name = r.choice(list(head["__metadata__"]))
        try:
            inside = json.loads(head["__metadata__"][name])
            head["__metadata__"][name] = json.dumps(changed(inside, r))
        except ValueError:
            head["__metadata__"][name] = str(r.choice(_VALUES))
    else:
        head = changed(head, r)
    new = json.dumps(head).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])


TEXTS: Mapping[str, Damage] = {
    "depth": _deep,
    "digits": _digits,
    "encoding": _encoding,
    "no mapping": _not_a_number,
}
