"""Weights told by other weights: which rows of a matrix are known already, or which few of its entries are new.

A task's weights are the base's but for rows, columns, blocks or single entries; a wide layer is the base's rows and the
changed ones of several tasks. Either way only what is new is stored. Decoding is exact to the bit, the sign of a zero
included: values are moved or negated, not added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int32, Shaped

Matrix = Float[np.ndarray, "rows columns"]
_Key = tuple[str, bytes]
_INDEX_BYTES = 4
_WORTH = 0.75  # a coding that needs more of a matrix's bytes than this is not worth its nodes
_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Coding:
    """A matrix by others of a pool, ``sources`` (number in the pool, transposed or not), and what is new.

    With ``places`` None it consists of the rows ``index`` of the sources and the ``new`` rows, one under the other (all
    of them in order for None), times ``sign``. Otherwise the ``places`` of the only source, numbers of rows or, if
    ``flat``, of entries, are overwritten by ``new``. At the end it is ``transposed`` or not.
    """

    sources: tuple[tuple[int, bool], ...]
    new: np.ndarray
    index: Int32[np.ndarray, " rows"] | None = None
    sign: Float[np.ndarray, "rows 1"] | None = None
    places: Int32[np.ndarray, " places"] | None = None
    flat: bool = False
    transposed: bool = False

    @property
    def same(self) -> bool:
        """Whether the matrix is its source, as that is."""
        plain = not self.transposed and not self.sources[0][1]
        return plain and self.places is not None and not len(self.places)

    @property
    def bytes(self) -> int:
        """Bytes that are stored beside the sources."""
        return self.new.nbytes + sum(a.nbytes for a in (self.index, self.sign, self.places) if a is not None)


@dataclass
class Pool:
    """Matrices that others of their dtype are told by; rows and columns are looked up by their bytes."""

    matrices: list[Matrix] = field(default_factory=list)
    _rows: dict[_Key, tuple[int, bool, int]] = field(default_factory=dict)

    def add(self, matrix: Matrix) -> int:
        """Return the number of ``matrix``, whose rows and columns are known from now on."""
        number = len(self.matrices)
        self.matrices.append(matrix)
        for transposed, made in ((False, matrix), (True, matrix.T)):
            for row, key in enumerate(_keys(made)):
                if key is not None:
                    self._rows.setdefault(key, (number, transposed, row))
        return number

    def code(self, matrix: Matrix) -> Coding | None:
        """Return the smallest coding of ``matrix``, None if it is best stored as it is."""
        candidates = [self._by_rows(matrix, transposed=False), self._by_rows(matrix.T, transposed=True)]
        candidates.append(self._by_entries(matrix))
        found = [one for one in candidates if one is not None]
        best = min(found, key=lambda one: one.bytes, default=None)
        return best if best is not None and best.bytes < _WORTH * matrix.nbytes else None

    def decode(self, coding: Coding) -> Matrix:
        """Return the matrix of a coding."""
        read = [self._read(*source) for source in coding.sources]
        if coding.places is not None:
            made = read[0].copy()
            target = made.reshape(-1) if coding.flat else made
            target[coding.places] = coding.new
        else:
            made = np.concatenate([*read, *([coding.new] if len(coding.new) else [])])
            made = made if coding.index is None else made[coding.index]
            made = made if coding.sign is None else made * coding.sign
        return made.T if coding.transposed else made

    def _read(self, number: int, transposed: bool) -> Matrix:
        return np.ascontiguousarray(self.matrices[number].T if transposed else self.matrices[number])

    def _by_rows(self, matrix: Matrix, *, transposed: bool) -> Coding | None:
        """Return the coding by rows that are known, or are known with the other sign."""
        found = [self._rows.get(key) if key is not None else None for key in _keys(matrix)]
        minus = [self._rows.get(key) if key is not None else None for key in _keys(-matrix)]
        opposite = [None if hit else other for hit, other in zip(found, minus, strict=True)]
        hits = [hit or other for hit, other in zip(found, opposite, strict=True)]
        sources = tuple(dict.fromkeys((hit[0], hit[1]) for hit in hits if hit))
        if not sources:
            return None
        fresh = np.array([row for row, hit in enumerate(hits) if hit is None], np.int32)
        new = np.ascontiguousarray(matrix[fresh])
        in_place = all(hit is None or hit == (*sources[0], row) for row, hit in enumerate(found))
        if in_place and not any(opposite) and self._read_shape(*sources[0]) == matrix.shape:
            return Coding(sources=sources, new=new, places=fresh, transposed=transposed)
        index = self._index(hits, sources)
        whole = sum(self._read_shape(*source)[0] for source in sources) + len(new)
        in_order = len(index) == whole and bool((index == np.arange(whole)).all())
        sign = np.where([[bool(other)] for other in opposite], -1, 1).astype(matrix.dtype) if any(opposite) else None
        return Coding(sources=sources, new=new, index=None if in_order else index, sign=sign, transposed=transposed)

    def _index(
        self, hits: Iterable[tuple[int, bool, int] | None], sources: tuple[tuple[int, bool], ...]
    ) -> Int32[np.ndarray, " rows"]:
        """Return where each row lies in the sources and the new rows, one under the other."""
        starts, total = {}, 0
        for source in sources:
            starts[source] = total
            total += self._read_shape(*source)[0]
        index = []
        for hit in hits:
            index.append(total if hit is None else starts[hit[0], hit[1]] + hit[2])
            total += hit is None
        return np.array(index, np.int32)

    def _by_entries(self, matrix: Matrix) -> Coding | None:
        """Return the coding by the entries in which ``matrix`` differs from the likest one of its shape."""
        alike = [
            (number, transposed)
            for number in range(len(self.matrices))
            for transposed in (False, True)
            if self._read_shape(number, transposed) == matrix.shape and self.matrices[number].dtype == matrix.dtype
        ]
        if not alike:
            return None
        step = max(1, matrix.size // _SAMPLE)
        bits = _bits(matrix)
        likest = min(alike, key=lambda one: int((_bits(self._read(*one))[::step] != bits[::step]).sum()))
        places = np.flatnonzero(_bits(self._read(*likest)) != bits).astype(np.int32)
        return Coding(sources=(likest,), new=matrix.reshape(-1)[places], places=places, flat=True)

    def _read_shape(self, number: int, transposed: bool) -> tuple[int, ...]:
        shape = self.matrices[number].shape
        return shape[::-1] if transposed else shape


def _keys(matrix: Matrix) -> list[_Key | None]:
    """Return dtype and bytes of every row; None for rows of zeros, which say nothing, and those with NaN, which no
    product by -1 negates.
    """
    rows, dtype = np.ascontiguousarray(matrix), matrix.dtype.str
    kept = (rows != 0).any(axis=1) & ~np.isnan(rows).any(axis=1)
    return [(dtype, row.tobytes()) if known else None for row, known in zip(rows, kept.tolist(), strict=True)]


def _bits(matrix: Matrix) -> Shaped[np.ndarray, " entries"]:
    """Return the entries as integers: minus zero is not zero, and NaN is itself."""
    return np.ascontiguousarray(matrix).reshape(-1).view(f"u{matrix.itemsize}")
