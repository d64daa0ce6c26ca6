import numpy as np
import pytest
import torch

from slimtask.export.runtime.decode import decode
from slimtask.tasks import TaskSpec


def task(kind, channels):
    return TaskSpec(name="t", kind=kind, channels=channels)


def raw(*shape):
    return np.random.default_rng(0).normal(scale=3, size=(1, *shape)).astype(np.float32)


def test_segmentation_gives_the_class_of_each_pixel():
    output = raw(5, 4, 6)
    labels = decode(task("segmentation", 5), output)
    assert (labels.shape, labels.dtype) == ((4, 6), np.uint8)
    np.testing.assert_array_equal(labels, torch.from_numpy(output[0]).argmax(0).numpy())
    assert decode(task("segmentation", 300), raw(300, 2, 2)).dtype == np.int32


def test_depth_is_metres_as_they_are():
    output = raw(1, 4, 6)
    np.testing.assert_array_equal(decode(task("depth", 1), output), output[0, 0])


def test_normals_have_length_one_and_zero_stays_zero():
    output = raw(3, 4, 6)
    output[:, :, 0, 0] = 0
    normals = decode(task("normals", 3), output)
    lengths = np.linalg.norm(normals, axis=0)
    assert lengths[0, 0] == 0
    np.testing.assert_allclose(lengths.ravel()[1:], 1, rtol=1e-5)


@pytest.mark.parametrize("kind", ["edges", "saliency"])
def test_edges_are_probabilities_without_overflow(kind):
    output = np.array([[[[-1e4, -2.0, 0.0, 3.0, 1e4]]]], np.float32)
    with np.errstate(all="raise"):
        probability = decode(task(kind, 1), output)
    np.testing.assert_allclose(probability, torch.from_numpy(output[0, 0]).sigmoid().numpy(), atol=1e-6)


def test_image_level_probabilities():
    output = raw(7) * 100
    np.testing.assert_allclose(
        decode(task("classification", 7), output), torch.from_numpy(output[0]).softmax(0).numpy(), atol=1e-6
    )
    np.testing.assert_allclose(
        decode(task("multilabel", 7), output), torch.from_numpy(output[0]).sigmoid().numpy(), atol=1e-6
    )


def test_keypoint_maps_stay_as_they_are():
    output = raw(2, 4, 6)
    np.testing.assert_array_equal(decode(task("keypoints", 2), output), output[0])


@pytest.mark.parametrize("kind", ["edges", "saliency", "classification", "multilabel", "segmentation"])
def test_probabilities_are_not_decoded_twice(kind):
    dense = kind in ("edges", "saliency", "segmentation")
    channels = 1 if kind in ("edges", "saliency") else 4
    output = np.random.default_rng(0).dirichlet(np.ones(channels + 1), (1, 6))[..., :channels].astype(np.float32)
    output = output.transpose(0, 2, 1)[..., None] if dense else output[:, 0]
    decoded = decode(TaskSpec(name="t", kind=kind, channels=channels, unit="probability"), output)
    expected = {"segmentation": output[0].argmax(0)}.get(kind, output[0, 0] if dense else output[0])
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (1, 2, 3)])
def test_class_numbers_stay_as_they_are(shape):
    numbers = np.array([0, 3, 255, 7, 1, 2], np.int64).reshape(shape)
    decoded = decode(task("segmentation", 1), numbers)
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [[0, 3, 255], [7, 1, 2]]
    assert decode(task("segmentation", 1), numbers + 1000).tolist() == [[1000, 1003, 1255], [1007, 1001, 1002]]


def test_booleans_are_zero_and_one():
    decided = decode(task("edges", 1), np.array([[[[True, False]]]]))
    assert decided.tolist() == [[1.0, 0.0]]
    assert decode(task("multilabel", 2), np.array([[True, False]])).tolist() == [1.0, 0.0]
