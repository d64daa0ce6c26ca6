from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from slimtask.kernels.dtypes import bfloat16
from slimtask.kernels.files import load_layouts, save_layouts
from slimtask.kernels.layouts import LAYOUTS, Layout, OutChannelLayout, RowLayout, pack


def some() -> dict[str, Layout]:
    delta = np.zeros((2, 4, 8), np.float32)
    delta[1, 2, 4:6] = 1.5
    weights = {f"blocks.0/{kind}": pack(kind, delta) for kind in LAYOUTS if kind != RowLayout.kind}
    biased = OutChannelLayout.pack(delta, delta[:, :, 4])
    return {**weights, "biased": biased, "rows": RowLayout.of([np.array([1]), np.array([], int)], 3)}


def test_every_layout_comes_back_from_its_file(tmp_path: Path) -> None:
    layouts = some()
    save_layouts(tmp_path / "new" / "delta.safetensors", layouts)
    loaded = load_layouts(tmp_path / "new" / "delta.safetensors")
    assert loaded.keys() == layouts.keys()
    for name, layout in layouts.items():
        assert type(loaded[name]) is type(layout)
        assert loaded[name].sizes() == layout.sizes()
        assert loaded[name].arrays().keys() == layout.arrays().keys()
        for part, array in layout.arrays().items():
            np.testing.assert_array_equal(loaded[name].arrays()[part], array, strict=True)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["delta.safetensors"]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, bfloat16()])
def test_dtypes_come_back(tmp_path: Path, dtype: object) -> None:
    delta = np.array([[[0, 1.5, -2, 0]]]).astype(dtype)
    save_layouts(tmp_path / "delta", {"a": pack("csr", delta)})
    loaded = load_layouts(tmp_path / "delta")["a"]
    assert loaded.dense().dtype == dtype
    np.testing.assert_array_equal(loaded.dense(), delta)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "delta"
    save_layouts(path, {"a": pack("csr", np.ones((1, 1, 1), np.float32))})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_layouts(path, some())
    assert list(load_layouts(path)) == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    with pytest.raises(ValueError, match=f"the deltas '{path}' cannot be read"):
        load_layouts(path)
    save_layouts(path, some())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"the deltas '{path}' cannot be read"):
        load_layouts(path)
    save_file({"a": np.ones(2, np.float32)}, path)
    with pytest.raises(ValueError, match="does not hold packed deltas"):
        load_layouts(path)


def test_a_header_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    save_file({"a": np.ones(2, np.float32)}, path, {"slimtask_layouts": "[" * 100_000})
    with pytest.raises(ValueError, match=f"'{path}' does not hold packed deltas"):
        load_layouts(path)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"kind": "dense", "shape": [1, 1, 2]}, "the kind 'dense' is unknown"),
        ({"kind": "csr", "shape": [1, 1, 2.5]}, "a size is no integer"),
        ({"kind": "csr", "shape": [1, 1]}, r"shape \[1, 1\]"),
        ({"kind": "csr", "shape": [1, 1, 1]}, "the index 1 in column"),
        ({"kind": "csr", "shape": [1, 1, 2], "height": 3}, "lacks or does not know: height"),
        ({"kind": "csr"}, "shape"),
        (3, "does not hold packed deltas"),
    ],
)
def test_a_header_that_lies_is_one_sentence(tmp_path: Path, sizes: object, words: str) -> None:
    arrays = pack("csr", np.array([[[0, 1]]], np.float32)).arrays()
    header = json.dumps({"schema": 1, "layouts": {"a": sizes}})
    path = tmp_path / "delta"
    save_file({f"a/{name}": array for name, array in arrays.items()}, path, {"slimtask_layouts": header})
    with pytest.raises(ValueError, match=words) as error:
        load_layouts(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
