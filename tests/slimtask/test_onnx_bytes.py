"""What a graph states is checked in its bytes, before anything is made of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from slimtask.errors import InputError
from slimtask.onnx_bytes import scan
from tests.cpu_time import at_most
from tests.slimtask import onnx_samples as samples


@pytest.mark.parametrize("place", samples.PLACES)
def test_tensors_in_files_are_found_wherever_they_are(place: str) -> None:
    made = samples.PLACES[place]
    assert scan(made(samples.tensor()).SerializeToString(), "it").external == []
    contents = scan(made(samples.tensor("a/w.bin", offset="64")).SerializeToString(), "it")
    assert contents.locations == ("a/w.bin",)
    found = contents.external[0]
    assert (found.name, found.offset, found.bytes, found.inside) == ("w", 64, 16, place != "initialiser")
    contents.check_files({"a/w.bin": 80})
    for sizes, words in (({"a/w.bin": 79}, "beyond the end of 'a/w.bin'"), ({"w.bin": 80}, "not a file listed")):
        with pytest.raises(InputError, match=f"the weights 'w' cannot be read .*{words}"):
            contents.check_files(sizes)


@pytest.mark.parametrize("place", samples.PLACES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.dims.__setitem__(0, 2**62), "needs 18,446,744,073,709,551,616 bytes"),
        (lambda t: t.dims.__setitem__(0, -1), r"its shape \[-1\] is none"),
        (lambda t: t.dims.extend([2**62, 2**62]), "bytes"),
        (lambda t: t.dims.extend([1] * 100), r"1, 1\] is none"),
        (lambda t: setattr(t, "data_type", 99), "element type 99 is unknown"),
        (lambda t: setattr(t, "data_type", 0), "element type 0 is unknown"),
        (lambda t: setattr(t, "data_type", 8), "does not fit 0 strings"),
        (lambda t: t.ClearField("raw_data"), "does not fit 0 bytes"),
        (lambda t: setattr(t, "data_location", 1), "names no file"),
        (lambda t: t.external_data.add(key="location", value=""), "names no file"),
    ],
)
def test_a_shape_that_does_not_fit_its_bytes_is_refused(place: str, change, words: str) -> None:
    tensor = samples.tensor()
    change(tensor)
    with pytest.raises(InputError, match=words):
        scan(samples.PLACES[place](tensor).SerializeToString(), "it")


@pytest.mark.parametrize(
    "given", [{"offset": "-1"}, {"length": "1" * 5000}, {"length": "15"}, {"offset": "x"}, {"offset": "٣"}]
)
def test_places_in_files_are_numbers_that_fit(given: dict[str, str]) -> None:
    with pytest.raises(InputError, match="beyond the end"):
        scan(samples.initialiser(samples.tensor("w.bin", **given)).SerializeToString(), "it")


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int8, np.uint16, np.int32, np.uint64, np.complex64, bool])
def test_sound_tensors_of_every_kind_pass(kind: type) -> None:
    array = np.ones((2, 0, 3) if kind is np.int8 else (2, 3), kind)
    held = onnx.numpy_helper.from_array(array, "w")
    number = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    typed = onnx.helper.make_tensor("w", number, array.shape, array.reshape(-1).tolist())
    for tensor in (held, typed):
        scan(samples.constant(tensor).SerializeToString(), "it")


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "UINT4", "STRING"])
def test_sound_tensors_of_rarer_kinds_pass(kind: str) -> None:
    values = ["a", "b", "c"] if kind == "STRING" else [1.0, 0.0, 1.0]
    made = onnx.helper.make_tensor("w", getattr(onnx.TensorProto, kind), [3], values)
    scan(samples.constant(made).SerializeToString(), "it")


def test_functions_and_graphs_nest_only_so_deep() -> None:
    scan(samples.nested_functions(10).SerializeToString(), "it")
    scan(samples.nested_graphs(3).SerializeToString(), "it")
    with at_most(2):
        for hostile, words in (
            (samples.nested_functions(12, 8), "more than 1,048,576 nodes"),
            (samples.nested_functions(24), "functions nested more than 16 deep"),
            (samples.nested_functions(3, last="F0"), "its function 'F0' calls itself"),
            (samples.nested_functions(1, last="F0"), "its function 'F0' calls itself"),
        ):
            with pytest.raises(InputError, match=words):
                scan(hostile.SerializeToString(), "it")


def wrapped(number: int, content: bytes) -> bytes:
    """Return a field that holds bytes."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize("depth", [20, 5000])
def test_graphs_beyond_what_protobuf_reads_are_refused(depth: int) -> None:
    content = b""
    for _ in range(depth):
        content = wrapped(1, wrapped(5, wrapped(6, content)))
    with pytest.raises(InputError, match="graphs nested more than 16 deep"):
        scan(wrapped(7, content), "it")


def test_noise_is_no_graph() -> None:
    rng, whole = np.random.default_rng(0), samples.in_function(samples.tensor("w.bin")).SerializeToString()
    refused = 0
    for _ in range(500):
        noise = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            noise[rng.integers(len(noise))] = rng.integers(256)
        for content in (bytes(noise), bytes(noise[: rng.integers(len(noise))])):
            try:
                scan(content, "it")
            except InputError:
                refused += 1
    assert 300 < refused < 1000
