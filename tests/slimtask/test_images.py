"""Other people's image files: each is read as it is meant, or refused in one sentence."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from slimtask.errors import InputError
from slimtask.images import check_rgb, read_rgb, read_values, to_rgb

GREY = np.array([[0, 51, 128], [200, 254, 255]], np.uint8)


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, axis=-1)


def noise(height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, channels), dtype=np.uint8)


def refused(path: Path | str, what: str) -> str:
    """Return the sentence, which is one and says ``what``; nothing else is said, not even as a warning."""
    with warnings.catch_warnings(record=True) as said, pytest.raises(InputError, match=what) as failure:
        warnings.simplefilter("always")
        read_rgb(path)
    assert said == []
    sentence = str(failure.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert failure.value.exit_status == 2
    return sentence


# What is meant, and so is right


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_grey_keeps_its_range(tmp_path: Path, suffix: str, order: str) -> None:
    wide = np.array([[0, 257, 128 * 257], [385, 386, 65535]], np.uint16)  # 385 / 257 = 1.498, 386 / 257 = 1.502
    Image.fromarray(wide.astype(order)).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_rgb(tmp_path / f"a.{suffix}"), grey_rgb(np.array([[0, 1, 128], [1, 2, 255]])))


def test_a_ramp_of_16_bits_is_the_ramp_of_8(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    Image.fromarray(ramp * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), grey_rgb(ramp))


def test_16_bit_grey_of_a_tiff_that_means_0_as_white_is_inverted(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(np.array([[0, 65535, 257]], np.uint16)).save(tmp_path / "a.tif", tiffinfo=tags)
    with Image.open(tmp_path / "a.tif") as stored:
        assert stored.tag_v2[262] == 0
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif")[..., 0], [[255, 0, 254]])


def test_12_bit_grey_of_a_tiff_keeps_its_range(tmp_path: Path) -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x01])  # 0x000 0xfff 0x800 0x801
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: len(packed)}
    start = 8 + 2 + 12 * len(tags) + 4
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    (tmp_path / "a.tif").write_bytes(head + rows + b"\0\0\0\0" + packed)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif")[..., 0], [[0, 255, 128, 128]])


@pytest.mark.parametrize(
    ("values", "right"),
    [
        (np.array([[0.0, 0.2, 0.5], [0.501, 0.9981, 1.0]]), [[0, 51, 128], [128, 255, 255]]),  # 127.5 to even
        (GREY.astype(np.float64), GREY),
        (np.zeros((2, 3)), np.zeros((2, 3))),
    ],
)
def test_float_grey_whose_range_says_what_is_white_is_read(
    tmp_path: Path, values: np.ndarray, right: np.ndarray
) -> None:
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), grey_rgb(np.asarray(right)))


@pytest.mark.parametrize("values", [[0.5, 1.5], [-0.1, 1.0], [0.0, 300.0], [np.nan, 0.5], [np.inf, 0.0], [3000.0, 7e4]])
def test_other_float_grey_is_refused_with_its_range(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", r"a\.tif' holds floating-point values .*; scale them")


def test_32_bit_whole_numbers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 70000]], np.int32)).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "holds 'I' pixels, of which it is not known what is white; save it as 8-bit RGB")


def test_1_bit_and_palettes_are_their_colours(tmp_path: Path) -> None:
    bits = np.array([[True, False, True]])
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(bits).save(tmp_path / name)
        np.testing.assert_array_equal(read_rgb(tmp_path / name), grey_rgb(bits * np.uint8(255)))
    indexed = Image.fromarray(np.array([[0, 2, 1]], np.uint8), "L").copy()
    indexed.putpalette([9, 8, 7, 60, 50, 40, 255, 254, 253])
    indexed.save(tmp_path / "p.png")
    right = [[[9, 8, 7], [255, 254, 253], [60, 50, 40]]]
    np.testing.assert_array_equal(read_rgb(tmp_path / "p.png"), right)
    for opaque in (b"\xff\xff\xff", b"\xff\xff\xff\x00"):  # the fourth colour is used nowhere
        indexed.save(tmp_path / "p.png", transparency=opaque)
        np.testing.assert_array_equal(read_rgb(tmp_path / "p.png"), right)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_is_dropped_and_any_other_refused(tmp_path: Path, mode: str, suffix: str) -> None:
    pixels = noise(channels=len(mode))
    pixels[..., -1] = 255
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels, mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    right = pixels[..., :3] if mode == "RGBA" else grey_rgb(pixels[..., 0])
    np.testing.assert_array_equal(read_rgb(path), right)
    pixels[2, 3, -1] = 254
    Image.fromarray(pixels, mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    refused(path, r"has transparent pixels, and what lies behind them is not known; flatten it")


def test_one_transparent_colour_is_transparency_too(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "L").copy()
    indexed.putpalette([9, 8, 7, 60, 50, 40])
    grey, wide = Image.fromarray(GREY), Image.fromarray(GREY.astype(np.uint16) * 257)
    colour = Image.fromarray(noise())
    for image, used, unused in (
        (indexed, 1, None),
        (grey, 51, 52),
        (wide, 51 * 257, 52 * 257),
        (colour, tuple(noise()[0, 0].tolist()), (1, 2, 3)),
    ):
        image.save(tmp_path / "a.png", transparency=used)
        refused(tmp_path / "a.png", "has transparent pixels")
        if unused is not None:
            image.save(tmp_path / "a.png", transparency=unused)
            assert read_rgb(tmp_path / "a.png").shape[2] == 3


def test_cmyk_is_ink_on_white_paper(tmp_path: Path) -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255], [102, 51, 0, 51]]], np.uint8)
    share = inks / 255.0
    right = ((1 - share[..., :3]) * (1 - share[..., 3:]) * 255).round()
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    assert np.abs(read_rgb(tmp_path / "a.tif") - right).max() <= 1
    flat = np.broadcast_to(inks[:, 4:], (16, 16, 4))
    Image.fromarray(np.ascontiguousarray(flat), "CMYK").save(tmp_path / "a.jpg", quality=100)  # Adobe's: inverted
    assert np.abs(read_rgb(tmp_path / "a.jpg") - right[0, 4]).max() <= 3


def test_ycbcr_becomes_rgb_and_cielab_is_refused(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 60, 120), np.uint8)
    Image.fromarray(flat).convert("YCbCr").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - flat).max() <= 3
    Image.fromarray(flat).convert("YCbCr").save(tmp_path / "y.tif")
    assert np.abs(read_rgb(tmp_path / "y.tif").astype(int) - flat).max() <= 3
    Image.fromarray(flat, "LAB").save(tmp_path / "lab.tif")
    refused(tmp_path / "lab.tif", "holds 'LAB' pixels")


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, 1),
    9: lambda a: a,  # there is no such orientation
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_every_orientation_is_turned_upright_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(noise()).save(tmp_path / f"a.{suffix}", exif=exif.tobytes(), **lossless)
    np.testing.assert_array_equal(read_rgb(tmp_path / f"a.{suffix}"), TURNS[orientation](noise()))


def test_16_bit_grey_and_labels_are_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png")[..., 0], np.rot90(values // 257, -1))
    stored, mode = read_values(tmp_path / "a.png", ("I;16", "I"))
    assert mode.startswith("I")
    np.testing.assert_array_equal(stored, np.rot90(values, -1))


def test_damaged_exif_turns_nothing_and_says_nothing(tmp_path: Path) -> None:
    for damaged in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 40):
        Image.fromarray(noise()).save(tmp_path / "a.png", exif=damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), noise())


def test_odd_tags_say_nothing(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.tif")
    whole = (tmp_path / "a.tif").read_bytes()
    start = int.from_bytes(whole[4:8], "little")
    for wanted in (254, 322):
        content = bytearray(whole)
        entry = start + 2 + 12 * (content[start] - 1)  # the last tag: 3 numbers where one belongs
        content[entry : entry + 12] = struct.pack("<HHII", wanted, 4, 3, 8)
        (tmp_path / "a.tif").write_bytes(content)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), noise())
        assert said == []


def test_animations_and_pages_are_refused_but_a_cameras_second_picture_is_not(tmp_path: Path) -> None:
    first, second = Image.fromarray(noise()), Image.fromarray(255 - noise())
    for name in ("a.png", "a.tif", "a.webp"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        refused(tmp_path / name, "holds several pictures")
    first, second = (Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (50, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=100)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.n_frames == 2
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - 50).max() <= 1


def test_a_thumbnail_in_front_of_the_picture_is_refused(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    Image.fromarray(noise()).save(tmp_path / "a.tif", tiffinfo=tags)
    refused(tmp_path / "a.tif", "holds a thumbnail")


# What is in the memory already


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 3), np.float32),
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((3, 4, 6), np.uint8),
        np.zeros((4, 6, 3), np.uint16),
        np.zeros((4, 6, 3), np.int8),
        np.zeros((4, 6, 3), bool),
        np.zeros((0, 6, 3), np.uint8),
        np.array(7, np.uint8),
        np.array([["a"]], object),
    ],
)
def test_an_array_that_is_not_8_bit_rgb_is_refused(array: np.ndarray) -> None:
    for check in (check_rgb, to_rgb):
        with pytest.raises(InputError, match=r"is not RGB; give uint8 \[height, width, 3\]"):
            check(array)


@pytest.mark.parametrize("value", [b"\x89PNG\r\n\x1a\n", [[[0, 0, 0]]], None, 3, {"image": 1}])
def test_what_is_no_array_is_refused_by_its_type(value: object) -> None:
    for check in (check_rgb, read_rgb):
        with pytest.raises(InputError, match=f"path of a file, not {type(value).__name__}; give numpy"):
            check(value)


def test_pillows_images_are_converted_alike_in_memory() -> None:
    np.testing.assert_array_equal(to_rgb(Image.fromarray(GREY.astype(np.uint16) * 257)), grey_rgb(GREY))
    np.testing.assert_array_equal(to_rgb(Image.fromarray(noise())), noise())
    with pytest.raises(InputError, match="the image holds 'I' pixels"):
        to_rgb(Image.fromarray(GREY.astype(np.int32)))
