"""Labels: who is who among the indices of every axis of every value, and which of them must go together.

Every index of every axis of a parameter gets a number of its own (an *atom*). Operations carry atoms along as labels,
tie labels that meet (a sum needs equal channels) and pin labels that cannot shrink (an output, a softmax over them).
What is tied in the end, directly or not, is one channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slimtask.compress.graph.axes import Array, align, squeeze_equal, varies, varying

Ints = NDArray[np.int64]
Layers = list[Array]
"""The labels of one value: arrays that broadcast to its shape, each for other axes; 0 is an index without a label."""

_MANY = 4096


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter or buffer and its atoms, ``first`` to ``first + size - 1``."""

    tensor: str
    axis: int
    first: int
    size: int

    @property
    def atoms(self) -> Ints:
        """Return the atoms of the axis in order."""
        return np.arange(self.first, self.first + self.size)


@dataclass
class Labels:
    """The atoms handed out, the ties between them, and which are pinned or normalised, with reasons.

    ``module`` is the one whose operation is being labelled.
    """

    axes: list[Axis] = field(default_factory=list)
    count: int = 1  # 0 means no label
    module: str = ""
    _ties: list[tuple[Ints, Ints]] = field(default_factory=list)
    _pins: list[tuple[Ints, str]] = field(default_factory=list)
    _places: list[str] = field(default_factory=list)
    _norms: list[tuple[Ints, str]] = field(default_factory=list)
    _products: dict[tuple[tuple[int, ...], bytes], Array] = field(default_factory=dict)
    _inputs: list[Ints] = field(default_factory=list)
    _outputs: list[Ints] = field(default_factory=list)
    _read: list[Ints] = field(default_factory=list)
    _weak: set[int] = field(default_factory=set)
    _written: set[int] = field(default_factory=set)

    def leaf(self, tensor: str, shape: Sequence[int]) -> Layers:
        """Return fresh labels for every axis of a parameter or buffer."""
        layers = []
        for axis, size in enumerate(shape):
            if size > 1:
                self.axes.append(Axis(tensor, axis, self.count, size))
                if len(shape) >= 4 and axis >= 2:  # taps of a kernel, places of a map
                    self._weak.update(range(self.count, self.count + size))
                layers.append(self.axes[-1].atoms.reshape([size if i == axis else 1 for i in range(len(shape))]))
                self.count += size
        return layers

    def fresh(self, shape: Sequence[int]) -> Layers:
        """Return labels for every axis of a tensor that the network makes: whatever meets them decides."""
        layers = []
        for axis, size in enumerate(shape):
            if size > 1:
                atoms = np.arange(self.count, self.count + size)
                self._weak.update(range(self.count, self.count + size))
                layers.append(atoms.reshape([size if i == axis else 1 for i in range(len(shape))]))
                self.count += size
        return layers

    def is_weak(self, layer: Array) -> bool:
        """Return whether the layer's labels are those of places: taps, copies, a tensor that the network makes."""
        return int(layer.max()) in self._weak

    def product(self, layer: Array) -> None:
        """Record that one axis was viewed as several: what stays must be a box, the same along all but one of them."""
        if len(varying(layer)) > 1:
            core = np.ascontiguousarray(layer.reshape([size for size in layer.shape if size > 1]))
            self._products.setdefault((core.shape, core.tobytes()), core)

    def tie_products(self) -> None:
        """Tie what the views of several axes imply, along the shortest axis first, until nothing more follows."""
        before = -1
        while self._products:
            classes = self.classes()
            if int(classes.max()) == before:  # what is not labelled throughout ties no further
                return
            before = int(classes.max())
            open_ = []
            for layer in self._products.values():
                axes = sorted(varying(squeeze_equal(classes[layer])), key=lambda axis: layer.shape[axis])
                if len(axes) > 1:
                    self.tie_along(layer, axes[0])
                    open_.append(layer)
            if not open_:
                return

    def note_input(self, labels: Array) -> None:
        """Record that ``labels`` are those by which a weight reads."""
        self._inputs.append(labels[labels > 0].ravel())

    def note_output(self, labels: Array) -> None:
        """Record that ``labels`` are those by which a weight writes."""
        found = labels[labels > 0].ravel()
        self._outputs.append(found)
        self._written.update(found.tolist())

    def note_read(self, labels: Array) -> None:
        """Record that something sums over ``labels``: they have a reader that is no weight."""
        self._read.append(labels[labels > 0].ravel())

    def reading(self) -> NDArray[np.bool_]:
        """Return which atoms [atoms] are only ever those by which a weight reads."""
        return self._marks(self._inputs) & ~self._marks(self._outputs)

    def weight_inputs(self) -> Ints:
        """Return the atoms by which a weight reads."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self._inputs]))

    def read_classes(self, classes: Ints) -> set[int]:
        """Return the channels that something other than a weight reads."""
        return set(np.unique(classes[np.concatenate([np.zeros(0, np.int64), *self._read])]).tolist())

    def written_classes(self, classes: Ints) -> set[int]:
        """Return the channels that a weight writes."""
        return set(np.unique(classes[np.concatenate([np.zeros(0, np.int64), *self._outputs])]).tolist())

    def _marks(self, records: Sequence[Ints]) -> NDArray[np.bool_]:
        marks = np.zeros(self.count, bool)
        for atoms in records:
            marks[atoms] = True
        return marks

    def tie(self, one: Array, other: Array) -> None:
        """Record that what meets in the broadcast of the two arrays is the same; a label that meets none is pinned."""
        left, right = np.broadcast_arrays(one, other)
        left, right = left.ravel(), right.ravel()
        both = (left > 0) & (right > 0)
        pairs = left[both] << 32 | right[both]
        if pairs.size > _MANY:  # windows and batches repeat the same few
            pairs = np.unique(pairs)
        self._ties.append((pairs >> 32, pairs & 0xFFFFFFFF))
        self.pin(np.concatenate([left[right == 0], right[left == 0]]), "they meet channels of a fixed number")

    def tie_along(self, array: Array, axis: int) -> Array:
        """Tie all labels along ``axis`` and return the array with that axis reduced to size 1."""
        first = array.take([0], axis=axis)
        self.tie(array, first)
        return first

    def pin(self, labels: Array, why: str) -> None:
        """Record that no channel among ``labels`` may be removed."""
        found = labels[labels > 0].ravel()
        if found.size:
            self._pins.append((found, why))
            self._places.append(self.module)

    def normalise(self, labels: Array, by: str) -> None:
        """Record that a normalisation over all of ``labels`` lies behind them: without one the others change."""
        self._norms.append((labels[labels > 0].ravel(), by))

    def elementwise(self, operands: Sequence[tuple[Layers, Sequence[int]]]) -> Layers:
        """Return the labels of an element-wise result; labels of the same axes are tied across the operands."""
        ndim = max((len(shape) for _, shape in operands), default=0)
        aligned = [
            ([align(a, ndim) for a in layers], (1,) * (ndim - len(shape)) + tuple(shape)) for layers, shape in operands
        ]
        result: Layers = []
        for index, (layers, _) in enumerate(aligned):
            for layer in layers:
                met: Array | None = layer
                for other, shape in aligned[:index] + aligned[index + 1 :]:
                    met = None if met is None else self._meet(met, other, shape)
                if met is not None:
                    result.append(met)
        return finest(result)

    def _meet(self, layer: Array, others: Layers, shape: Sequence[int]) -> Array | None:
        """Tie one operand's layer to another operand's, or pin it if that has the axis but no label for it.

        Returns the layer, with the axes reduced along which the other operand fixes the size; None if it is pinned.
        """
        axes = varying(layer)
        partners = [other for other in others if varying(other) & axes]
        for partner in partners:
            if self._is_table_of(partner, layer):  # one number for each place in a head: heads stay whole, so does it
                self.pin(partner, "they are one for each place in a head")
                layer = self.tie_along(layer, next(iter(varying(partner))))
            elif self._is_table_of(layer, partner):
                return None
            else:
                self.tie(layer, partner)
        covered = frozenset[int]().union(*(varying(partner) for partner in partners))
        fixed = [axis for axis in axes - covered if shape[axis] > 1]
        if fixed and not partners:
            self.pin(layer, "they meet channels of a fixed number")
            return None
        for axis in fixed:  # e.g. the width of the heads is fixed, their number is not
            layer = self.tie_along(layer, axis)
        return layer

    def _is_table_of(self, vector: Array, heads: Array) -> bool:
        """Return whether ``vector``, which no weight writes, lies along the places within a head of ``heads``."""
        axes = varying(vector)
        if len(axes) != 1 or not axes < varying(heads) or int(vector.max()) in self._written:
            return False
        return bool((np.diff(heads, axis=next(iter(axes))) == 1).all())

    def classes(self) -> Ints:
        """Return for every atom the number of the channel it belongs to."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left = np.concatenate([np.zeros(0, np.int64), *(tie[0] for tie in self._ties)])
        right = np.concatenate([np.zeros(0, np.int64), *(tie[1] for tie in self._ties)])
        graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(self.count, self.count))
        found: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
        return found

    def reasons(self, classes: Ints) -> dict[int, str]:
        """Return why channels are pinned, by channel number: the first reason met."""
        return _first_words(self._pins, classes)

    def pins(self) -> Iterator[tuple[str, str, Ints]]:
        """Yield what was pinned, in order: the module whose operation did, why, and the atoms."""
        for (atoms, why), place in zip(self._pins, self._places, strict=True):
            yield place, why, atoms

    def normalised(self, classes: Ints) -> dict[int, str]:
        """Return the first normalisation that lies over each normalised channel."""
        return _first_words(self._norms, classes)


def _first_words(records: Sequence[tuple[Ints, str]], classes: Ints) -> dict[int, str]:
    found: dict[int, str] = {}
    for atoms, word in records:
        for number in np.unique(classes[atoms]).tolist():
            found.setdefault(number, word)
    return found


def finest(layers: Layers) -> Layers:
    """Return the layers without those whose axes another, finer one covers as well."""
    kept: Layers = []
    for layer in sorted(layers, key=lambda array: -len(varying(array))):
        if varying(layer) and not any(varying(layer) & varying(other) for other in kept):
            kept.append(layer)
    return kept


def along(layers: Layers, axis: int) -> Array | None:
    """Return the layer that varies along ``axis``, None if there is none."""
    return next((layer for layer in layers if varies(layer, axis)), None)
