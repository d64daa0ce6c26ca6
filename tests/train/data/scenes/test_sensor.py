from __future__ import annotations

import torch

from slimtask.train.data.scenes.counter import Draw
from slimtask.train.data.scenes.sensor import _brightness, _display, _smooth, expose


def test_display_curve_is_srgb():
    x = torch.linspace(0.0, 1.0, 1001)
    srgb = torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    assert (_display(x) - srgb)[x > 0.001].abs().max() < 0.004


def test_brightness_is_the_squared_mean_root_of_every_seventh_pixel():
    light = torch.rand(3, 3, 9, 13, generator=torch.Generator().manual_seed(0))
    expected = light.mean(1).flatten(1)[:, ::7].sqrt().mean(1).square()
    torch.testing.assert_close(_brightness(light), expected)


def test_smoothing_keeps_a_constant_and_the_sum_of_a_point():
    constant = torch.full((1, 3, 6, 6), 0.7)
    torch.testing.assert_close(_smooth(constant), constant)
    point = torch.zeros(1, 3, 7, 7)
    point[..., 3, 3] = 1.0
    torch.testing.assert_close(_smooth(point).sum((-1, -2)), torch.ones(1, 3))


def test_exposure_does_not_depend_on_the_unit_of_light_and_noise_grows_with_signal():
    light = torch.ones(64, 3, 32, 32)
    dim = expose(light, Draw(0, "train", range(64))).float()
    bright = expose(light * 50.0, Draw(0, "train", range(64))).float()
    assert (dim - bright).abs().max() <= 1.0
    assert 70 < dim.mean() < 170
    # A dark half and a bright half: in linear light the bright one is noisier.
    light[..., :16] = 0.02
    picture = (expose(light, Draw(0, "train", range(64))).float() / 255.0) ** 2.2
    dark, lit = picture[..., 4:12, 2:10].flatten(2).std(-1).mean(), picture[..., 4:12, 22:30].flatten(2).std(-1).mean()
    assert lit > 2.0 * dark
