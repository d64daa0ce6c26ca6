"""Ways to break JSON and YAML: depth, numbers, types, names, tags; and the JSON at the head of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from slimtask.bench.studies.fuzz_files.damage import Damage

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
