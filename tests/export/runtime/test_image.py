import numpy as np
import pytest
from PIL import Image

from slimtask.errors import InputError
from slimtask.export.runtime.image import load_image, preprocess
from slimtask.tasks import Preprocessing

PREPROCESSING = Preprocessing(height=4, width=6)


def pixels(height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_preprocessing_equals_the_torchvision_transform():
    torch = pytest.importorskip("torch")
    from torchvision.transforms import v2

    image = pixels()
    expected = v2.Normalize(PREPROCESSING.mean, PREPROCESSING.std)(torch.from_numpy(image).permute(2, 0, 1) / 255)
    actual = preprocess(image, PREPROCESSING)
    assert actual.dtype == np.float32
    assert actual.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(actual, expected.numpy()[None], rtol=1e-5, atol=1e-6)


def test_channels_come_in_the_order_that_the_network_takes():
    image = pixels()
    turned = PREPROCESSING.model_copy(update={"order": "bgr"})
    np.testing.assert_array_equal(
        preprocess(image, turned), preprocess(np.ascontiguousarray(image[..., ::-1]), PREPROCESSING)
    )


def test_another_size_is_refused_with_both_sizes_and_resized_on_demand():
    with pytest.raises(InputError, match=r"8x12 \(height x width\), .* 4x6; .*--resize"):
        preprocess(pixels(8, 12), PREPROCESSING)
    assert preprocess(pixels(8, 12), PREPROCESSING, resize=True).shape == (1, 3, 4, 6)
    flat = np.full((8, 12, 3), 100, np.uint8)
    np.testing.assert_array_equal(preprocess(flat, PREPROCESSING, resize=True), preprocess(flat[:4, :6], PREPROCESSING))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 6, 3), np.float32),
        np.zeros((4, 6, 3), np.uint16),
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((3, 4, 6), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
    ],
)
def test_what_is_not_8_bit_rgb_is_refused(image):
    with pytest.raises(InputError, match="is not RGB"):
        preprocess(image, PREPROCESSING)


def test_png_loads_exactly_and_other_modes_become_rgb(tmp_path):
    image = pixels()
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), image)
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_image(tmp_path / "grey.png"), np.repeat(image[..., :1], 3, axis=2))
    Image.fromarray(image).save(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg").shape == (4, 6, 3)


def test_a_camera_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to display"
    Image.fromarray(pixels()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), np.rot90(pixels(), -1))


def test_16_bit_grey_is_not_white(tmp_path):
    grey = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (4, 1))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=2))


def test_files_that_are_no_images_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(pixels(64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    for name, what in (
        ("text.png", "is damaged or of a kind that is not read"),
        ("cut.png", "is damaged or cut off"),
        ("absent.png", "does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(InputError, match=what) as failure:
            load_image(tmp_path / name)
        assert "\n" not in str(failure.value)
