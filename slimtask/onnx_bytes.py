"""What an ONNX graph in bytes states, checked before anything parses it, allocates for it or runs it. Needs no onnx.

The bytes are walked as protobuf lays them out (onnx/onnx.proto): lengths first, so that weights are passed by.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from slimtask.errors import InputError

MOST_BYTES = 2**31 - 1  # where protobuf ends
MOST_NODES = 2**20
"""Nodes of a graph with its functions in their places."""
MOST_DEPTH = 16
"""Of graphs inside nodes of graphs, and of functions inside functions."""
_MOST_FIELDS = 5_000_000
_MOST_DIMS = 64  # of a shape, as NumPy has it
_BITS = dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8) | dict.fromkeys((4, 5, 10, 16), 16) | {1: 32, 6: 32, 12: 32}
_BITS |= dict.fromkeys((7, 11, 13, 14), 64) | {15: 128} | dict.fromkeys((21, 22, 23), 4) | dict.fromkeys((25, 26), 2)
_STRING = 8
_NUMBERS = (4, 5, 7, 10, 11)  # the fields with numbers of a kind
_MOST_PER_BYTE = 4  # elements of two bits, in the fields of integers

Bytes = bytes | memoryview
Function = tuple[str, str, str]  # domain, name, overload


@dataclass(frozen=True, kw_only=True)
class External:
    """A tensor whose content lies in a file: which one, where in it, and how many bytes it has.

    ``inside`` says that it is no initialiser of the graph itself, but of a graph, node or function inside it.
    """

    name: str
    location: str
    offset: int
    bytes: int
    inside: bool


@dataclass(kw_only=True)
class Contents:
    """What a graph holds: its tensors in files, and whether it has operators that repeat a graph (Loop, Scan)."""

    what: str
    external: list[External] = field(default_factory=list)
    repeats: bool = False

    @property
    def locations(self) -> tuple[str, ...]:
        """Return the files that the graph names, each once, as it spells them."""
        return tuple(dict.fromkeys(tensor.location for tensor in self.external))

    def check_files(self, sizes: Mapping[str, int]) -> None:
        """Raise InputError if a tensor lies in no file of ``sizes`` (in bytes), or beyond its end."""
        for tensor in self.external:
            if tensor.location not in sizes:
                raise unreadable(
                    self.what, tensor.name, f"it refers to '{tensor.location}', which is not a file listed for it"
                )
            if tensor.offset + tensor.bytes > sizes[tensor.location]:
                raise unreadable(self.what, tensor.name, f"it lies beyond the end of '{tensor.location}'")


def scan(graph: Bytes, what: str) -> Contents:
    """Return the contents of a serialised ModelProto; ``what`` names it in the InputError.

    Raises InputError for what is no whole protobuf or has no graph; for tensors of unknown type, of a shape that does
    not fit their bytes, or without a file and place where their content should lie in one; for graphs or functions
    nested too deep, functions that call themselves, and more nodes than MOST_NODES once functions are in their places.
    """
    walk = _Walk(what)
    try:
        if len(graph) > MOST_BYTES:
            raise _Damaged
        walk.model(memoryview(graph))
    except _Damaged:
        raise InputError(f"{what} is no whole ONNX file; it is damaged or of another kind, write it again.") from None
    walk.check_size()
    return walk.contents


def unreadable(what: str, name: str, why: str) -> InputError:
    """Return the error that says why the tensor ``name`` of ``what`` cannot be read."""
    return InputError(
        f"{what}: the weights '{name}' cannot be read ({why}); the graph or the file with its weights is damaged or "
        "missing, write or copy both again."
    )


class _Damaged(ValueError):
    """The bytes are not what protobuf writes."""


class _Walk:
    """Follows the messages of a model; the numbers are those of the fields in onnx.proto."""

    def __init__(self, what: str) -> None:
        self.contents = Contents(what=what)
        self._what = what
        self._seen = 0
        self._calls: dict[Function | None, Counter[Function]] = {None: Counter()}  # None: the graph itself

    def model(self, data: memoryview) -> None:
        whole = False
        for number, value in self._messages(data):
            if number == 7:  # graph
                self._graph(value, None, 0)
                whole = True
            elif number == 20:  # training_info: two graphs
                for inner, graph in self._messages(value):
                    if inner in (1, 2):
                        self._graph(graph, None, 1)
            elif number == 25:  # functions
                self._function(value)
        if not whole:
            raise InputError(f"{self._what} is no ONNX model; give an .onnx file that an exporter wrote.")

    def check_size(self) -> None:
        """Raise InputError if functions call themselves, or make too many nodes of the graph."""
        sizes: dict[Function | None, int] = {}
        self._expand(None, sizes, ())

    def _expand(self, caller: Function | None, sizes: dict[Function | None, int], above: tuple[object, ...]) -> int:
        """Return the number of nodes of a function, those of the functions that it calls in their places."""
        if caller in above:
            raise InputError(f"{self._what}: its function '{caller and caller[1]}' calls itself; export it again.")
        if len(above) > MOST_DEPTH:
            raise InputError(f"{self._what} has functions nested more than {MOST_DEPTH} deep; inline some of them.")
        if caller not in sizes:
            total = 0
            for called, times in self._calls[caller].items():
                known = called in self._calls
                total += times * (self._expand(called, sizes, (*above, caller)) if known else 1)
            if total > MOST_NODES:
                raise InputError(
                    f"{self._what} has more than {MOST_NODES:,} nodes with its functions in their places; export it "
                    "with fewer."
                )
            sizes[caller] = total
        return sizes[caller]

    def _function(self, data: memoryview) -> None:
        parts = list(self._messages(data))
        names = {number: _text(value) for number, value in parts if number in (1, 10, 13)}
        key = (names.get(10, ""), names.get(1, ""), names.get(13, ""))
        self._calls.setdefault(key, Counter())
        for number, value in parts:
            if number == 7:
                self._node(value, key, 0)
            elif number == 11:  # attributes with a default
                self._attribute(value, key, 0)

    def _graph(self, data: memoryview, owner: Function | None, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise InputError(f"{self._what} has graphs nested more than {MOST_DEPTH} deep; export it again.")
        inside = depth > 0 or owner is not None
        for number, value in self._messages(data):
            if number == 1:
                self._node(value, owner, depth)
            elif number == 5:
                self._tensor(value, inside=inside)
            elif number == 15:
                self._sparse(value)

    def _node(self, data: memoryview, owner: Function | None, depth: int) -> None:
        names = dict.fromkeys((7, 4, 8), "")  # domain, op_type, overload
        for number, value in self._messages(data):
            if number in names:
                names[number] = _text(value)
            elif number == 5:
                self._attribute(value, owner, depth)
        self._calls[owner][names[7], names[4], names[8]] += 1
        self.contents.repeats |= names[4] in ("Loop", "Scan")

    def _attribute(self, data: memoryview, owner: Function | None, depth: int) -> None:
        for number, value in self._messages(data):
            if number in (5, 10):
                self._tensor(value, inside=True)
            elif number in (6, 11):
                self._graph(value, owner, depth + 1)
            elif number in (22, 23):
                self._sparse(value)

    def _sparse(self, data: memoryview) -> None:
        dims: list[int] = []
        for number, value in self._fields(data):
            if number in (1, 2) and isinstance(value, memoryview):
                self._tensor(value, inside=True)
            elif number == 3:
                dims += _integers(value)
        if min(dims, default=1) < 0 or math.prod(dims) > MOST_BYTES:
            raise InputError(
                f"{self._what} holds a sparse tensor of shape {dims}, which is too large; export it dense."
            )

    def _tensor(self, data: memoryview, *, inside: bool) -> None:
        dims: list[int] = []
        entries: list[memoryview] = []
        kind, name, numbers, strings, raw, external = 0, "", 0, 0, -1, False
        for number, value in self._fields(data):
            if isinstance(value, int):
                kind = value if number == 2 else kind
                external |= number == 14 and value != 0  # data_location
                dims += _integers(value) if number == 1 else []
                numbers += number in _NUMBERS
            elif number == 1:
                dims += _integers(value)
            elif number in _NUMBERS:
                numbers += len(value)
            elif number == 6:
                strings += 1
            elif number == 8:
                name = _text(value)
            elif number == 9:
                raw = len(value)
            elif number == 13:
                entries.append(value)
        needed, count = self._needed(name, kind, dims), math.prod(dims)
        if external or entries:
            self.contents.external.append(self._external(name, entries, needed, inside=inside))
        elif kind == _STRING:
            self._check(name, count == strings, f"its shape {dims} does not fit {strings} strings")
        elif raw >= 0:
            self._check(name, raw == needed, f"its shape {dims} needs {needed:,} bytes, it has {raw:,}")
        else:
            self._check(name, count <= _MOST_PER_BYTE * numbers, f"its shape {dims} does not fit {numbers:,} bytes")

    def _needed(self, name: str, kind: int, dims: list[int]) -> int:
        """Return the bytes of a tensor, 0 of strings."""
        self._check(name, kind == _STRING or kind in _BITS, f"its element type {kind} is unknown")
        self._check(name, min(dims, default=1) >= 0 and len(dims) <= _MOST_DIMS, f"its shape {dims} is none")
        return -(-math.prod(dims) * _BITS.get(kind, 0) // 8)

    def _external(self, name: str, pairs: list[memoryview], needed: int, *, inside: bool) -> External:
        entries: dict[str, str] = {}
        for pair in pairs:
            parts = {number: _text(value) for number, value in self._messages(pair)}
            entries[parts.get(1, "")] = parts.get(2, "")
        numbers = {key: entries.get(key, str(default)) for key, default in (("offset", 0), ("length", needed))}
        sound = all(text.isascii() and text.isdecimal() and len(text) < 20 for text in numbers.values())
        location = entries.get("location", "")
        self._check(
            name, sound and int(numbers["length"]) == needed, f"it lies beyond the end of '{location}', or less"
        )
        self._check(name, bool(location) and len(entries) == len(pairs), "it names no file, or more than one")
        return External(name=name, location=location, offset=int(numbers["offset"]), bytes=needed, inside=inside)

    def _check(self, name: str, holds: bool, why: str) -> None:
        if not holds:
            raise unreadable(self._what, name, why)

    def _messages(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield the fields that hold bytes: text or messages."""
        for number, value in self._fields(data):
            if isinstance(value, memoryview):
                yield number, value

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Yield (number, value) of every field: an integer, or the bytes of anything else."""
        at, end = 0, len(data)
        while at < end:
            self._seen += 1
            if self._seen > _MOST_FIELDS:
                raise InputError(f"{self._what} has more than {_MOST_FIELDS:,} parts; export it with fewer.")
            tag, at = _varint(data, at)
            number, form = tag >> 3, tag & 7
            if number == 0 or form not in (0, 1, 2, 5):
                raise _Damaged
            value, at = _varint(data, at) if form in (0, 2) else ({1: 8, 5: 4}[form], at)
            if form == 0:
                yield number, value
                continue
            if at + value > end:
                raise _Damaged
            yield number, data[at : at + value]
            at += value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the integer at ``at`` and where the next thing begins."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value & (2**64 - 1), at
    raise _Damaged


def _integers(value: int | memoryview) -> list[int]:
    """Return signed integers that stand alone or packed."""
    found, at = [], 0
    if isinstance(value, int):
        found.append(value)
    else:
        while at < len(value):
            each, at = _varint(value, at)
            found.append(each)
            if len(found) > _MOST_DIMS:
                raise _Damaged
    return [each - 2**64 if each >= 2**63 else each for each in found]


def _text(value: int | memoryview) -> str:
    try:
        return bytes(value).decode() if isinstance(value, memoryview) else ""
    except UnicodeDecodeError:
        raise _Damaged from None
