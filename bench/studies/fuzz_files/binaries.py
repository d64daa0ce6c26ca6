"""Ways to break ONNX files, torch state dicts and images from the inside."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

from slimtask.bench.studies.fuzz_files.damage import Runs


def onnx_damage(path: Path, r: Random, outside: Path) -> None:
    """Give an ONNX file data outside of its folder, impossible shapes and types, nested functions, endless loops."""
    import onnx

    model = onnx.load(path)
    r.choice((_external, _shapes, _types, _attributes, _functions, _loop, _nodes))(model, r, outside)
    path.write_bytes(model.SerializeToString())


def _external(model: Any, r: Random, outside: Path) -> None:
    import onnx

    tensor = r.choice(list(model.graph.initializer))
    if r.random() < 0.4:
        node = model.graph.node.add(op_type="Constant", output=["outside"])
        attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
        tensor = attribute.t
        tensor.dims.extend([4])
        tensor.data_type = onnx.TensorProto.FLOAT
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    places = ("../outside/secret", str(outside / "secret"), "missing.bin", "secret", "", "a\0b", "/dev/zero")
    location = r.choice(places)
    for key, value in (("location", location), ("offset", r.choice(("0", "-1", "9" * 30))), ("length", "16")):
        tensor.external_data.add(key=key, value=value)


def _shapes(model: Any, r: Random, outside: Path) -> None:
    value = r.choice([*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    if dims and r.random() < 0.7:
        dims[r.randrange(len(dims))].dim_value = r.choice((-1, 0, 2**31, 2**62))
    else:
        value.ClearField("type")
    if r.random() < 0.5:
        tensor = r.choice(list(model.graph.initializer))
        if tensor.dims:
            tensor.dims[r.randrange(len(tensor.dims))] = r.choice((-1, 0, 2**31, 2**62))


def _types(model: Any, r: Random, outside: Path) -> None:
    if r.random() < 0.5:
        r.choice(list(model.graph.initializer)).data_type = r.choice((0, 8, 16, 23, 99))
    else:
        r.choice([*model.graph.input, *model.graph.output]).type.tensor_type.elem_type = r.choice((0, 8, 16, 99))


def _attributes(model: Any, r: Random, outside: Path) -> None:
    node = r.choice([node for node in model.graph.node if node.attribute])
    if r.random() < 0.5:
        del node.attribute[r.randrange(len(node.attribute))]
    else:
        attribute = r.choice(list(node.attribute))
        attribute.type = r.choice((0, 1, 2, 3, 4, 7))  # others are dropped on reading: the enumeration is closed


def _functions(model: Any, r: Random, outside: Path) -> None:
    """Functions of two calls each: 2**24 nodes if written out, or one that calls itself."""
    depth = r.choice((1, 24, 200))
    for level in range(depth):
        inner = f"f{level if depth == 1 else level - 1}"
        function = model.functions.add(name=f"f{level}", domain="fuzz", input=["x"], output=["z"])
        function.opset_import.add(domain="fuzz", version=1)
        function.opset_import.add(domain="", version=20)
        calls = level > 0 or depth == 1
        for given, got in (("x", "y"), ("y", "z")):
            function.node.add(
                op_type=inner if calls else "Identity", domain="fuzz" if calls else "", input=[given], output=[got]
            )
    model.opset_import.add(domain="fuzz", version=1)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if output == name else output for output in node.output]
    model.graph.node.add(op_type=f"f{depth - 1}", domain="fuzz", input=["before"], output=[name])


def _loop(model: Any, r: Random, outside: Path) -> None:
    import onnx
    from onnx import helper

    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if output == name else output for output in node.output]
    numbers, truth, values = onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
    kinds: tuple[Any, ...] = (("i", numbers, []), ("c", truth, []), ("v", values, None))
    inputs = [helper.make_tensor_value_info(*kind) for kind in kinds]
    outputs = [
        helper.make_tensor_value_info("c2", onnx.TensorProto.BOOL, []),
        helper.make_tensor_value_info("v2", onnx.TensorProto.FLOAT, None),
    ]
    nodes = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Sin", ["v"], ["v2"])]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    model.graph.initializer.append(helper.make_tensor("trips", onnx.TensorProto.INT64, [], [10**12]))
    model.graph.initializer.append(helper.make_tensor("go", onnx.TensorProto.BOOL, [], [True]))
    model.graph.node.append(helper.make_node("Loop", ["trips", "go", "before"], [name], body=body))


def _nodes(model: Any, r: Random, outside: Path) -> None:
    node = r.choice(list(model.graph.node))
    how = r.randrange(4)
    if how == 0:
        node.op_type = r.choice(("NoSuchOperator", "", "Conv" * 100))
    elif how == 1 and node.input:
        node.input[0] = r.choice(("", "nothing", node.output[0]))
    elif how == 2:
        model.graph.node.remove(node)
    else:
        model.opset_import[0].version = r.choice((0, 1, 7, 99, 2**31))


def torch_damage(path: Path, r: Random, outside: Path) -> None:
    """Write tensors without plain values, things that are no tensors, and code, into a torch file."""
    import torch

    weights = torch.load(path, weights_only=True)["state_dict"]
    name = r.choice([name for name, tensor in weights.items() if tensor.is_floating_point()])
    tensor = weights[name]
    made: dict[str, Any] = {
        "nan": torch.full_like(tensor, float("nan")),
        "sparse": tensor.to_sparse(),
        "quantised": torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "meta": tensor.to("meta"),
        "fp8": tensor.to(torch.float8_e4m3fn),
        "complex": tensor.to(torch.complex64),
        "shape": tensor.flatten()[:-1],
        "text": "weights",
        "nothing": None,
        "nested": {"a": tensor},
        "expanded": torch.zeros(1).expand(2**40),
        "code": Runs(outside / "secret"),
    }
    weights[name] = made[r.choice(list(made))]
    holders = (weights, {"state_dict": weights}, [weights], {"model": {"inner": weights}}, weights[name])
    torch.save(r.choice(holders), path)


def image_damage(path: Path, r: Random, outside: Path) -> None:
    """Write an image that is another format, too large, of other depths, or code, under the same name."""
    path.write_bytes(r.choice((_eps, _bomb, _mode, _other, _zip))(r, outside))


def _eps(r: Random, outside: Path) -> bytes:
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\n"
        + f"({outside / 'secret'}) (r) file closefile\nshowpage\n".encode()
    )


def _bomb(r: Random, outside: Path) -> bytes:
    side = r.choice((20_000, 60_000, 2**31 - 1))
    head = struct.pack(">IIBBBBB", side, side, 8, r.choice((0, 2)), 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b"")]
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


def _mode(r: Random, outside: Path) -> bytes:
    from PIL import Image

    mode, kind = r.choice((
        ("I;16", "PNG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"),
        ("F", "TIFF"), ("I", "TIFF"), ("LAB", "TIFF"), ("RGB", "WEBP"), ("RGB", "BMP"), ("YCbCr", "JPEG"),
    ))  # fmt: skip
    file = io.BytesIO()
    Image.new(mode, (32, 24)).save(file, kind)
    return file.getvalue()


def _other(r: Random, outside: Path) -> bytes:
    starts = (b"GIF89a", b"P6 32 24 255\n", b"%PDF-1.4", b"<svg/>", b"II*\0", b"MM\0*", b"BM", b"RIFF")
    return r.choice(starts) + r.randbytes(r.choice((0, 50, 500)))


def _zip(r: Random, outside: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a", b"\0" * 1_000_000)
    return file.getvalue()
