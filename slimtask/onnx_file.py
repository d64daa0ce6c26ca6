"""The one way an ONNX file is opened: checked before it is parsed, with weights from files of its own folder alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtask import onnx_bytes
from slimtask.errors import InputError
from slimtask.files import MOST_BYTES, check_regular, read_bytes
from slimtask.onnx_bytes import Contents, scan, unreadable

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from jaxtyping import Shaped

_SMALL_BYTES = 1024  # what inference of shapes may want to read


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A graph as it lies in a file, the files with its weights by the names that it calls them, and what is in it."""

    graph: bytes
    data: Mapping[str, bytes]
    contents: Contents

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph, parsed; initialisers in files stay there, other tensors do not: libraries do not look for them."""
        import onnx
        from google.protobuf.message import DecodeError

        model = onnx.ModelProto()
        try:
            model.ParseFromString(self.graph)
        except DecodeError:
            raise InputError(
                f"{self.contents.what} is no whole ONNX file; it is damaged or of another kind, write it again."
            ) from None
        if any(tensor.inside for tensor in self.contents.external):
            for tensor in _inside(model):
                self.embed_(tensor)
        return model

    def with_model(self, model: onnx.ModelProto) -> OnnxFile:
        """Return the file with ``model`` for its graph parsed, the same but for initialisers that it holds."""
        other = OnnxFile(graph=self.graph, data=self.data, contents=self.contents)
        vars(other)["model"] = model
        return other

    def runnable(self) -> bytes:
        """Return the graph for ``open_session``, all tensors that are no initialisers in it."""
        inside = any(tensor.inside for tensor in self.contents.external)
        return self.model.SerializeToString() if inside else self.graph

    def embed_(self, tensor: Any) -> None:
        """Put the content of a TensorProto that lies in a file into it, in place."""
        if not is_external(tensor):
            return
        entries = {entry.key: entry.value for entry in tensor.external_data}
        content = self.data[entries["location"]]
        start = int(entries.get("offset", 0))
        stop = start + int(entries["length"]) if "length" in entries else len(content)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = content[start:stop]

    def array(self, tensor: onnx.TensorProto) -> Shaped[np.ndarray, "..."]:
        """Return the values of a TensorProto of the model, wherever they lie; InputError if they are damaged."""
        import onnx

        try:
            return onnx.numpy_helper.to_array(self._whole(tensor))
        except Exception as error:  # a shape or a type that does not fit, in many words
            raise unreadable(self.contents.what, tensor.name, _first_line(error)) from None

    def _whole(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Return ``tensor``, or a copy with its content if that lies in a file."""
        if not is_external(tensor):
            return tensor
        copy = type(tensor)()
        copy.CopyFrom(tensor)
        self.embed_(copy)
        return copy

    def check(self) -> None:
        """Raise InputError if the graph is not valid ONNX, shapes included; no file is read for it."""
        import onnx

        skeleton, small = onnx.ModelProto(), []
        skeleton.CopyFrom(self.model)
        inputs = {value.name for value in skeleton.graph.input}
        for tensor in self.model.graph.initializer:
            if _bytes(tensor) <= _SMALL_BYTES:
                small.append(self._whole(tensor))
            elif tensor.name not in inputs:  # it stands for itself as an input
                shape = list(tensor.dims)
                skeleton.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
        del skeleton.graph.initializer[:]
        skeleton.graph.initializer.extend(small)
        try:
            onnx.checker.check_model(skeleton, full_check=True)
        except Exception as error:  # the checker's, inference's, protobuf's and pybind11's own
            raise InputError(
                f"{self.contents.what} is not valid ONNX ({_first_line(error)}); export it again."
            ) from None


def open_onnx(path: Path | str, what: str | None = None) -> OnnxFile:
    """Return the ONNX file at ``path``, which the InputErrors call ``what`` (None: its path).

    Read are regular files of sane size: the graph, and what it names in its own folder, links followed; never
    something by an absolute path, by ``..`` or in the working directory. Raises InputError for anything else, and for
    what ``scan`` refuses.
    """
    what = what or f"'{path}'"
    graph = read_bytes(path, "the ONNX file", onnx_bytes.MOST_BYTES)
    contents = scan(graph, what)
    places = {location: _place(Path(path).parent, location, contents) for location in contents.locations}
    sizes = {location: check_regular(place, "the file of weights") for location, place in places.items()}
    if sum(sizes.values()) > MOST_BYTES:
        raise InputError(f"{what} names more than {MOST_BYTES:,} bytes of weights; that does not fit into memory.")
    data = {location: read_bytes(place, "the file of weights") for location, place in places.items()}
    contents.check_files({location: len(content) for location, content in data.items()})
    return OnnxFile(graph=graph, data=data, contents=contents)


def held_onnx(graph: bytes, data: Mapping[str, bytes], what: str) -> OnnxFile:
    """Return a graph in memory with the only files that it may name; raises InputError as ``scan`` does."""
    contents = scan(graph, what)
    contents.check_files({location: len(content) for location, content in data.items()})
    return OnnxFile(graph=graph, data=data, contents=contents)


def is_external(tensor: Any) -> bool:
    """Return whether the content of a TensorProto lies in a file."""
    return bool(tensor.data_location == 1 or tensor.external_data)


def _inside(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield every TensorProto of a model but the initialisers: those of attributes, inner graphs and functions."""
    yield from _in_graph(model.graph, initialisers=False)
    for info in model.training_info:
        yield from _in_graph(info.initialization)
        yield from _in_graph(info.algorithm)
    for function in model.functions:
        yield from _in_attributes(function.attribute_proto)
        for node in function.node:
            yield from _in_attributes(node.attribute)


def _in_graph(graph: Any, *, initialisers: bool = True) -> Iterator[Any]:
    if initialisers:
        yield from graph.initializer
    yield from _dense(graph.sparse_initializer)
    for node in graph.node:
        yield from _in_attributes(node.attribute)


def _in_attributes(attributes: Iterable[Any]) -> Iterator[Any]:
    for attribute in attributes:
        yield from (*_one(attribute, "t"), *attribute.tensors)
        yield from _dense((*_one(attribute, "sparse_tensor"), *attribute.sparse_tensors))
        for graph in (*_one(attribute, "g"), *attribute.graphs):
            yield from _in_graph(graph)


def _one(attribute: Any, name: str) -> list[Any]:
    return [getattr(attribute, name)] if attribute.HasField(name) else []


def _dense(sparse: Iterable[Any]) -> Iterator[Any]:
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _place(folder: Path, location: str, contents: Contents) -> Path:
    """Return where a file of weights lies, links followed; InputError if that is not inside ``folder``."""
    name = next(tensor.name for tensor in contents.external if tensor.location == location)
    if "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise unreadable(contents.what, name, f"it refers to '{location}', which is outside of the folder")
    root = os.path.realpath(folder)
    place = Path(os.path.realpath(Path(root) / location))
    if not place.is_relative_to(root):
        raise unreadable(contents.what, name, f"it refers to '{location}', a link that leads outside, to '{place}'")
    if not os.path.exists(place):
        raise unreadable(contents.what, name, f"there is no file '{location}'")
    return place


def _bytes(tensor: Any) -> int:
    """Return about how many bytes a TensorProto holds, in it or in a file."""
    if is_external(tensor):
        return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), _SMALL_BYTES + 1)
    return int(tensor.ByteSize())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
