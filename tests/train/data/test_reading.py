from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from slimtask.errors import InputError
from slimtask.train.data.reading import read_depth, read_labels, read_mat, read_rgb, read_wide, require_files


def test_pictures_come_as_rgb(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = (250, 100, 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert read_rgb(tmp_path / "a.png")[:, 0, 1].tolist() == [250, 100, 5]
    assert read_rgb(tmp_path / "grey.png").shape == (3, 2, 3)


def test_label_maps_keep_their_values(tmp_path):
    Image.fromarray(np.array([[0, 255], [39, 11]], np.uint8)).save(tmp_path / "l.png")
    assert read_labels(tmp_path / "l.png").tolist() == [[0, 255], [39, 11]]
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match=r"rgb\.png' is not an 8-bit single-channel image but 'RGB'"):
        read_labels(tmp_path / "rgb.png")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40])
def test_a_damaged_picture_is_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.png' is damaged"):
        read_rgb(tmp_path / "bad.png")


def test_a_truncated_picture_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match="is damaged"):
            read_rgb(tmp_path / name)


def test_depth_is_metres_and_zero_where_unknown(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[1.5, 0.0], [np.nan, -2.0], [np.inf, 3.0]], np.float32))
    depth = read_depth(tmp_path / "d.npy")
    assert depth.dtype == torch.float32
    assert depth.tolist() == [[[1.5, 0.0], [0.0, 0.0], [0.0, 3.0]]]


def test_depth_files_that_are_something_else_are_named_and_never_unpickled(tmp_path):
    np.save(tmp_path / "ints.npy", np.zeros((2, 2), np.int64))
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2), np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "short.npy", np.zeros((20, 20), np.float32))
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:300])
    for name in ("ints", "cube", "pickle", "empty", "short"):
        with pytest.raises(InputError, match=rf"{name}\.npy"):
            read_depth(tmp_path / f"{name}.npy")
    with pytest.raises(InputError, match="does not exist"):
        read_depth(tmp_path / "none.npy")


def test_missing_files_are_counted_and_the_first_named(tmp_path):
    (tmp_path / "here").touch()
    with pytest.raises(InputError, match=r"lacks 2 file.*gone1"):
        require_files([tmp_path / "here", tmp_path / "gone1", tmp_path / "gone2"], "camvid")


def test_16_bit_pictures_keep_their_values(tmp_path):
    Image.fromarray(np.array([[0, 65535], [300, 40000]], np.uint16)).save(tmp_path / "w.png")
    assert read_wide(tmp_path / "w.png").tolist() == [[0, 65535], [300, 40000]]
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "8.png")
    with pytest.raises(InputError, match=r"8\.png' is not a 16-bit single-channel image but 'L'"):
        read_wide(tmp_path / "8.png")


def test_a_picture_is_read_as_run_reads_it_but_maps_keep_their_values(tmp_path):
    values = np.array([[0, 257, 65535], [30000, 2, 1]], np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(values).save(tmp_path / "w.png", exif=exif)
    assert read_wide(tmp_path / "w.png").tolist() == values[::-1, ::-1].tolist()
    assert read_rgb(tmp_path / "w.png")[1].tolist() == [[0, 0, 117], [255, 1, 0]]
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "i.tif")
    assert read_wide(tmp_path / "i.tif").tolist() == values.tolist()
    indexed = Image.new("P", (3, 1))
    indexed.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    indexed.putdata([2, 0, 1])
    indexed.save(tmp_path / "p.png", transparency=0)  # colours of labels are for people
    assert read_labels(tmp_path / "p.png").tolist() == [[2, 0, 1]]


def test_a_pipe_is_read_as_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_rgb, read_labels, read_wide, read_depth):
        with pytest.raises(InputError, match="pipe' is a pipe or device, not a file"):
            read(tmp_path / "pipe")


def test_an_array_whose_header_states_more_than_the_file_holds_takes_no_memory(tmp_path):
    for shape in ("(1099511627776, 2)", "(1099511627776, 1099511627776)", "(-1, 4)", "(4, 4)"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        with pytest.raises(InputError, match=r"depth map '.*d\.npy' is damaged"):
            read_depth(tmp_path / "d.npy")


def test_labels_beyond_the_classes_are_named(tmp_path):
    Image.fromarray(np.array([[0, 255], [3, 2]], np.uint8)).save(tmp_path / "l.png")
    assert read_labels(tmp_path / "l.png", 4).tolist() == [[0, 255], [3, 2]]
    with pytest.raises(InputError, match=r"l\.png' has classes beyond 2 that are not 255"):
        read_labels(tmp_path / "l.png", 3)


def test_matlab_files_are_read_by_key(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"LabelMap": np.array([[1, 459], [2, 3]], np.uint16)})
    value = read_mat(path, "LabelMap")
    assert value.dtype == np.uint16
    assert value.tolist() == [[1, 459], [2, 3]]
    with pytest.raises(InputError, match=r"a\.mat' has no 'anno'"):
        read_mat(path, "anno")
    with pytest.raises(InputError, match=r"none\.mat' does not exist"):
        read_mat(tmp_path / "none.mat", "anno")
    content = path.read_bytes()
    for damaged in (b"", b"MATLAB 7.3 MAT-file" + b"\x00" * 300, content[:-20], b"x" * 500):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.mat' (is damaged|has no 'LabelMap')"):
            read_mat(path, "LabelMap")
